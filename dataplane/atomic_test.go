package dataplane

import (
	"errors"
	"testing"
	"time"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// TestTransactionsUnderTraffic exchanges rules at once, again and again, while two
// workers forward by them: no frame meets some of before and some of after.
func TestTransactionsUnderTraffic(t *testing.T) {
	r := newCrewRig(t, 1)
	if err := r.s.SetWorkers(r.cpus); err != nil {
		t.Fatal(err)
	}
	var devs []*wideDevice
	for _, name := range []string{"a", "b", "c", "d"} { // a and d are polled by different workers
		devs = append(devs, r.port(name, PortSpec{}))
	}
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	reg, in := fields("reg0")[0], fields("in_port")[0]
	exchange := func(k uint64) {
		rules := []flowtable.Rule{
			{ID: 1, Actions: []flowtable.Action{setTo(reg, k), next(1)}},
			{ID: 2, Table: 1, Match: []flowtable.Masked{is(in, 1), is(reg, k)}, Actions: []flowtable.Action{out(2)}},
			{ID: 3, Table: 1, Match: []flowtable.Masked{is(in, 4), is(reg, k)}, Actions: []flowtable.Action{out(3)}},
		}
		x := r.s.Tables().Begin()
		var err error
		for i := range rules {
			rules[i].Datapath = flowtable.DatapathOf("br0")
			err = errors.Join(err, x.Replace(&rules[i]))
		}
		if err != nil {
			x.Abort()
			t.Fatal(err)
		}
		if _, err := x.Commit(false); err != nil {
			t.Fatal(err)
		}
	}
	exchange(1)
	stop, ended, sent := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(ended)
		for {
			for _, d := range []*wideDevice{devs[0], devs[3]} {
				d.mu.Lock()
				for i := range byte(32) {
					d.in = append(d.in, eth(9, i, 0, 60))
				}
				d.mu.Unlock()
			}
			sent += 32
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Microsecond):
			}
		}
	}()
	for k := range uint64(500) {
		exchange(2 + k)
	}
	close(stop)
	<-ended
	eventually(t, "all frames are received", func() bool {
		st := r.check()
		return st["a"].RxFrames == uint64(sent) && st["d"].RxFrames == uint64(sent)
	})
	st := r.check()
	for in, to := range map[string]string{"a": "b", "d": "c"} {
		if drops := st[in].RxDrops; st[to].TxFrames != uint64(sent) || drops.Total() != 0 {
			t.Errorf("of %d frames from %s %d came, %d of %d dropped for want of a rule", sent, in, st[to].TxFrames, drops[packet.ReasonNoRule], drops.Total())
		}
	}
}
