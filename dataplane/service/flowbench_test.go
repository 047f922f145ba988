package service

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/dataplane/service/switchtest"
	"millrace/flowtable"
)

// benchRules are rules as OVN has them: some words to match, a register set, and on
// to the next table.
func benchRules(n int) []flowtable.Rule {
	out := make([]flowtable.Rule, n)
	reg0 := flowtable.Field{Word: flowtable.WordReg0, Shift: 32, Width: 32}
	for i := range out {
		out[i] = flowtable.Rule{
			ID: flowtable.RuleID(i+1) * 0x9e3779b97f4a7c15, Table: uint8(i % 20), Priority: uint16(i % 100), Datapath: flowtable.DatapathOf("br0"), Cookie: uint64(i),
			Match: []flowtable.Masked{
				{Word: flowtable.WordIn, Value: 0x800, Mask: 0xffff}, {Word: flowtable.WordSrc, Value: 6 << 8, Mask: 0xff00},
				{Word: flowtable.WordIP4, Value: uint64(i), Mask: 0xffffffff}, {Word: flowtable.WordL4, Value: 80 << 32, Mask: 0xffff << 32},
			},
			Actions: []flowtable.Action{{Code: flowtable.ActSet, Dst: reg0, Value: uint64(i)}, {Code: flowtable.ActNext, Table: uint8(i%20 + 1)}},
		}
	}
	return out
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTransact is what a hundred thousand rules cost over the socket, both
// sides together: messages made, sent, read, and put in force.
func BenchmarkTransact(b *testing.B) {
	const n = 100_000
	rules := benchRules(n)
	dir, sw := b.TempDir(), &switchtest.Switch{}
	c := benchServer(b, dir, sw)
	if _, err := c.AddPort(b.Context(), &api.AddPortRequest{Spec: &api.PortSpec{Bridge: "br0", Name: "p1", Type: "dpdkvhostuser"}}); err != nil {
		b.Fatal(err)
	}
	start := cpuTime(b)
	for b.Loop() {
		_, err := c.Transact(b.Context(), false, func(yield func(*api.FlowChange) bool) {
			for i := range rules {
				if !yield(&api.FlowChange{Change: &api.FlowChange_Replace{Replace: flowapi.ToRule(&rules[i])}}) {
					return
				}
			}
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpuTime(b)-start).Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/rule")
}

// benchServer serves sw, and connects to it.
func benchServer(b *testing.B, dir string, sw *switchtest.Switch) *api.Client {
	b.Helper()
	d, err := OpenDataplane(dir)
	if err != nil {
		b.Fatal(err)
	}
	s := New(Config{Dir: d, Switch: sw, Version: "1.2.3", Types: []string{dataplane.TypeVhostServer}, Log: zap.NewNop()})
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Serve(ctx, false, func() error { close(ready); return nil }) }()
	<-ready
	c, err := api.Dial(ctx, dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		sw.Close()
		d.Close()
	})
	return c
}

// BenchmarkDecode is what reading costs by itself.
func BenchmarkDecode(b *testing.B) {
	var changes []*api.FlowChange
	for _, r := range benchRules(1000) {
		changes = append(changes, addRule(flowapi.ToRule(&r)))
	}
	var messages [][]byte
	for m := range slices.Values(encode(b, false, changes)) {
		messages = append(messages, m)
	}
	var d flowapi.Decoder
	b.ReportAllocs()
	for b.Loop() {
		for _, m := range messages {
			if err := d.Read(m, func(*flowapi.Change) bool { return true }); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/rule")
}

// BenchmarkListRules is what a listing of a hundred thousand rules costs, both
// sides together.
func BenchmarkListRules(b *testing.B) {
	const n = 100_000
	rules := benchRules(n)
	sw := &switchtest.Switch{}
	c := benchServer(b, b.TempDir(), sw)
	x := sw.Tables().Begin()
	for i := range rules {
		if err := x.Add(&rules[i]); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := x.Commit(false); err != nil {
		b.Fatal(err)
	}
	for _, req := range []*api.ListRulesRequest{{Brief: true}, {Counters: true}} {
		b.Run(req.String(), func(b *testing.B) {
			start := cpuTime(b)
			for b.Loop() {
				s, err := c.Flows.ListRules(b.Context(), req)
				got := 0
				for err == nil {
					var m *api.ListRulesResponse
					if m, err = s.Recv(); err == nil {
						got += len(m.GetIds()) + len(m.GetRules())
					}
				}
				if got != n {
					b.Fatal(got, err)
				}
			}
			b.ReportMetric((cpuTime(b)-start).Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}
