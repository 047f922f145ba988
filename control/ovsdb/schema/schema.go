package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"millrace/control/ovsdb/jsonval"
)

// A Column is one column of a table. Those that every table has have negative
// indexes.
type Column struct {
	Name      string
	Type      Type
	Index     int // in the datums of a row
	Ephemeral bool
	Mutable   bool
	Default   Datum // shared by all rows that do not set it
}

// The indexes of the columns that every table has.
const (
	IndexUUID    = -1
	IndexVersion = -2
)

// A Table is one table of a database.
type Table struct {
	Name    string
	Columns []*Column // by name
	MaxRows int
	IsRoot  bool // rows live without being referenced
	Indexes [][]*Column

	byName map[string]*Column // with the columns that every table has
}

// Column returns the column of that name, or nil.
func (t *Table) Column(name string) *Column { return t.byName[name] }

// A Database is a <database-schema>.
type Database struct {
	Name    string
	Version string
	Text    string   // the schema as JSON, without white space
	Tables  []*Table // by name

	byName map[string]*Table
}

// Table returns the table of that name, or nil.
func (d *Database) Table(name string) *Table { return d.byName[name] }

// Parse reads a schema file.
func Parse(text string) (*Database, error) {
	v, err := jsonval.Parse([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	return FromJSON(v)
}

// FromJSON reads a schema.
func FromJSON(v jsonval.Value) (*Database, error) {
	name, version := member(v, "name").Str, member(v, "version").Str
	if !IsID(name) || v.Kind != jsonval.Object {
		return nil, fmt.Errorf("read schema: %q is no name of a database", name)
	}
	if !isVersion(version) {
		return nil, fmt.Errorf("read schema %s: version %q is not like 1.2.3", name, version)
	}
	if member(v, "tables").Kind != jsonval.Object {
		return nil, fmt.Errorf("read schema %s: there are no tables", name)
	}
	d := &Database{Name: name, Version: version, Text: v.String(), byName: map[string]*Table{}}
	anyRoot := false
	var firstErr error
	member(v, "tables").Members(func(name string, tv jsonval.Value) bool {
		t, err := parseTable(name, tv)
		if err == nil && d.byName[name] != nil {
			err = fmt.Errorf("table %s is there twice", name)
		}
		if err != nil {
			firstErr = fmt.Errorf("read schema %s: %w", d.Name, err)
			return false
		}
		anyRoot = anyRoot || t.IsRoot
		d.byName[name] = t
		d.Tables = append(d.Tables, t)
		return true
	})
	if firstErr != nil {
		return nil, firstErr
	}
	slices.SortFunc(d.Tables, func(a, b *Table) int { return strings.Compare(a.Name, b.Name) })
	return d, d.finish(anyRoot)
}

// isVersion reports whether s is a <version>, or empty as in very old schemas.
func isVersion(s string) bool {
	parts := strings.Split(s, ".")
	return s == "" || len(parts) == 3 && !slices.ContainsFunc(parts, func(p string) bool {
		return p == "" || len(p) > 9 || strings.Trim(p, "0123456789") != ""
	})
}

// finish makes all tables roots if the schema names none, as in Open vSwitch,
// and checks that references lead somewhere.
func (d *Database) finish(anyRoot bool) error {
	for _, t := range d.Tables {
		t.IsRoot = t.IsRoot || !anyRoot
		for _, c := range t.Columns {
			for _, ref := range []string{c.Type.Key.RefTable, c.refOfValue()} {
				if ref != "" && d.byName[ref] == nil {
					return fmt.Errorf("read schema %s: table %s column %s references unknown table %s", d.Name, t.Name, c.Name, ref)
				}
			}
		}
	}
	return nil
}

func (c *Column) refOfValue() string {
	if c.Type.Value == nil {
		return ""
	}
	return c.Type.Value.RefTable
}

// member returns a member of an object, or null.
func member(v jsonval.Value, name string) jsonval.Value {
	m, _ := v.Get(name)
	return m
}

// parseTable reads a table (RFC 7047 3.2). Its columns are in the order of their names, with
// _uuid and _version beside them.
func parseTable(name string, v jsonval.Value) (*Table, error) {
	if !IsID(name) || name[0] == '_' {
		return nil, fmt.Errorf("%q is no name of a table", name)
	}
	if member(v, "columns").Kind != jsonval.Object {
		return nil, fmt.Errorf("table %s has no columns", name)
	}
	t := &Table{Name: name, MaxRows: Unlimited, IsRoot: member(v, "isRoot").Kind == jsonval.True, byName: map[string]*Column{}}
	if m, ok := v.Get("maxRows"); ok {
		if m.Kind != jsonval.Integer || m.Int() < 1 {
			return nil, fmt.Errorf("table %s: maxRows is no number over 0", name)
		}
		t.MaxRows = int(m.Int())
	}
	var bad error
	member(v, "columns").Members(func(name string, cv jsonval.Value) bool {
		var c *Column
		if c, bad = parseColumn(name, cv); bad == nil && t.byName[name] != nil {
			bad = errors.New("column is there twice")
		}
		if bad != nil {
			bad = fmt.Errorf("table %s column %s: %w", t.Name, name, bad)
			return false
		}
		t.Columns = append(t.Columns, c)
		t.byName[name] = c
		return true
	})
	if bad != nil {
		return nil, bad
	}
	slices.SortFunc(t.Columns, func(a, b *Column) int { return strings.Compare(a.Name, b.Name) })
	for i, c := range t.Columns {
		c.Index = i
	}
	scalarUUID := Type{Key: plainBase(UUIDType), Min: 1, Max: 1}
	t.byName["_uuid"] = &Column{Name: "_uuid", Type: scalarUUID, Index: IndexUUID, Default: scalarUUID.Default()}
	t.byName["_version"] = &Column{Name: "_version", Type: scalarUUID, Index: IndexVersion, Default: scalarUUID.Default(), Ephemeral: true}
	return t, t.parseIndexes(member(v, "indexes"))
}

// parseIndexes reads the sets of columns that no two rows may have equal.
func (t *Table) parseIndexes(v jsonval.Value) error {
	for _, names := range v.Elems {
		var index []*Column
		for _, n := range names.Elems {
			c := t.byName[n.Str]
			if c == nil || c.Ephemeral || c.Index < 0 {
				return fmt.Errorf("table %s: index on %q, which is no lasting column", t.Name, n.Str)
			}
			index = append(index, c)
		}
		if len(index) == 0 || names.Kind != jsonval.Array {
			return fmt.Errorf("table %s: index without columns", t.Name)
		}
		t.Indexes = append(t.Indexes, index)
	}
	return nil
}

func parseColumn(name string, v jsonval.Value) (*Column, error) {
	if !IsID(name) || name[0] == '_' {
		return nil, fmt.Errorf("%q is no name of a column", name)
	}
	c := &Column{Name: name, Ephemeral: member(v, "ephemeral").Kind == jsonval.True, Mutable: member(v, "mutable").Kind != jsonval.False}
	t, err := parseType(member(v, "type"))
	c.Type = t
	c.Default = t.Default()
	return c, err
}

// parseType reads a <type>.
func parseType(v jsonval.Value) (Type, error) {
	t := Type{Min: 1, Max: 1}
	if v.Kind == jsonval.String {
		base, err := parseBase(v)
		t.Key = base
		return t, err
	}
	var err error
	if t.Key, err = parseBase(member(v, "key")); err != nil {
		return t, err
	}
	if val, ok := v.Get("value"); ok {
		base, err := parseBase(val)
		if err != nil {
			return t, err
		}
		t.Value = &base
	}
	if m, ok := v.Get("min"); ok {
		t.Min = int(m.Int())
	}
	if m, ok := v.Get("max"); ok {
		t.Max = int(m.Int())
		if m.Str == "unlimited" {
			t.Max = Unlimited
		}
	}
	if t.Min < 0 || t.Min > 1 || t.Max < 1 {
		return t, fmt.Errorf("%d to %d elements; min must be 0 or 1 and max at least 1", t.Min, t.Max)
	}
	return t, nil
}

// parseBase reads a <base-type>.
func parseBase(v jsonval.Value) (Base, error) {
	name := v
	if v.Kind == jsonval.Object {
		name = member(v, "type")
	}
	i := slices.Index(atomicNames[:], name.Str)
	if i < 0 || name.Kind != jsonval.String {
		return Base{}, fmt.Errorf("unknown type %s", clip(name))
	}
	b := plainBase(Atomic(i))
	if b.RefTable = member(v, "refTable").Str; b.RefTable != "" && b.Atomic != UUIDType {
		return b, fmt.Errorf("refTable for type %s; only a uuid can be a reference", b.Atomic)
	}
	b.Weak = member(v, "refType").Str == "weak"
	b.readRanges(v)
	if enum, ok := v.Get("enum"); ok {
		t := Type{Key: plainBase(b.Atomic), Max: Unlimited}
		d, err := t.Parse(enum, nil)
		if err != nil {
			return b, fmt.Errorf("enum: %w", err)
		}
		b.Enum = d
	}
	return b, nil
}

// readRanges reads the limits that v has.
func (b *Base) readRanges(v jsonval.Value) {
	if m, ok := v.Get("minInteger"); ok {
		b.MinInt = m.Int()
	}
	if m, ok := v.Get("maxInteger"); ok {
		b.MaxInt = m.Int()
	}
	if m, ok := v.Get("minReal"); ok {
		b.MinReal = m.Float()
	}
	if m, ok := v.Get("maxReal"); ok {
		b.MaxReal = m.Float()
	}
	if m, ok := v.Get("minLength"); ok {
		b.MinLen = int(m.Int())
	}
	if m, ok := v.Get("maxLength"); ok {
		b.MaxLen = int(m.Int())
	}
}
