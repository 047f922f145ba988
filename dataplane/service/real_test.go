package service

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/sys"
	"millrace/flowtable"
)

// A bench is a device whose peer is the test: what it is given is received, what
// is sent to it stays.
type bench struct {
	mu       sync.Mutex
	in, out  [][]byte
	staged   [][]byte
	borrowed [][]byte // of in, until Release
	wake     sys.FD
}

func (d *bench) Rx() []dataplane.RxQueue      { return []dataplane.RxQueue{(*benchRx)(d)} }
func (d *bench) Tx() dataplane.TxQueue        { return (*benchTx)(d) }
func (d *bench) State() dataplane.DeviceState { return dataplane.DeviceState{Link: dataplane.LinkUp} }
func (d *bench) Owns(uintptr) bool            { return false }
func (d *bench) Break(string)                 {}
func (d *bench) Close() error                 { return d.wake.Close() }

// give has the device receive a frame.
func (d *bench) give(t *testing.T, frame []byte) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.in = append(d.in, frame)
	if err := sys.Signal(d.wake); err != nil {
		t.Fatal(err)
	}
}

// taken returns what was sent since the last call.
func (d *bench) taken() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.out
	d.out = nil
	return out
}

type benchRx bench

func (q *benchRx) Rx(b *packet.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.in) > 0 && b.N < packet.BatchMax {
		f := q.in[0]
		q.in, q.borrowed = q.in[1:], append(q.borrowed, f)
		head, tail := f[:min(len(f), packet.HeadMax)], f[min(len(f), packet.HeadMax):]
		if len(tail) > 0 {
			b.Add(head, packet.Seg{Addr: packet.Addr(tail), Len: uintptr(len(tail))})
		} else {
			b.Add(head)
		}
	}
}
func (q *benchRx) Release()    { q.borrowed = nil }
func (q *benchRx) Arm() bool   { q.mu.Lock(); defer q.mu.Unlock(); return len(q.in) > 0 }
func (q *benchRx) Disarm()     {}
func (q *benchRx) WakeFD() int { return q.wake.Int() }
func (q *benchRx) Signal()     {}

type benchTx bench

func (q *benchTx) Tx(b *packet.Batch, list []packet.Ref) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range list {
		q.staged = append(q.staged, bytes.Clone(b.AppendTo(nil, int(list[i].Frame))))
	}
}
func (q *benchTx) Commit(b *packet.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.staged {
		b.Sent++
		b.SentBytes += uint64(len(f))
	}
	q.out, q.staged = append(q.out, q.staged...), nil
}
func (q *benchTx) Abort()  { q.staged = nil }
func (q *benchTx) Signal() {}

// oneCPU is a CPU that this process may use.
func oneCPU(t *testing.T) int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := range cpuMax {
		if set.IsSet(cpu) {
			return cpu
		}
	}
	t.Fatal("no CPU")
	return 0
}

// serveReal serves a real switch whose bridge br0 runs rules: the ports p1, p2 and
// p3 are of the test.
func serveReal(t *testing.T) (*dataplane.Switch, *api.Client, map[string]*bench) {
	t.Helper()
	devices := map[string]*bench{}
	open := func(spec dataplane.PortSpec, _ dataplane.Env) (dataplane.Device, error) {
		wake, err := sys.NewEvent()
		if err != nil {
			return nil, err
		}
		devices[spec.Name] = &bench{wake: wake}
		return devices[spec.Name], nil
	}
	sw, err := dataplane.New(dataplane.Options{
		CPUs: []int{oneCPU(t)}, Poll: dataplane.PollAdaptive, Log: zap.NewNop(), CacheMemory: 16 << 20, // a listing looks it through
		Openers: map[string]dataplane.Opener{dataplane.TypeVhostServer: open},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	serve(t, dir, sw, false)
	c := dial(t, dir)
	for _, name := range []string{"p1", "p2", "p3"} {
		addPort(t, c, "br0", name)
	}
	if _, err := c.SetBridge(testContext(t), &api.SetBridgeRequest{Name: "br0", Pipeline: api.Pipeline_PIPELINE_FLOWS}); err != nil {
		t.Fatal(err)
	}
	return sw, c, devices
}

// realRules are two tables of rules that rewrite, copy, flood and drop.
func realRules(t *testing.T, c *api.Client) []flowtable.Rule {
	t.Helper()
	table, err := c.Flows.GetFlowTable(testContext(t), &api.GetFlowTableRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b := table.GetBridges()[0]
	numbers := map[string]uint32{}
	ports, err := c.ListPorts(testContext(t), &api.ListPortsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports.GetPorts() {
		numbers[p.GetSpec().GetName()] = p.GetNumber()
	}
	out := func(name string) flowtable.Action {
		return flowtable.Action{Code: flowtable.ActOutput, Arg: numbers[name]}
	}
	ip4 := flowtable.Masked{Word: flowtable.WordIn, Value: 0x800, Mask: 0xffff}
	port := func(n uint64) flowtable.Masked {
		return flowtable.Masked{Word: flowtable.WordL4, Value: n << 32, Mask: 0xffff << 32}
	}
	reg0 := flowtable.Field{Word: flowtable.WordReg0, Shift: 32, Width: 32}
	dst := flowtable.Field{Word: flowtable.WordIP4, Width: 32}
	rules := []flowtable.Rule{
		{ID: 1, Priority: 10, Match: []flowtable.Masked{ip4, port(80)}, Actions: []flowtable.Action{
			{Code: flowtable.ActSet, Dst: reg0, Value: 7}, {Code: flowtable.ActDecTTL}, {Code: flowtable.ActNext, Table: 1},
		}},
		{ID: 2, Priority: 10, Match: []flowtable.Masked{ip4, port(81)}, Actions: []flowtable.Action{
			{Code: flowtable.ActClone, Nested: []flowtable.Action{{Code: flowtable.ActSet, Dst: dst, Value: 0x01020304}, out("p3")}}, out("p2"),
		}},
		{ID: 3, Priority: 10, Match: []flowtable.Masked{ip4, port(82)}, Actions: []flowtable.Action{{Code: flowtable.ActFlood, Arg: b.GetFlood()}}},
		{ID: 4, Priority: 10, Match: []flowtable.Masked{ip4, port(83)}, Actions: []flowtable.Action{{Code: flowtable.ActDrop}}},
		{ID: 5, Table: 1, Match: []flowtable.Masked{{Word: flowtable.WordReg0, Value: 7 << 32, Mask: 0xffffffff << 32}}, Actions: []flowtable.Action{
			{Code: flowtable.ActPushVLAN, Arg: 0x8100}, {Code: flowtable.ActSet, Dst: flowtable.Field{Word: flowtable.WordIn, Shift: 16, Width: 12}, Value: 9}, out("p2"),
		}},
	}
	for i := range rules {
		rules[i].Datapath = b.GetDatapath()
	}
	return rules
}

// realFrame is a TCP packet to a port.
func realFrame(port, ttl uint64, length int) []byte {
	f := parse.Build(flowtable.Key{
		flowtable.WordIn: 0x800, flowtable.WordDst: 0x020000000002 << 16, flowtable.WordSrc: 0x020000000001<<16 | 6<<8 | ttl,
		flowtable.WordIP4: 0x0a000001<<32 | 0x0a000002, flowtable.WordL4: 1234<<48 | port<<32,
	})
	return append(f, make([]byte, length-len(f))...)
}

// TestRealSwitch: rules that come over the socket forward frames; what Trace says
// becomes of a frame is what becomes of it; counters and cached programs tell of
// it.
func TestRealSwitch(t *testing.T) {
	sw, c, devices := serveReal(t)
	rules := realRules(t, c)
	var changes []*api.FlowChange
	for i := range rules {
		changes = append(changes, addRule(flowapi.ToRule(&rules[i])))
	}
	mustTransact(t, c, changes...)
	r, sent := rand.New(rand.NewPCG(1, 1)), map[uint64]uint64{}
	for range 40 {
		port := 80 + r.Uint64N(5)
		frame := realFrame(port, 1+r.Uint64N(3), 60+r.IntN(500))
		tr, err := c.Flows.Trace(testContext(t), &api.TraceRequest{Port: "p1", Frame: frame})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string][][]byte{}
		for _, o := range tr.GetOutputs() {
			want[o.GetPort()] = append(want[o.GetPort()], o.GetFrame())
		}
		if (len(want) == 0) != (tr.GetDropReason() != "") {
			t.Fatalf("port %d: outputs %v, drop reason %q", port, tr.GetOutputs(), tr.GetDropReason())
		}
		before := dropped(sw)
		devices["p1"].give(t, frame)
		sent[port-79]++
		for _, name := range []string{"p2", "p3"} {
			var got [][]byte
			waitFor(t, fmt.Sprintf("%d frames of port %d at %s", len(want[name]), port, name), func() bool {
				got = append(got, devices[name].taken()...)
				return len(got) >= len(want[name])
			})
			if !slices.EqualFunc(got, want[name], bytes.Equal) {
				t.Fatalf("port %d at %s:\n got %x\nwant %x", port, name, got, want[name])
			}
		}
		if len(want) == 0 {
			waitFor(t, "the drop is counted", func() bool { return dropped(sw) == before+1 })
		}
	}
	checkCounts(t, c, sent)
	checkCached(t, c)
	checkReal(t, c)
}

// dropped is how many frames of p1 were dropped.
func dropped(sw *dataplane.Switch) (n uint64) {
	for _, p := range sw.Snapshot().Ports {
		for _, d := range p.RxDrops {
			n += d
		}
	}
	return n
}

// checkCounts: each rule of table 0 has counted the frames to its port.
func checkCounts(t *testing.T, c *api.Client, sent map[uint64]uint64) {
	t.Helper()
	listed := listRules(t, c, &api.ListRulesRequest{Counters: true})
	s, err := c.Flows.ListCounters(testContext(t), &api.ListCountersRequest{})
	counted := map[uint64]uint64{}
	for _, m := range collect(t, s, err) {
		for i, id := range m.GetRules() {
			counted[id] = m.GetPackets()[i]
		}
	}
	for id := uint64(1); id <= 4; id++ {
		if got := listed[id].GetPackets(); got != sent[id] || counted[id] != sent[id] {
			t.Errorf("rule %d has counted %d (%d), %d were sent", id, got, counted[id], sent[id])
		}
	}
}

// checkCached: programs are told, with the rules that they come from, and none of
// a port that has received nothing.
func checkCached(t *testing.T, c *api.Client) {
	t.Helper()
	seen := map[uint64]bool{}
	for port, some := range map[string]bool{"": true, "p1": true, "p2": false} {
		s, err := c.Flows.ListCached(testContext(t), &api.ListCachedRequest{Port: port})
		n := 0
		for _, m := range collect(t, s, err) {
			for _, p := range m.GetPrograms() {
				n++
				for _, id := range p.GetRules() {
					seen[id] = true
				}
				if len(p.GetEntries()) == 0 || len(p.GetOps()) == 0 && p.GetDropReason() == "" {
					t.Errorf("program %v", p)
				}
			}
		}
		if (n > 0) != some {
			t.Errorf("%d programs of port %q", n, port)
		}
	}
	if !seen[1] || !seen[2] || !seen[3] {
		t.Errorf("rules of programs: %v", seen)
	}
}

// checkReal: what the switch has made itself is out of reach, and its memory is
// told.
func checkReal(t *testing.T, c *api.Client) {
	t.Helper()
	addPort(t, c, "learning", "p4")
	if _, err := c.SetBridge(testContext(t), &api.SetBridgeRequest{Name: "learning", FloodVlans: []uint32{9}}); err != nil {
		t.Fatal(err)
	}
	clients := listRules(t, c, &api.ListRulesRequest{})
	all := listRules(t, c, &api.ListRulesRequest{Bridges: true})
	if len(clients) != 5 || len(all) <= 5 {
		t.Fatalf("%d rules of clients, %d in all", len(clients), len(all))
	}
	table, err := c.Flows.GetFlowTable(testContext(t), &api.GetFlowTableRequest{})
	if err != nil || table.GetRules() != 5 || len(table.GetOwn()) != 3 {
		t.Errorf("got %v, %v", table, err)
	}
	sets := map[uint32]bool{}
	n := 0
	for id, r := range all {
		if clients[id] != nil {
			continue
		}
		n++
		for _, change := range []*api.FlowChange{
			{Change: &api.FlowChange_Remove{Remove: id}}, {Change: &api.FlowChange_Replace{Replace: one(id, 1)}},
			addRule(&api.FlowRule{Id: 77, Datapath: r.GetRule().GetDatapath()}),
		} {
			if a, err := transactAll(t, c, true, change); err != nil || a.GetNRefused() != 1 {
				t.Errorf("rule %x of the switch: %v, %v", id, a, err)
			}
		}
		for _, p := range r.GetRule().GetPredicates() {
			sets[p.GetSet()] = true
		}
	}
	for id := range sets {
		if a, err := transactAll(t, c, true, &api.FlowChange{Change: &api.FlowChange_AddMembers{AddMembers: &api.FlowSet{Id: id, Width: 12}}}); id != 0 && (err != nil || a.GetNRefused() != 1) {
			t.Errorf("set %x of the switch: %v, %v", id, a, err)
		}
	}
	s, err := c.Flows.ListObjects(testContext(t), &api.ListObjectsRequest{})
	if got := collect(t, s, err); len(got) != 0 || len(sets) == 0 {
		t.Errorf("objects %v; the switch's rules name the sets %v", got, sets)
	}
	m, err := c.Flows.GetMemory(testContext(t), &api.GetMemoryRequest{})
	if err != nil || !slices.ContainsFunc(m.GetUses(), func(u *api.MemoryUse) bool { return u.GetPart() == "flow table: rules" && u.GetUsed() == uint64(5+n) }) {
		t.Errorf("memory %v, %v", m, err)
	}
}
