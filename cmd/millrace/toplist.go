package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// A topQuery is the flags of commands that show what is busiest, again and again.
type topQuery struct {
	interval time.Duration
	count    int
	by       string
	rows     int

	orders []string // that by may be
}

// topRowsMax is the most rows that they show.
const topRowsMax = 1000

// register adds the flags: by what usage says, the first of orders unless told, and rows.
func (q *topQuery) register(cmd *cobra.Command, what, by string, orders ...string) {
	q.orders = orders
	p := cmd.Flags()
	p.DurationVar(&q.interval, "interval", time.Second, "time between two screens")
	p.IntVar(&q.count, "count", 0, "screens to show (default: until interrupted)")
	p.StringVar(&q.by, "by", orders[0], by)
	p.IntVar(&q.rows, "rows", 20, what+" to show, 1 to 1000")
	completeWith(cmd, "by", cobra.FixedCompletions(orders, cobra.ShellCompDirectiveNoFileComp))
}

func (q *topQuery) check(cmd *cobra.Command) error {
	switch {
	case q.interval < 10*time.Millisecond || q.count < 0:
		return usage(cmd, "--interval: at least 10ms, and --count not negative")
	case !slices.Contains(q.orders, q.by):
		return usage(cmd, "--by: %q is neither %s", q.by, strings.Join(q.orders, " nor "))
	case q.rows < 1 || q.rows > topRowsMax:
		return usage(cmd, "--rows: %d is not in 1..%d", q.rows, topRowsMax)
	}
	return nil
}
