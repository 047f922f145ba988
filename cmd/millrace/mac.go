package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

func (a *app) macCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mac",
		Short: "Show and change the address tables of bridges",
		Long: `Shows and changes the tables that tell bridges behind which port an address is.
Learned entries are forgotten when the address is silent for long (millrace bridge
set --mac-aging-time); static ones stay, also over a restart of the dataplane.`,
		Example: `  millrace mac table
  millrace mac add br0 02:00:00:00:00:01 vm1`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.macTableCmd(), a.macAddCmd(), a.macDelCmd(), a.macFlushCmd())
	return cmd
}

func (a *app) macTableCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "table [BRIDGE]",
		Short: "List the addresses that bridges know",
		Long: `Lists the addresses that a bridge knows, or all bridges, by VLAN and address. AGE
is the time since the address last sent a frame, HITS the frames sent to it.`,
		Example: `  millrace mac table
  millrace mac table br0 --json | jq 'length'`,
		Args:              between(0, 1, "BRIDGE"),
		ValidArgsFunction: byPosition(a.bridgeNames()),
		RunE: a.call(func(ctx context.Context, c *api.Client, args []string) error {
			r, err := c.Entries(ctx, firstOf(args))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list(r.GetEntries()))
			}
			t := newTable("BRIDGE", ">VLAN", "ADDRESS", "PORT", "KIND", ">AGE", ">HITS")
			for _, e := range r.GetEntries() {
				kind, age := "learned", span(seconds(e.GetAgeSeconds()))
				if e.GetStatic() {
					kind, age = "static", ""
				}
				t.add(e.GetBridge(), fmt.Sprint(e.GetVlan()), e.GetMac(), e.GetPort(), kind, age, count(e.GetHits()))
			}
			t.print(a.out, "no addresses known")
			return nil
		}),
	}
}

// firstOf is the first argument, if there is one.
func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) macAddCmd() *cobra.Command {
	var vlan uint32
	cmd := &cobra.Command{
		Use:   "add BRIDGE MAC PORT",
		Short: "Add a static address",
		Long: `Makes a bridge send frames to an address to a port, whatever it learns. The entry
stays until it is deleted or its port is.`,
		Example: `  millrace mac add br0 02:00:00:00:00:01 vm1
  millrace mac add br0 02:00:00:00:00:01 vm1 --vlan 10`,
		Args:              exactly("BRIDGE", "MAC", "PORT"),
		ValidArgsFunction: byPosition(a.bridgeNames(), nil, a.portNames()),
		RunE: a.call(func(ctx context.Context, c *api.Client, args []string) error {
			e := &api.Entry{Bridge: args[0], Vlan: vlan, Mac: args[1], Port: args[2], Static: true}
			if _, err := c.AddEntry(ctx, &api.AddEntryRequest{Entry: e}); err != nil || !a.json {
				return err
			}
			return a.printJSON(toJSON(e))
		}),
	}
	cmd.Flags().Uint32Var(&vlan, "vlan", 0, "VLAN of the address, 1 to 4094 (default: untagged)")
	return cmd
}

func (a *app) macDelCmd() *cobra.Command {
	var vlan uint32
	cmd := &cobra.Command{
		Use:   "del BRIDGE MAC",
		Short: "Delete an address, static or learned",
		Long: `Deletes an address from a bridge's table. Frames to it are flooded until it is
learned again.`,
		Example:           `  millrace mac del br0 02:00:00:00:00:01 --vlan 10`,
		Args:              exactly("BRIDGE", "MAC"),
		ValidArgsFunction: byPosition(a.bridgeNames()),
		RunE: a.call(func(ctx context.Context, c *api.Client, args []string) error {
			if _, err := c.DelEntry(ctx, &api.DelEntryRequest{Bridge: args[0], Vlan: vlan, Mac: args[1]}); err != nil || !a.json {
				return err
			}
			return a.printJSON(object{{"deleted", []string{args[1]}}})
		}),
	}
	cmd.Flags().Uint32Var(&vlan, "vlan", 0, "VLAN of the address, 1 to 4094 (default: untagged)")
	return cmd
}

func (a *app) macFlushCmd() *cobra.Command {
	var port string
	cmd := &cobra.Command{
		Use:   "flush [BRIDGE]",
		Short: "Forget learned addresses",
		Long: `Forgets the addresses that a bridge, or all of them, or one port has learned.
Static ones stay. Frames are flooded until addresses are learned again.`,
		Example: `  millrace mac flush
  millrace mac flush br0
  millrace mac flush --port vm1`,
		Args:              between(0, 1, "BRIDGE"),
		ValidArgsFunction: byPosition(a.bridgeNames()),
		RunE: a.call(func(ctx context.Context, c *api.Client, args []string) error {
			if _, err := c.FlushEntries(ctx, &api.FlushEntriesRequest{Bridge: firstOf(args), Port: port}); err != nil || !a.json {
				return err
			}
			return a.printJSON(object{{"bridge", firstOf(args)}, {"port", port}})
		}),
	}
	cmd.Flags().StringVar(&port, "port", "", "addresses behind this port only")
	completeWith(cmd, "port", a.portNames())
	return cmd
}
