package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"millrace/perf/peers"
	"millrace/perf/pktgen"
	"millrace/perf/ruleset"
)

// ovs is OVS-DPDK, tuned as its guide says.
type ovs struct {
	o       *peers.OVSDPDK
	gen     []pktgen.Port
	version string
	tuning  string
	rules   ruleset.Set // for launch
	memory  footprint
	tracks  bool // connections
}

func startOVS(ctx context.Context, s settings, c scenario, dir string) (side, error) {
	o, err := peers.StartOVSDPDK(ctx, peers.OVSConfig{PMDCPUs: []int{s.swCPU}, MainCPU: c.mainCPU(s), MemoryMiB: 1024, Tuned: true, OtherConfig: c.config})
	if err != nil {
		return nil, err
	}
	v := &ovs{o: o, gen: sockets(dir, "b", c.generatorPorts())}
	if err := v.configure(ctx, c); err != nil {
		o.Close()
		return nil, err
	}
	return v, nil
}

func (v *ovs) configure(ctx context.Context, c scenario) error {
	if err := v.o.AddBridge(ctx, "br0"); err != nil {
		return err
	}
	for i, g := range c.bridgePorts(v.gen) {
		if c.plug != nil {
			if err := v.plugIn(ctx, c.plug, g.Name, i); err != nil {
				return err
			}
			continue
		}
		p := peers.VhostPort{Bridge: "br0", Name: fmt.Sprint("vh", i), Client: true, Path: g.Path,
			Columns: map[string]string{"ofport_request": strconv.Itoa(i + 1)}}
		if _, err := v.o.AddVhost(ctx, p); err != nil {
			return err
		}
	}
	if err := v.decide(ctx, c); err != nil {
		return err
	}
	if v.tracks = c.connects; v.tracks {
		if err := errors.Join(v.o.SetConnectionsMax(ctx, connectionsMax), v.o.IgnoreSequenceNumbers(ctx)); err != nil {
			return err
		}
	}
	version, err := v.o.Version(ctx)
	v.version = version
	return err
}

// decide says where frames go.
func (v *ovs) decide(ctx context.Context, c scenario) error {
	switch {
	case c.underlay != nil:
		return c.underlay.ovs(ctx, v)
	case c.rules != nil:
		return v.replace(ctx, c.rules())
	case c.Bridge:
		return v.o.ReplaceFlows(ctx, "br0", "actions=NORMAL\n")
	}
	return v.o.ReplaceFlows(ctx, "br0", "in_port=1,actions=output:2\nin_port=2,actions=output:1\n")
}

func (v *ovs) mark(ctx context.Context) error { return v.o.PMDStatsClear(ctx) }

func (v *ovs) usage(ctx context.Context) (usage, error) {
	stats, err := v.o.PMDStats(ctx)
	if err != nil {
		return usage{}, err
	}
	var sum peers.PMDStats
	for _, p := range stats {
		sum.Packets += p.Packets
		sum.ProcessingCycles += p.ProcessingCycles
		sum.IdleCycles += p.IdleCycles
		sum.Misses += p.Misses
	}
	busy := float64(sum.ProcessingCycles)
	return usage{Cycles: sum.ProcessingCyclesPerPacket(), Packets: float64(sum.Packets), Busy: over(busy, busy+float64(sum.IdleCycles)), Walks: over(float64(sum.Misses), float64(sum.Packets))}, nil
}

func (v *ovs) ports() []pktgen.Port { return v.gen }
func (v *ovs) pause() error         { return syscall.Kill(v.o.PID(), syscall.SIGSTOP) }
func (v *ovs) resume() error        { return syscall.Kill(v.o.PID(), syscall.SIGCONT) }
func (v *ovs) about() string {
	s := v.version + ", one PMD, tuned as its guide says"
	if v.tuning != "" {
		s += ", " + v.tuning
	}
	if v.tracks {
		s += ", TCP sequence numbers not checked, as by millrace"
	}
	if n := len(v.o.Notes()); n > 0 {
		s += fmt.Sprintf(" but for %d settings that this build does not have (AVX512)", n)
	}
	return s
}
func (v *ovs) close() { _ = v.resume(); v.o.Close() }
