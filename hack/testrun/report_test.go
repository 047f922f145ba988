package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// lines makes the output of go test -json for one package p.
func lines(events ...string) io.Reader {
	return strings.NewReader(strings.Join(events, "\n") + "\n")
}

// did is the event that test ended with action.
func did(test, action string) string {
	return fmt.Sprintf(`{"Action":%q,"Package":"millrace/p","Test":%q}`, action, test)
}

// said is the event that test printed text.
func said(test, text string) string {
	return fmt.Sprintf(`{"Action":"output","Package":"millrace/p","Test":%q,"Output":%q}`, test, text+"\n")
}

// end is the event that the package ended with action.
func end(action string) string { return fmt.Sprintf(`{"Action":%q,"Package":"millrace/p"}`, action) }

// TestCount checks that each leaf counts once, whatever way it ends.
func TestCount(t *testing.T) {
	tests := []struct {
		name           string
		events         []string
		passed, failed int
		reasons        string
	}{
		{"pass", []string{did("A", "pass"), end("pass")}, 1, 0, ""},
		{"subtests count, not their parent", []string{did("A", "run"), did("A/x", "pass"), did("A/y", "pass"), did("A", "pass"), end("pass")}, 2, 0, ""},
		{"a failed subtest counts once", []string{did("A/x", "fail"), did("A/y", "pass"), did("A", "fail"), end("fail")}, 1, 1, ""},
		{"a parent that fails by itself counts", []string{did("A/x", "pass"), did("A", "fail"), end("fail")}, 1, 1, ""},
		{"skip with its reason", []string{said("A", "    a_test.go:3: needs luck"), did("A", "skip"), end("pass")}, 0, 0, "needs luck"},
		{"skip without one", []string{did("A", "skip"), end("pass")}, 0, 0, "no reason given"},
		{"build", []string{end("fail")}, 0, 1, ""},
		{"panic in a test", []string{did("A", "pass"), did("B", "run"), end("fail")}, 1, 1, ""},
		{"exit after passing", []string{did("A", "pass"), end("fail")}, 1, 1, ""},
		{"noise", []string{"not json", did("A", "pass"), end("pass")}, 1, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := newResults(io.Discard)
			if err := res.read(lines(tt.events...)); err != nil {
				t.Fatal(err)
			}
			passed, failed, skips := res.count()
			if passed != tt.passed || failed != tt.failed {
				t.Errorf("%d passed, %d failed, want %d, %d", passed, failed, tt.passed, tt.failed)
			}
			var reasons []string
			for _, s := range skips {
				reasons = append(reasons, s.reason)
			}
			if got := strings.Join(reasons, "; "); got != tt.reasons {
				t.Errorf("skip reasons %q, want %q", got, tt.reasons)
			}
		})
	}
}

// TestConclude checks the last line and the verdict.
func TestConclude(t *testing.T) {
	missing := []skip{{"p A", "needs dpdk-testpmd: apt-get install dpdk-dev"}}
	tests := []struct {
		name string
		r    runner
		last string
		good bool
	}{
		{"good", runner{passed: 3}, "3 passed, 0 failed, 0 skipped", true},
		{"bad", runner{passed: 3, failed: 1}, "3 passed, 1 failed, 0 skipped", false},
		{"skip for a user", runner{skips: missing, machine: machine{ci: true}}, "0 passed, 0 failed, 1 skipped", true},
		{"skip in CI as root", runner{skips: missing, machine: machine{ci: true, root: true}}, "0 passed, 1 failed, 1 skipped", false},
		{"excused skip in CI as root", runner{skips: []skip{{"p A", "needs AVX512 in the processor"}}, machine: machine{ci: true, root: true}}, "0 passed, 0 failed, 1 skipped", true},
		{"skip by choice in CI", runner{skips: []skip{{"p A", "slow"}}, machine: machine{ci: true, root: true}}, "0 passed, 0 failed, 1 skipped", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			tt.r.out = &out
			if good := tt.r.conclude(); good != tt.good {
				t.Errorf("good: %v, want %v", good, tt.good)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if got := lines[len(lines)-1]; got != tt.last {
				t.Errorf("last line %q, want %q", got, tt.last)
			}
		})
	}
}

// TestSlow: the report has the tests that took longest, longest first, and no subtests.
func TestSlow(t *testing.T) {
	var out strings.Builder
	r := runner{out: &out}
	res := newResults(io.Discard)
	took := func(test string, seconds float64) string {
		return fmt.Sprintf(`{"Action":"pass","Package":"millrace/p","Test":%q,"Elapsed":%v}`, test, seconds)
	}
	if err := res.read(lines(took("Quick", 4.9), took("Slow", 6), took("Slower/x", 59), took("Slower", 60), end("pass"))); err != nil {
		t.Fatal(err)
	}
	r.slow = res.slow()
	r.conclude()
	if want := "\n== slowest, seconds\n  60.0 p Slower\n   6.0 p Slow\n\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("got %q, want %q first", out.String(), want)
	}
}
