package jsonval

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// seeds are inputs that have gone wrong in one JSON reader or another.
var seeds = []string{
	`null`, `true`, ` false `, `0`, `-0`, `01`, `1.`, `1.0`, `1e3`, `-1.5e-3`, `9223372036854775807`, `9223372036854775808`, `1e999`,
	`""`, `"a\"b\\\/\b\f\n\r\t"`, `"\u00e9\ud83d\ude00"`, `"\ud83d"`, `"\u0000"`, "\"\x01\"", "\"\xff\"", `"`, `"\`, `"\u12`,
	`[]`, `[1,2]`, `[1,]`, `[,1]`, `{}`, `{"a":1,"a":2}`, `{"a"}`, `{"a":}`, `{a:1}`, `[1 2]`, `[[[]]]`, `{"a":{"b":[null]}}`, ``, ` `, `1 1`, `nul`,
}

// oracle reads in with encoding/json and says whether our stricter rules take it too.
func oracle(in []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(in))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() || !json.Valid(in) {
		return nil, false
	}
	return v, true
}

// plain returns v as encoding/json would hold it.
func plain(v Value) any {
	var out any
	d := json.NewDecoder(strings.NewReader(v.String()))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		return err
	}
	return floats(out)
}

// floats replaces all numbers by floating point ones, which compare by value.
func floats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = floats(v[k])
		}
	}
	return v
}

// check holds Parse to encoding/json: what it takes, encoding/json takes, with
// the same value. Parse refuses more (NUL, bad UTF-8, depth, range).
func check(t *testing.T, in []byte) {
	got, err := Parse(in)
	want, valid := oracle(in)
	if err == nil && !valid {
		t.Fatalf("Parse(%q) took what encoding/json refuses", in)
	}
	if err != nil {
		return
	}
	if p := plain(got); !reflect.DeepEqual(p, floats(want)) {
		t.Fatalf("Parse(%q) = %v, want %v", in, p, want)
	}
	again, err := Parse(got.Append(nil))
	if err != nil || !reflect.DeepEqual(again, got) {
		t.Fatalf("%q does not survive writing and reading: %v, %v", in, again, err)
	}
}

func TestParse(t *testing.T) {
	for _, s := range seeds {
		check(t, []byte(s))
	}
	for _, ok := range []string{`9223372036854775807`, `1.0`, `{"a":[{},"\ud83d\ude00"]}`, `-0`} {
		if _, err := Parse([]byte(ok)); err != nil {
			t.Errorf("Parse(%s): %v", ok, err)
		}
	}
	if v, _ := Parse([]byte(`-9223372036854775808`)); v.Int() != -1<<63 {
		t.Errorf("lost bits of the least integer: %d", v.Int())
	}
	if _, err := ParseMax([]byte(`{"a":[1,2]}`), 4); !errors.Is(err, errMany) {
		t.Errorf("5 values where 4 are allowed: %v", err)
	}
	if _, err := Parse([]byte(strings.Repeat("[", 2000))); !errors.Is(err, errDepth) {
		t.Errorf("2000 levels: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) { check(t, in) })
}

// TestFramer feeds a stream in pieces of every size and wants the same objects.
func TestFramer(t *testing.T) {
	want := []string{`{"a":"}{\"\\"}`, ` {"b":[{},{"c":1}]}`, "\n{}"}
	stream := strings.Join(want, "")
	for size := 1; size <= len(stream); size++ {
		var f Framer
		var got []string
		var msg []byte
		for rest := []byte(stream); len(rest) > 0; {
			n, done, err := f.Feed(rest[:min(size, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			msg = append(msg, rest[:n]...)
			rest = rest[n:]
			if done {
				got = append(got, string(msg))
				msg = nil
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("in pieces of %d: %q", size, got)
		}
	}
	for _, bad := range []string{"x", `"a"`, "1{", "}"} {
		var f Framer
		if _, _, err := f.Feed([]byte(bad)); !errors.Is(err, ErrFrame) && bad != "}" {
			t.Errorf("Feed(%q): %v, want ErrFrame", bad, err)
		}
	}
}
