package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// An object is a JSON object that keeps its order.
type object []field

type field struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		v, err := marshal(f.value)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", f.name, err)
		}
		fmt.Fprintf(&b, "%q:%s", f.name, v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is v as JSON, in which nothing is escaped that need not be.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// printJSON prints v, indented, as one document.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// A jsonList prints a list as one document, indented, element by element.
type jsonList struct {
	out io.Writer
	n   int
	err error // the first
}

func (a *app) jsonList() *jsonList { return &jsonList{out: a.out} }

// add prints an element.
func (l *jsonList) add(v any) {
	var b bytes.Buffer
	b.WriteString(map[bool]string{true: "[\n  ", false: ",\n  "}[l.n == 0])
	e := json.NewEncoder(&b)
	e.SetIndent("  ", "  ")
	e.SetEscapeHTML(false)
	l.do(e.Encode(v))
	b.Truncate(max(b.Len()-1, 0)) // the end of the line
	_, err := l.out.Write(b.Bytes())
	l.do(err)
	l.n++
}

func (l *jsonList) do(err error) {
	if l.err == nil {
		l.err = err
	}
}

// end ends the document, and reports what went wrong.
func (l *jsonList) end() error {
	_, err := io.WriteString(l.out, map[bool]string{true: "[]\n", false: "\n]\n"}[l.n == 0])
	l.do(err)
	return l.err
}

// toJSON turns a message of the API into JSON with all its fields, in the
// order and by the names of the .proto file. Unlike protojson's, its numbers
// are numbers, its enums lower-case words, and its bytes the same every time.
func toJSON(m proto.Message) object {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	o := make(object, 0, fields.Len())
	for i := range fields.Len() {
		fd := fields.Get(i)
		o = append(o, field{string(fd.Name()), fieldJSON(fd, r)})
	}
	return o
}

func fieldJSON(fd protoreflect.FieldDescriptor, r protoreflect.Message) any {
	if fd.IsList() {
		l := r.Get(fd).List()
		values := make([]any, l.Len())
		for i := range values {
			values[i] = valueJSON(fd, l.Get(i))
		}
		return values
	}
	if fd.IsMap() {
		return mapJSON(fd.MapValue(), r.Get(fd).Map())
	}
	if fd.Kind() == protoreflect.MessageKind && !r.Has(fd) {
		return nil
	}
	return valueJSON(fd, r.Get(fd))
}

// mapJSON is a map of strings as an object, in the order of its keys; nil if it is empty.
func mapJSON(value protoreflect.FieldDescriptor, m protoreflect.Map) any {
	if m.Len() == 0 {
		return nil
	}
	o := make(object, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		o = append(o, field{k.String(), valueJSON(value, v)})
		return true
	})
	slices.SortFunc(o, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	return o
}

func valueJSON(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		m := v.Message().Interface()
		if t, ok := m.(*timestamppb.Timestamp); ok {
			return t.AsTime().Format(time.RFC3339Nano)
		}
		return toJSON(m)
	case protoreflect.EnumKind:
		return enumWord(fd.Enum(), v.Enum())
	}
	return v.Interface()
}

// enumWord is the word for a value of an enum: NATIVE_TAGGED of VlanMode is
// native-tagged, and what is not specified is empty.
func enumWord(d protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := d.Values().ByNumber(n)
	if v == nil {
		return fmt.Sprint(n)
	}
	if n == 0 {
		return ""
	}
	zero := string(d.Values().ByNumber(0).Name())
	word := strings.TrimPrefix(string(v.Name()), strings.TrimSuffix(zero, "UNSPECIFIED"))
	return strings.ToLower(strings.ReplaceAll(word, "_", "-"))
}

// word is enumWord of a value in hand.
func word(e protoreflect.Enum) string { return enumWord(e.Descriptor(), e.Number()) }

// list turns messages into JSON objects.
func list[M proto.Message](ms []M) []object {
	objects := make([]object, 0, len(ms))
	for _, m := range ms {
		objects = append(objects, toJSON(m))
	}
	return objects
}
