package switchtest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"millrace/dataplane"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// flow is what a switch has of the flow table: real tables, in which each bridge
// has one rule of the switch's own, that floods, and counters that the test sets.
type flow struct {
	once    sync.Once
	tables  *flowtable.Tables
	private sync.Map          // datapaths of the switch's own rules
	bridges []string          // by their number, from 1
	entries map[uint32]uint64 // datapaths in which ports begin, by number

	mu       sync.Mutex
	counts   map[uint32]dataplane.RuleCount
	programs []dataplane.CachedProgram
	parts    []dataplane.MemoryUse
}

// tablesReserve is how many bytes of addresses the tables may fill.
const tablesReserve = 1 << 30

// Tables returns the tables, which are made when they are first asked for.
func (s *Switch) Tables() *flowtable.Tables {
	s.flow.once.Do(func() {
		t, err := flowtable.New(flowtable.Options{Reserve: tablesReserve})
		if err != nil {
			panic(err) // there is no memory for tests
		}
		s.flow.tables = t
	})
	return s.flow.tables
}

func (f *flow) close() error {
	if f.tables == nil {
		return nil
	}
	return f.tables.Close()
}

// ownFlood is the bit that flood lists of bridges have, as in a real switch.
const ownFlood = 1 << 31

// Private is the datapath of the switch's own rules for a bridge.
func Private(bridge string) uint64 { return flowtable.DatapathOf(bridge) ^ 1 }

// OwnRule reports whether a rule is the switch's own.
func (s *Switch) OwnRule(b flowtable.Brief) bool {
	_, own := s.flow.private.Load(b.Datapath)
	return own
}

// OwnDatapaths returns the datapaths of the switch's own rules.
func (s *Switch) OwnDatapaths() map[uint64]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint64]string{}
	for _, b := range s.flow.bridges {
		out[Private(b)] = b
	}
	return out
}

// OwnSet reports whether a set is the switch's own. It makes none.
func (s *Switch) OwnSet(id flowtable.SetID) bool { return id>>31 != 0 }

// OwnID reports whether an id is one that the switch gives to its own rules.
func (s *Switch) OwnID(id flowtable.RuleID) bool {
	own := false
	s.flow.private.Range(func(d, _ any) bool {
		own = id>>8 == flowtable.RuleID(d.(uint64)>>8)
		return !own
	})
	return own
}

// number returns the number of a bridge, from 1. The caller holds mu.
func (s *Switch) number(bridge string) uint32 {
	i := slices.Index(s.flow.bridges, bridge)
	if i < 0 {
		i = len(s.flow.bridges)
		s.flow.bridges = append(s.flow.bridges, bridge)
	}
	return uint32(i + 1)
}

// FlowBridges returns the bridges that have ports.
func (s *Switch) FlowBridges() []dataplane.FlowBridge {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []dataplane.FlowBridge
	for _, name := range slices.Sorted(slices.Values(s.flow.bridges)) {
		if s.has(name) {
			n := s.number(name)
			out = append(out, dataplane.FlowBridge{Name: name, Datapath: flowtable.DatapathOf(name), FDB: n, Flood: ownFlood | n, Pipeline: s.pipeline(name)})
		}
	}
	return out
}

func (s *Switch) pipeline(bridge string) dataplane.Pipeline {
	return cmp.Or(s.settings[bridge].Pipeline, dataplane.PipelineLearning)
}

// program makes the switch's own rules, floods and entries what ports and
// settings ask for. The caller holds mu.
func (s *Switch) program() {
	floods := map[string][]uint32{}
	for _, b := range s.flow.bridges {
		floods[b] = nil
	}
	if s.flow.entries == nil {
		s.flow.entries = map[uint32]uint64{}
	}
	x := s.Tables().Begin()
	var errs []error
	for _, p := range s.ports {
		datapath := Private(p.Bridge)
		if s.pipeline(p.Bridge) == dataplane.PipelineFlows {
			datapath = flowtable.DatapathOf(p.Bridge)
		}
		if s.flow.entries[p.Number] != datapath {
			errs = append(errs, x.SetEntry(&flowtable.Entry{Port: p.Number, Datapath: datapath, Inport: p.Number}))
			s.flow.entries[p.Number] = datapath
		}
		floods[p.Bridge] = append(floods[p.Bridge], p.Number)
	}
	for b, ports := range floods {
		n := s.number(b)
		errs = append(errs, x.SetFlood(flowtable.FloodID(ownFlood|n), ports))
		if _, there := s.flow.private.LoadOrStore(Private(b), n); !there {
			errs = append(errs, x.Add(&flowtable.Rule{
				ID: flowtable.RuleID(Private(b)), Datapath: Private(b), Actions: []flowtable.Action{{Code: flowtable.ActFlood, Arg: ownFlood | n}},
			}))
		}
	}
	_, err := x.Commit(false)
	if err := errors.Join(append(errs, err)...); err != nil {
		panic(err)
	}
}

// Count sets the counters of a rule.
func (s *Switch) Count(id flowtable.RuleID, packets, bytes uint64) {
	r, ok := s.Tables().Rule(id)
	if !ok {
		panic(fmt.Sprintf("no rule %x", uint64(id)))
	}
	s.flow.mu.Lock()
	defer s.flow.mu.Unlock()
	if s.flow.counts == nil {
		s.flow.counts = map[uint32]dataplane.RuleCount{}
	}
	s.flow.counts[r.Handle] = dataplane.RuleCount{Packets: packets, Bytes: bytes}
}

// RuleCounts returns what Count has set.
func (s *Switch) RuleCounts(handles []uint32) []dataplane.RuleCount {
	s.flow.mu.Lock()
	defer s.flow.mu.Unlock()
	out := make([]dataplane.RuleCount, len(handles))
	for i, h := range handles {
		out[i] = s.flow.counts[h]
	}
	return out
}

// SetCached sets what Cached visits, whatever the port.
func (s *Switch) SetCached(programs ...dataplane.CachedProgram) {
	s.flow.mu.Lock()
	defer s.flow.mu.Unlock()
	s.flow.programs = programs
}

// Cached visits what SetCached has set.
func (s *Switch) Cached(port string, entriesMax int, visit func(*dataplane.CachedProgram) bool) error {
	if port != "" {
		if _, err := s.Port(port); err != nil {
			return err
		}
	}
	s.flow.mu.Lock()
	programs := slices.Clone(s.flow.programs)
	s.flow.mu.Unlock()
	for _, p := range programs {
		p.Entries = p.Entries[:min(entriesMax, len(p.Entries))]
		if !visit(&p) {
			return nil
		}
	}
	return nil
}

// Trace walks the tables. Frames leave as they came.
func (s *Switch) Trace(port string, frame []byte) (*dataplane.Trace, error) {
	p, err := s.Port(port)
	if err != nil {
		return nil, err
	}
	w := s.Tables().NewWalker(flowtable.SideTables{})
	defer w.Close()
	key, flaw := parse.Inspect(frame[:min(len(frame), packet.HeadMax)], uint32(len(frame)), p.Number)
	tr := &dataplane.Trace{Key: key}
	if flaw != 0 {
		tr.Early = packet.ReasonSourceMAC
		return tr, nil
	}
	c, steps := w.Trace(&key, uint32(len(frame)), 0)
	tr.Steps, tr.Composed = steps.Steps, *c
	for _, op := range c.Ops {
		switch op.Code {
		case flowtable.OpOutput:
			tr.Outputs = append(tr.Outputs, s.output(op.Arg, frame))
		case flowtable.OpFlood:
			for _, n := range w.Flood(flowtable.FloodID(op.Arg)) {
				if uint32(n) != p.Number {
					tr.Outputs = append(tr.Outputs, s.output(uint32(n), frame))
				}
			}
		}
	}
	return tr, nil
}

// output is a frame that leaves by the port of a number.
func (s *Switch) output(number uint32, frame []byte) dataplane.TraceOutput {
	for _, p := range s.Ports() {
		if p.Number == number {
			return dataplane.TraceOutput{Port: p.Name, Frame: frame}
		}
	}
	return dataplane.TraceOutput{Drop: packet.ReasonTxFull}
}

// SetMemory sets what Memory returns.
func (s *Switch) SetMemory(parts ...dataplane.MemoryUse) {
	s.flow.mu.Lock()
	defer s.flow.mu.Unlock()
	s.flow.parts = parts
}

// Memory returns what SetMemory has set.
func (s *Switch) Memory() []dataplane.MemoryUse {
	s.flow.mu.Lock()
	defer s.flow.mu.Unlock()
	return slices.Clone(s.flow.parts)
}
