package engine

import (
	"slices"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// A clause is one <condition>: a column, a function and a value, or a constant.
type clause struct {
	col      *schema.Column // nil: constant
	function string
	arg      schema.Datum
	constant bool
}

// A Condition is a list of clauses on rows of a table.
type Condition struct {
	clauses []clause
}

// functions are those of RFC 7047 5.1, and whether they compare by order.
var functions = map[string]bool{
	"==": false, "!=": false, "includes": false, "excludes": false,
	"<": true, "<=": true, ">": true, ">=": true,
}

// ParseCondition reads a "where" member for rows of table t.
func ParseCondition(t *schema.Table, v jsonval.Value, symbols schema.Symbols) (*Condition, *schema.Error) {
	if v.Kind != jsonval.Array {
		return nil, schema.Errorf(schema.Syntax, "array expected as condition")
	}
	c := &Condition{}
	for _, e := range v.Elems {
		cl, err := parseClause(t, e, symbols)
		if err != nil {
			return nil, err
		}
		c.clauses = append(c.clauses, cl)
	}
	return c, nil
}

func parseClause(t *schema.Table, v jsonval.Value, symbols schema.Symbols) (clause, *schema.Error) {
	if v.IsBool() {
		return clause{constant: v.Kind == jsonval.True}, nil
	}
	if v.Kind != jsonval.Array || len(v.Elems) != 3 || v.Elems[0].Kind != jsonval.String || v.Elems[1].Kind != jsonval.String {
		return clause{}, schema.Errorf(schema.Syntax, "parse condition: 3-element array with a column and a function expected")
	}
	col := t.Column(v.Elems[0].Str)
	if col == nil {
		return clause{}, unknownColumn(t, v.Elems[0].Str)
	}
	f := v.Elems[1].Str
	byOrder, known := functions[f]
	if !known {
		return clause{}, schema.Errorf("unknown function", "%s", f)
	}
	ct := &col.Type
	if byOrder && (!ct.IsScalar() && !ct.IsOptional() || ct.Key.Atomic > schema.Real) {
		return clause{}, schema.Errorf(schema.Syntax, "%s may not be applied to column %s", f, col.Name)
	}
	arg, err := parseRight(ct, f, byOrder, v.Elems[2], symbols)
	return clause{col: col, function: f, arg: arg}, err
}

// parseRight reads the right side of a condition with function f on a column
// of type t. Constraints count, as in the stock server.
func parseRight(t *schema.Type, f string, byOrder bool, v jsonval.Value, symbols schema.Symbols) (schema.Datum, *schema.Error) {
	switch {
	case byOrder:
		return (&schema.Type{Key: t.Key, Min: 1, Max: 1}).Parse(v, symbols)
	case f == "includes" && !t.IsScalar():
		return t.ParseInsert(v, symbols)
	case f == "excludes" && !t.IsScalar():
		return (&schema.Type{Key: t.Key, Value: t.Value, Max: schema.Unlimited}).Parse(v, symbols)
	}
	return t.Parse(v, symbols)
}

func unknownColumn(t *schema.Table, name string) *schema.Error {
	return schema.Errorf("unknown column", "table %s has no column %s", t.Name, name)
}

// All reports whether r fulfils every clause.
func (c *Condition) All(r *Row) bool {
	for i := range c.clauses {
		if !c.clauses[i].holds(r) {
			return false
		}
	}
	return true
}

// Any reports whether r fulfils one clause, or there is none: what a monitor
// with conditions wants (ovsdb-server(7) 4.1.12).
func (c *Condition) Any(r *Row) bool {
	return len(c.clauses) == 0 || slices.ContainsFunc(c.clauses, func(cl clause) bool { return cl.holds(r) })
}

func (cl *clause) holds(r *Row) bool {
	if cl.col == nil {
		return cl.constant
	}
	d, t := r.Get(cl.col), &cl.col.Type
	switch cl.function {
	case "==":
		return schema.Equal(d, cl.arg)
	case "!=":
		return !schema.Equal(d, cl.arg)
	case "includes":
		return t.Includes(d, cl.arg)
	case "excludes":
		return t.Excludes(d, cl.arg)
	}
	if len(d) == 0 {
		return false
	}
	order := t.Compare(d, cl.arg)
	switch cl.function {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// equalTo returns the value that the condition wants column col to have.
func (c *Condition) equalTo(col *schema.Column) (schema.Datum, bool) {
	for i := range c.clauses {
		cl := &c.clauses[i]
		if cl.col == col && (cl.function == "==" || cl.function == "includes" && col.Type.IsScalar()) {
			return cl.arg, true
		}
	}
	return nil, false
}

// With returns c with the clauses of o added.
func (c *Condition) With(o *Condition) *Condition {
	return &Condition{clauses: slices.Concat(c.clauses, o.clauses)}
}
