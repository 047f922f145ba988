package main

import (
	"github.com/spf13/cobra"
)

func (a *app) flowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flow",
		Short: "Change and show what decides about frames",
		Long: `Changes the flows of bridges that run flows (millrace bridge set BRIDGE --pipeline
flows): rows of the Millrace database. Shows what decides where frames go: the rules and
learned addresses of bridges, what workers have cached of them, and what would become
of a packet.`,
		Example: `  millrace flow add br0 'inport == "vm1"' 'outport = "vm2"; output;'
  millrace flow replace br0 -f br0.flows
  millrace flow list br0
  millrace flow dump
  millrace flow dump br0 --table 3
  millrace flow trace vm1 tcp ip4.dst=10.0.0.2 tcp.dst=80`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.flowAddCmd(), a.flowDelCmd(), a.flowReplaceCmd(), a.flowListCmd(), a.flowCheckCmd())
	cmd.AddCommand(a.setCmd(addressSets()), a.setCmd(portGroups()), a.flowMeterCmd(), a.flowGroupCmd())
	cmd.AddCommand(a.flowDumpCmd(), a.flowTraceCmd())
	return cmd
}
