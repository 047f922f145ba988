package logical

import (
	"fmt"
	"slices"
)

// Resolver knows the names that clauses leave open. For logical flows it is
// one datapath's view of the southbound database; for rows of Flow, a bridge's.
type Resolver interface {
	// Port returns the key of the port (or multicast group) called name.
	Port(name string) (key uint32, ok bool)
	// Resident reports whether the port called name is resident here.
	Resident(name string) bool
	// AddressSet reports whether there is an address set called name.
	AddressSet(name string) bool
	// PortGroup reports whether there is a port group called name.
	PortGroup(name string) bool
}

// noPort is the name of key 0, which no port has.
const noPort = "none"

// Resolve replaces names of ports by their keys and decides what is resident,
// and returns the clauses that may still hold. A comparison with a port that
// does not exist is false. Sets keep their names, for they change without their
// users; an error that wraps ErrUnknownSet names the first that does not exist.
// The clauses given are not changed.
func Resolve(clauses []Clause, r Resolver) ([]Clause, error) {
	out := make([]Clause, 0, len(clauses))
	for i := range clauses {
		c, ok, err := resolveClause(&clauses[i], r)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// resolveClause resolves one clause, and reports whether it may hold.
func resolveClause(c *Clause, r Resolver) (Clause, bool, error) {
	out := Clause{Matches: c.Matches}
	holds := true
	for i := range c.Preds {
		p := c.Preds[i]
		if err := checkSets(p.Values, r); err != nil {
			return Clause{}, false, err
		}
		switch {
		case p.Kind == PredResident:
			holds = holds && r.Resident(p.Port) != p.Not
			continue
		case p.Kind != PredIn || !p.Values[0].isString():
			out.Preds = append(out.Preds, p)
			continue
		}
		p.Values = portKeys(p.Values, r)
		switch {
		case len(p.Values) == 0:
			holds = holds && p.Not
		case len(p.Values) == 1 && p.Values[0].Kind == ConstNumber && !p.Not:
			m := FieldMatch{Field: p.Field, Mask: p.mask(), Value: p.Values[0].Value.Shl(int(p.Low))}
			var ok bool
			out.Matches, ok = withMatch(out.Matches, m)
			holds = holds && ok
		default:
			out.Preds = append(out.Preds, p)
		}
	}
	return out, holds, nil
}

// checkSets returns an error for the first of values that names an unknown set.
func checkSets(values []Constant, r Resolver) error {
	for i := range values {
		switch v := &values[i]; {
		case v.Kind == ConstAddressSet && !r.AddressSet(v.Text):
			return fmt.Errorf("address set $%s: %w", v.Text, ErrUnknownSet)
		case v.Kind == ConstPortGroup && !r.PortGroup(v.Text):
			return fmt.Errorf("port group @%s: %w", v.Text, ErrUnknownSet)
		}
	}
	return nil
}

// portKeys returns values with names of ports replaced by their keys; ports
// that do not exist are left out.
func portKeys(values []Constant, r Resolver) []Constant {
	out := make([]Constant, 0, len(values))
	for _, v := range values {
		if v.Kind != ConstString {
			out = append(out, v)
			continue
		}
		if key, ok := PortKey(v.Text, r); ok {
			out = append(out, Constant{Kind: ConstNumber, Value: U64(uint64(key))})
		}
	}
	return out
}

// PortKey returns the key of the port called name: 0 for "none".
func PortKey(name string, r Resolver) (key uint32, ok bool) {
	if name == noPort {
		return 0, true
	}
	return r.Port(name)
}

// withMatch returns matches with m among them, and whether that is consistent.
func withMatch(matches []FieldMatch, m FieldMatch) ([]FieldMatch, bool) {
	i, found := slices.BinarySearchFunc(matches, m, func(a, b FieldMatch) int { return int(a.Field) - int(b.Field) })
	out := slices.Clone(matches)
	if !found {
		return slices.Insert(out, i, m), true
	}
	if !out[i].Value.Xor(m.Value).And(out[i].Mask).And(m.Mask).IsZero() {
		return nil, false
	}
	out[i].Mask, out[i].Value = out[i].Mask.Or(m.Mask), out[i].Value.Or(m.Value)
	return out, true
}

// References are the names that an expression or a list of actions depends on,
// sorted, each once: when what they stand for changes, resolve again.
type References struct {
	Ports       []string // ports whose keys are used
	Backends    []string // ports that backends are behind, which are left out if there is no such port
	Residents   []string // ports whose chassis is asked for
	AddressSets []string
	PortGroups  []string
	Meters      []string // of actions
	Groups      []string // of actions
}

// Refer returns the references of exprs, of which some may be nil.
func Refer(exprs ...Expr) References {
	var r References
	for _, e := range exprs {
		r.add(e)
	}
	r.settle()
	return r
}

// settle sorts r and removes doubles.
func (r *References) settle() {
	for _, list := range []*[]string{&r.Ports, &r.Backends, &r.Residents, &r.AddressSets, &r.PortGroups, &r.Meters, &r.Groups} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

// add collects the references of e.
func (r *References) add(e Expr) {
	switch e := e.(type) {
	case *And:
		for _, t := range e.Terms {
			r.add(t)
		}
	case *Or:
		for _, t := range e.Terms {
			r.add(t)
		}
	case *Resident:
		r.Residents = append(r.Residents, e.Port)
	case *Compare:
		for i := range e.Values {
			r.addConstant(&e.Values[i])
		}
	}
}

// addConstant collects the name that c may be.
func (r *References) addConstant(c *Constant) {
	switch c.Kind {
	case ConstString:
		r.Ports = append(r.Ports, c.Text)
	case ConstAddressSet:
		r.AddressSets = append(r.AddressSets, c.Text)
	case ConstPortGroup:
		r.PortGroups = append(r.PortGroups, c.Text)
	}
}
