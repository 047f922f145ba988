package acceptance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/supervise"
	"millrace/vhost/frontend"
)

// openGuest opens a front end on port name and keeps it connected, again when
// it is lost, until the test ends.
func openGuest(t *testing.T, cfg frontend.Config) *frontend.Port {
	t.Helper()
	p, err := frontend.Open(cfg)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("guest on %s: %v", cfg.Path, err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("guest on %s: %v", cfg.Path, err)
		}
	})
	return p
}

// addAPI adds a port to bridge br0 by the API.
func (s *switchRun) addAPI(name, kind string) {
	s.t.Helper()
	spec := &api.PortSpec{Bridge: "br0", Name: name, Type: kind, Path: s.socket(name, kind)}
	_, err := s.api.AddPort(s.t.Context(), &api.AddPortRequest{Spec: spec})
	check(s.t, err)
}

// TestIdle has 100 ports without traffic: half of them listen without a peer, a
// quarter looks for a peer that is not there, a quarter has one that is silent.
func TestIdle(t *testing.T) {
	need(t)
	const (
		ports   = 100
		span    = 5 * time.Second
		mostCPU = span / 100
		mostKiB = 64 << 10
	)
	s := runSwitch(t, "--poll", "adaptive")
	for i := range ports {
		name, kind := fmt.Sprintf("p%d", i), listens
		if i%4 == 1 {
			kind = connects
		}
		s.add(name, kind, 0)
		if i%4 == 3 {
			openGuest(t, frontend.Config{Path: s.socket(name, kind), Interrupt: true, RxBuffer: 2048, TxFrame: 2048})
		}
	}
	for i := 3; i < ports; i += 4 {
		s.awaitLink(fmt.Sprintf("p%d", i), api.Link_LINK_UP)
	}
	used := s.idle(span, mostCPU)
	status, err := supervise.ReadStatus(s.dir)
	check(t, err)
	supervisor, dataplane := residentOf(t, status.PID), residentOf(t, s.dataplane())
	t.Logf("%d ports: processor time %v of %v (%.2f %% of a core)", ports, used, span, 100*used.Seconds()/span.Seconds())
	if used >= mostCPU {
		t.Errorf("an idle switch used %v in %v, want less than %v", used, span, mostCPU)
	}
	if got := supervisor.all + dataplane.all; got >= mostKiB {
		t.Errorf("an idle switch has %d KiB resident, want less than %d", got, mostKiB)
	}
}

// idle measures the processor time that all processes of the switch use in a span,
// and measures again for a while if it is most or more: the first spans may still have the
// work of adding ports in them, and a machine that is busy makes each wake dearer.
func (s *switchRun) idle(span, most time.Duration) (used time.Duration) {
	s.t.Helper()
	status, err := supervise.ReadStatus(s.dir)
	check(s.t, err)
	all := append([]supervise.Child{{Name: "supervisor", PID: status.PID}}, status.Children...)
	for end := time.Now().Add(patience); ; {
		before := make([]time.Duration, len(all))
		for i, p := range all {
			before[i] = cpuTime(s.t, p.PID)
		}
		time.Sleep(span) // what is measured is doing nothing
		used = 0
		for i, p := range all {
			took := cpuTime(s.t, p.PID) - before[i]
			s.t.Logf("%-10s processor time %v of %v, resident %+v KiB", p.Name, took, span, residentOf(s.t, p.PID))
			used += took
		}
		if used < most || time.Now().After(end) {
			return used
		}
		s.t.Log("once more")
	}
}
