package logical

import (
	"errors"
	"testing"
)

// FuzzParseMatch holds whatever parses to the tests of TestRandomExpressions.
func FuzzParseMatch(f *testing.F) {
	for _, tt := range append(validMatches(), invalidMatches()...) {
		f.Add(tt.in, uint64(1))
	}
	for i, row := range corpus(f) {
		if i%40 == 0 {
			f.Add(row.match, uint64(i))
		}
	}
	s := NewSymbols()
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		e, err := s.ParseMatch(text)
		if err != nil {
			checkError(t, text, err)
			return
		}
		checkMatchPrint(t, s, e)
		for _, o := range []Options{{MaxClauses: 100}, {MaxClauses: 100, SplitSets: 3}} {
			clauses, err := NewCompiler(o).Compile(e)
			if errors.Is(err, ErrTooComplex) {
				continue
			}
			if err != nil {
				t.Fatalf("compile %s: %v", text, err)
			}
			checkClauses(t, e, clauses)
			if len(text) > 2000 {
				continue // the plain interpreter is slow
			}
			p := newWriter(s, seed).packet(e)
			if got, want := holds(clauses, p), s.Eval(e, p, world{}); got != want {
				t.Errorf("%s is %v, compiled %v", text, want, got)
			}
		}
	})
}

// FuzzParseActions holds whatever parses to the printer.
func FuzzParseActions(f *testing.F) {
	for _, tt := range validActions() {
		f.Add(tt.in)
	}
	for _, tt := range invalidActions() {
		f.Add(tt.in)
	}
	for i, row := range corpus(f) {
		if i%40 == 0 {
			f.Add(row.actions)
		}
	}
	s := NewSymbols()
	f.Fuzz(func(t *testing.T, text string) {
		a, err := s.ParseActions(text)
		if err != nil {
			checkError(t, text, err)
			return
		}
		checkActionsPrint(t, s, a)
	})
}

// FuzzExpand checks that expanding leaves texts without variables alone, and
// variables nowhere.
func FuzzExpand(f *testing.F) {
	f.Add("ip4.src == ^a && tcp.dst == {^b}")
	f.Add(`inport == "^a" /* ^b */ // ^c`)
	f.Fuzz(func(t *testing.T, text string) {
		out, used, err := Expand(text, map[string]string{"a": "1", "b": "2"})
		if err != nil {
			return
		}
		if len(used) == 0 && out != text {
			t.Errorf("%q became %q, though it uses nothing", text, out)
		}
		if _, again, err := Expand(out, nil); err == nil && len(again) > 0 {
			t.Errorf("%q became %q, which uses %v", text, out, again)
		}
	})
}

// checkError fails unless err names a column of text and a reason.
func checkError(t *testing.T, text string, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Column < 1 || e.Column > len(text)+1 || e.Reason == "" {
		t.Errorf("%q: error %#v", text, err)
	}
}
