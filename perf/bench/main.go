// Bench measures millrace against OVS-DPDK, side by side on one machine: the
// same generator, the same core for the switch, the same core for the
// generator, in turns.
//
//	go run ./perf/bench -case p2p -pairs 5
//
// Each pair is a turn of the one and a turn of the other, between which the
// side that waits is stopped (SIGSTOP), so that its poll loop takes nothing. A
// ratio is taken for each pair; what is reported is the median. OVS-DPDK is
// tuned: where there are several ways to configure it, each has a turn before
// the pairs, and the best of them takes part in them.
//
// With fewer than 5 pairs it is a quick look: results are printed and not kept.
//
// The last line printed is one JSON object.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// A settings is what the command line says.
type settings struct {
	Case    string
	Pairs   int
	Seconds float64
	Binary  string
	Results string
	Readme  string
	Only    string
	Tuning  string
	Queue   uint
	genCPU  int
	swCPU   int
}

func main() {
	var s settings
	flag.StringVar(&s.Case, "case", "p2p", "one of: "+caseNames())
	flag.IntVar(&s.Pairs, "pairs", 5, "turns of each side; with fewer than 5 nothing is written")
	flag.Float64Var(&s.Seconds, "seconds", 3, "length of one turn")
	flag.StringVar(&s.Binary, "binary", "bin/millrace", "the switch")
	flag.StringVar(&s.Results, "results", "docs/results", "directory for what was measured, the table and the plot of all cases; empty: not written")
	flag.StringVar(&s.Readme, "readme", "", "put the results that -results has into this README, and measure nothing")
	flag.StringVar(&s.Tuning, "tuning", "", "the only way to configure OVS that is tried, as its turns name it; nothing is written")
	flag.StringVar(&s.Only, "only", "", "ovs or millrace: a look at one side, nothing is written")
	flag.UintVar(&s.Queue, "ring", 256, "descriptors of the generator's rings")
	flag.IntVar(&s.genCPU, "gen-cpu", 0, "CPU of the generator, and of everything that does not poll")
	flag.IntVar(&s.swCPU, "switch-cpu", 1, "CPU of the switch's poll loop")
	flag.Parse()
	// The switches end with the thread that started them (PR_SET_PDEATHSIG),
	// and threads of the generator come and go.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := run
	if s.Readme != "" {
		do = func(context.Context, settings) error { return writeReadme(s.Readme, s.Results) }
	}
	if err := do(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// leastPairs is how many pairs a median needs.
const leastPairs = 5

// run measures the cases that were asked for.
func run(ctx context.Context, s settings) error {
	if s.Pairs < 1 {
		return errors.New("no pairs: want at least 1, for results that are kept 5")
	}
	cases := findCases(s.Case)
	if len(cases) == 0 {
		return fmt.Errorf("unknown case %q: want one of %s", s.Case, caseNames())
	}
	if s.Only != "" && s.Only != "ovs" && s.Only != "millrace" {
		return fmt.Errorf("-only %q: want ovs or millrace", s.Only)
	}
	if (s.Pairs < leastPairs || s.Only != "" || s.Tuning != "") && s.Results != "" {
		fmt.Fprintf(os.Stderr, "fewer than %d pairs, or one side or tuning only: a quick look, results are not kept\n", leastPairs)
		s.Results = ""
	}
	binary, err := filepath.Abs(s.Binary)
	if err != nil {
		return err
	}
	s.Binary = binary
	var done []outcome
	for _, c := range cases {
		if s.Tuning != "" {
			c.tunings = slices.DeleteFunc(c.tunings, func(t tuning) bool { return t.Name != s.Tuning })
		}
		o, err := measure(ctx, s, c)
		if errors.Is(err, errAbsent) && len(cases) > 1 {
			fmt.Fprintf(os.Stderr, "case %s is left out: %v\n", c.Name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("case %s: %w", c.Name, err)
		}
		o.print(os.Stdout)
		done = append(done, o)
		if s.Results == "" {
			continue
		}
		if err := writeResults(s.Results, o); err != nil {
			return fmt.Errorf("keep results: %w", err)
		}
	}
	if len(done) == 0 {
		return fmt.Errorf("no case of %s could be measured", s.Case)
	}
	for _, o := range done {
		line, err := json.Marshal(o.summary())
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

// turn is the length of one turn.
func (s settings) turn() time.Duration { return time.Duration(s.Seconds * float64(time.Second)) }
