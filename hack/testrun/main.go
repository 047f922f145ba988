// Command testrun is `make test`: it installs the peers that the tests talk to
// (as root, on Debian), checks formatting, vet and generated code, runs all
// tests, and says in plain words what ran, what failed, and what was left out
// and why. Its last line is `N passed, N failed, N skipped`.
//
// A failed check counts as one failed test. A test that has subtests counts
// through them. The tests under the race detector run again without it; their
// first run adds to the count only what fails.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// limit bounds the whole run. The accepted time is accepted, without what
// installing takes: a run that is longer says so, but its checks are worth the same.
const (
	limit    = 75 * time.Minute
	accepted = 20 * time.Minute
)

func main() {
	noInstall := flag.Bool("no-install", false, "leave the machine's packages alone")
	noRace := flag.Bool("no-race", false, "leave out the run under the race detector")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	m := lookAtMachine()
	r := &runner{out: os.Stdout, machine: m}
	if !*noInstall {
		r.installPeers(ctx)
	}
	start := time.Now()
	r.checks(ctx)
	if !*noRace {
		r.raceTests(ctx)
	}
	r.allTests(ctx)
	if took := time.Since(start); took > accepted {
		r.say("\nSlow: checks and tests took %.0f minutes; %.0f are accepted on a machine that does nothing else.", took.Minutes(), accepted.Minutes())
	}
	if err := ctx.Err(); err != nil {
		r.fail("stopped before the end: %v", err)
	}
	if !r.conclude() {
		os.Exit(1)
	}
}

// A runner carries one run from the first check to the last line.
type runner struct {
	out     io.Writer
	machine machine

	passed, failed int
	slow           []slowTest
	skips          []skip // of the full run
	leftOut        []string
}

// say prints one line.
func (r *runner) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// fail prints one line and counts a failure.
func (r *runner) fail(format string, args ...any) {
	r.failed++
	r.say("FAIL  "+format, args...)
}

// pass prints one line and counts a success.
func (r *runner) pass(format string, args ...any) {
	r.passed++
	r.say("ok    "+format, args...)
}
