package main

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A skip is one test that did not run.
type skip struct {
	test   string // package and name
	reason string
}

// A slowTest is one that a run waits for.
type slowTest struct {
	test string  // package and name
	took float64 // seconds
}

// slowest is how many tests the report names that took longest, of those that took
// longer than slowAfter seconds.
const slowest, slowAfter = 10, 5.0

// excused are reasons to skip that no package cures, so that they do not fail
// a CI run. Each needs its own line here with the reason for it.
var excused = map[string]string{
	"needs AVX512":                       "the processor has it or not",
	"needs a built proxy-server":         "its module cannot be required, so whoever has its source builds it",
	"needs a built Multus":               "its module cannot be required, so whoever has its source builds it; TestMultus makes its calls",
	"needs a built ovs-cni":              "the same; TestOVSCNI makes its transactions",
	"needs a built userspace CNI plugin": "the same; TestUserspaceCNI makes its calls",
	"needs a built kubelet":              "it takes ten minutes to build; TestKubelet speaks its API",
	"needs hugepages":                    "a container may not reserve them",
	"needs two cores":                    "the machine has them or not",
	"needs a kernel module":              "the running kernel has it or not",
	"needs a user other":                 "there is none to become in a minimal container",
	"needs CPUs that others":             "what else runs on the host is not ours to say",
	"needs the kernel's VLAN devices":    "the kernel was built without 8021q, and modules cannot be loaded on every machine that tests run on",
	"needs a machine that wakes":         "a virtual machine may take 100 us to wake a CPU, and a test that measures wakes then measures that",
}

// count returns the numbers of leaf tests that passed and failed, and the skips.
func (r *results) count() (passed, failed int, skips []skip) {
	for _, name := range slices.Sorted(maps.Keys(r.packages)) {
		p, f, s := r.packages[name].count(name)
		passed, failed, skips = passed+p, failed+f, append(skips, s...)
	}
	return passed, failed, skips
}

// count is results.count for one package. A failed package without a failed
// test (it did not build, panicked or ran too long) counts as one failure.
func (p *packageResult) count(name string) (passed, failed int, skips []skip) {
	for _, test := range p.order {
		if test == "" || p.speaksThroughSubtests(test) {
			continue
		}
		switch t := p.tests[test]; t.action {
		case "pass":
			passed++
		case "skip":
			skips = append(skips, skip{strings.TrimPrefix(name, "millrace/") + " " + test, skipReason(t.output.String())})
		default: // failed, or was running when the package died
			failed++
		}
	}
	if p.failed && failed == 0 {
		failed = 1
	}
	return passed, failed, skips
}

// speaksThroughSubtests reports whether test has subtests that tell all about
// it: a test that fails by itself counts.
func (p *packageResult) speaksThroughSubtests(test string) bool {
	has, failedBelow := false, false
	for _, other := range p.order {
		if strings.HasPrefix(other, test+"/") {
			has = true
			failedBelow = failedBelow || p.tests[other].action == "fail"
		}
	}
	return has && (p.tests[test].action != "fail" || failedBelow)
}

// sawFailure reports whether a package has told of its failure.
func (r *results) sawFailure() bool {
	for _, p := range r.packages {
		if p.failed {
			return true
		}
	}
	return false
}

// logLine is a line of t.Log or t.Skip.
var logLine = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`)

// skipReason returns the last line that the skipped test logged.
func skipReason(output string) string {
	m := logLine.FindAllStringSubmatch(output, -1)
	if len(m) == 0 {
		return "no reason given"
	}
	return m[len(m)-1][1]
}

// printPackage prints the line of a package that has ended with e, and the
// output of what failed in it.
func (r *results) printPackage(e event, p *packageResult) {
	name := strings.TrimPrefix(e.Package, "millrace/")
	passed, failed, skips := p.count(e.Package)
	if passed+failed+len(skips) == 0 {
		return // no test files
	}
	word := "ok  "
	if failed > 0 {
		word = "FAIL"
	}
	fmt.Fprintf(r.out, "%s  %-26s %4d passed %3d failed %3d skipped %7.1f s\n", word, name, passed, failed, len(skips), e.Elapsed)
	if failed == 0 {
		return
	}
	if b := r.builds[e.FailedBuild]; b != nil {
		fmt.Fprint(r.out, indent(b.String()))
	}
	for _, test := range p.order {
		if a := p.tests[test].action; a == "fail" || a == "" {
			fmt.Fprint(r.out, indent(p.tests[test].output.String()))
		}
	}
}

// indent sets s off from the lines of the report.
func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("    " + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}

// slow returns the tests that took long, subtests with the test they are of.
func (r *results) slow() (all []slowTest) {
	for name, p := range r.packages {
		for test, t := range p.tests {
			if t.took > slowAfter && test != "" && !strings.Contains(test, "/") {
				all = append(all, slowTest{strings.TrimPrefix(name, "millrace/") + " " + test, t.took})
			}
		}
	}
	return all
}

// conclude prints what was left out, what took longest, the skipped tests grouped by
// reason, and the last line. It reports whether the run is good.
func (r *runner) conclude() bool {
	if len(r.leftOut) > 0 {
		r.say("\n== left out (%d)", len(r.leftOut))
		for _, what := range r.leftOut {
			r.say("%s", what)
		}
	}
	r.reportSlow()
	r.reportSkips()
	r.say("\n%d passed, %d failed, %d skipped", r.passed, r.failed, len(r.skips))
	return r.failed == 0
}

// reportSlow prints the tests that took longest.
func (r *runner) reportSlow() {
	if len(r.slow) == 0 {
		return
	}
	slices.SortFunc(r.slow, func(a, b slowTest) int { return cmp.Compare(b.took, a.took) })
	r.say("\n== slowest, seconds")
	for _, s := range r.slow[:min(len(r.slow), slowest)] {
		r.say("%6.1f %s", s.took, s.test)
	}
}

// reportSkips prints the skipped tests by reason. Under CI as root, a reason
// that an installed package would have cured is a failure.
func (r *runner) reportSkips() {
	if len(r.skips) == 0 {
		return
	}
	r.say("\n== skipped (%d)", len(r.skips))
	byReason := map[string][]string{}
	for _, s := range r.skips {
		byReason[s.reason] = append(byReason[s.reason], s.test)
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		tests := byReason[reason]
		if r.machine.ci && r.machine.root && curable(reason) {
			r.failed += len(tests)
			reason = "FAIL (CI runs as root, so this should have run): " + reason
		}
		r.say("%d: %s", len(tests), reason)
		for _, t := range tests {
			r.say("    %s", t)
		}
	}
}

// curable reports whether reason names something that could have been there.
func curable(reason string) bool {
	for prefix := range excused {
		if strings.HasPrefix(reason, prefix) {
			return false
		}
	}
	return strings.HasPrefix(reason, "needs ")
}
