package dataplane

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// A streamDevice receives full batches of frames of a stream of flows, which are
// copied as a guest's are: frames by turns from memory that is larger than caches if the
// stream is long.
type streamDevice struct {
	fakeDevice
	frames []byte // in order, 64 bytes each, 60 of them the frame
	next   int
	ports  bool // each frame is a new flow: ports are counted up
	fresh  bool // each frame is a new flow, by address and port
	count  uint32
}

type streamRx streamDevice

func (d *streamDevice) Rx() []RxQueue { return []RxQueue{(*streamRx)(d)} }

func (q *streamRx) Rx(b *packet.Batch) {
	n := b.Max()
	for i := range n {
		b.Frames[i] = packet.Frame{Off: packet.HeadRoom, HeadLen: 60, Len: 60}
		s := (*[64]byte)(b.Slot(i)[packet.HeadRoom:])
		*s = [64]byte(q.frames[q.next:])
		if q.ports {
			q.count++
			s[34], s[35], s[28], s[29] = byte(q.count>>8), byte(q.count), byte(q.count>>16), byte(q.count>>24)
		}
		if q.fresh {
			q.count++
			n := q.count * 0x9e3779b1
			s[26], s[27], s[28], s[29], s[34], s[35] = 10, 0, byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		}
		if q.next += 64; q.next == len(q.frames) {
			q.next = 0
		}
	}
	b.N, b.Bytes = n, uint64(60*n)
}
func (q *streamRx) Release()    {}
func (q *streamRx) Arm() bool   { return true }
func (q *streamRx) Disarm()     {}
func (q *streamRx) WakeFD() int { return wakePoll }
func (q *streamRx) Signal()     {}

// A stage is a switch with one stream in and one port out, for benchmarks.
type stage struct {
	*rig
	src *streamDevice
	dst *nullDevice
}

func newStage(b testing.TB, keys []flowtable.Key, order []uint32) *stage {
	src := &streamDevice{frames: make([]byte, 64*len(order))}
	for i, k := range order {
		copy(src.frames[64*i:64*i+60], parse.Build(keys[k]))
	}
	s := newStageOf(b, src)
	s.src = src
	return s
}

// newStageOf is newStage with another device whose frames come in.
func newStageOf(b testing.TB, src Device) *stage {
	r := newRigWith(b, nil)
	s := &stage{rig: r, dst: &nullDevice{}}
	r.s.opts.Openers["src"] = func(PortSpec, Env) (Device, error) { return src, nil }
	r.s.opts.Openers["dst"] = func(PortSpec, Env) (Device, error) { return s.dst, nil }
	r.port("src", PortSpec{Type: "src"})
	r.port("dst", PortSpec{Type: "dst"})
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		b.Fatal(err)
	}
	return s
}

// add puts rules in force.
func (s *stage) add(rules []flowtable.Rule) {
	s.t.Helper()
	x := s.s.Tables().Begin()
	for i := range rules {
		rules[i].ID = flowtable.RuleID(i + 1)
		rules[i].Datapath = flowtable.DatapathOf("br0")
		if err := x.Add(&rules[i]); err != nil {
			x.Abort()
			s.t.Fatal(err)
		}
	}
	if _, err := x.Commit(false); err != nil {
		s.t.Fatal(err)
	}
}

// run measures turns of full batches.
func (s *stage) run(b *testing.B) {
	w := s.s.workers[0]
	for range 2 + 3*len(s.src.frames)/64/packet.BatchMax {
		w.turn()
	}
	measure(b, w)
}

// measure measures turns of w: all together, and the tenth percentile of parts of them in the
// thread's own time, for machines that have other things to do.
func measure(b *testing.B, w *worker) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const part = 128
	frames, before := w.stats.Frames, w.flow.cache.Stats()
	var parts []float64
	for b.Loop() {
		t0, n := threadTime(b), w.stats.Frames
		for range part {
			w.turn()
		}
		parts = append(parts, float64(threadTime(b)-t0)/float64(w.stats.Frames-n))
	}
	slices.Sort(parts)
	b.ReportMetric(parts[len(parts)/10], "ns/frame(p10)")
	b.ReportMetric(parts[len(parts)/2], "ns/frame(p50)")
	st := w.flow.cache.Stats()
	b.ReportMetric(float64(st.Misses-before.Misses)/float64(w.stats.Frames-frames), "misses/frame")
	b.ReportMetric(0, "ns/op")
}

// threadTime is the time that the thread has had.
func threadTime(b *testing.B) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return t.Nano()
}

// udpFlows are n flows of UDP.
func udpFlows(n int) []flowtable.Key {
	r := rand.New(rand.NewPCG(1, 2))
	keys := make([]flowtable.Key, n)
	for i := range keys {
		keys[i] = flowtable.Key{
			flowtable.WordIn: 0x0800, flowtable.WordDst: 0x020000000002 << 16, flowtable.WordSrc: 0x020000000001<<16 | 17<<8 | 64,
			flowtable.WordIP4: (10<<24|r.Uint64N(1<<24))<<32 | 10<<24 | uint64(i), flowtable.WordL4: r.Uint64N(1<<16)<<48 | 4789<<32,
		}
	}
	return keys
}

func shuffled(n int) []uint32 {
	order := make([]uint32, n)
	for i, j := range rand.New(rand.NewPCG(3, 4)).Perm(n) {
		order[i] = uint32(j)
	}
	return order
}

// BenchmarkFlows is a rule that matches all UDP by its ports, so that each flow has
// an entry of its own.
func BenchmarkFlows(b *testing.B) {
	for _, n := range []int{1024, 65536, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStage(b, udpFlows(n), shuffled(n))
			f := fields("eth.type", "ip.proto", "ip4.dst", "ip4.src", "tp.dst", "tp.src")
			// Rules of higher priority for other packets have all fields consulted.
			s.add([]flowtable.Rule{
				{Priority: 1, Match: []flowtable.Masked{is(f[0], 0x0800)}, Actions: []flowtable.Action{{Code: flowtable.ActOutput, Arg: 2}}},
				{Priority: 9, Match: []flowtable.Masked{is(f[0], 0x0800), is(f[1], 17), {Word: flowtable.WordIP4, Value: 1<<32 | 1, Mask: ^uint64(0)}, {Word: flowtable.WordL4, Value: 1<<48 | 1<<32, Mask: 0xffffffff << 32}},
					Actions: []flowtable.Action{{Code: flowtable.ActDrop}}},
			})
			s.run(b)
		})
	}
}

// pipelineOf is 10,000 rules of 5 tables with 40 masks in all.
func pipelineOf(n int, r *rand.Rand, keys []flowtable.Key) []flowtable.Rule {
	f := fields("eth.type", "ip.proto")
	rules := make([]flowtable.Rule, 0, n+5)
	for i := range n {
		table, kind := uint8(i%5), i/5%8
		src, dst := uint64(0xffffffff)<<(kind%4*4)&0xffffffff, uint64(0xffffffff)<<(kind/2*3)&0xffffffff
		m := []flowtable.Masked{is(f[0], 0x0800), is(f[1], 17), {Word: flowtable.WordIP4, Mask: src<<32 | dst}}
		k := keys[r.IntN(len(keys))]
		m[2].Value = k[flowtable.WordIP4] & m[2].Mask
		if kind&1 != 0 {
			m = append(m, flowtable.Masked{Word: flowtable.WordL4, Value: k[flowtable.WordL4] & (0xffff << 32), Mask: 0xffff << 32})
		}
		acts := []flowtable.Action{{Code: flowtable.ActSet, Dst: fields("reg0")[0], Value: uint64(i)}, next(table + 1)}
		if table == 4 {
			acts = []flowtable.Action{{Code: flowtable.ActOutput, Arg: 2}}
		}
		rules = append(rules, flowtable.Rule{Table: table, Priority: uint16(100 + r.IntN(100)), Match: m, Actions: acts})
	}
	for i := range uint8(5) {
		a := next(i + 1)
		if i == 4 {
			a = flowtable.Action{Code: flowtable.ActOutput, Arg: 2}
		}
		rules = append(rules, flowtable.Rule{Table: i, Actions: []flowtable.Action{a}})
	}
	return rules
}

// zipfOrder is n draws from m by Zipf's law with exponent s.
func zipfOrder(n, m int, s float64) []uint32 {
	r := rand.New(rand.NewPCG(5, 6))
	sums := make([]float64, m)
	total := 0.0
	for i := range sums {
		total += math.Pow(float64(i+1), -s)
		sums[i] = total
	}
	order := make([]uint32, n)
	for i := range order {
		at, _ := slices.BinarySearch(sums, r.Float64()*total)
		order[i] = uint32(min(at, m-1))
	}
	return order
}

// BenchmarkPipeline is 10,000 rules, 40 masks, 5 tables and 100,000 flows by Zipf 1.1.
func BenchmarkPipeline(b *testing.B) {
	keys := udpFlows(100_000)
	s := newStage(b, keys, zipfOrder(1<<20, len(keys), 1.1))
	s.add(pipelineOf(10_000, rand.New(rand.NewPCG(1, 2)), keys))
	s.run(b)
}

// BenchmarkNewFlows is 5 tables, and each frame a flow of its own: rules tell
// addresses and ports apart.
func BenchmarkNewFlows(b *testing.B) {
	keys := udpFlows(1024)
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n, " rules"), func(b *testing.B) {
			s := newStage(b, keys, shuffled(1024))
			s.src.ports = true
			s.add(pipelineOf(n, rand.New(rand.NewPCG(1, 2)), keys))
			x := s.s.Tables().Begin()
			for i := range uint8(5) {
				r := flowtable.Rule{ID: flowtable.RuleID(1e6) + flowtable.RuleID(i), Datapath: flowtable.DatapathOf("br0"), Table: i, Priority: 1000,
					Match:   []flowtable.Masked{is(fields("eth.type")[0], 0x0800), is(fields("ip.proto")[0], 17), {Word: flowtable.WordIP4, Value: 1<<32 | 1, Mask: ^uint64(0)}, {Word: flowtable.WordL4, Value: 1<<48 | 1<<32, Mask: 0xffffffff << 32}},
					Actions: []flowtable.Action{{Code: flowtable.ActDrop}}}
				if err := x.Add(&r); err != nil {
					x.Abort()
					b.Fatal(err)
				}
			}
			if _, err := x.Commit(false); err != nil {
				b.Fatal(err)
			}
			s.run(b)
		})
	}
}

// clients is five tables with a rule for each of 2^14 networks and one for each of 2^14
// ranges of ports: flows that differ in these have nothing in common.
func clients() []flowtable.Rule {
	f := fields("eth.type", "ip.proto", "reg0", "reg1", "reg2")
	ip, udp := is(f[0], 0x0800), is(f[1], 17)
	set := func(i int, v uint64) flowtable.Action {
		return flowtable.Action{Code: flowtable.ActSet, Dst: f[i], Value: v}
	}
	rules := []flowtable.Rule{
		{Priority: 10, Match: []flowtable.Masked{ip}, Actions: []flowtable.Action{set(2, 1), next(1)}},
		{Table: 1, Priority: 10, Match: []flowtable.Masked{ip, is(f[2], 1)}, Actions: []flowtable.Action{next(2)}},
		{Table: 4, Priority: 10, Match: []flowtable.Masked{ip, udp}, Actions: []flowtable.Action{{Code: flowtable.ActOutput, Arg: 2}}},
	}
	for i := range uint64(1 << 14) {
		rules = append(rules,
			flowtable.Rule{Table: 2, Priority: 10, Match: []flowtable.Masked{ip, {Word: flowtable.WordIP4, Value: (10<<24 | i<<2) << 32, Mask: 0xfffffffc << 32}}, Actions: []flowtable.Action{set(3, i), next(3)}},
			flowtable.Rule{Table: 3, Priority: 10, Match: []flowtable.Masked{ip, udp, {Word: flowtable.WordL4, Value: i << 2 << 48, Mask: 0xfffc << 48}}, Actions: []flowtable.Action{set(4, i), next(4)}})
	}
	return rules
}

// BenchmarkNewClients is the benchmark's case newflows: each frame is a flow of its
// own, far from the one before it.
func BenchmarkNewClients(b *testing.B) {
	s := newStage(b, udpFlows(1024), shuffled(1024))
	s.src.fresh = true
	s.add(clients())
	for range 1 << 16 { // until the cache has no more room
		s.s.workers[0].turn()
	}
	s.run(b)
}

// BenchmarkStream is what the devices of these benchmarks take themselves.
func BenchmarkStream(b *testing.B) {
	for _, n := range []int{1024, 65536, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStage(b, udpFlows(n), shuffled(n))
			if err := s.s.Wire("src", "dst"); err != nil {
				b.Fatal(err)
			}
			s.run(b)
		})
	}
}

// BenchmarkPrograms is programs of several kinds, for one flow.
func BenchmarkPrograms(b *testing.B) {
	f := fields("ip4.src", "eth.src", "ip.ttl", "tp.src")
	set := func(i int, v uint64) flowtable.Action {
		return flowtable.Action{Code: flowtable.ActSet, Dst: f[i], Value: v}
	}
	ttl, clone := flowtable.Action{Code: flowtable.ActDecTTL}, flowtable.Action{Code: flowtable.ActClone, Nested: []flowtable.Action{set(1, 5), out(2)}}
	for _, tt := range []struct {
		name string
		acts []flowtable.Action
	}{
		{"output", []flowtable.Action{out(2)}},
		{"route", []flowtable.Action{set(1, 5), ttl, out(2)}},
		{"translate", []flowtable.Action{set(1, 5), ttl, set(0, 7), set(3, 9), out(2)}},
		{"push", []flowtable.Action{{Code: flowtable.ActPushVLAN, Arg: 0x8100}, {Code: flowtable.ActSet, Dst: fieldVID, Value: 5}, out(2)}},
		{"two copies", []flowtable.Action{clone, out(2)}},
		{"drop", []flowtable.Action{{Code: flowtable.ActDrop}}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			s := newStage(b, udpFlows(64), shuffled(64))
			s.add([]flowtable.Rule{{Match: []flowtable.Masked{is(fields("eth.type")[0], 0x0800)}, Actions: tt.acts}})
			s.run(b)
		})
	}
}

// BenchmarkAttack is what is left of the rate of a port, with a thousand known flows and
// always full batches, while another sends only new flows to rules that tell addresses
// and ports apart.
func BenchmarkAttack(b *testing.B) {
	s := newStage(b, udpFlows(1024), shuffled(1024))
	attacker := &streamDevice{frames: make([]byte, 64*1024), ports: true}
	copy(attacker.frames, s.src.frames)
	s.s.opts.Openers["attacker"] = func(PortSpec, Env) (Device, error) { return attacker, nil }
	f := fields("eth.type", "ip4.src", "ip4.dst", "tp.src")
	var rules []flowtable.Rule
	for t := range uint8(4) {
		rules = append(rules, flowtable.Rule{Table: t, Actions: []flowtable.Action{next(t + 1)}})
		for i := range uint64(8) {
			for j, of := range f[1:] {
				m := []flowtable.Masked{is(f[0], 0x0800), {Word: of.Word, Value: i << (of.Shift + 8), Mask: 0xffff << of.Shift & (1<<(of.Shift+of.Width) - 1) << min(i, 7)}}
				m[1].Value &= m[1].Mask
				rules = append(rules, flowtable.Rule{Table: t, Priority: uint16(10 + 10*i + uint64(j)), Match: m, Actions: []flowtable.Action{next(t + 1)}})
			}
		}
	}
	s.add(append(rules, flowtable.Rule{Table: 4, Actions: []flowtable.Action{out(2)}}))
	w := s.s.workers[0]
	rate := func() float64 { // frames of the victim in a second of the thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for range 1000 {
			w.turn()
		}
		from, t0 := w.ports[1].rxFrames, threadTime(b)
		for range 20_000 {
			w.turn()
		}
		return float64(w.ports[1].rxFrames-from) / float64(threadTime(b)-t0) * 1e9
	}
	alone := rate()
	s.port("attacker", PortSpec{Type: "attacker"})
	for b.Loop() {
		b.ReportMetric(100*rate()/alone, "%-left")
	}
	b.ReportMetric(alone/1e6, "Mpps-alone")
	b.ReportMetric(float64(w.flow.cache.Usage().Masks), "masks")
	b.ReportMetric(0, "ns/op")
}
