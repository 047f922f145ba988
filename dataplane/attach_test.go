package dataplane

import (
	"fmt"
	"slices"
	"testing"
)

// A wideDevice has several receive queues.
type wideDevice struct {
	fakeDevice
	n int
}

func (d *wideDevice) Rx() []RxQueue {
	queues := make([]RxQueue, d.n)
	for i := range queues {
		queues[i] = (*fakeRx)(&d.fakeDevice)
	}
	return queues
}

// TestQueuesAreDealtOut: ports mostly use their first queue only, so these are
// shared out evenly, whatever the number of queues, also after ports have gone.
func TestQueuesAreDealtOut(t *testing.T) {
	for _, queues := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(queues, " queues"), func(t *testing.T) {
			r := newRig(t)
			for id := 1; id < 3; id++ {
				w, err := newWorker(id, id, PollBusy, r.s.engine, 2)
				if err != nil {
					t.Fatal(err)
				}
				close(w.stopped)
				r.s.workers = append(r.s.workers, w)
			}
			r.s.opts.Openers["wide"] = func(PortSpec, Env) (Device, error) { return &wideDevice{n: queues}, nil }
			add := func(from, to int) {
				for i := from; i < to; i++ {
					r.port(fmt.Sprint("p", i), PortSpec{Type: "wide"})
				}
			}
			add(0, 9)
			for _, i := range []int{0, 3, 6} {
				if err := r.s.DelPort(t.Context(), fmt.Sprint("p", i)); err != nil {
					t.Fatal(err)
				}
			}
			add(9, 12)
			for id, w := range r.s.workers {
				if len(w.rx) != 3*queues {
					t.Errorf("worker %d polls %d queues", id, len(w.rx))
				}
			}
			for n := range queues {
				var counts [3]int
				for _, p := range r.s.ports {
					counts[p.dealt[n]]++
				}
				if slices.Max(counts[:])-slices.Min(counts[:]) > 1 {
					t.Errorf("queues number %d by worker: %v", n, counts)
				}
			}
		})
	}
}
