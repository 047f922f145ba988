package ovsdb

import (
	"fmt"
	"reflect"

	"github.com/ovn-kubernetes/libovsdb/model"
)

// A shape says how rows of a table are read into their struct: fields by columns.
// It reads what a server sends in one go; libovsdb's mapper makes three trees of it
// before, which takes ten times as long (docs/decisions/0022).
type shape struct {
	row     reflect.Type // of the struct
	uuid    int          // field of _uuid
	columns map[string]column
}

// A column reads its value (RFC 7047 5.1) into its field.
type column struct {
	field  int
	read   func(*scanner, reflect.Value)
	differ bool // a modification comes as the difference to what was there
}

// newShape makes the shape of a row, a pointer to a generated struct.
func newShape(row model.Model) (*shape, error) {
	s := &shape{row: reflect.TypeOf(row).Elem(), uuid: -1, columns: map[string]column{}}
	for i := range s.row.NumField() {
		f := s.row.Field(i)
		name := f.Tag.Get("ovsdb")
		switch name {
		case "":
			continue
		case "_uuid":
			s.uuid = i
			continue
		}
		read, err := reader(f.Type)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", name, err)
		}
		s.columns[name] = column{i, read, f.Type.Kind() == reflect.Slice || f.Type.Kind() == reflect.Map}
	}
	if s.uuid < 0 {
		return nil, fmt.Errorf("%v has no field for _uuid", s.row)
	}
	return s, nil
}

// fresh reads a row. Columns that are not told have their default.
func (s *shape) fresh(in *scanner, uuid string) model.Model { return s.filled(in, uuid, false) }

// selected is fresh for an answer to select, which has the UUID among the columns.
func (s *shape) selected(in *scanner, uuid string) model.Model { return s.filled(in, uuid, true) }

// filled reads a row, and passes over its UUID if that is among the columns.
func (s *shape) filled(in *scanner, uuid string, among bool) model.Model {
	row := reflect.New(s.row)
	v := row.Elem()
	in.object(func(name []byte) {
		if among && string(name) == "_uuid" {
			in.skip()
			return
		}
		c, ok := s.columns[string(name)]
		if !ok {
			in.fail("column %.60s: is not in the schema", name)
			return
		}
		before := in.err
		c.read(in, v.Field(c.field))
		in.name(before, name)
	})
	v.Field(s.uuid).SetString(uuid)
	return row.Interface()
}

// name says of an error that came since which column it is about.
func (s *scanner) name(before error, column []byte) {
	if before == nil && s.err != nil {
		s.err = fmt.Errorf("column %s: %w", column, s.err)
	}
}

// modified reads the differences to a row, and returns a copy that has them, or, if there
// are none, the row.
func (s *shape) modified(in *scanner, old model.Model) model.Model {
	start := in.pos
	if in.take('{') && in.take('}') {
		return old
	}
	in.pos = start
	row := reflect.New(s.row)
	v := row.Elem()
	v.Set(reflect.ValueOf(old).Elem())
	in.object(func(name []byte) {
		c, ok := s.columns[string(name)]
		if !ok {
			in.fail("column %.60s: is not in the schema", name)
			return
		}
		before := in.err
		was := v.Field(c.field)
		if !c.differ {
			c.read(in, was)
			in.name(before, name)
			return
		}
		diff := reflect.New(was.Type()).Elem()
		c.read(in, diff)
		if in.err == nil {
			now, err := changed(was.Interface(), diff.Interface())
			if err != nil {
				in.fail("%v", err)
			} else {
				was.Set(reflect.ValueOf(now))
			}
		}
		in.name(before, name)
	})
	return row.Interface()
}

// reader returns how to read values of a type that modelgen makes: an atom, a
// pointer to one for what may be missing, a slice for a set, or a map.
func reader(t reflect.Type) (func(*scanner, reflect.Value), error) {
	switch t.Kind() {
	case reflect.Pointer:
		return optional(t)
	case reflect.Slice:
		return list(t)
	case reflect.Map:
		return pairs(t)
	}
	return atom(t)
}

// atom reads a string, also that of a UUID, a number or a boolean.
func atom(t reflect.Type) (func(*scanner, reflect.Value), error) {
	switch t.Kind() {
	case reflect.String:
		return func(s *scanner, v reflect.Value) { v.SetString(s.text1()) }, nil
	case reflect.Int:
		return func(s *scanner, v reflect.Value) { v.SetInt(int64(s.integer())) }, nil
	case reflect.Float64:
		return func(s *scanner, v reflect.Value) { v.SetFloat(s.real()) }, nil
	case reflect.Bool:
		return func(s *scanner, v reflect.Value) { v.SetBool(s.boolean()) }, nil
	}
	return nil, fmt.Errorf("type %v", t)
}

// text1 reads a string, or ["uuid", string].
func (s *scanner) text1() string {
	if s.peek() == '"' {
		return s.str()
	}
	s.want('[')
	if tag := string(s.bytes()); tag != "uuid" && tag != "named-uuid" {
		s.fail("expected a string or a UUID")
		return ""
	}
	s.want(',')
	text := s.str()
	s.want(']')
	return text
}

// set calls f for each element of a set: one atom, or ["set", [atoms]].
func (s *scanner) set(f func()) {
	at := s.pos
	if s.peek() != '[' {
		f()
		return
	}
	s.pos++
	if tag := s.bytes(); string(tag) != "set" {
		if s.err == nil {
			s.pos = at
			f() // a UUID
		}
		return
	}
	s.want(',')
	s.array(f)
	s.want(']')
}

// optional reads a set of at most one.
func optional(t reflect.Type) (func(*scanner, reflect.Value), error) {
	read, err := atom(t.Elem())
	return func(s *scanner, v reflect.Value) {
		n := 0
		v.SetZero()
		s.set(func() {
			if n++; n > 1 {
				s.fail("more than one value")
				return
			}
			v.Set(reflect.New(t.Elem()))
			read(s, v.Elem())
		})
	}, err
}

// list reads a set.
func list(t reflect.Type) (func(*scanner, reflect.Value), error) {
	if t.Elem().Kind() == reflect.String {
		return func(s *scanner, v reflect.Value) {
			var out []string
			s.set(func() { out = append(out, s.text1()) })
			v.Set(reflect.ValueOf(out).Convert(t))
		}, nil
	}
	read, err := atom(t.Elem())
	return func(s *scanner, v reflect.Value) {
		out := reflect.MakeSlice(t, 0, 1)
		s.set(func() {
			e := reflect.New(t.Elem()).Elem()
			read(s, e)
			out = reflect.Append(out, e)
		})
		v.Set(out)
	}, err
}

// pairs reads a map: ["map", [[key, value], ...]].
func pairs(t reflect.Type) (func(*scanner, reflect.Value), error) {
	key, err := atom(t.Key())
	if err != nil {
		return nil, err
	}
	value, err := atom(t.Elem())
	return func(s *scanner, v reflect.Value) {
		out := reflect.MakeMap(t)
		s.want('[')
		if tag := string(s.bytes()); tag != "map" {
			s.fail("expected a map")
			return
		}
		s.want(',')
		s.array(func() {
			s.want('[')
			k, e := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
			key(s, k)
			s.want(',')
			value(s, e)
			s.want(']')
			if s.err == nil {
				out.SetMapIndex(k, e)
			}
		})
		s.want(']')
		v.Set(out)
	}, err
}
