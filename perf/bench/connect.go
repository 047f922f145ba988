package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"millrace/perf/pktgen"
	"millrace/perf/ruleset"
)

// connectionsMax is how many connections OVS may have: more than any case makes.
const connectionsMax = 8_000_000

// Keys of values of cases with connections.
const (
	keyConnections = "connections"
	keyDelivered   = "delivered"
	keyTable       = "table_bytes"
	keyGrowth      = "process_bytes"
	keyFailed      = "failed"
	keyFrames      = "frames_mpps"
)

// A connectionCount is what a switch knows of connections.
type connectionCount struct {
	Total int
	Table float64 // bytes of the table of connections for each; 0: nobody counts
}

// A footprint is what connections cost a switch in memory.
type footprint struct {
	perConnection float64 // bytes that its process has grown by, with all caches; 0: not known yet
}

// connectCases are those of connection tracking.
func connectCases() []scenario {
	cases := []scenario{
		established("ct-1k", 1024, 0), established("ct-64k", 65_536, 2*time.Second), established("ct-1m", 1_000_000, 8*time.Second),
		balanced("ct-ovn", 65_536, 3*time.Second), {
			Name: "ct-new", About: "new TCP connections, SYN to last ACK, one zone: connections and cycles for each, not packets", Flows: 1, ring: 4096,
			tunings: []tuning{caches("EMC", 100, false), caches("SMC", 0, true), caches("neither EMC nor SMC", 0, false)},
			rules:   func() ruleset.Set { return ruleset.Firewall(ruleset.TCP, "p0", "p1") },
			turn:    turnNew, ceiling: ceilingNew,
			metrics: []metric{
				{Key: keyFrames, Title: "frames, Mpps", Format: "%.2f"},
				{Key: keyFailed, Title: "share of connections that failed", Format: "%.5f", worst: true},
				{Key: keyBusy, Title: "share of the core's time with packets", Format: "%.2f"},
				{Key: keyConnections, Title: "connections in the table at the end", Format: "%.0f"},
			},
		},
	}
	for i := range cases {
		cases[i].Sizes, cases[i].Group, cases[i].connects = small(), connectGroup, true
	}
	return cases
}

// established is a case of n connections of one zone.
func established(name string, n int, warmup time.Duration) scenario {
	c := connected(n, warmup, ruleset.Client)
	c.Name, c.About = name, grouped(n)+" established connections, shuffled; stateful firewall of one zone"
	c.rules = func() ruleset.Set { return ruleset.Firewall(ruleset.UDP, "p0", "p1") }
	return c
}

// balanced is the case of a pipeline as OVN makes it.
func balanced(name string, n int, warmup time.Duration) scenario {
	c := connected(n, warmup, ruleset.ServiceClient)
	c.Name, c.About = name, grouped(n)+" established connections, shuffled; 12 tables, two zones, load balancers, access list"
	c.rules = func() ruleset.Set { return ruleset.Balanced(ruleset.UDP, "p0", "p1") }
	return c
}

// connected is a case of n connections that are there already.
func connected(n int, warmup time.Duration, client func(uint32) pktgen.Header) scenario {
	return scenario{
		Flows: n, warmup: warmup, tunings: cacheTunings(), turn: turnEstablished, client: client,
		traffic: func(int) []pktgen.Traffic { return []pktgen.Traffic{{Headers: headers(n, client), Shuffle: true}} },
		metrics: []metric{
			{Key: keyConnections, Title: "connections in the table", Format: "%.0f"},
			{Key: keyDelivered, Title: "share of frames delivered", Format: "%.4f"},
			{Key: keyTable, Title: "memory of the table, bytes for each", Format: "%.0f"},
			{Key: keyGrowth, Title: "growth of the process with all caches, bytes for each connection", Format: "%.0f"},
		},
	}
}

// headers are those of the first n clients.
func headers(n int, client func(uint32) pktgen.Header) []pktgen.Header {
	hs := make([]pktgen.Header, n)
	for i := range hs {
		hs[i] = client(uint32(i))
	}
	return hs
}

var errNotAll = errors.New("not all connections are there")

// turnEstablished sends over connections that are there: each client has had an answer,
// by a rule that is for established connections only.
func turnEstablished(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	before, empty, err := state(ctx, who)
	if err != nil {
		return sample{}, err
	}
	if err := establish(ctx, s, c, who); err != nil {
		return sample{}, err
	}
	a, r, err := flood(ctx, s, c, who, n)
	if err != nil {
		return sample{}, err
	}
	after, full, err := state(ctx, who)
	if err != nil {
		return sample{}, err
	}
	if after.Total < c.Flows {
		return sample{}, fmt.Errorf("%w: %d of %d are left after a turn", errNotAll, after.Total, c.Flows)
	}
	f := who.footprint()
	if made := after.Total - before.Total; made >= c.Flows && f.perConnection == 0 {
		f.perConnection = (full - empty) / float64(made)
	}
	a.Values[keyConnections] = float64(after.Total)
	note(a.Values, keyTable, after.Table)
	if c.Flows >= growthLeast {
		note(a.Values, keyGrowth, f.perConnection)
	}
	a.Values[keyDelivered] = over(float64(r.Total.Received), float64(r.Total.Sent))
	return a, deliveredEnough(a.Values[keyDelivered])
}

// growthLeast is how many connections it takes for their memory to stand out.
const growthLeast = 50_000

// note keeps a value that is known.
func note(values map[string]float64, key string, v float64) {
	if v != 0 {
		values[key] = v
	}
}

// deliveredLeast is the least share of frames that must arrive: a switch that drops
// them is not measured.
const deliveredLeast = 0.98

func deliveredEnough(share float64) error {
	if share < deliveredLeast {
		return fmt.Errorf("only %.4f of all frames arrived, want %.2f: these are no figures", share, deliveredLeast)
	}
	return nil
}

// state is what a switch has of connections, and the bytes that its process takes.
func state(ctx context.Context, who side) (connectionCount, float64, error) {
	count, err := who.connections(ctx)
	if err != nil {
		return count, 0, err
	}
	bytes, err := resident(who.pid())
	return count, bytes, err
}

// resident is the memory of a process in bytes, without huge pages (proc(5), statm).
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, pages float64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0, fmt.Errorf("memory of process %d: %q: %w", pid, b, err)
	}
	return pages * float64(os.Getpagesize()), nil
}

// establish has each client of a case ask, and hear an answer. Connections that are
// there already are kept alive by that.
func establish(ctx context.Context, s settings, c scenario, who side) error {
	r, err := pktgen.Converse(ctx, s.talkers(c, who.ports()), pktgen.Talk{Proto: pktgen.ProtoUDP, Client: c.client, Count: uint32(c.Flows)})
	if err != nil {
		return fmt.Errorf("establish connections: %w", err)
	}
	if r.Failed > 0 || r.Wrong > 0 || r.Connections != uint64(c.Flows) {
		return fmt.Errorf("%w: %d established, %d failed (%v), %d frames wrong, %d sent, %d received\n%s",
			errNotAll, r.Connections, r.Failed, r.Lost, r.Wrong, r.Sent, r.Received, who.explain(ctx))
	}
	return nil
}

// talkers are the generator's ends of connections.
func (s settings) talkers(c scenario, ports []pktgen.Port) pktgen.Config {
	if ports == nil {
		ports = make([]pktgen.Port, 2)
	}
	return pktgen.Config{
		Ports: append([]pktgen.Port(nil), ports...), Duration: s.turn(), Warmup: s.turn() / 6, RingSize: uint16(max(s.ring(c), 1024)), Huge: true,
		CPUs: []int{s.genCPU}, PeerCPU: s.swCPU,
	}
}

// newTalk is TCP connections from SYN to last ACK, no two of a turn the same.
func newTalk(turn int) pktgen.Talk {
	return pktgen.Talk{Proto: pktgen.ProtoTCP, End: true, Client: ruleset.Client, First: uint32(turn%16) << 24}
}

// turnNew makes as many connections as the switch can: millions a second and cycles for
// each are in the place of those of packets.
func turnNew(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	if err := who.forget(ctx); err != nil {
		return sample{}, err
	}
	if err := who.mark(ctx); err != nil {
		return sample{}, err
	}
	r, err := pktgen.Converse(ctx, s.talkers(c, who.ports()), newTalk(n))
	if err != nil {
		return sample{}, err
	}
	u, err := who.usage(ctx)
	if err != nil {
		return sample{}, err
	}
	count, err := who.connections(ctx)
	if err == nil && (r.Wrong > 0 || r.Connections == 0 || uint64(count.Total) < r.Connections*9/10) {
		err = fmt.Errorf("%w: %d made, %d failed, %d in the table; %d frames sent, %d received, %d wrong, %d late\n%s",
			errNotAll, r.Connections, r.Failed, count.Total, r.Sent, r.Received, r.Wrong, r.Late, who.explain(ctx))
	}
	return sample{Mpps: r.PerSecond / 1e6, Cycles: u.Cycles * over(u.Packets, float64(r.Connections)), Values: map[string]float64{
		keyFrames: r.PerSecond * over(float64(r.Sent), float64(r.Connections)) / 1e6, keyFailed: over(float64(r.Failed), float64(r.Connections+r.Failed)),
		keyBusy: u.Busy, keyConnections: float64(count.Total),
	}}, err
}

// ceilingNew is what the generator can do itself.
func ceilingNew(ctx context.Context, s settings, c scenario) (float64, error) {
	r, err := pktgen.Converse(ctx, s.talkers(c, nil), newTalk(0))
	if err != nil {
		return 0, err
	}
	return r.PerSecond / 1e6, nil
}
