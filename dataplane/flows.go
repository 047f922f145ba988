package dataplane

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// Pipeline says what decides about the frames of a bridge.
type Pipeline string

// The pipelines. The zero value means PipelineLearning.
const (
	PipelineLearning Pipeline = "learning" // a VLAN-aware learning bridge
	PipelineFlows    Pipeline = "flows"    // rules of clients, from table 0 of the bridge's datapath on
)

// A FlowBridge is a bridge as rules know it.
type FlowBridge struct {
	Name     string
	Datapath uint64 // of clients' rules: flowtable.DatapathOf the name
	FDB      uint32 // forwarding database, for ActGetFDB and its like
	Flood    uint32 // flood list of all its ports
	Pipeline Pipeline
}

// A RuleCount is what a rule has counted.
type RuleCount struct{ Packets, Bytes uint64 }

// A CachedProgram is a composed program in the cache of one worker. Its slices
// are good until visit returns.
type CachedProgram struct {
	CPU            int
	Packets, Bytes uint64
	Ops            []flowtable.Op // none: drop
	Drop           uint32         // why, if nothing is output; see DropText
	Entries        []CachedEntry  // some of them
	NEntries       int            // all
	Rules          []uint32       // handles of the rules that it counts for, in the order of the walk
	Stale          bool           // a guard does not hold: it is looked over at its next frame
}

// A CachedEntry leads frames to a program: those that agree with Key in the bits
// of Mask.
type CachedEntry struct {
	Mask, Key flowtable.Key
	Exact     bool          // it is in the exact cache
	Idle      time.Duration // since its last hit, in whole seconds
}

// A Trace is what becomes of a frame. It owns all that is in it.
type Trace struct {
	Steps    []flowtable.TraceStep // of the walk, and of those behind patch ports
	Composed flowtable.Composed    // of the first walk
	Key      flowtable.Key
	Outputs  []TraceOutput
	Early    packet.Reason // dropped before the tables
	Drop     packet.Reason // nothing was output
}

// A TraceOutput is a copy of the frame that leaves, or would if it could.
type TraceOutput struct {
	Port  string
	Frame []byte
	Drop  packet.Reason // it does not leave
}

// MemoryUse is what one part takes outside of Go's heap.
type MemoryUse struct {
	Part           string
	Bytes          uint64 // mapped, or in use where the kernel provides memory as it is used
	Used, Capacity uint64 // entries; capacity 0 is no bound of its own
}

// Tables are the rules of all bridges. Clients make transactions on them directly;
// between Begin and the transaction's end no method of the switch may be called but
// OwnRule.
func (s *Switch) Tables() *flowtable.Tables { return s.engine.tables }

// OwnRule reports whether a rule is one that the switch has made for a bridge. It
// is not for clients to touch those, nor to make rules for which this is true.
func (s *Switch) OwnRule(r flowtable.Brief) bool { return r.Group == 0 && isOwn(r.Datapath) }

// OwnSet reports whether a set is the switch's own, or would be: its id is not for
// clients.
func (s *Switch) OwnSet(id flowtable.SetID) bool { return id >= ownSet }

// FlowBridges describes all bridges as rules know them, by name.
func (s *Switch) FlowBridges() []FlowBridge {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]FlowBridge, 0, len(s.bridges))
	for _, br := range s.bridges {
		out = append(out, FlowBridge{
			Name: br.name, Datapath: flowtable.DatapathOf(br.name), FDB: br.number, Flood: uint32(br.floodID()), Pipeline: br.settings.Pipeline,
		})
	}
	slices.SortFunc(out, func(a, b FlowBridge) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// DropText explains a code of Composed.Drop to a person.
func DropText(code uint32) string {
	why := dropReason(code)
	if why == packet.ReasonRule && code != flowtable.DropExplicit {
		return fmt.Sprintf("%s (%d)", why.Text(), code)
	}
	return why.Text()
}
