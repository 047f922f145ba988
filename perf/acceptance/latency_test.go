package acceptance

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
)

// quantiles returns the median and the 99th percentile of what was measured.
func quantiles(all []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100]
}

// ethernet writes the header of a frame between guests that send to each other,
// with EtherType 0x88b5 (for experiments, IEEE 802).
func ethernet(b []byte, dst, src byte) {
	copy(b, []byte{2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xb5})
}

// sendOne sends one frame of 60 bytes that carries n.
func sendOne(p *frontend.Pair, dst, src byte, n uint32) error {
	if p.Tx.Room(1) < 1 {
		return fmt.Errorf("no room to send frame %d: %v", n, p.Tx.Err())
	}
	b := p.Tx.Buffer(0)
	f := p.Tx.Frame(b)[:60]
	ethernet(f, dst, src)
	binary.BigEndian.PutUint32(f[14:], n)
	p.Tx.SetLen(b, len(f))
	p.Tx.Send(1)
	if p.Tx.ShouldKick() {
		return sys.Signal(p.TxRing.Kick)
	}
	return nil
}

// receiveOne returns the number in the next frame, for which it looks without
// a pause.
func receiveOne(p *frontend.Pair) (uint32, error) {
	return receiveAfter(p, func() error { return nil })
}

// receiveAfter returns the number in the next frame, for which it looks each time that wait has
// returned.
func receiveAfter(p *frontend.Pair, wait func() error) (uint32, error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := wait(); err != nil {
			return 0, err
		}
		if f, ok := p.Rx.Next(); ok {
			n := binary.BigEndian.Uint32(f[14:])
			p.Rx.Release()
			return n, nil
		}
		if err := p.Rx.Err(); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("no frame in %v", patience)
}

// TestAttach measures from the call of AddPort until a frame from the new port
// has come to another one: its peer listens already.
func TestAttach(t *testing.T) {
	need(t)
	const tries, most = 50, 5 * time.Millisecond
	s := runDataplane(t)
	s.addAPI("old", listens)
	old := openGuest(t, frontend.Config{Path: s.socket("old", listens), Interrupt: true, RxBuffer: 2048, TxFrame: 2048})
	s.awaitLink("old", api.Link_LINK_UP)
	check(t, old.Wait(t.Context()))
	n := uint32(0)
	atMost(t, most, func() time.Duration {
		var times []time.Duration
		for range tries {
			n++
			times = append(times, attachOnce(t, s, old.Pairs()[0], n))
		}
		p50, p99 := quantiles(times)
		t.Logf("from AddPort to forwarding: median %v, worst of %d %v", p50, tries, p99)
		return p50
	})
}

// attachOnce adds a port whose peer waits for it, and returns how long it took
// until its first frame was delivered to old.
func attachOnce(t *testing.T, s *switchRun, old *frontend.Pair, n uint32) time.Duration {
	t.Helper()
	guest, err := frontend.Open(frontend.Config{Path: s.socket("new", connects), Listen: true, RxBuffer: 2048, TxFrame: 2048})
	check(t, err)
	connected := make(chan error, 1)
	go func() {
		err := guest.Connect(context.Background())
		if err == nil {
			err = sendOne(guest.Pairs()[0], 0xff, 2, n)
		}
		connected <- err
	}()
	start := time.Now()
	s.addAPI("new", connects)
	got, err := receiveAsleep(old)
	took := time.Since(start)
	check(t, err)
	check(t, <-connected)
	if got != n {
		t.Errorf("frame %d came, want %d", got, n)
	}
	_, err = s.api.DelPort(t.Context(), &api.DelPortRequest{Name: "new"})
	check(t, err)
	check(t, guest.Close())
	return took
}

// TestFirstFrame measures how long the first frame after a pause takes from
// guest to guest: the worker is asleep. The limit is for a receiver that
// polls; one that sleeps too adds a wake-up that is not the switch's.
func TestFirstFrame(t *testing.T) {
	need(t)
	const pause, most = 100 * time.Millisecond, 200 * time.Microsecond // no worker polls for longer than 100 us before it sleeps
	s := runDataplane(t, "--poll", "adaptive")
	var guests [2]*frontend.Pair
	for i := range guests {
		name := fmt.Sprintf("g%d", i)
		s.addAPI(name, listens)
		p := openGuest(t, frontend.Config{Path: s.socket(name, listens), Interrupt: true, RxBuffer: 2048, TxFrame: 2048})
		check(t, p.Wait(t.Context()))
		s.awaitLink(name, api.Link_LINK_UP)
		guests[i] = p.Pairs()[0]
	}
	measure := func(receiver string, tries int, receive func(*frontend.Pair) (uint32, error)) time.Duration {
		times, err := firstFrames(t, guests, tries, pause, receive)
		check(t, err)
		p50, p99 := quantiles(times)
		t.Logf("first frame after %v, receiver %s: median %v, p99 %v of %d", pause, receiver, p50, p99, len(times))
		return p50
	}
	measure("sleeps", 30, receiveAsleep)
	atMost(t, most, func() time.Duration { return measure("polls", 100, receiveOne) })
	if worker := s.workers()[0]; worker.GetSleeps() < 130 {
		t.Errorf("the worker slept %d times, want 130 at least", worker.GetSleeps())
	}
}

// atMost measures until the result is at most limit, and fails the test if it
// never is within a minute: what other programs take of the CPUs makes single
// tries slow, what the switch does makes all of them slow. Where others take
// them all the time, or the machine itself is slow to wake, nothing can be said: that
// is skipped, and counted.
func atMost(t *testing.T, limit time.Duration, measure func() time.Duration) {
	t.Helper()
	best, others := time.Hour, watchOthers(t)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if best = min(best, measure()); best <= limit {
			return
		}
	}
	if share := others.share(t); share > mostOthers {
		t.Skipf("needs CPUs that others leave alone, who have %.0f %% of them: %v in the best try, want at most %v", 100*share, best, limit)
	}
	if wake := wakeRound(t); wake > wakeMost {
		t.Skipf("needs a machine that wakes a CPU and is woken in %v, this one takes %v: %v in the best try, want at most %v", wakeMost, wake, best, limit)
	}
	t.Errorf("%v in the best try, want at most %v", best, limit)
}

// each is atMost where a run of name's full size is asked for, on a machine with
// nothing else to do: the first try counts.
func each(t *testing.T, name string, limit time.Duration, measure func() time.Duration) {
	t.Helper()
	if os.Getenv(name) == "" {
		atMost(t, limit, measure)
	} else if took := measure(); took > limit {
		t.Errorf("%v, want at most %v", took, limit)
	}
}

// firstFrames sends a frame after each pause and returns how long each took.
// One thread is both guests, on a CPU that is not the worker's: nothing but the
// switch has to be woken.
func firstFrames(t *testing.T, guests [2]*frontend.Pair, tries int, pause time.Duration, receive func(*frontend.Pair) (uint32, error)) (times []time.Duration, err error) {
	t.Helper()
	_, cpu := cpus(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err = sys.Pin(cpu)
		for i := uint32(0); i < uint32(tries) && err == nil; i++ {
			time.Sleep(pause) // what is measured is what comes after a pause
			guests[1].Rx.Arm()
			start, got := time.Now(), uint32(0)
			if err = sendOne(guests[0], 0xff, 1, i); err == nil {
				got, err = receive(guests[1])
			}
			times = append(times, time.Since(start))
			if err == nil && got != i {
				err = fmt.Errorf("frame %d came, want %d", got, i)
			}
		}
	}()
	<-done
	return times, err
}

// receiveAsleep is receiveOne for a guest that waits for an interrupt.
func receiveAsleep(p *frontend.Pair) (uint32, error) {
	return receiveAfter(p, func() error {
		defer p.Rx.Disarm()
		if p.Rx.Arm() {
			return nil
		}
		fds := []unix.PollFd{{Fd: int32(p.RxRing.Call.Int()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 1000); err != nil && err != unix.EINTR {
			return err
		}
		sys.Drain(p.RxRing.Call)
		return nil
	})
}
