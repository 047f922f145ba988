// Command fuzzrun is `make fuzz`: it runs every fuzz target of the module, one
// after another, for the same time each, and then the differential tests with ten
// million packets, and prints a table of them.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	each := flag.Duration("time", 5*time.Minute, "how long each target runs")
	only := flag.String("only", "", "run targets whose package and name match this `pattern`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *each, *only); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// run fuzzes every target that matches only, and returns an error when one fails.
func run(ctx context.Context, each time.Duration, only string) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	targets, err := list(ctx)
	if err != nil {
		return err
	}
	const row = "%-24s %-32s %14s %8s %9s  %s\n"
	fmt.Printf(row, "package", "target", "executions", "new", "time", "result")
	failed := 0
	for _, t := range append(targets, differential...) {
		if !pattern.MatchString(t.pkg + " " + t.name) {
			continue
		}
		start := time.Now()
		out, err := fuzz(ctx, t, each)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		result := "ok"
		if err != nil {
			result = "FAIL"
			failed++
		}
		execs, fresh := progress(out)
		fmt.Printf(row, t.pkg, t.name, execs, fresh, time.Since(start).Round(time.Second), result)
		if err != nil {
			fmt.Printf("%s\n", out)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d targets failed; their input is in testdata/fuzz of the package", failed)
	}
	return nil
}

// A target is one fuzz function, or a test that compares with a reference.
type target struct{ pkg, name string }

// differential are the tests that send as many packets as they are told to.
var differential = []target{{"flowtable", "TestDifferential"}, {"dataplane", "TestAgainstPlainSwitch"}}

// diffPackets is how many.
const diffPackets = "MILLRACE_DIFF_PACKETS=10000000"

// list returns the fuzz targets of the module, in the order of their packages.
func list(ctx context.Context) ([]target, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-list", "^Fuzz", "./...").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("list fuzz targets: %w\n%s", err, out)
	}
	return parseList(string(out)), nil
}

// parseList reads the output of go test -list: names, then a line
// "ok <package> <time>" that says where they are.
func parseList(out string) []target {
	var targets []target
	var names []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 1 && strings.HasPrefix(f[0], "Fuzz"):
			names = append(names, f[0])
		case len(f) >= 2 && f[0] == "ok":
			for _, n := range names {
				targets = append(targets, target{strings.TrimPrefix(f[1], "millrace/"), n})
			}
			names = nil
		}
	}
	return targets
}

// minimize bounds what is spent on making an input smaller. The hashes of tables have
// random seeds, so the same input covers other code each time: without a bound, targets that
// have such tables spend all their time on inputs that look new.
const minimize = "20x"

// fuzz runs t and returns what it printed.
func fuzz(ctx context.Context, t target, each time.Duration) ([]byte, error) {
	args := []string{"test", "-run", "^$", "-fuzz", "^" + t.name + "$", "-fuzztime", each.String(), "-fuzzminimizetime", minimize, "./" + t.pkg}
	if !strings.HasPrefix(t.name, "Fuzz") {
		args = []string{"test", "-count", "1", "-timeout", "0", "-run", "^" + t.name + "$", "./" + t.pkg}
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), diffPackets)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}

// progressLine is what the fuzzer prints every three seconds.
var progressLine = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+)`)

// progress returns the last counts in out.
func progress(out []byte) (execs, fresh string) {
	m := progressLine.FindAllSubmatch(out, -1)
	if len(m) == 0 {
		return "-", "-"
	}
	last := m[len(m)-1]
	return string(last[1]), string(last[2])
}
