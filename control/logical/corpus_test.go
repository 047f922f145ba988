package logical

import (
	"bufio"
	"compress/gzip"
	"os"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// lflow is a row of the corpus.
type lflow struct{ stage, match, actions string }

// expand replaces the template variables that the corpus uses.
func expand(tb testing.TB, text string) string {
	tb.Helper()
	out, _, err := Expand(text, map[string]string{"vip": "10.96.9.6", "bck": "10.50.0.13:80"})
	if err != nil && !garbled(text) {
		tb.Fatalf("expand %s: %v", text, err)
	}
	return out
}

// corpusRows is how many rows the corpus has.
const corpusRows = 2844

// corpus reads testdata/lflows-25.03.tsv.gz: what ovn-northd 25.03 wrote for a
// topology that uses nearly every feature of its northbound database.
func corpus(tb testing.TB) []lflow {
	tb.Helper()
	f, err := os.Open("testdata/lflows-25.03.tsv.gz")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var rows []lflow
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		col := strings.Split(lines.Text(), "\t")
		if len(col) != 8 {
			tb.Fatalf("row %d has %d columns, want 8", len(rows), len(col))
		}
		rows = append(rows, lflow{col[4], expand(tb, col[6]), expand(tb, col[7])})
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return rows
}

// garbled reports whether match is not text. The corpus has one such row: a
// bug of northd's, which wrote a MAC address that it had freed.
func garbled(match string) bool {
	return strings.ContainsFunc(match, func(r rune) bool { return r >= utf8.RuneSelf })
}

func TestCorpusParses(t *testing.T) {
	s := NewSymbols()
	matches, actions, refused := 0, 0, 0
	for _, row := range corpus(t) {
		e, err := s.ParseMatch(row.match)
		switch {
		case garbled(row.match) && err != nil:
			refused++
		case err != nil:
			t.Errorf("%s: match %s: %v", row.stage, row.match, err)
		default:
			matches++
			checkMatchPrint(t, s, e)
		}
		a, err := s.ParseActions(row.actions)
		if err != nil {
			t.Errorf("%s: actions %s: %v", row.stage, row.actions, err)
			continue
		}
		actions++
		checkActionsPrint(t, s, a)
	}
	if matches != corpusRows-1 || refused != 1 || actions != corpusRows {
		t.Errorf("%d matches, %d garbled ones and %d actions, want %d, 1 and %d", matches, refused, actions, corpusRows-1, corpusRows)
	}
}

// checkMatchPrint fails unless e's text parses back to e.
func checkMatchPrint(t *testing.T, s *Symbols, e Expr) {
	t.Helper()
	text := Print(e)
	back, err := s.ParseMatch(text)
	if err != nil {
		t.Errorf("printed as %s: %v", text, err)
		return
	}
	if !reflect.DeepEqual(back, e) {
		t.Errorf("printed as %s, which parses to %s", text, Print(back))
	}
}

// checkActionsPrint fails unless a's text parses back to a.
func checkActionsPrint(t *testing.T, s *Symbols, a Actions) {
	t.Helper()
	text := PrintActions(a.List)
	back, err := s.ParseActions(text)
	if err != nil {
		t.Errorf("printed as %s: %v", text, err)
		return
	}
	if !reflect.DeepEqual(back, a) {
		t.Errorf("printed as %s, which parses to %s", text, PrintActions(back.List))
	}
}
