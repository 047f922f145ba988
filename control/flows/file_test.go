package flows

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"millrace/control/ovsdb/flowmodel"
)

func TestReadFile(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"# nothing\n\n   \t\n", ""},
		{`table=1 priority=0x10 cookie=7 match="ip4 && tcp" actions="next;"`, `table=1 priority=16 cookie=0x7 match="ip4 && tcp" actions="next;"`},
		{`actions=drop; # all of it`, `table=0 priority=0 match="1" actions="drop;"`},
		{`priority=1, table=2, actions='outport = "p1"; output;'`, `table=2 priority=1 match="1" actions='outport = "p1"; output;'`},
		{`match="inport == \"p\\1\"" actions="next;"` + "\r\n", `table=0 priority=0 match='inport == "p\1"' actions="next;"`},
		{"match=\"inport == \\\"it's\\\"\" actions=next;", `table=0 priority=0 match="inport == \"it's\"" actions="next;"`},
		{`match="ip4 // all\n&& tcp" actions=a;`, `table=0 priority=0 match="ip4 // all\n&& tcp" actions="a;"`},
		{"actions=a\nactions=b", "table=0 priority=0 match=\"1\" actions=\"a\"\ntable=0 priority=0 match=\"1\" actions=\"b\""},
	} {
		lines, err := ReadFile(strings.NewReader(tt.in), "f")
		var got []string
		for i := range lines {
			got = append(got, string(AppendLine(nil, &lines[i].Flow)))
		}
		if s := strings.Join(got, "\n"); err != nil || s != tt.want {
			t.Errorf("%s\ngives %s, %v\nwant  %s", tt.in, s, err, tt.want)
		}
	}
}

func TestReadFileErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"\ntable=256 actions=drop;", "f:2:7: table=256 is not a number from 0 to 255"},
		{"table=1", "f:1:8: actions is missing: a flow without any is actions=\"drop;\""},
		{"actions=drop; actions=drop;", "f:1:15: actions is given twice"},
		{"  tabel=1 actions=drop;", `f:1:3: unknown key "tabel": keys are table, priority, cookie, match and actions`},
		{"actions=drop; drop", "f:1:15: expected key=value: keys are table, priority, cookie, match and actions"},
		{`actions="drop;`, `f:1:9: " without an end`},
		{`match="\x" actions=drop;`, `f:1:8: expected \", \\ or \n`},
		{"priority=1_0 actions=drop;\npriority=-1 actions=drop;", "f:1:10: priority=1_0 is not a number from 0 to 65535\nf:2:10: priority=-1 is not a number from 0 to 65535"},
	} {
		if _, err := ReadFile(strings.NewReader(tt.in), "f"); err == nil || err.Error() != tt.want {
			t.Errorf("%s\ngives %v\nwant  %s", tt.in, err, tt.want)
		}
	}
	if _, err := ReadFile(strings.NewReader(strings.Repeat("x\n", 1000)), "f"); strings.Count(err.Error(), "\n") != errorsMax-1 {
		t.Errorf("of 1000 errors it tells\n%v", err)
	}
}

// TestLocate: an error of a text is where it stands in the file, also behind
// escapes.
func TestLocate(t *testing.T) {
	for _, tt := range []struct {
		in   string
		p    Problem
		want string
	}{
		{`table=1 match="ip4 &&" actions=drop;`, Problem{Where: "match", Column: 7, Reason: "r"}, "f:1:22: r"},
		{`match="inport == \"a\" &&" actions=drop;`, Problem{Where: "match", Column: 12, Reason: "r"}, `f:1:20: r`},
		{`match="inport == \"a\"" actions=drop;`, Problem{Where: "match", Column: 14, Reason: "r"}, `f:1:23: r`},
		{`actions=drop;`, Problem{Where: "match", Column: 1, Reason: "r"}, "f:1:1: match: column 1: r"},
		{`actions=drop;`, Problem{Reason: "r"}, "f:1:1: r"},
		{`actions=drop;`, Problem{Where: "actions", Reason: "r"}, "f:1:9: r"},
	} {
		lines, err := ReadFile(strings.NewReader(tt.in), "f")
		if err != nil {
			t.Fatal(err)
		}
		if got := lines[0].Locate("f", &tt.p).Error(); got != tt.want {
			t.Errorf("%s, %+v: %s, want %s", tt.in, tt.p, got, tt.want)
		}
	}
}

// FuzzReadFile: no text makes the reader panic, what it reads is written so that it
// reads the same, and errors are inside of the text.
func FuzzReadFile(f *testing.F) {
	for _, s := range []string{
		`table=1 priority=0x10 cookie=7 match="ip4 && tcp" actions="next;" # x`, `match="inport == \"p\\1\"" actions='x'`, "a=b\nactions=", `actions="\`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := ReadFile(strings.NewReader(text), "f")
		for i := range lines {
			var first, again []flowmodel.Flow
			first = append(first, lines[i].Flow)
			written := string(AppendLine(nil, &lines[i].Flow))
			back, err := ReadFile(strings.NewReader(written), "f")
			for _, l := range back {
				again = append(again, l.Flow)
			}
			if err != nil || !reflect.DeepEqual(first, again) {
				t.Fatalf("%q is written as %q, which gives %v, %v", text, written, again, err)
			}
			if at := lines[i].Locate("f", &Problem{Where: "match", Column: len(lines[i].Flow.Match) + 1}); at.Column > len(strings.Split(text, "\n")[at.Line-1])+1 {
				t.Fatalf("%q: column %d", text, at.Column)
			}
		}
		if err != nil && fmt.Sprint(err) == "" {
			t.Fatal("an error that says nothing")
		}
	})
}
