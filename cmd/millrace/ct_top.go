package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

// ctTopQuery are the flags of ct top.
type ctTopQuery struct {
	topQuery
	filter ctFilter
}

func (a *app) ctTopCmd() *cobra.Command {
	var q ctTopQuery
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the busiest connections",
		Long: `Shows the connections with most packets, or bytes, in the last interval, and redraws
them until you press q or Ctrl-C. Where standard output is no terminal it prints one
screen below the other; with --count 1 it is one measurement for scripts. Both directions
are counted together.

` + filterHelp,
		Example: `  millrace ct top
  millrace ct top --by bytes --zone br0
  millrace ct top --interval 5s --count 1 --json | jq '.top[0].original'`,
		Args: exactly(),
	}
	q.filter.register(a, cmd)
	q.register(cmd, "connections", "what the busiest have most of: packets or bytes", "packets", "bytes")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := q.check(cmd)
		if err != nil {
			return err
		}
		return a.follow(func(ctx context.Context, c *api.Client, _ []string) error { return a.ctTop(ctx, c, &q, m) })(cmd, args)
	}
	return cmd
}

// check checks the flags.
func (q *ctTopQuery) check(cmd *cobra.Command) (*api.ConnectionFilter, error) {
	if err := q.topQuery.check(cmd); err != nil {
		return nil, err
	}
	return q.filter.message(cmd)
}

func (a *app) ctTop(ctx context.Context, c *api.Client, q *ctTopQuery, m *api.ConnectionFilter) error {
	if a.json {
		return q.every(ctx, c, m, func(p *ctPeriod) error { return a.printJSON(p.json()) })
	}
	return a.onScreen(ctx, func(ctx context.Context, draw func(string) error) error {
		return q.every(ctx, c, m, func(p *ctPeriod) error { return draw(p.screen(q.by)) })
	})
}

// A ctCount is what a connection has counted, in both directions.
type ctCount struct{ id, packets, bytes uint64 }

// A ctSample is what all connections have counted, by record: the low half of ids.
type ctSample struct {
	at     time.Time
	counts []ctCount
	stats  *api.GetConnectionStatsResponse
}

// sampleConnections asks for the counters of connections.
func sampleConnections(ctx context.Context, c *api.Client, m *api.ConnectionFilter) (*ctSample, error) {
	s := &ctSample{at: time.Now()}
	stream, err := c.Connections.ListConnections(ctx, &api.ListConnectionsRequest{Filter: m, Brief: true})
	err = each(stream, err, func(part *api.ListConnectionsResponse) {
		for i, id := range part.GetIds() {
			s.counts = append(s.counts, ctCount{id, part.GetPackets()[i], part.GetBytes()[i]})
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(s.counts, func(a, b ctCount) int { return cmp.Compare(uint32(a.id), uint32(b.id)) })
	s.stats, err = c.Connections.GetConnectionStats(ctx, &api.GetConnectionStatsRequest{})
	return s, err
}

// since is what each connection of s has counted since the sample before, of those
// that have counted anything. One that was not there then has counted all of it.
func (s *ctSample) since(before *ctSample) (moved []ctCount) {
	i := 0
	for _, n := range s.counts {
		for i < len(before.counts) && uint32(before.counts[i].id) < uint32(n.id) {
			i++
		}
		if i < len(before.counts) && before.counts[i].id == n.id {
			n.packets, n.bytes = grown(n.packets, before.counts[i].packets), grown(n.bytes, before.counts[i].bytes)
		}
		if n.packets > 0 {
			moved = append(moved, n)
		}
	}
	return moved
}

// A ctPeriod is what happened between two samples.
type ctPeriod struct {
	before, now    *ctSample
	packets, bytes uint64    // of all connections
	top            []ctCount // busiest first
	rows           map[uint64]*api.Connection
}

// every calls show with each two samples that follow one another.
func (q *ctTopQuery) every(ctx context.Context, c *api.Client, m *api.ConnectionFilter, show func(*ctPeriod) error) error {
	tick := time.NewTicker(q.interval)
	defer tick.Stop()
	before, err := sampleConnections(ctx, c, m)
	for i := 0; err == nil && (q.count == 0 || i < q.count); i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var now *ctSample
		if now, err = sampleConnections(ctx, c, m); err != nil {
			break
		}
		p := q.period(before, now)
		if err = p.describe(ctx, c); err == nil {
			err = show(p)
		}
		before = now
	}
	return err
}

// period ranks connections.
func (q *ctTopQuery) period(before, now *ctSample) *ctPeriod {
	p := &ctPeriod{before: before, now: now, top: now.since(before)}
	for _, n := range p.top {
		p.packets += n.packets
		p.bytes += n.bytes
	}
	slices.SortFunc(p.top, func(a, b ctCount) int {
		x, y := cmp.Compare(b.packets, a.packets), cmp.Compare(b.bytes, a.bytes)
		if q.by == "bytes" {
			x, y = y, x
		}
		return cmp.Or(x, y, cmp.Compare(a.id, b.id))
	})
	p.top = p.top[:min(q.rows, len(p.top))]
	return p
}

// describe asks what the busiest connections are. Those that have gone meanwhile are
// left out.
func (p *ctPeriod) describe(ctx context.Context, c *api.Client) error {
	p.rows = map[uint64]*api.Connection{}
	if len(p.top) == 0 {
		return nil
	}
	req := &api.ListConnectionsRequest{}
	for _, n := range p.top {
		req.Ids = append(req.Ids, n.id)
	}
	s, err := c.Connections.ListConnections(ctx, req)
	err = each(s, err, func(m *api.ListConnectionsResponse) {
		for _, row := range m.GetConnections() {
			p.rows[row.GetId()] = row
		}
	})
	p.top = slices.DeleteFunc(p.top, func(n ctCount) bool { return p.rows[n.id] == nil })
	return err
}

// perSecond is n of the period as a rate.
func (p *ctPeriod) perSecond(n uint64) float64 {
	return ratio(float64(n), p.now.at.Sub(p.before.at).Seconds())
}

// screen is all that top shows of a period.
func (p *ctPeriod) screen(by string) string {
	var b strings.Builder
	st, was := p.now.stats, p.before.stats
	fmt.Fprintf(&b, "%s  %s of %s connections, by %s\n", p.now.at.Format(time.TimeOnly), count(st.GetConnections()), count(st.GetCapacity()), by)
	fmt.Fprintf(&b, "of those shown and not: %s packets/s, %s bit/s; in all zones %s created/s, %s evicted/s, %s refused/s\n\n",
		short(p.perSecond(p.packets)), short(8*p.perSecond(p.bytes)),
		short(p.perSecond(grown(st.GetCreated(), was.GetCreated()))), short(p.perSecond(grown(st.GetEvicted(), was.GetEvicted()))), short(p.perSecond(grown(refused(st), refused(was)))))
	t := newTable(">PACKETS/S", ">BIT/S", ">ZONE", "OF", "PROTO", "STATE", "ORIGINAL", "REPLY", ">PACKETS", ">BYTES")
	for _, n := range p.top {
		c := p.rows[n.id]
		t.add(short(p.perSecond(n.packets)), short(8*p.perSecond(n.bytes)), fmt.Sprint(c.GetZone()), zoneOf(c.GetBridge(), c.GetKind()), protoName(c.GetProtocol()), c.GetState(),
			tupleText(c.GetOriginal(), c.GetProtocol()), replyText(c), count(c.GetPackets()+c.GetReplyPackets()), count(c.GetBytes()+c.GetReplyBytes()))
	}
	t.print(&b, "no packets")
	return b.String()
}

// refused is how many connections were not made.
func refused(st *api.GetConnectionStatsResponse) uint64 {
	return st.GetFull() + st.GetLimited() + st.GetClashes() + st.GetNoPort()
}

// json is the period for programs.
func (p *ctPeriod) json() object {
	top := []object{}
	for _, n := range p.top {
		top = append(top, append(object{{"packets_per_second", p.perSecond(n.packets)}, {"bytes_per_second", p.perSecond(n.bytes)}}, connectionJSON(p.rows[n.id])...))
	}
	st, was := p.now.stats, p.before.stats
	return object{
		{"at", p.now.at.UTC().Format(time.RFC3339Nano)}, {"period_seconds", p.now.at.Sub(p.before.at).Seconds()},
		{"connections", st.GetConnections()}, {"capacity", st.GetCapacity()},
		{"packets_per_second", p.perSecond(p.packets)}, {"bytes_per_second", p.perSecond(p.bytes)},
		{"created_per_second", p.perSecond(grown(st.GetCreated(), was.GetCreated()))}, {"evicted_per_second", p.perSecond(grown(st.GetEvicted(), was.GetEvicted()))},
		{"refused_per_second", p.perSecond(grown(refused(st), refused(was)))}, {"top", top},
	}
}
