package control

import (
	"sync"
	"testing"
	"time"

	"millrace/dataplane"
	"millrace/dataplane/service/switchtest"
)

// TestAutoBalance: with pmd-auto-lb the dataplane is asked at intervals to deal
// queues anew, under the conditions that the row has, and without it is not asked.
func TestAutoBalance(t *testing.T) {
	var mu sync.Mutex
	var asked []dataplane.RebalanceRequest
	r := startRig(t, func(sw *switchtest.Switch) {
		sw.Dealt = func(req dataplane.RebalanceRequest) *dataplane.Rebalanced {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, req)
			return &dataplane.Rebalanced{Done: true, Moves: 1}
		}
	}, (*rig).database, func(r *rig) { r.balanceEvery = 10 * time.Millisecond })
	last := func() (n int, req dataplane.RebalanceRequest) {
		mu.Lock()
		defer mu.Unlock()
		if n = len(asked); n > 0 {
			req = asked[n-1]
		}
		return n, req
	}
	r.vsctl("set", "Open_vSwitch", ".", "other_config:pmd-auto-lb=true")
	want := dataplane.RebalanceRequest{Span: time.Minute, WholeSpan: true, Load: .95, Improvement: .25}
	r.until("asked with the defaults", func() bool { n, got := last(); return n > 1 && got == want })
	r.vsctl("set", "Open_vSwitch", ".", "other_config:pmd-auto-lb-load-threshold=70", "other_config:pmd-auto-lb-improvement-threshold=10")
	want.Load, want.Improvement = .7, .1
	r.until("asked with others", func() bool { _, got := last(); return got == want })
	r.vsctl("set", "Open_vSwitch", ".", "other_config:pmd-auto-lb=false")
	n, _ := last()
	r.vsctl("add-br", "br0") // a round through control
	time.Sleep(50 * time.Millisecond)
	if now, _ := last(); now > n+1 {
		t.Errorf("asked %d times more after it was switched off", now-n)
	}
}
