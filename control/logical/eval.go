package logical

// Packet holds a value for each field. A field that the packet does not have is
// zero, and the language's prerequisites keep it from being looked at.
type Packet [NumFields]Value

// World answers what a packet does not say. Names that it does not know are no
// port, not resident, and in no set.
type World interface {
	// Port returns the key of the port called name.
	Port(name string) (key uint32, ok bool)
	// Resident reports whether the port called name is resident here.
	Resident(name string) bool
	// InAddressSet reports whether v is in the address set called name.
	InAddressSet(name string, v Value) bool
	// InPortGroup reports whether the port with this key is in the group
	// called name.
	InPortGroup(name string, key uint32) bool
}

// Eval interprets e, as parsed, for packet p. It follows the language's
// definition step by step and knows nothing of Annotate and Compile.
func (s *Symbols) Eval(e Expr, p *Packet, w World) bool {
	switch e := e.(type) {
	case Literal:
		return bool(e)
	case *And:
		for _, t := range e.Terms {
			if !s.Eval(t, p, w) {
				return false
			}
		}
		return true
	case *Or:
		for _, t := range e.Terms {
			if s.Eval(t, p, w) {
				return true
			}
		}
		return false
	case *Resident:
		return w.Resident(e.Port) != e.Not
	case *Compare:
		return s.evalCompare(e, p, w)
	}
	return false
}

// evalCompare interprets a comparison: false where its prerequisites are.
func (s *Symbols) evalCompare(c *Compare, p *Packet, w World) bool {
	sym := c.Ref.Symbol
	if sym.Prereq != "" && !s.Eval(s.parseOwn(sym.Prereq), p, w) {
		return false
	}
	if sym.Predicate != "" {
		v := Value{}
		if s.Eval(s.parseOwn(sym.Predicate), p, w) {
			v.Lo = 1
		}
		return compareNumbers(c.Op, v, c.Values)
	}
	v := p[sym.Field].Shr(c.Ref.base())
	switch {
	case sym.isString():
		v = v.And(Ones(32))
	default:
		v = v.And(Ones(c.Ref.Bits))
	}
	if c.Op > OpNE {
		return compareNumbers(c.Op, v, c.Values)
	}
	for i := range c.Values {
		if c.Values[i].has(v, w) {
			return c.Op == OpEQ
		}
	}
	return c.Op == OpNE
}

// has reports whether v is c, or in the set that c names.
func (c *Constant) has(v Value, w World) bool {
	switch c.Kind {
	case ConstString:
		key, ok := w.Port(c.Text)
		return ok && v == U64(uint64(key))
	case ConstAddressSet:
		return w.InAddressSet(c.Text, v)
	case ConstPortGroup:
		return w.InPortGroup(c.Text, uint32(v.Lo))
	}
	return c.covers(v)
}

// Eval reports whether c holds for packet p.
func (c *Clause) Eval(p *Packet, w World) bool {
	for _, m := range c.Matches {
		if p[m.Field].And(m.Mask) != m.Value {
			return false
		}
	}
	for i := range c.Preds {
		if !c.Preds[i].Eval(p, w) {
			return false
		}
	}
	return true
}

// Eval reports whether p holds for packet k.
func (p *Predicate) Eval(k *Packet, w World) bool {
	if p.Kind == PredResident {
		return w.Resident(p.Port) != p.Not
	}
	v := p.bits(k[p.Field])
	if p.Kind == PredRange {
		return (!v.Less(p.First) && !p.Last.Less(v)) != p.Not
	}
	for i := range p.Values {
		if p.Values[i].has(v, w) {
			return !p.Not
		}
	}
	return p.Not
}
