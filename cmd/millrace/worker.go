package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) workerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Show what the workers do, and deal receive queues anew by load",
		Long: `Workers carry the frames, one on each CPU that the switch was given. Each receive
queue of a port is polled by one of them.`,
		Example: `  millrace worker show
  millrace worker rebalance --dry-run`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.workerShowCmd(), a.workerRebalanceCmd())
	return cmd
}

func (a *app) workerShowCmd() *cobra.Command {
	var span time.Duration
	var all bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show which worker polls which receive queues, and what they cost",
		Long: `Shows the workers, how busy they were, and what each of their receive queues took
of that. The loads of a worker's queues make up its own.

Loads are of the last minute, or of --span, or since workers or queues were dealt
last if that is less. CYCLES/FRAME are ticks of the time stamp counter. Queues
without frames are left out unless you ask for --all.`,
		Example: `  millrace worker show
  millrace worker show --span 10s --all
  millrace worker show --json | jq '.workers[] | {cpu, load}'`,
		Args: exactly(),
	}
	f := cmd.Flags()
	f.DurationVar(&span, "span", time.Minute, "show loads of the last so long, up to 1m")
	f.BoolVar(&all, "all", false, "also show queues without frames")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seconds, err := loadSpan(cmd, span)
		if err != nil {
			return err
		}
		return a.call(func(ctx context.Context, c *api.Client, _ []string) error {
			r, err := c.ListWorkers(ctx, &api.ListWorkersRequest{SpanSeconds: seconds})
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(toJSON(r))
			}
			printLoads(a.out, r, all)
			return nil
		})(cmd, args)
	}
	return cmd
}

// loadSpan checks --span.
func loadSpan(cmd *cobra.Command, span time.Duration) (seconds float64, err error) {
	if span <= 0 || span > time.Minute {
		return 0, usage(cmd, "--span: %v is not more than nothing and up to a minute", span)
	}
	return span.Seconds(), nil
}

// printLoads prints workers with their queues.
func printLoads(w io.Writer, r *api.ListWorkersResponse, all bool) {
	fmt.Fprintf(w, "loads of the last %s\n\n", span(seconds(r.GetSpanSeconds())))
	t := newTable("CPU", "PORT", ">QUEUE", ">LOAD", ">FRAMES/S", ">CYCLES/FRAME")
	for _, worker := range r.GetWorkers() {
		cpu, silent := strconv.Itoa(int(worker.GetCpu())), 0
		t.add(cpu, "(all)", strconv.Itoa(len(worker.GetQueues())), percent(worker.GetLoad()), "", "")
		for _, q := range worker.GetQueues() {
			if q.GetFrames() == 0 && !all {
				silent++
				continue
			}
			cycles := ""
			if q.GetFrames() > 0 {
				cycles = strconv.FormatFloat(q.GetCyclesPerFrame(), 'f', 0, 64)
			}
			rate := float64(q.GetFrames()) / max(r.GetSpanSeconds(), 1e-9)
			t.add("", q.GetPort(), strconv.Itoa(int(q.GetQueue())), percent(q.GetLoad()), short(rate), cycles)
		}
		if silent > 0 {
			t.add("", fmt.Sprintf("(%d without frames)", silent), "", "", "", "")
		}
	}
	t.print(w, "no workers")
}

// rebalanceFlags are the flags of worker rebalance.
type rebalanceFlags struct {
	dryRun bool
	span   time.Duration
}

func (a *app) workerRebalanceCmd() *cobra.Command {
	var f rebalanceFlags
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Deal receive queues to the workers by what they cost",
		Long: `Deals the receive queues to the workers by their loads, heaviest first, each to the
worker that has the least by then. Queues without frames stay. No frame is lost or
comes twice, and the frames of a queue keep their order.

The improvement is the share by which the variance of the workers' loads falls, as
` + "`ovs-appctl dpif-netdev/pmd-auto-lb-show`" + ` estimates it. Where there is none,
nothing is done.

It happens by itself where the Open_vSwitch row says so:

  ovs-vsctl set Open_vSwitch . other_config:pmd-auto-lb=true

every pmd-auto-lb-rebal-interval minutes (1), if some worker was busier than
pmd-auto-lb-load-threshold percent (95) over the last minute, and the improvement is
pmd-auto-lb-improvement-threshold percent (25) or more.

Exit codes: 0 if queues were dealt, need not be, or with --dry-run; 1 on errors.`,
		Example: `  millrace worker rebalance --dry-run
  millrace worker rebalance
  millrace worker rebalance --span 10s --json | jq .moves`,
		Args: exactly(),
	}
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only show what would be")
	cmd.Flags().DurationVar(&f.span, "span", time.Minute, "deal by the loads of the last so long, up to 1m")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seconds, err := loadSpan(cmd, f.span)
		if err != nil {
			return err
		}
		return a.call(func(ctx context.Context, c *api.Client, _ []string) error {
			r, err := c.Rebalance(ctx, &api.RebalanceRequest{DryRun: f.dryRun, SpanSeconds: seconds})
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(toJSON(r))
			}
			printRebalance(a.out, r)
			return nil
		})(cmd, args)
	}
	return cmd
}

// printRebalance prints what came of a rebalance.
func printRebalance(w io.Writer, r *api.RebalanceResponse) {
	fmt.Fprintf(w, "loads of the last %s\n\n", span(seconds(r.GetSpanSeconds())))
	t := newTable("CPU", ">LOAD", ">QUEUES", ">LOAD THEN", ">QUEUES THEN")
	for i, b := range r.GetBefore() {
		then := r.GetAfter()[i]
		t.add(strconv.Itoa(int(b.GetCpu())), percent(b.GetLoad()), strconv.Itoa(len(b.GetQueues())), percent(then.GetLoad()), strconv.Itoa(len(then.GetQueues())))
	}
	t.print(w, "no workers")
	if r.GetMoves() > 0 {
		fmt.Fprintln(w)
		printMoves(w, r)
	}
	fmt.Fprintf(w, "\nimprovement %.0f%%: ", 100*r.GetImprovement())
	if r.GetDone() {
		fmt.Fprintf(w, "done, %s moved\n", plural(r.GetMoves(), "queue"))
	} else {
		fmt.Fprintf(w, "not done: %s\n", r.GetReason())
	}
}

// printMoves prints the queues that are elsewhere after r.
func printMoves(w io.Writer, r *api.RebalanceResponse) {
	type queue struct {
		port string
		n    uint32
	}
	was := map[queue]uint32{}
	for _, b := range r.GetBefore() {
		for _, q := range b.GetQueues() {
			was[queue{q.GetPort(), q.GetQueue()}] = b.GetCpu()
		}
	}
	t := newTable("PORT", ">QUEUE", ">LOAD", ">FROM CPU", ">TO CPU")
	for _, b := range r.GetAfter() {
		for _, q := range b.GetQueues() {
			if from := was[queue{q.GetPort(), q.GetQueue()}]; from != b.GetCpu() {
				t.add(q.GetPort(), strconv.Itoa(int(q.GetQueue())), percent(q.GetLoad()), strconv.Itoa(int(from)), strconv.Itoa(int(b.GetCpu())))
			}
		}
	}
	t.print(w, "")
}
