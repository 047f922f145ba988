package ovsdb

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestStrings: a string is read as encoding/json reads it, whatever its escapes are
// and wherever they lie, and its end is found.
func TestStrings(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 1))
	pieces := []string{`\"`, `\\`, `\n`, `\u00e9`, `\ud83d\ude00`, `\/`, "a", "é", strings.Repeat("x", 130), " "}
	for range 20_000 {
		var b strings.Builder
		for range r.IntN(6) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		text := `"` + b.String() + `"`
		var want string
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		in := &scanner{text: []byte(text + `,"`)}
		if got := in.str(); got != want || in.err != nil || in.pos != len(text) {
			t.Fatalf("%s is read as %q up to byte %d of %d (%v), want %q", text, got, in.pos, len(text), in.err, want)
		}
		in = &scanner{text: []byte(text + `,"`)}
		if got := in.skip(); string(got) != text || in.err != nil {
			t.Fatalf("%s is passed over as %s (%v)", text, got, in.err)
		}
	}
}

// TestBadStrings: what encoding/json takes for no string, because of its escapes or
// since it does not end, is an error.
func TestBadStrings(t *testing.T) {
	for _, text := range []string{`"`, `"\`, `"\"`, `"\\\"`, `"\x"`, `"\u12"`, `"abc`, `"` + strings.Repeat("y", 300)} {
		in := &scanner{text: []byte(text)}
		if got := in.str(); in.err == nil {
			t.Errorf("%s is read as %q", text, got)
		}
	}
}

// TestUpdateParts: an update has two parts, of which the second is looked into.
func TestUpdateParts(t *testing.T) {
	for _, tt := range []struct{ params, want string }{
		{`["millrace", {"Flow":{}}]`, `{"Flow":{}}`},
		{`[1,[2,3]]`, `[2,3]`},
		{`["millrace"]`, ""},
		{`["a",{},{}]`, ""},
		{`{}`, ""},
		{`["a",{}`, ""},
	} {
		got, err := second([]byte(tt.params))
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: second part is %s (%v), want %s", tt.params, got, err, tt.want)
		}
	}
}

// TestPending: what is taken has each row once, as it was last, however many
// transactions it took.
func TestPending(t *testing.T) {
	var p pending
	row := func(table, uuid string, n int) Change { return Change{Table: table, UUID: uuid, Row: &n} }
	p.add([]Change{row("a", "1", 1), row("a", "2", 1)})
	p.add([]Change{row("b", "1", 2), {Table: "a", UUID: "2"}})
	p.add([]Change{row("a", "1", 3), row("a", "3", 3)})
	want := []struct {
		table, uuid string
		n           int
	}{{"a", "1", 3}, {"a", "2", 0}, {"b", "1", 2}, {"a", "3", 3}}
	if len(p.list) != len(want) {
		t.Fatalf("%d changes, want %d", len(p.list), len(want))
	}
	for i, w := range want {
		c, n := p.list[i], 0
		if v, ok := c.Row.(*int); ok {
			n = *v
		}
		if c.Table != w.table || c.UUID != w.uuid || n != w.n {
			t.Errorf("change %d is %s %s %d, want %v", i, c.Table, c.UUID, n, w)
		}
	}
}
