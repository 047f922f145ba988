package logical

// Expr is a node of an expression: Literal, *Compare, *And, *Or or *Resident.
// Trees are immutable once parsed and may be shared.
type Expr interface {
	// appendTo appends the node's text, in parentheses if it needs them as an
	// operand of && or ||.
	appendTo(b []byte, operand bool) []byte
}

// Literal is "1" or "0".
type Literal bool

// Compare relates a symbol, or some bits of one, to constants. There is at
// least one constant, and exactly one unless Op is OpEQ (any of them) or OpNE
// (none of them). A test of one bit against one number without a mask always
// has OpEQ, so that !x, x == 0 and x != 1 are the same tree.
type Compare struct {
	Ref    Ref
	Op     Op
	Values []Constant
}

// And holds if all its terms do. There are at least two, none of them an *And.
type And struct{ Terms []Expr }

// Or holds if one of its terms does. There are at least two, none of them an *Or.
type Or struct{ Terms []Expr }

// Resident is is_chassis_resident("Port"), or its opposite.
type Resident struct {
	Port string
	Not  bool
}

// Ref names bits of a symbol: Bits of them from bit Low. A string symbol has
// neither.
type Ref struct {
	Symbol *Symbol
	Low    int
	Bits   int
}

// ref returns the reference to all of s.
func (s *Symbol) ref() Ref { return Ref{Symbol: s, Bits: s.Width} }

// base returns the lowest bit of r in its symbol's field.
func (r Ref) base() int { return r.Symbol.Low + r.Low }

// Op is a relational operator.
type Op uint8

// The operators.
const (
	OpEQ Op = iota
	OpNE
	OpLT
	OpLE
	OpGT
	OpGE
)

// String returns how o is written.
func (o Op) String() string { return [...]string{"==", "!=", "<", "<=", ">", ">="}[o] }

// inverse returns the operator that holds where o does not.
func (o Op) inverse() Op { return [...]Op{OpNE, OpEQ, OpGE, OpGT, OpLE, OpLT}[o] }

// turned returns the operator for exchanged operands.
func (o Op) turned() Op { return [...]Op{OpEQ, OpNE, OpGT, OpGE, OpLT, OpLE}[o] }

// ConstKind is the type of a Constant.
type ConstKind uint8

// The kinds. Strings and port groups go with string symbols, the others with
// numeric ones.
const (
	ConstNumber     ConstKind = iota // Value
	ConstMasked                      // Value under Mask
	ConstString                      // Text
	ConstAddressSet                  // the members of the set called Text
	ConstPortGroup                   // the ports of the group called Text
)

// Constant is an operand of a comparison, or the value of an assignment.
type Constant struct {
	Kind   ConstKind
	Format Format // of Value and Mask
	Text   string
	Value  Value // no bits outside Mask
	Mask   Value // of ConstMasked
}

// isString reports whether c goes with string symbols.
func (c *Constant) isString() bool { return c.Kind == ConstString || c.Kind == ConstPortGroup }

// covers reports whether number c, under its mask, equals v.
func (c *Constant) covers(v Value) bool {
	if c.Kind == ConstMasked {
		v = v.And(c.Mask)
	}
	return v == c.Value
}

// flatten returns the conjunction (or disjunction) of terms, of which there is
// at least one: the one itself, or a node without nodes of its own kind below.
func flatten(and bool, terms []Expr) Expr {
	if len(terms) == 1 {
		return terms[0]
	}
	flat := make([]Expr, 0, len(terms))
	for _, t := range terms {
		switch t := t.(type) {
		case *And:
			if and {
				flat = append(flat, t.Terms...)
				continue
			}
		case *Or:
			if !and {
				flat = append(flat, t.Terms...)
				continue
			}
		}
		flat = append(flat, t)
	}
	if and {
		return &And{Terms: flat}
	}
	return &Or{Terms: flat}
}

// isFlag reports whether c tests one bit against one number: it has OpEQ then.
func (c *Compare) isFlag() bool {
	return c.Ref.Bits == 1 && len(c.Values) == 1 && c.Values[0].Kind == ConstNumber && c.Op <= OpNE
}

// invert returns the opposite of e. It leaves e alone.
func invert(e Expr) Expr {
	switch e := e.(type) {
	case Literal:
		return !e
	case *Resident:
		return &Resident{Port: e.Port, Not: !e.Not}
	case *And:
		return &Or{Terms: invertAll(e.Terms)}
	case *Or:
		return &And{Terms: invertAll(e.Terms)}
	case *Compare:
		if e.isFlag() {
			v := e.Values[0]
			v.Value.Lo ^= 1
			return &Compare{Ref: e.Ref, Op: e.Op, Values: []Constant{v}}
		}
		return &Compare{Ref: e.Ref, Op: e.Op.inverse(), Values: e.Values}
	}
	return nil
}

// invertAll inverts each of terms.
func invertAll(terms []Expr) []Expr {
	out := make([]Expr, len(terms))
	for i, t := range terms {
		out[i] = invert(t)
	}
	return out
}

// visit calls f for each comparison of e.
func visit(e Expr, f func(*Compare)) {
	switch e := e.(type) {
	case *And:
		for _, t := range e.Terms {
			visit(t, f)
		}
	case *Or:
		for _, t := range e.Terms {
			visit(t, f)
		}
	case *Compare:
		f(e)
	}
}
