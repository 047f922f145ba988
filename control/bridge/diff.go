package bridge

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// A Kind is what a Change does.
type Kind string

// The kinds, in the order in which they are safe: what is in the way goes
// first, new ports are dealt to the workers that there shall be, and a bridge is
// there when its first port is.
const (
	Delete     Kind = "del"     // Port goes
	SetWorkers Kind = "workers" // workers run on CPUs
	Add        Kind = "add"     // Port comes
	Set        Kind = "set"     // Port has other VLANs, another MTU or limit; its peer notices nothing
	Unwire     Kind = "unwire"  // Port is its bridge's again
	Wire       Kind = "wire"    // Port sends all its frames to port Port.Wire
	SetBridge  Kind = "bridge"  // Bridge has other settings
)

// A Change is one step from what there is to what shall be.
type Change struct {
	Kind   Kind
	Port   Port   // of Delete, as it was, Add and Set
	CPUs   []int  // of SetWorkers; none: as the dataplane is started
	Bridge Bridge // of SetBridge
}

// String is the change on one line.
func (c Change) String() string {
	switch c.Kind {
	case Delete:
		return "del " + c.Port.Name
	case Set:
		return "set " + c.Port.Name + " " + c.Port.inFlight()
	case Unwire:
		return "unwire " + c.Port.Name
	case Wire:
		return "wire " + c.Port.Name + " " + c.Port.Wire
	case SetWorkers:
		return "workers " + fmt.Sprint(c.CPUs)
	case SetBridge:
		return "bridge " + c.Bridge.String()
	}
	return string(c.Kind) + " " + c.Port.String()
}

// A Have is what the dataplane has.
type Have struct {
	Ports   map[string]Port
	Bridges map[string]Bridge // those with ports
	CPUs    []int             // where workers were asked to be; sorted; none: nowhere else than at the start
}

// Diff returns the steps in the order of their kinds, and by name. A port that
// cannot become what it shall be is deleted and added.
func Diff(have Have, want *State) []Change {
	var del, workers, add, set, bridges []Change
	if !slices.Equal(have.CPUs, want.CPUs) {
		workers = []Change{{Kind: SetWorkers, CPUs: want.CPUs}}
	}
	gone := map[string]bool{} // with them go wires
	for name, old := range have.Ports {
		if p, wanted := want.Ports[name]; !wanted || !p.same(old) {
			del = append(del, Change{Kind: Delete, Port: old})
			gone[name] = true
		}
	}
	used := map[string]bool{}
	for name, p := range want.Ports {
		used[p.Bridge] = true
		old, has := have.Ports[name]
		switch {
		case !has || !p.same(old):
			add = append(add, Change{Kind: Add, Port: p})
		case !p.settings(old):
			set = append(set, Change{Kind: Set, Port: p})
		}
	}
	for _, list := range [][]Change{del, add, set} { // few of many ports
		slices.SortFunc(list, func(a, b Change) int { return cmp.Compare(a.Port.Name, b.Port.Name) })
	}
	for _, name := range slices.Sorted(maps.Keys(want.Bridges)) {
		b := want.Bridges[name]
		if used[name] && !b.Equal(have.Bridges[name]) {
			bridges = append(bridges, Change{Kind: SetBridge, Bridge: b})
		}
	}
	return slices.Concat(del, workers, add, set, wires(have, want, gone), bridges)
}

// wires returns the steps to the wires that shall be, when the ports in gone
// have been deleted, and perhaps made anew.
func wires(have Have, want *State, gone map[string]bool) []Change {
	var unwire, wire []Change
	for _, name := range slices.Sorted(maps.Keys(want.Ports)) {
		p, now := want.Ports[name], have.Ports[name].Wire
		if gone[name] || gone[now] {
			now = ""
		}
		switch p.Wire {
		case now:
		case "":
			unwire = append(unwire, Change{Kind: Unwire, Port: p})
		default:
			wire = append(wire, Change{Kind: Wire, Port: p})
		}
	}
	return append(unwire, wire...)
}
