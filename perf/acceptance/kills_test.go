package acceptance

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"millrace/dataplane/api"
)

// killsEnv says how many kills there shall be, and seedEnv makes them the same
// as in another run.
const (
	killsEnv = "MILLRACE_KILLS"
	seedEnv  = "MILLRACE_SEED"
)

// A kill ends one side of a socket, and returns when it was back, in
// nanoseconds of clock. It calls gone when nothing of before can happen any
// more.
type kill struct {
	name string
	do   func(gone func()) (back int64)
}

// TestKills kills both sides of vhost-user sockets at random moments, while two
// guests send to each other as fast as they can: guest processes, the dataplane,
// and the connection alone, with the switch in both roles. Each time frames go
// both ways again soon after the side is back, and none comes twice, late or
// corrupted. MILLRACE_KILLS=200 is the full run: each kill is in time. Otherwise
// one that was not is tried again, for the machine may be busy.
func TestKills(t *testing.T) {
	need(t)
	const most = 200 * time.Millisecond
	kills, seed := number(t, killsEnv, 40), uint64(number(t, seedEnv, time.Now().UnixNano()))
	t.Logf("%d kills; to have them again: %s=%d", kills, seedEnv, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := runSwitch(t)
	s.add("a", listens, 0)
	s.add("b", connects, 0)
	guests := [2]*guestProcess{newGuest(t, s, "a", listens, 1, 2), newGuest(t, s, "b", connects, 2, 1)}
	times := map[string][]time.Duration{}
	ways := waysToKill(s, guests)
	epoch := uint64(1)
	resume(t, guests, epoch)
	for i := range kills {
		w := ways[random.IntN(len(ways))]
		each(t, killsEnv, most, func() time.Duration {
			epoch++
			time.Sleep(time.Duration(random.IntN(60_000)) * time.Microsecond) // under load
			back := w.do(func() { setEpoch(guests, epoch) })
			took := time.Duration(resume(t, guests, epoch) - back)
			times[w.name] = append(times[w.name], took)
			if took > most {
				t.Logf("kill %d, %s: forwarding %v after it was back", i, w.name, took)
			}
			return took
		})
		if t.Failed() {
			break
		}
	}
	for _, w := range ways {
		if l := times[w.name]; len(l) > 0 {
			p50, worst := quantiles(append(l, l...))
			t.Logf("%-36s %3d times, forwards again after %v, worst %v", w.name, len(l), p50, max(worst, l[len(l)-1]))
		}
	}
	for _, g := range guests {
		p := g.page
		t.Logf("guest %d: sent and received some %d and %d frames, %d numbers left out", g.cfg.Me, p.sent.Load(), p.received.Load(), p.lost.Load())
	}
	for _, name := range []string{"a", "b"} {
		s.awaitLink(name, api.Link_LINK_UP)
	}
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, v, err)
	}
	return n
}

// setEpoch has guests send frames of an epoch.
func setEpoch(guests [2]*guestProcess, epoch uint64) {
	for _, g := range guests {
		g.page.epoch.Store(epoch)
	}
}

// resume waits until both guests have got a frame of epoch, and returns when
// the later one had. It fails the test when one has got what it should not.
func resume(t *testing.T, guests [2]*guestProcess, epoch uint64) (at int64) {
	t.Helper()
	setEpoch(guests, epoch)
	for _, g := range guests {
		eventually(t, func() bool { return g.page.newest.Load() >= epoch || g.page.wrong.Load() > 0 }, "guest %d gets frames again", g.cfg.Me)
		if wrong := g.page.verdict(); wrong != "" {
			t.Fatalf("guest %d: %s", g.cfg.Me, wrong)
		}
		at = max(at, g.page.newestAt.Load())
	}
	return at
}

// waysToKill are all ways, with the side of the socket that the switch is on.
func waysToKill(s *switchRun, guests [2]*guestProcess) []kill {
	ways := []kill{{"dataplane", func(gone func()) int64 {
		s.crash()
		gone()
		// The clocks are not the same, but run alike: what is compared is now.
		return clock() - int64(time.Since(s.api.Info.GetStarted().AsTime()))
	}}}
	for _, g := range guests {
		role := "the switch listens"
		if g.cfg.Listen {
			role = "the switch connects"
		}
		ways = append(ways,
			kill{"guest process, " + role, func(gone func()) int64 {
				g.kill()
				gone()
				g.page.up.Store(0)
				g.start()
				eventually(s.t, func() bool { return g.page.up.Load() != 0 }, "guest %d is back: %s", g.cfg.Me, &g.out)
				return g.page.up.Load()
			}},
			kill{"connection, " + role, func(gone func()) int64 {
				n := g.page.drop.Add(1)
				eventually(s.t, func() bool { return g.page.dropped.Load() == n }, "guest %d has closed its connection", g.cfg.Me)
				gone()
				return g.page.droppedAt.Load()
			}})
	}
	return ways
}
