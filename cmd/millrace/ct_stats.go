package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) ctStatsCmd() *cobra.Command {
	var zone string
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show counters of connection tracking, and of zones",
		Long: `Shows how many connections there are, what has become of those that were, and why
others were not made, since the dataplane was started. Then, by zone: which bridge's it
is, its connections, its limit, and what it has counted. A limit that is the zone's own is
marked so; others are the default (millrace ct limit).

A packet whose connection is not made is dropped: millrace drops has it as ct_full,
ct_zone_limit or ct_clash.`,
		Example: `  millrace ct stats
  millrace ct stats --zone br0
  millrace ct stats --json | jq '.zones[] | select(.limited > 0)'`,
		Args: exactly(),
	}
	cmd.Flags().StringVar(&zone, "zone", "", "only this zone: its number, BRIDGE, or BRIDGE/KIND")
	completeWith(cmd, "zone", a.zoneWords())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		z, err := zoneFlag(cmd, zone)
		if err != nil {
			return err
		}
		return a.call(func(ctx context.Context, c *api.Client, _ []string) error { return a.ctStats(ctx, c, z) })(cmd, args)
	}
	return cmd
}

// zoneFlag reads --zone; nil is none.
func zoneFlag(cmd *cobra.Command, text string) (*api.ZoneSelector, error) {
	if text == "" {
		return nil, nil
	}
	z, err := parseZone(text)
	if err != nil {
		return nil, usage(cmd, "--zone: %w", err)
	}
	return z, nil
}

// ctStats prints the table's counters, unless a zone is asked for, and zones.
func (a *app) ctStats(ctx context.Context, c *api.Client, zone *api.ZoneSelector) error {
	zones, err := listZones(ctx, c, zone)
	if err != nil {
		return err
	}
	if zone != nil {
		if a.json {
			return a.printJSON(object{{"zones", list(zones)}})
		}
		printZones(a, zones)
		return nil
	}
	st, err := c.Connections.GetConnectionStats(ctx, &api.GetConnectionStatsRequest{})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(append(toJSON(st), field{"zones", list(zones)}))
	}
	printConnectionStats(a, st)
	fmt.Fprintln(a.out)
	printZones(a, zones)
	return nil
}

func printConnectionStats(a *app, st *api.GetConnectionStatsResponse) {
	fmt.Fprintf(a.out, "%s of %s connections (%s), %s of memory at most, default limit of a zone: %s\n\n",
		count(st.GetConnections()), count(st.GetCapacity()), percent(ratio(float64(st.GetConnections()), float64(st.GetCapacity()))), size(st.GetBytes()), limitText(st.GetDefaultLimit()))
	t := newTable("COUNTER", ">NUMBER", "MEANING")
	for _, row := range []struct {
		name    string
		n       uint64
		meaning string
	}{
		{"created", st.GetCreated(), "connections that were made"},
		{"expired", st.GetExpired(), "their time was over"},
		{"evicted", st.GetEvicted(), "not assured, gave way to others because the table was nearly full"},
		{"flushed", st.GetFlushed(), "by command, or with their bridge"},
		{"ended", st.GetEnded(), "of TCP, refused: nothing is left of them"},
		{"reopened", st.GetReopened(), "of TCP, gave way to a SYN after their end"},
		{"full", st.GetFull(), "not made: no room, and all that there are are assured"},
		{"limited", st.GetLimited(), "not made: limit of the zone"},
		{"clashes", st.GetClashes(), "not made: another one has the reply's addresses and ports"},
		{"no_port", st.GetNoPort(), "not made: no address and port is free to translate to"},
		{"raced", st.GetRaced(), "made by two workers at once: the first was kept"},
		{"invalid", st.GetInvalid(), "packets that belong to no connection and cannot begin one"},
		{"related", st.GetRelated(), "ICMP errors about connections"},
		{"late", st.GetLate(), "packets of connections that had gone when they were counted"},
		{"fragments", st.GetFragments(), "later fragments that had the verdict of their first"},
		{"fragments_held", st.GetFragmentsHeld(), "fragments that came before their first, and waited"},
		{"fragments_waiting", st.GetFragmentsWaiting(), "of these, those that wait now"},
		{"fragments_lost", st.GetFragmentsLost(), "of these, those whose first did not come in time"},
		{"fragments_refused", st.GetFragmentsRefused(), "fragments that found no room to wait"},
	} {
		t.add(row.name, count(row.n), row.meaning)
	}
	t.print(a.out, "")
}

// limitText shows a limit.
func limitText(n uint32) string {
	if n == 0 {
		return "none"
	}
	return count(n)
}

func printZones(a *app, zones []*api.Zone) {
	t := newTable(">ZONE", "OF", ">CONNECTIONS", ">LIMIT", "", ">CREATED", ">EVICTED", ">LIMITED")
	for _, z := range zones {
		t.add(fmt.Sprint(z.GetNumber()), zoneOf(z.GetBridge(), z.GetKind()), count(z.GetConnections()), limitText(z.GetLimit()),
			map[bool]string{true: "own"}[z.GetLimitOwn()], count(z.GetCreated()), count(z.GetEvicted()), count(z.GetLimited()))
	}
	t.print(a.out, "no zones")
}
