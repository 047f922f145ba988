package flows

import (
	"fmt"
	"slices"

	"millrace/control/logical"
	"millrace/flowtable"
)

// rulesMax is how many rules one row may need.
const rulesMax = 4096

// Bounds of what is made of constants.
const (
	splitMax    = 2 // constants up to this number are looked up, each with a rule of its own
	notEqualMax = 4 // constants that are not to be met, up to this number, are compared one by one
)

// A setMaker gives numbers to sets that rules look into.
type setMaker interface {
	// named is the set of those members of an address set that have a width.
	named(name string, width uint8) flowtable.SetID
	// portGroup is the set of the ports of a port group.
	portGroup(name string) flowtable.SetID
	// constants is a set of members that stand in a text.
	constants(width uint8, members []flowtable.Member) flowtable.SetID
}

// lowerClause returns the matches of the rules of which at least one holds
// exactly where the clause, which is resolved, does.
func lowerClause(at *[logical.NumFields]flowtable.Field, c *logical.Clause, sets setMaker) ([]terms, error) {
	first := terms{match: make([]flowtable.Masked, 0, len(c.Matches)+1)}
	for i := range c.Matches {
		m := &c.Matches[i]
		f := at[m.Field]
		if f.Width == 0 {
			return nil, fmt.Errorf("%v cannot be matched", m.Field)
		}
		if !first.demandField(f, m.Mask, m.Value) {
			return nil, nil
		}
	}
	out := []terms{first}
	for i := range c.Preds {
		ways, err := lowerPred(at[c.Preds[i].Field], &c.Preds[i], sets)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", c.Preds[i].Field, err)
		}
		if out, err = product(out, ways); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// product joins each of out with each of ways.
func product(out, ways []terms) ([]terms, error) {
	if len(ways) == 1 {
		kept := out[:0]
		for i := range out {
			if out[i].join(&ways[0]) {
				kept = append(kept, out[i])
			}
		}
		return kept, nil
	}
	if len(out)*len(ways) > rulesMax {
		return nil, tooMany()
	}
	var all []terms
	for i := range out {
		for j := range ways {
			if t := out[i].clone(); t.join(&ways[j]) {
				all = append(all, t)
			}
		}
	}
	return all, nil
}

func tooMany() error {
	return fmt.Errorf("%w: it needs more than %d rules", logical.ErrTooComplex, rulesMax)
}

// lowerPred returns the ways in which a predicate on a field that lies at f
// can hold.
func lowerPred(f flowtable.Field, p *logical.Predicate, sets setMaker) ([]terms, error) {
	switch {
	case p.Kind == logical.PredRange:
		return lowerRange(f, p)
	case p.Not:
		return notIn(f, p, sets)
	}
	return in(f, p, sets)
}

// oneWay is terms that are a single predicate.
func oneWay(p flowtable.Pred) []terms { return []terms{{preds: []flowtable.Pred{p}}} }

// in lowers membership in one of some constants and sets.
func in(f flowtable.Field, p *logical.Predicate, sets setMaker) ([]terms, error) {
	part, single := whole(f, int(p.Low), int(p.Bits))
	consts, names := apart(p.Values)
	var ways []terms
	switch {
	case len(consts) <= splitMax || !single:
		if len(consts) > rulesMax {
			return nil, tooMany()
		}
		for i := range consts {
			var t terms
			mask, value := maskOf(&consts[i], p)
			t.demandField(f, mask, value)
			ways = append(ways, t)
		}
	default:
		id := sets.constants(part.Width, members(consts, int(p.Bits)))
		ways = oneWay(flowtable.Pred{Kind: flowtable.InSet, Field: part, Set: id})
	}
	if len(names) > 0 && !single {
		return nil, crossing(p)
	}
	for i := range names {
		ways = append(ways, oneWay(flowtable.Pred{Kind: flowtable.InSet, Field: part, Set: setOf(&names[i], part.Width, sets)})...)
	}
	return ways, nil
}

// crossing is the error of bits that are no field of a flow table.
func crossing(p *logical.Predicate) error {
	return fmt.Errorf("bits %d..%d cross from one half into the other: sets go with all 128 bits, or with bits of one half", p.Low, p.Low+p.Bits-1)
}

// notIn lowers membership in none of some constants and sets.
func notIn(f flowtable.Field, p *logical.Predicate, sets setMaker) ([]terms, error) {
	part, single := whole(f, int(p.Low), int(p.Bits))
	consts, names := apart(p.Values)
	var t terms
	switch {
	case len(consts) <= notEqualMax || !single:
		for i := range consts {
			n, ok := notEqual(f, &consts[i], p)
			if !ok {
				return nil, nil // it equals what has an empty mask
			}
			t.preds = append(t.preds, n)
		}
	default:
		id := sets.constants(part.Width, members(consts, int(p.Bits)))
		t.preds = append(t.preds, flowtable.Pred{Kind: flowtable.NotInSet, Field: part, Set: id})
	}
	if len(names) > 0 && !single {
		return nil, crossing(p)
	}
	for i := range names {
		t.preds = append(t.preds, flowtable.Pred{Kind: flowtable.NotInSet, Field: part, Set: setOf(&names[i], part.Width, sets)})
	}
	return []terms{t}, nil
}

// notEqual is the predicate that a constant is not met. All fields of 128 bits
// are compared as such. It reports false if every value meets the constant.
func notEqual(f flowtable.Field, c *logical.Constant, p *logical.Predicate) (flowtable.Pred, bool) {
	mask, value := maskOf(c, p)
	out := flowtable.Pred{Kind: flowtable.NotEqual, Field: f}
	if f.Width == 128 {
		out.Low, out.LowLow, out.Mask, out.MaskLow = value.Hi, value.Lo, mask.Hi, mask.Lo
	} else {
		out.Low, out.Mask = value.Lo, mask.Lo
	}
	return out, !mask.IsZero()
}

// apart separates numbers from named sets.
func apart(values []logical.Constant) (consts, names []logical.Constant) {
	i := slices.IndexFunc(values, isNamed)
	if i < 0 {
		return values, nil
	}
	for j := range values {
		if isNamed(values[j]) {
			names = append(names, values[j])
		} else {
			consts = append(consts, values[j])
		}
	}
	return consts, names
}

func isNamed(c logical.Constant) bool { return c.Kind > logical.ConstMasked }

// setOf is the number of a named set.
func setOf(c *logical.Constant, width uint8, sets setMaker) flowtable.SetID {
	if c.Kind == logical.ConstPortGroup {
		return sets.portGroup(c.Text)
	}
	return sets.named(c.Text, width)
}

// maskOf returns the bits of the predicate's field that a constant speaks of,
// and what they are.
func maskOf(c *logical.Constant, p *logical.Predicate) (mask, value logical.Value) {
	mask = logical.Ones(int(p.Bits))
	if c.Kind == logical.ConstMasked {
		mask = c.Mask
	}
	return mask.Shl(int(p.Low)), c.Value.Shl(int(p.Low))
}

// members are constants as members of a set, in order, each once.
func members(consts []logical.Constant, bits int) []flowtable.Member {
	out := make([]flowtable.Member, len(consts))
	for i := range consts {
		mask := logical.Ones(bits)
		if consts[i].Kind == logical.ConstMasked {
			mask = consts[i].Mask
		}
		out[i] = memberOf(consts[i].Value, mask)
	}
	slices.SortFunc(out, compareMembers)
	return slices.Compact(out)
}

// lowerRange lowers a range, or what lies outside of one.
func lowerRange(f flowtable.Field, p *logical.Predicate) ([]terms, error) {
	bits := int(p.Bits)
	ranges := []span{{p.First, p.Last}}
	if p.Not {
		ranges = outside(p.First, p.Last, bits)
	}
	part, single := whole(f, int(p.Low), bits)
	var ways []terms
	for _, r := range ranges {
		if single && part.Width != 128 {
			ways = append(ways, oneWay(flowtable.Pred{Kind: flowtable.InRange, Field: part, Low: r.first.Lo, High: r.last.Lo})...)
			continue
		}
		for _, x := range r.prefixes(bits) {
			var t terms
			t.demandField(f, x.mask.Shl(int(p.Low)), x.value.Shl(int(p.Low)))
			ways = append(ways, t)
		}
	}
	return ways, nil
}
