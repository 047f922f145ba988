package acceptance

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
	"millrace/waittest"
)

// Last bytes of addresses.
const (
	goodA = 1
	goodB = 2
	badC  = 3
	toAll = 0xff
)

// A goodPair is a process that is two guests on one thread: they keep a window
// of frames under way to each other, as fast as that goes. Now and then one is
// a broadcast.
type goodPair struct {
	page  *page
	ports [2]*frontend.Port
	flows [2]flow
}

// A flow is what guest i sends, and the other one receives.
type flow struct {
	to   byte
	from byte
	next uint64 // number of the next frame to send
	last uint64 // number of the last one received
}

const (
	window    = 128 // frames of a flow under way; rings have 256
	pairBurst = 32
)

// pairMain is the process. It ends by being killed.
func pairMain(cfg guestConfig) error {
	g := &goodPair{flows: [2]flow{{to: goodB, from: goodA}, {to: goodA, from: goodB}}}
	var err error
	if g.page, err = mapPage(cfg.Page); err != nil {
		return err
	}
	failed := make(chan error, 3)
	for i, path := range []string{cfg.Path, cfg.Path2} {
		g.ports[i], err = frontend.Open(frontend.Config{Path: path, RxBuffer: 2048, TxFrame: 2048})
		if err != nil {
			return err
		}
		go func() { failed <- g.ports[i].Run(context.Background()) }()
	}
	go func() { failed <- g.work(cfg.CPU) }()
	return <-failed
}

// work sends and receives. What it publishes is how many frames it got and how
// much processor time it had for that, and the longest that it had none.
//
// Rates are of the switch, not of this thread: where others had its processor,
// among them the bad guest, what follows is not counted until the caches are
// warm again.
func (g *goodPair) work(cpu int) error {
	runtime.LockOSThread()
	err := sys.Pin(cpu)
	for _, p := range g.ports {
		err = errors.Join(err, p.Wait(context.Background()))
	}
	if err != nil {
		return err
	}
	var m meter
	got, before := uint64(0), uint64(0)
	progress := threadTime()
	for turn := 0; ; turn++ {
		for i := range g.flows {
			g.send(g.ports[i].Pairs()[0], &g.flows[i])
			got += g.receive(g.ports[1-i].Pairs()[0], &g.flows[i])
		}
		if turn%64 != 0 {
			continue
		}
		now := threadTime()
		if got != before {
			before, progress = got, now
		}
		m.note(now, wallTime(), got)
		g.page.stall.Store(max(g.page.stall.Load(), now-progress))
		g.page.received.Store(m.frames)
		g.page.time.Store(m.time)
	}
}

// A meter counts frames and time while a thread has its processor to itself.
type meter struct {
	frames            uint64
	time              int64 // nanoseconds
	lastRan, lastWall int64
	lastGot           uint64
	warm              int64 // time of the thread from which on it is warm
}

const (
	disturbed = 20_000    // nanoseconds that a thread had to wait
	warmUp    = 2_000_000 // nanoseconds after which it does not show any more
)

// note takes the thread's time, the time, and the frames up to now.
func (m *meter) note(ran, wall int64, got uint64) {
	if wall-m.lastWall-(ran-m.lastRan) > disturbed {
		m.warm = ran + warmUp
	}
	if ran >= m.warm {
		m.frames += got - m.lastGot
		m.time += ran - m.lastRan
	}
	m.lastRan, m.lastWall, m.lastGot = ran, wall, got
}

// wallTime is the time, in nanoseconds.
func wallTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return ts.Nano()
}

// threadTime is how long the calling thread has run, in nanoseconds.
func threadTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail for this clock
	return ts.Nano()
}

// send fills up the window of f.
func (g *goodPair) send(pair *frontend.Pair, f *flow) {
	n := min(window-int(f.next-f.last), pairBurst, pair.Tx.Room(pairBurst))
	for i := range n {
		f.next++
		b := pair.Tx.Buffer(i)
		frame := pair.Tx.Frame(b)[:60]
		to := f.to
		if f.next%32 == 0 {
			to = toAll
		}
		ethernet(frame, to, f.from)
		if to == toAll {
			copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		}
		binary.LittleEndian.PutUint64(frame[14:], f.next)
		binary.LittleEndian.PutUint64(frame[52:], ^f.next)
		pair.Tx.SetLen(b, len(frame))
	}
	if n > 0 {
		pair.Tx.Send(n)
		if pair.Tx.ShouldKick() {
			_ = sys.Signal(pair.TxRing.Kick)
		}
	}
}

// receive takes what has come, and returns how many frames of f there were.
func (g *goodPair) receive(pair *frontend.Pair, f *flow) (n uint64) {
	for {
		frame, ok := pair.Rx.Next()
		if !ok {
			break
		}
		if frame[11] == badC {
			g.page.newest.Store(max(g.page.newest.Load(), binary.LittleEndian.Uint64(frame[14:])))
			continue
		}
		if frame[11] != f.from {
			continue // not of the flow: rubbish that a bad guest has sent
		}
		number := binary.LittleEndian.Uint64(frame[14:])
		if number <= f.last || number > f.next || binary.LittleEndian.Uint64(frame[52:]) != ^number || len(frame) != 60 {
			g.page.blame("frame %d after %d of %d, from %d: % x", number, f.last, f.next, f.from, frame[:min(len(frame), 60)])
			continue
		}
		g.page.lost.Add(number - f.last - 1)
		f.last = number
		n++
	}
	pair.Rx.Release()
	if err := errors.Join(pair.Rx.Err(), pair.Tx.Err()); err != nil {
		g.page.blame("ring: %v", err)
	}
	return n
}

// newPair starts the process on ports a and b of the switch.
func newPair(t *testing.T, s *switchRun, a, b string) *page {
	t.Helper()
	_, cpu := cpus(t)
	cfg := guestConfig{Path: s.socket(a, listens), Path2: s.socket(b, listens), Page: s.path("good.page"), CPU: cpu}
	p, err := mapPage(cfg.Page)
	check(t, err)
	config, err := json.Marshal(cfg)
	check(t, err)
	self, err := os.Executable()
	check(t, err)
	cmd, done, out := exec.Command(self), make(chan struct{}), &waittest.Buffer{}
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", guestEnv, config))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, startChild(cmd, done))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if text := out.String(); text != "" {
			t.Errorf("the good guests printed: %s", text)
		}
	})
	return p
}
