package engine

import (
	"math"
	"slices"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// A mutation is one <mutation> of RFC 7047 5.1.
type mutation struct {
	col     *schema.Column
	mutator string
	arg     schema.Datum
	keys    bool // arg holds keys of a map, without values
}

// mutators are those of RFC 7047 5.1.
var mutators = []string{"+=", "-=", "*=", "/=", "%=", "insert", "delete"}

// parseMutations reads the "mutations" member for rows of table t.
func parseMutations(t *schema.Table, v jsonval.Value, symbols schema.Symbols) ([]mutation, *schema.Error) {
	if v.Kind != jsonval.Array {
		return nil, schema.Errorf(schema.Syntax, "array expected as mutations")
	}
	var out []mutation
	for _, e := range v.Elems {
		m, err := parseMutation(t, e, symbols)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func parseMutation(t *schema.Table, v jsonval.Value, symbols schema.Symbols) (mutation, *schema.Error) {
	if v.Kind != jsonval.Array || len(v.Elems) != 3 || v.Elems[0].Kind != jsonval.String || v.Elems[1].Kind != jsonval.String {
		return mutation{}, schema.Errorf(schema.Syntax, "parse mutation: 3-element array with a column and a mutator expected")
	}
	m := mutation{col: t.Column(v.Elems[0].Str), mutator: v.Elems[1].Str}
	if m.col == nil {
		return m, unknownColumn(t, v.Elems[0].Str)
	}
	if err := checkMutable(t, m.col); err != nil {
		return m, err
	}
	if !slices.Contains(mutators, m.mutator) {
		return m, schema.Errorf("unknown mutator", "%s", m.mutator)
	}
	return m, m.parseArg(v.Elems[2], symbols)
}

// checkMutable returns an error if column c never changes after insert.
func checkMutable(t *schema.Table, c *schema.Column) *schema.Error {
	if !c.Mutable {
		return schema.Errorf(schema.Constraint, "cannot change immutable column %s of table %s", c.Name, t.Name)
	}
	return nil
}

// parseArg reads the value that the mutator applies.
func (m *mutation) parseArg(v jsonval.Value, symbols schema.Symbols) (err *schema.Error) {
	t := &m.col.Type
	if m.mutator == "insert" || m.mutator == "delete" {
		if t.IsScalar() {
			return schema.Errorf(schema.Syntax, "%s may not be applied to column %s", m.mutator, m.col.Name)
		}
		if m.mutator == "insert" {
			m.arg, err = t.ParseInsert(v, symbols)
		} else {
			m.arg, m.keys, err = t.ParseDelete(v, symbols)
		}
		return err
	}
	if t.Value != nil || t.Key.Atomic > schema.Real || m.mutator == "%=" && t.Key.Atomic != schema.Integer {
		return schema.Errorf(schema.Syntax, "%s may not be applied to column %s", m.mutator, m.col.Name)
	}
	m.arg, err = t.ParseOperand(v)
	return err
}

// apply returns what d becomes.
func (m *mutation) apply(d schema.Datum) (schema.Datum, *schema.Error) {
	t := &m.col.Type
	switch m.mutator {
	case "insert":
		d = t.Union(d, m.arg)
	case "delete":
		d = t.Subtract(d, m.arg, m.keys)
	default:
		return m.calculate(d)
	}
	if n := t.Len(d); n < t.Min || n > t.Max {
		return nil, schema.Errorf(schema.Constraint, "attempt to store %d elements in column %s; allowed are %d to %d", n, m.col.Name, t.Min, t.Max)
	}
	return d, nil
}

// calculate applies an arithmetic mutator to every element.
func (m *mutation) calculate(d schema.Datum) (schema.Datum, *schema.Error) {
	out := make(schema.Datum, 0, len(d))
	for _, a := range d {
		var err *schema.Error
		if m.col.Type.Key.Atomic == schema.Integer {
			var n int64
			n, err = integerOp(m.mutator, a.Int(), m.arg[0].Int())
			a = schema.IntAtom(n)
		} else {
			var f float64
			f, err = realOp(m.mutator, a.Real(), m.arg[0].Real())
			a = schema.RealAtom(f)
		}
		if err == nil {
			err = m.col.Type.Key.Check(a)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	out, err := m.col.Type.Sorted(out)
	if err != nil {
		return nil, schema.Errorf(schema.Constraint, "result of %s contains duplicates", m.mutator)
	}
	return out, nil
}

// integerOp returns x op y, or an error where 64 bits do not hold it.
func integerOp(op string, x, y int64) (int64, *schema.Error) {
	overflow := false
	var n int64
	switch op {
	case "+=":
		n = x + y
		overflow = (n < x) != (y < 0)
	case "-=":
		n = x - y
		overflow = (n > x) != (y < 0)
	case "*=":
		n = x * y
		overflow = x != 0 && (n/x != y || x == -1 && y == math.MinInt64)
	default:
		if y == 0 {
			return 0, schema.Errorf(schema.Domain, "division by zero")
		}
		if overflow = x == math.MinInt64 && y == -1; overflow {
			break
		}
		if n = x / y; op == "%=" {
			n = x % y
		}
	}
	if overflow {
		return 0, schema.Errorf(schema.Range, "result of %s is out of range", op)
	}
	return n, nil
}

// realOp returns x op y, or an error where it is not finite.
func realOp(op string, x, y float64) (float64, *schema.Error) {
	switch op {
	case "+=":
		x += y
	case "-=":
		x -= y
	case "*=":
		x *= y
	default:
		if y == 0 {
			return 0, schema.Errorf(schema.Domain, "division by zero")
		}
		x /= y
	}
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return 0, schema.Errorf(schema.Range, "result of %s is out of range", op)
	}
	return x, nil
}
