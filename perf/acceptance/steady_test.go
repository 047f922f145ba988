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
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
	"millrace/waittest"
)

// A steadyPair is a process that is two guests on one thread, which send to each
// other no more than fits: what is under way of a flow is less than a quarter of
// any ring, so that who forwards has no reason to drop any of it. Frames are
// numbered; every one that does not come is counted, once.
type steadyPair struct {
	ports [2]*frontend.Port
	flows [2]steadyFlow
}

// A steadyFlow is what guest i sends and the other one receives. Its page has
// the results; the test writes epoch to that of the first flow.
type steadyFlow struct {
	page     *page
	to, from byte
	next     uint64    // number of the last frame sent
	last     uint64    // number of the last one received
	base     uint64    // frames up to this one are not waited for any more
	moved    time.Time // when last or base last rose
}

const (
	steadyWindow = 56
	steadyRing   = 256
	// steadyStall is how long nothing comes until what is under way is given
	// up: only a dataplane that dies loses a whole window.
	steadyStall = 20 * time.Millisecond
)

// steadyPages are the files of the pages of both flows.
func steadyPages(file string) [2]string { return [2]string{file, file + ".back"} }

// steadyMain is the process. It ends by being killed. The switch listens on
// Path, and connects to Path2.
func steadyMain(cfg guestConfig) error {
	g := &steadyPair{flows: [2]steadyFlow{{to: goodB, from: goodA}, {to: goodA, from: goodB}}}
	failed := make(chan error, 3)
	for i, path := range []string{cfg.Path, cfg.Path2} {
		var err error
		if g.flows[i].page, err = mapPage(steadyPages(cfg.Page)[i]); err != nil {
			return err
		}
		g.ports[i], err = frontend.Open(frontend.Config{
			Path: path, Listen: i == 1, RingSize: steadyRing, RxBuffer: 2048, TxFrame: 2048, Retry: 5 * time.Millisecond,
		})
		if err != nil {
			return err
		}
		go func() { failed <- g.ports[i].Run(context.Background()) }()
	}
	go func() { failed <- g.work(cfg.CPU) }()
	return <-failed
}

func (g *steadyPair) work(cpu int) error {
	runtime.LockOSThread()
	err := sys.Pin(cpu)
	for _, p := range g.ports {
		err = errors.Join(err, p.Wait(context.Background()))
	}
	for err == nil {
		now, epoch := time.Now(), g.flows[0].page.epoch.Load()
		for i := range g.flows {
			f, from, to := &g.flows[i], g.ports[i].Pairs()[0], g.ports[1-i].Pairs()[0]
			f.receive(to, now)
			err = errors.Join(err, f.send(from, now, epoch), from.Tx.Err(), to.Rx.Err())
		}
		rest := unix.Timespec{Nsec: 30_000} // the processes that are killed start on this CPU
		_ = unix.Nanosleep(&rest, nil)      // a shorter one does no harm
	}
	return err
}

// send fills up the window.
func (f *steadyFlow) send(pair *frontend.Pair, now time.Time, epoch uint64) error {
	done := max(f.last, f.base)
	room := pair.Tx.Room(steadyRing)
	if f.next > done && room == steadyRing && now.Sub(f.moved) > steadyStall {
		// The switch has taken all, and it did not come.
		f.base, f.moved, done = f.next, now, f.next
	}
	n := min(steadyWindow-int(f.next-done), room)
	for i := range n {
		f.next++
		b := pair.Tx.Buffer(i)
		frame := pair.Tx.Frame(b)[:guestSizes[f.next%5]] // one buffer each
		ethernet(frame, f.to, f.from)
		binary.BigEndian.PutUint64(frame[14:], f.next)
		binary.BigEndian.PutUint64(frame[22:], epoch)
		binary.BigEndian.PutUint64(frame[len(frame)-8:], ^f.next)
		pair.Tx.SetLen(b, len(frame))
	}
	if n <= 0 {
		return nil
	}
	pair.Tx.Send(n)
	f.page.sent.Store(f.next)
	if pair.Tx.ShouldKick() {
		return sys.Signal(pair.TxRing.Kick)
	}
	return nil
}

// receive takes what has come, and counts what has not.
func (f *steadyFlow) receive(pair *frontend.Pair, now time.Time) {
	for {
		b, ok := pair.Rx.Next()
		if !ok {
			break
		}
		if len(b) < 60 {
			f.page.blame("frame of %d bytes", len(b))
			continue
		}
		if b[11] != f.from {
			continue // others that share the bridge
		}
		n := binary.BigEndian.Uint64(b[14:])
		if n <= f.last || n > f.next || len(b) != guestSizes[n%5] || binary.BigEndian.Uint64(b[len(b)-8:]) != ^n {
			f.page.blame("frame %d after %d of %d: % x", n, f.last, f.next, b[:min(len(b), 60)])
			continue
		}
		f.page.lost.Add(n - f.last - 1)
		f.last, f.moved = n, now
		f.page.received.Add(1)
		if epoch := binary.BigEndian.Uint64(b[22:]); epoch > f.page.newest.Load() {
			f.page.newestAt.Store(clock())
			f.page.newest.Store(epoch)
		}
	}
	pair.Rx.Release()
}

// steady is how the test sees a steadyPair.
type steady struct {
	t     *testing.T
	flows [2]*page
	epoch uint64
}

// newSteady starts the process: the switch listens on path and connects to
// path2.
func newSteady(t *testing.T, path, path2, file string) *steady {
	t.Helper()
	_, cpu := cpus(t)
	cfg := guestConfig{Path: path, Path2: path2, Page: file, CPU: cpu, Steady: true}
	g := &steady{t: t}
	var err error
	for i, name := range steadyPages(file) {
		g.flows[i], err = mapPage(name)
		check(t, err)
	}
	config, err := json.Marshal(cfg)
	check(t, err)
	self, err := os.Executable()
	check(t, err)
	cmd, done, out := exec.Command(self), make(chan struct{}), &waittest.Buffer{}
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", guestEnv, config), "GOMAXPROCS=2")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, startChild(cmd, done))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = os.Remove(path2) // it may never have been
		if text := out.String(); text != "" {
			t.Errorf("the steady guests printed: %s", text)
		}
	})
	return g
}

// lost is how many frames have not come, up to the last one that has.
func (g *steady) lost() uint64 { return g.flows[0].lost.Load() + g.flows[1].lost.Load() }

// goesOn waits until both flows have brought so many more frames that all that
// was lost before now has been counted.
func (g *steady) goesOn() {
	g.t.Helper()
	for i, p := range g.flows {
		from := p.received.Load()
		eventually(g.t, func() bool { return p.received.Load() >= from+4*steadyWindow || p.wrong.Load() > 0 }, "frames of flow %d come", i)
		if wrong := p.verdict(); wrong != "" {
			g.t.Fatalf("flow %d: %s", i, wrong)
		}
	}
}

// resumed waits until frames come that were sent after now, in both flows, and
// returns when the later one's did (clock).
func (g *steady) resumed() (at int64) {
	g.t.Helper()
	g.epoch++
	g.flows[0].epoch.Store(g.epoch)
	for i, p := range g.flows {
		eventually(g.t, func() bool { return p.newest.Load() >= g.epoch || p.wrong.Load() > 0 }, "new frames of flow %d come", i)
		at = max(at, p.newestAt.Load())
	}
	return at
}
