package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) ctCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ct",
		Short: "Show, flush and limit connections",
		Long: `Shows the connections that the dataplane tracks, flushes them, and limits how many a zone
may have.

Connections are in zones, which have numbers, 0 to 65535. Each bridge has three of them:

  BRIDGE/plain  ct_next, ct_commit, ct_commit_nat, ct_lb, ct_lb_mark
  BRIDGE/dnat   ct_dnat and all verbs of the common zone (ct_*_in_czone)
  BRIDGE/snat   ct_snat

A ZONE is a number, a bridge (its three zones), or a bridge and one of these kinds.`,
		Example: `  millrace ct dump --zone br0 --proto tcp --dport 443
  millrace ct top
  millrace ct flush --addr 10.0.0.5
  millrace ct stats
  millrace ct limit set br0 100000`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.ctDumpCmd(), a.ctTopCmd(), a.ctFlushCmd(), a.ctStatsCmd(), a.ctLimitCmd())
	return cmd
}

// zoneWords completes with what stands for zones: bridges, and their zones.
func (a *app) zoneWords(more ...string) cobra.CompletionFunc {
	var words []string
	return a.names(func(ctx context.Context, c *api.Client, _ []string) error {
		words = more
		list, err := listZones(ctx, c, nil)
		for _, z := range list {
			if z.GetBridge() == "" {
				continue
			}
			if len(words) == 0 || !strings.HasPrefix(words[len(words)-1], z.GetBridge()+"/") {
				words = append(words, z.GetBridge())
			}
			words = append(words, z.GetBridge()+"/"+word(z.GetKind()))
		}
		return err
	}, &words)
}

// listZones returns zones by number: one or some, or, with nil, all that there is
// something to say of.
func listZones(ctx context.Context, c *api.Client, zone *api.ZoneSelector) (zones []*api.Zone, err error) {
	s, err := c.Connections.ListZones(ctx, &api.ListZonesRequest{Zone: zone})
	err = each(s, err, func(m *api.ListZonesResponse) { zones = append(zones, m.GetZones()...) })
	return zones, err
}
