package main

import (
	"github.com/spf13/cobra"
)

func (a *app) portCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "port",
		Short: "Add, remove, change, show and wire ports",
		Long: `Adds, removes, changes and wires ports, in the database, where control finds them;
list and show tell what the dataplane has. A bridge comes with its first port, and
stays when its last one goes.`,
		Example: `  millrace port add br0 vm1 --type dpdkvhostuser
  millrace port list
  millrace port del vm1`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.portAddCmd(), a.portSetCmd(), a.portDelCmd(), a.portListCmd(), a.portShowCmd(), a.portWireCmd(), a.portUnwireCmd())
	return cmd
}
