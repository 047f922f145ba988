package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// peersPackage marks a package whose tests start real peers: it runs alone,
// because peers take whole cores and pages.
const peersPackage = "millrace/perf/peers"

// raceTests runs the tests that need no peers under the race detector. Peers'
// tests skip themselves when -short is given.
func (r *runner) raceTests(ctx context.Context) {
	r.say("\n== tests under the race detector")
	if !has("gcc") {
		r.leaveOut("the race detector: needs gcc: apt-get install gcc libc6-dev")
		return
	}
	start := time.Now()
	res := r.goTest(ctx, "-race", "-short", "-timeout", "15m", "./...")
	passed, failed, _ := res.count()
	r.failed += failed
	r.say("%d passed, %d failed in %.0f s", passed, failed, time.Since(start).Seconds())
}

// allTests runs every test: packages that start peers one at a time, after the others.
func (r *runner) allTests(ctx context.Context) {
	r.say("\n== all tests")
	plain, withPeers, err := packages(ctx)
	if err != nil {
		r.fail("list packages: %v", err)
		return
	}
	r.runAndCount(ctx, plain)
	r.runAndCount(ctx, withPeers, "-p", "1")
}

// runAndCount runs the tests of pkgs and adds them to the count of the run. go test's
// own vet is left out: the check before looked at the same files, and at more in them.
func (r *runner) runAndCount(ctx context.Context, pkgs []string, flags ...string) {
	if len(pkgs) == 0 {
		return
	}
	start := time.Now()
	res := r.goTest(ctx, slices.Concat([]string{"-count", "1", "-vet=off", "-timeout", "20m"}, flags, pkgs)...)
	passed, failed, skips := res.count()
	r.say("%d passed, %d failed, %d skipped in %.0f s", passed, failed, len(skips), time.Since(start).Seconds())
	r.passed += passed
	r.failed += failed
	r.skips = append(r.skips, skips...)
	r.slow = append(r.slow, res.slow()...)
}

// packages lists the module's packages, split by whether their tests start peers.
func packages(ctx context.Context) (plain, withPeers []string, err error) {
	const format = `{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}`
	out, err := exec.CommandContext(ctx, "go", "list", "-f", format, "./...").Output()
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if slices.Contains(f, peersPackage) {
			withPeers = append(withPeers, f[0])
		} else {
			plain = append(plain, f[0])
		}
	}
	return plain, withPeers, nil
}

// goTest runs go test with args, prints one line per package as it ends, and
// the output of what fails.
func (r *runner) goTest(ctx context.Context, args ...string) *results {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	res := newResults(r.out)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.fail("go test: %v", err)
		return res
	}
	if err := res.read(out); err != nil {
		r.fail("read the output of go test: %v", err)
	}
	if err := cmd.Wait(); err != nil && !res.sawFailure() {
		r.fail("go test: %v", err)
	}
	return res
}

// An event is one line of go test -json (go doc test2json), and of the build
// before it (go help buildjson).
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// results collects the events of one go test.
type results struct {
	out      io.Writer
	packages map[string]*packageResult
	builds   map[string]*strings.Builder // output of the build, by import path
}

// A packageResult is what has been heard of one package.
type packageResult struct {
	tests  map[string]*testResult // "" is the package itself
	order  []string
	failed bool // as a whole, which may be without a failed test: build, panic, exit
}

// A testResult is what has been heard of one test.
type testResult struct {
	action string  // pass, fail or skip; empty while it runs
	took   float64 // seconds
	output strings.Builder
}

// newResults returns results that print to out.
func newResults(out io.Writer) *results {
	return &results{out: out, packages: map[string]*packageResult{}, builds: map[string]*strings.Builder{}}
}

// read takes events from in until it ends.
func (r *results) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes one line; what is no event is printed as it is.
func (r *results) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprintf(r.out, "%s", line)
		return
	}
	if e.Action == "build-output" {
		b := r.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			r.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
	}
	if e.Package == "" {
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &packageResult{tests: map[string]*testResult{}}
		r.packages[e.Package] = p
	}
	p.event(e)
	if e.Test == "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
		r.printPackage(e, p)
	}
}

// event notes e, which is about this package.
func (p *packageResult) event(e event) {
	t := p.tests[e.Test]
	if t == nil {
		t = &testResult{}
		p.tests[e.Test] = t
		p.order = append(p.order, e.Test)
	}
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		t.action, t.took = e.Action, e.Elapsed
		p.failed = p.failed || e.Action == "fail"
	}
}
