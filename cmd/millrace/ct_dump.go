package main

import (
	"context"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) ctDumpCmd() *cobra.Command {
	var f ctFilter
	var most uint32
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "List connections",
		Long: `Lists connections, in no useful order, with what they have counted until now. Those
that come and go meanwhile may be missing.

` + filterHelp + `

REPLY is shown only of connections that are translated: otherwise it is the original
direction turned around. EXPIRES is when the connection goes if no packet comes. An
assured connection does not give way to others when the table is full. OF says which
bridge's the zone is.`,
		Example: `  millrace ct dump
  millrace ct dump --zone br0/dnat --proto tcp --state established
  millrace ct dump --src 10.0.0.0/24 --dport 80
  millrace ct dump --reply-dst 192.0.2.1
  millrace ct dump --json | jq 'group_by(.original.src) | map({src: .[0].original.src, n: length})'`,
		Args: exactly(),
	}
	f.register(a, cmd)
	cmd.Flags().Uint32Var(&most, "max", 0, "connections to list (default: all)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := f.message(cmd)
		if err != nil {
			return err
		}
		return a.follow(func(ctx context.Context, c *api.Client, _ []string) error {
			return a.dumpConnections(ctx, c, &api.ListConnectionsRequest{Filter: m, Max: most})
		})(cmd, args)
	}
	return cmd
}

// dumpPart is how many connections are aligned with one another.
const dumpPart = 1024

// dumpConnections prints connections as they come: there may be millions.
func (a *app) dumpConnections(ctx context.Context, c *api.Client, req *api.ListConnectionsRequest) error {
	s, err := c.Connections.ListConnections(ctx, req)
	if a.json {
		l := a.jsonList()
		err = each(s, err, func(m *api.ListConnectionsResponse) {
			for _, row := range m.GetConnections() {
				l.add(connectionJSON(row))
			}
		})
		if err != nil {
			return err
		}
		return l.end()
	}
	t := connectionTable()
	err = each(s, err, func(m *api.ListConnectionsResponse) {
		for _, row := range m.GetConnections() {
			addConnection(t, row)
		}
		if len(t.rows) >= dumpPart {
			t.part(a.out)
		}
	})
	if err != nil {
		return err
	}
	t.print(a.out, "no connections")
	return nil
}
