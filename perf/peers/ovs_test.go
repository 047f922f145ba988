package peers_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"millrace/perf/peers"
)

// startOVS starts Open vSwitch for the length of the test.
func startOVS(ctx context.Context, t *testing.T, cfg peers.OVSConfig) *peers.OVSDPDK {
	t.Helper()
	o, err := peers.StartOVSDPDK(ctx, cfg)
	peers.SkipMissing(t, err)
	t.Cleanup(func() {
		o.Close()
		if t.Failed() {
			t.Logf("ovs-vswitchd logged:\n%s", o.Log())
		}
	})
	return o
}

// TestOVSDPDK sends frames from one testpmd through OVS's poll-mode thread to
// another, over both kinds of vhost port, and reads OVS's count of them.
func TestOVSDPDK(t *testing.T) {
	peers.Need(t, "ovs-dpdk", "dpdk-testpmd")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	o := startOVS(ctx, t, peers.OVSConfig{PMDCPUs: []int{1}, MemoryMiB: 256, Tuned: true})
	version, err := o.Version(ctx)
	check(err)
	t.Logf("%s; notes: %s", version, strings.Join(o.Notes(), "; "))

	check(o.AddBridge(ctx, "br0"))
	client := filepath.Join(t.TempDir(), "c")
	_, err = o.AddVhost(ctx, peers.VhostPort{Bridge: "br0", Name: "c0", Client: true, Path: client, RxQueues: 1})
	check(err)
	server, err := o.AddVhost(ctx, peers.VhostPort{Bridge: "br0", Name: "s0"})
	check(err)
	check(o.DelFlows(ctx, "br0"))
	check(o.AddFlow(ctx, "br0", "in_port=c0,actions=output:s0"))

	sender := startTestpmd(ctx, t, peers.TestpmdConfig{Devices: []peers.VirtioUser{{Path: client, Server: true, Vectorized: true}}, Forward: peers.ForwardTxOnly, Mbufs: 4096})
	receiver := startTestpmd(ctx, t, peers.TestpmdConfig{Devices: []peers.VirtioUser{{Path: server, MrgRxbuf: true}}, Forward: peers.ForwardRxOnly, Mbufs: 4096})
	check(o.WaitLink(ctx, "c0", true))
	check(o.WaitLink(ctx, "s0", true))
	check(o.PMDStatsClear(ctx))
	check(receiver.Start(ctx))
	check(sender.Start(ctx))
	for got := uint64(0); got < 1000; {
		stats, err := receiver.PortStats(ctx)
		check(err)
		got = stats[0].RxPackets
	}
	_, err = sender.Stop(ctx)
	check(err)

	threads, err := o.PMDStats(ctx)
	check(err)
	if len(threads) != 1 || threads[0].Core != 1 {
		t.Fatalf("statistics of %+v, want one thread on core 1", threads)
	}
	s := threads[0]
	if s.Packets < 1000 || s.CyclesPerPacket() < s.ProcessingCyclesPerPacket() || s.ProcessingCyclesPerPacket() < 10 {
		t.Errorf("unlikely statistics: %+v", s)
	}
	t.Logf("%d packets, %.0f cycles each, %.0f of them not idle", s.Packets, s.CyclesPerPacket(), s.ProcessingCyclesPerPacket())

	sender.Close()
	check(o.WaitLink(ctx, "c0", false))
	check(o.DelPort(ctx, "br0", "c0"))
}

// TestOVSErrors checks that a port that cannot be is an error.
func TestOVSErrors(t *testing.T) {
	peers.Need(t, "ovs-dpdk")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	o := startOVS(ctx, t, peers.OVSConfig{MemoryMiB: 128})
	if err := o.AddFlow(ctx, "nobridge", "actions=drop"); err == nil {
		t.Error("a flow on no bridge returned no error")
	}
	if _, err := o.AddVhost(ctx, peers.VhostPort{Bridge: "nobridge", Name: "x"}); err == nil {
		t.Error("a port on no bridge returned no error")
	}
}

// TestOVSFlows adds flows by a bundle, changes one over OpenFlow, and finds what
// was asked for in the tables and settings.
func TestOVSFlows(t *testing.T) {
	peers.Need(t, "ovs-dpdk")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	o := startOVS(ctx, t, peers.OVSConfig{PMDCPUs: []int{1}, MemoryMiB: 128})
	check(o.AddBridge(ctx, "br0"))
	check(o.ReplaceFlows(ctx, "br0", "priority=7,udp,in_port=1,nw_dst=10.0.0.1,tp_dst=80,actions=output:2\npriority=6,actions=drop\n"))
	check(o.AddFlows(ctx, "br0", "table=3,priority=5,actions=drop\n"))
	if err := o.AddFlows(ctx, "br0", "table=3,priority=5,actions=dance\n"); err == nil {
		t.Error("a flow that is none returned no error")
	}
	f, err := o.OpenFlow(ctx, "br0")
	check(err)
	defer f.Close()
	check(f.Change(peers.FlowModify, peers.UDPFlow{Priority: 7, InPort: 1, Dst: 10<<24 | 1, DstPort: 80, Output: 3}))
	check(f.Change(peers.FlowAdd, peers.UDPFlow{Priority: 9, InPort: 4, Output: 5}))
	check(f.Change(peers.FlowAdd, peers.UDPFlow{Priority: 8, InPort: 4, Output: 5}))
	check(f.Change(peers.FlowDelete, peers.UDPFlow{Priority: 8, InPort: 4}))
	check(f.Barrier())
	out, err := o.Ofctl(ctx, "--no-stats", "dump-flows", "br0")
	check(err)
	for _, want := range []string{
		" priority=7,udp,in_port=1,nw_dst=10.0.0.1,tp_dst=80 actions=output:3", " priority=9,udp,in_port=4 actions=output:5",
		" priority=6 actions=drop", " table=3, priority=5 actions=drop",
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no flow %q in\n%s", want, out)
		}
	}
	if n, err := o.CountFlows(ctx, "br0"); n != 4 || err != nil {
		t.Errorf("%d flows, %v, want 4:\n%s", n, err, out)
	}
	check(o.Configure(ctx, map[string]string{"smc-enable": "true", "flow-limit": "1000"}))
	set, err := o.Vsctl(ctx, "get", "Open_vSwitch", ".", "other_config:flow-limit")
	check(err)
	if strings.TrimSpace(set) != `"1000"` {
		t.Errorf("flow-limit is %s", set)
	}
	check(o.SetPrefixes(ctx, "br0", 2, "tun_id"))
	check(o.SetPrefixes(ctx, "br0", 2, "ip_dst", "ip_src"))
	tables, err := o.Vsctl(ctx, "--columns=prefixes", "list", "Flow_Table")
	check(err)
	if n := strings.Count(tables, "ip_src"); n != 2 {
		t.Errorf("%d tables with tries of ip_src, want 2:\n%s", n, tables)
	}
	if flows, err := o.DatapathFlows(ctx); err != nil || flows.Masks > flows.Flows {
		t.Errorf("%+v, %v", flows, err)
	}
	if state, err := o.UpcallState(ctx); err != nil || state.Limit == 0 {
		t.Errorf("%+v, %v", state, err)
	}
}
