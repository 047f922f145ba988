package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/egress/admin"
	"millrace/control/egress/agent"
)

// egressTopQuery are the flags of egress top.
type egressTopQuery struct{ topQuery }

func (a *app) egressTopCmd() *cobra.Command {
	var q egressTopQuery
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the busiest requests",
		Long: `Shows the requests that moved most bytes in the last interval, or have been open
for longest, with what the agent does in all, and redraws them until you press q or
Ctrl-C. Where standard output is no terminal it prints one screen below the other;
with --count 1 it is one measurement for scripts. STALL is the share of the
interval in which a side took nothing of what waited for it.`,
		Example: `  millrace egress top
  millrace egress top --by age --rows 50
  millrace egress top --interval 5s --count 1 --json | jq '.top[0].target'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := q.check(cmd); err != nil {
				return err
			}
			return a.egressTop(cmd.Context(), &q)
		},
	}
	q.register(cmd, "requests", "what comes first: most bytes, or the greatest age", "bytes", "age")
	return cmd
}

func (a *app) egressTop(ctx context.Context, q *egressTopQuery) error {
	if a.json {
		return a.egressPeriods(ctx, q, func(p *egressPeriod) error { return a.printJSON(p) })
	}
	return a.onScreen(ctx, func(ctx context.Context, draw func(string) error) error {
		return a.egressPeriods(ctx, q, func(p *egressPeriod) error { return draw(p.screen(q.by)) })
	})
}

// An egressSample is an agent at one moment.
type egressSample struct {
	at       time.Time
	status   agent.Status
	requests map[requestKey]agent.Request // open, and ended as far as the agent remembers
}

// A requestKey is what one request has and no other.
type requestKey struct {
	agent string
	dial  int64
}

func (a *app) sampleEgress(ctx context.Context) (*egressSample, error) {
	s := &egressSample{at: time.Now(), requests: map[requestKey]agent.Request{}}
	if err := a.askAgent(ctx, "/status", nil, &s.status); err != nil {
		return nil, err
	}
	var r admin.Requests
	if err := a.askAgent(ctx, "/requests", nil, &r); err != nil {
		return nil, err
	}
	for _, q := range append(r.Ended, r.Open...) {
		s.requests[requestKey{q.Agent, q.Dial}] = q
	}
	return s, nil
}

// An egressPeriod is what happened between two samples.
type egressPeriod struct {
	At       time.Time    `json:"at"`
	Seconds  float64      `json:"period_seconds"`
	Status   agent.Status `json:"status"`
	Requests float64      `json:"requests_per_second"` // that ended
	Denied   float64      `json:"denied_per_second"`
	Failed   float64      `json:"failed_per_second"`
	ToTarget float64      `json:"bytes_to_target_per_second"` // of all requests that are remembered
	ToClient float64      `json:"bytes_to_client_per_second"`
	Top      []egressRow  `json:"top"`
}

// An egressRow is one request of a period.
type egressRow struct {
	ToTarget float64 `json:"to_target_per_second"`
	ToClient float64 `json:"to_client_per_second"`
	Stall    float64 `json:"stalled"` // share of the period
	agent.Request
}

// egressPeriods calls show with each two samples that follow one another.
func (a *app) egressPeriods(ctx context.Context, q *egressTopQuery, show func(*egressPeriod) error) error {
	tick := time.NewTicker(q.interval)
	defer tick.Stop()
	before, err := a.sampleEgress(ctx)
	for i := 0; err == nil && (q.count == 0 || i < q.count); i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var now *egressSample
		if now, err = a.sampleEgress(ctx); err == nil {
			err = show(q.period(before, now))
		}
		before = now
	}
	return err
}

// period says what each request that moved, or is open, has done.
func (q *egressTopQuery) period(before, now *egressSample) *egressPeriod {
	p := &egressPeriod{At: now.at.UTC(), Seconds: now.at.Sub(before.at).Seconds(), Status: now.status, Top: []egressRow{}}
	is, was := now.status.Totals, before.status.Totals
	p.Requests, p.Denied, p.Failed = p.rate(is.Requests, was.Requests), p.rate(is.Denied, was.Denied), p.rate(is.Failed, was.Failed)
	for key, r := range now.requests {
		b, known := before.requests[key]
		if known && b.ClosedBy != "" || !known && r.Started.Add(r.Duration).Before(before.at) {
			continue // it had ended
		}
		row := egressRow{Request: r, Stall: (r.StallC + r.StallT - b.StallC - b.StallT).Seconds() / max(p.Seconds, 1e-9)}
		row.ToTarget, row.ToClient = p.rate(uint64(r.ToTarget), uint64(b.ToTarget)), p.rate(uint64(r.ToClient), uint64(b.ToClient))
		p.ToTarget += row.ToTarget
		p.ToClient += row.ToClient
		p.Top = append(p.Top, row)
	}
	slices.SortFunc(p.Top, func(x, y egressRow) int {
		moved, age := cmp.Compare(y.ToTarget+y.ToClient, x.ToTarget+x.ToClient), x.Started.Compare(y.Started)
		if q.by == "age" {
			moved, age = age, moved
		}
		return cmp.Or(moved, age, cmp.Compare(x.Dial, y.Dial))
	})
	p.Top = p.Top[:min(q.rows, len(p.Top))]
	return p
}

// rate is how fast a count has grown.
func (p *egressPeriod) rate(now, before uint64) float64 {
	return float64(grown(now, before)) / max(p.Seconds, 1e-9)
}

// screen is all that top shows of a period.
func (p *egressPeriod) screen(by string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s, %d of %d servers connected, %d requests open, by %s\n", p.At.Local().Format(time.TimeOnly),
		yesNo(p.Status.Ready, "ready", "not ready"), p.Status.ServersUp, p.Status.ServersKnown, p.Status.Requests, by)
	fmt.Fprintf(&b, "ended %s/s, of them denied %s/s, failed %s/s; to targets %s bit/s, to clients %s bit/s\n\n",
		short(p.Requests), short(p.Denied), short(p.Failed), short(8*p.ToTarget), short(8*p.ToClient))
	t := newTable(">TO TARGET BIT/S", ">TO CLIENT BIT/S", ">STALL", "STATE", "TARGET", "CLASS", "PORT", ">AGE", ">BYTES", "ERROR")
	for _, r := range p.Top {
		t.add(short(8*r.ToTarget), short(8*r.ToClient), percent(r.Stall), r.State, r.Target, r.Class, r.Port,
			span(r.Duration), count(uint64(r.Request.ToTarget+r.Request.ToClient)), r.Error)
	}
	t.print(&b, "no requests")
	return b.String()
}
