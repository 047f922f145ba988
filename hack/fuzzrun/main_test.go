package main

import (
	"slices"
	"testing"
)

// TestParseList checks that each target goes with the package that ends its list.
func TestParseList(t *testing.T) {
	const out = "FuzzA\nFuzzB\nok  \tmillrace/vhost/message\t0.004s\n?   \tmillrace\t[no test files]\nok  \tmillrace/flowtable\t0.1s\nFuzzC\nok  \tmillrace/vhost/virtq\t0.1s\n"
	want := []target{{"vhost/message", "FuzzA"}, {"vhost/message", "FuzzB"}, {"vhost/virtq", "FuzzC"}}
	if got := parseList(out); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestProgress checks that the last counts are read, and none at all are no crash.
func TestProgress(t *testing.T) {
	const out = "fuzz: elapsed: 0s, gathering baseline coverage: 0/5 completed\nfuzz: elapsed: 3s, execs: 1000 (333/sec), new interesting: 2 (total: 7)\nfuzz: elapsed: 5s, execs: 2500 (333/sec), new interesting: 4 (total: 9)\nPASS\n"
	if e, n := progress([]byte(out)); e != "2500" || n != "4" {
		t.Errorf("got %s executions, %s new, want 2500, 4", e, n)
	}
	if e, n := progress(nil); e != "-" || n != "-" {
		t.Errorf("of no output: got %s, %s, want -, -", e, n)
	}
}
