package dataplane

import (
	"testing"
	"time"

	"millrace/flowtable"
)

// forgotten waits until nothing is left of bridges that are gone.
func (r *rig) forgotten() {
	r.t.Helper()
	x := &r.s.engine.crossing
	for end := time.Now().Add(20 * time.Second); len(x.notForgotten()) > 0; {
		if r.turn(); time.Now().After(end) {
			r.t.Fatalf("bridges %v are not forgotten", x.notForgotten())
		}
	}
}

// TestForgetBridge checks that a bridge with very many connections goes without holding up anybody: other
// changes are made while its connections go, and no bridge has its number before they have gone. The
// goroutine that removes them may be quick, so it has a few tries.
func TestForgetBridge(t *testing.T) {
	const tries = 10
	n, seen := 50_000, false
	if raceOn { // where each takes longer
		n = 10_000
	}
	for try := 0; try < tries && !seen; try++ {
		r := newRigFor(t, nil, 2*n)
		r.port("a", PortSpec{})
		old := r.s.bridges["br0"].number
		zone := uint16(old * flowtable.ZonesOfBridge)
		r.populate(zone, n)
		r.s.SetConnectionLimit(zone, 7)
		if err := r.s.DelPort(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		r.port("b", PortSpec{})
		if seen = len(r.s.engine.crossing.notForgotten()) > 0; seen && r.s.bridges["br0"].number == old {
			t.Errorf("bridge %d has connections still when another one gets its number", old)
		}
		r.forgotten()
		if z := r.s.ConnectionZone(zone); z.Count != 0 || z.Limit != 0 || z.Created != 0 {
			t.Errorf("a zone is %+v when its bridge has gone", z)
		}
		r.s.mu.Lock()
		next, now := r.s.newNumber(), r.s.bridges["br0"].number
		r.s.mu.Unlock()
		if next != old && now != old {
			t.Errorf("the next bridge's number is %d, want %d, which is free again", next, old)
		}
	}
	if !seen {
		t.Errorf("%d times in a row, %d connections had gone when the bridge had", tries, n)
	}
}

// TestForgetAtEnd checks that the switch ends while connections of a bridge are being removed.
func TestForgetAtEnd(t *testing.T) {
	n := 20_000
	if raceOn {
		n = 4_000
	}
	r := newRigFor(t, nil, 2*n)
	r.port("a", PortSpec{})
	zone := uint16(r.s.bridges["br0"].number * flowtable.ZonesOfBridge)
	r.populate(zone, n)
	done := make(chan int)
	go func() { done <- r.s.FlushConnections(zone) }()
	if err := r.s.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if got := r.s.FlushConnections(zone); got != 0 {
		t.Errorf("%d connections were removed of a switch that is closed", got)
	}
}
