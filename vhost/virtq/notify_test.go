package virtq

import (
	"context"
	"testing"
	"time"

	"millrace/dataplane/packet"
)

// TestNeedEvent publishes every number of chains from every offset around an
// event index, also where indices wrap, and compares both ends' decision with
// a count: is the index after the event one of those published?
func TestNeedEvent(t *testing.T) {
	g := newGuest(t, 1, 1<<20)
	l := g.layout(64)
	dev := g.device(Config{Layout: l, EventIdx: true})
	drv, err := newDriverEnd(DriverConfig{Layout: l, EventIdx: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []uint16{0, 1, 63, 64, 32767, 32768, 65534, 65535} {
		for back := range uint16(70) {
			for n := range uint16(65) {
				was := event - back + 3
				want := false
				for i := range n {
					want = want || was+i == event
				}
				store16(l.Used+4+8*64, event)
				drv.kicked, drv.next = was, was+n
				if got := drv.ShouldKick(); got != want {
					t.Fatalf("driver at %d, %d published, event %d: kick %v, want %v", was, n, event, got, want)
				}
				store16(l.Avail+4+2*64, event)
				dev.told, dev.done = was, was+n
				if got := dev.ShouldSignal(); got != want {
					t.Fatalf("device at %d, %d published, event %d: signal %v, want %v", was, n, event, got, want)
				}
			}
		}
	}
}

// TestNoLostWakeup has both ends sleep whenever they may, which is often: one
// lost notification, and it stands still.
func TestNoLostWakeup(t *testing.T) {
	for _, tt := range []struct {
		name     string
		eventIdx bool
		size     uint16
	}{
		{"flags", false, 8}, {"flags, ring of two", false, 2}, {"event index", true, 8}, {"event index, ring of two", true, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const frames = 70_000 // more than an index counts
			g := newGuest(t, 1, 1<<20)
			l := g.layout(tt.size)
			tx, err := NewSender(DriverConfig{Layout: l, EventIdx: tt.eventIdx}, g.buffers(tt.size, 128))
			if err != nil {
				t.Fatal(err)
			}
			for i := range int(tt.size) {
				tx.SetLen(i, 60)
			}
			dev := g.device(Config{Layout: l, EventIdx: tt.eventIdx})
			kick, call := make(chan struct{}, 1), make(chan struct{}, 1)
			notify := func(c chan struct{}) {
				select {
				case c <- struct{}{}:
				default:
				}
			}
			late, stop := context.WithTimeout(t.Context(), 2*time.Minute)
			defer stop()
			wait := func(c chan struct{}, who string) bool {
				select {
				case <-c:
					return true
				case <-late.Done():
					t.Errorf("%s was not woken", who)
					return false
				}
			}
			got := make(chan int)
			go func() {
				defer close(got)
				b := packet.NewBatch()
				for n := 0; n < frames; {
					b.Reset()
					if err := dev.Dequeue(b); err != nil {
						t.Error(err)
						return
					}
					n += b.N
					dev.Complete()
					if dev.ShouldSignal() {
						notify(call)
					}
					if b.N == 0 && !dev.Arm() && !wait(kick, "device") {
						return
					}
					dev.Disarm()
				}
				got <- frames
			}()
			sleeps := 0
			for sent := 0; sent < frames; {
				n := min(tx.Room(1), frames-sent, 1+sent%5)
				tx.Send(n)
				sent += n
				if tx.ShouldKick() {
					notify(kick)
				}
				if n == 0 && !tx.Arm() {
					sleeps++
					if !wait(call, "driver") {
						break
					}
				}
				tx.Disarm()
			}
			if n := <-got; n != frames {
				t.Errorf("%d frames arrived of %d; the driver slept %d times", n, frames, sleeps)
			}
			t.Logf("driver slept %d times", sleeps)
		})
	}
}
