package logical

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkCorpus takes each row of the corpus from its text to clauses and
// actions: ns/op is per row.
func BenchmarkCorpus(b *testing.B) {
	s, rows := NewSymbols(), corpus(b)
	c := NewCompiler(Options{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		load(s, c, &rows[i%len(rows)])
	}
}

// BenchmarkCorpusMedian is BenchmarkCorpus with each row timed alone.
func BenchmarkCorpusMedian(b *testing.B) {
	s, rows := NewSymbols(), corpus(b)
	c := NewCompiler(Options{})
	times := make([]time.Duration, 0, 1<<16)
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		load(s, c, &rows[i%len(rows)])
		if len(times) < cap(times) {
			times = append(times, time.Since(start))
		}
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "ns-median")
	b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds()), "ns-p99")
}

// BenchmarkMatch and BenchmarkActions show the parts.
func BenchmarkMatch(b *testing.B) {
	s, rows := NewSymbols(), corpus(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, _ = s.ParseMatch(rows[i%len(rows)].match)
	}
}

func BenchmarkActions(b *testing.B) {
	s, rows := NewSymbols(), corpus(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, _ = s.ParseActions(rows[i%len(rows)].actions)
	}
}

func BenchmarkCompile(b *testing.B) {
	s, rows := NewSymbols(), corpus(b)
	c := NewCompiler(Options{})
	exprs := make([]Expr, 0, len(rows))
	for _, r := range rows {
		if e, err := s.ParseMatch(r.match); err == nil {
			exprs = append(exprs, e)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, _ = c.Compile(exprs[i%len(exprs)])
	}
}

// load makes rules of one row.
func load(s *Symbols, c *Compiler, row *lflow) {
	e, err := s.ParseMatch(row.match)
	if err != nil {
		return
	}
	a, err := s.ParseActions(row.actions)
	if err != nil {
		return
	}
	_, _ = c.Compile(e, a.Prereq)
}
