package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

// zoneDefault stands for all zones that have no limit of their own.
const zoneDefault = "default"

func (a *app) ctLimitCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "limit",
		Short: "Show and set how many connections zones may have",
		Long: `Shows and sets how many connections a zone may have. A packet that would begin one
more is dropped, and counted: millrace ct stats has it as limited, and millrace drops as
ct_zone_limit. Connections that there are stay.

A limit stays over a restart of the dataplane. That of a bridge's zone goes with the
bridge.`,
		Example: `  millrace ct limit show
  millrace ct limit set default 200000
  millrace ct limit set br0/snat 60000
  millrace ct limit del br0`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.ctLimitShowCmd(), a.ctLimitSetCmd(), a.ctLimitDelCmd())
	return cmd
}

func (a *app) ctLimitShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show [ZONE]",
		Short: "Show limits of zones",
		Long: `Shows the limits of zones: of those of bridges, those with a limit of their own, and
those that have had connections. A ZONE is a number, BRIDGE, or BRIDGE/KIND.`,
		Example: `  millrace ct limit show
  millrace ct limit show br0
  millrace ct limit show --json | jq '.zones[] | select(.limit_own)'`,
		Args:              between(0, 1, "ZONE"),
		ValidArgsFunction: byPosition(a.zoneWords()),
		RunE: func(cmd *cobra.Command, args []string) error {
			z, err := zoneArgument(cmd, firstOf(args))
			if err != nil {
				return err
			}
			return a.call(func(ctx context.Context, c *api.Client, _ []string) error { return a.showLimits(ctx, c, z) })(cmd, args)
		},
	}
}

// zoneArgument reads an argument ZONE; nil is none, or the default.
func zoneArgument(cmd *cobra.Command, text string) (*api.ZoneSelector, error) {
	if text == "" || text == zoneDefault {
		return nil, nil
	}
	z, err := parseZone(text)
	if err != nil {
		return nil, usage(cmd, "ZONE: %w", err)
	}
	return z, nil
}

func (a *app) showLimits(ctx context.Context, c *api.Client, zone *api.ZoneSelector) error {
	zones, err := listZones(ctx, c, zone)
	if err != nil {
		return err
	}
	st, err := c.Connections.GetConnectionStats(ctx, &api.GetConnectionStatsRequest{})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(object{{"default_limit", st.GetDefaultLimit()}, {"zones", list(zones)}})
	}
	t := newTable(">ZONE", "OF", ">LIMIT", "", ">CONNECTIONS", ">LIMITED")
	t.add(zoneDefault, "", limitText(st.GetDefaultLimit()), "", "", count(st.GetLimited()))
	for _, z := range zones {
		t.add(fmt.Sprint(z.GetNumber()), zoneOf(z.GetBridge(), z.GetKind()), limitText(z.GetLimit()), map[bool]string{true: "own"}[z.GetLimitOwn()], count(z.GetConnections()), count(z.GetLimited()))
	}
	t.print(a.out, "")
	return nil
}

func (a *app) ctLimitSetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "set ZONE NUMBER",
		Short: "Limit the connections of a zone",
		Long: `Lets a zone have NUMBER connections at most, or with none any number, whatever the
default is. A ZONE is a number, BRIDGE (each of its zones), BRIDGE/KIND, or default: all
zones that have no limit of their own.`,
		Example: `  millrace ct limit set br0 100000
  millrace ct limit set br0/dnat none
  millrace ct limit set default 50000`,
		Args:              exactly("ZONE", "NUMBER"),
		ValidArgsFunction: byPosition(a.zoneWords(zoneDefault)),
		RunE: func(cmd *cobra.Command, args []string) error {
			limit, err := parseLimit(args[1])
			if err != nil {
				return usage(cmd, "NUMBER: %w", err)
			}
			return a.setLimit(cmd, args, &limit)
		},
	}
}

func (a *app) ctLimitDelCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "del ZONE",
		Short: "Take a zone's own limit away",
		Long: `Takes away the limit that a zone has of its own: the default holds for it. With
default, takes that away: zones without a limit of their own may have any number.`,
		Example: `  millrace ct limit del br0
  millrace ct limit del default`,
		Args:              exactly("ZONE"),
		ValidArgsFunction: byPosition(a.zoneWords(zoneDefault)),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.setLimit(cmd, args, nil) },
	}
}

// parseLimit reads a number, or none, which is 0.
func parseLimit(s string) (uint32, error) {
	if s == "none" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is neither a number of connections, from 1, nor none", s)
	}
	return uint32(n), nil
}

// setLimit sets the limit of the zone that is the first argument; nil: none of its own.
// In JSON it prints what holds then.
func (a *app) setLimit(cmd *cobra.Command, args []string, limit *uint32) error {
	z, err := zoneArgument(cmd, args[0])
	if err != nil {
		return err
	}
	return a.call(func(ctx context.Context, c *api.Client, _ []string) error {
		if _, err := c.Connections.SetZoneLimit(ctx, &api.SetZoneLimitRequest{Zone: z, Limit: limit}); err != nil || !a.json {
			return err
		}
		return a.showLimits(ctx, c, z)
	})(cmd, args)
}
