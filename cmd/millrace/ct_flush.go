package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) ctFlushCmd() *cobra.Command {
	var f ctFilter
	var all bool
	cmd := &cobra.Command{
		Use:   "flush",
		Short: "Remove connections",
		Long: `Removes connections, and says how many there were. Their next packets are looked up
anew at once: they go as the flows say of packets that belong to no connection.

` + filterHelp,
		Example: `  millrace ct flush --zone br0
  millrace ct flush --zone br0/dnat --dst 10.96.0.10 --dport 53 --proto udp
  millrace ct flush --addr 10.0.0.5
  millrace ct flush --all`,
		Args: exactly(),
	}
	f.register(a, cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all connections of all zones")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := f.message(cmd)
		switch {
		case err != nil:
			return err
		case m == nil && !all:
			return usage(cmd, "say which connections: --zone, --addr and their like, or --all")
		case m != nil && all:
			return usage(cmd, "--all: leave it out, or the flags that choose some")
		}
		return a.call(func(ctx context.Context, c *api.Client, _ []string) error {
			r, err := c.Connections.FlushConnections(ctx, &api.FlushConnectionsRequest{Filter: m, All: all})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(toJSON(r))
			}
			fmt.Fprintf(a.out, "flushed %s connection%s\n", count(r.GetFlushed()), map[bool]string{false: "s"}[r.GetFlushed() == 1])
			return nil
		})(cmd, args)
	}
	return cmd
}
