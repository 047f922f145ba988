package main

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
)

func (a *app) portWireCmd() *cobra.Command {
	var both bool
	cmd := &cobra.Command{
		Use:   "wire IN OUT",
		Short: "Send all frames of one port to another",
		Long: `Sends all frames that come from port IN to port OUT, past any bridge: no
learning, no VLANs. It is one-way, unless --both. It replaces the wire that IN has.

The wire is other_config:` + bridge.KeyWire + `=OUT of IN's Port row, so that it comes back with
the port. Without OUT, IN is its bridge's.`,
		Example: `  millrace port wire gen0 vm1
  millrace port wire vm1 vm2 --both`,
		Args: exactly("IN", "OUT"),
	}
	db := a.rewire(cmd, func(args []string) map[string]string {
		wires := map[string]string{args[0]: args[1]}
		if both {
			wires[args[1]] = args[0]
		}
		return wires
	})
	cmd.ValidArgsFunction = byPosition(a.rowPorts(db), a.rowPorts(db))
	cmd.Flags().BoolVar(&both, "both", false, "wire OUT to IN, too")
	return cmd
}

func (a *app) portUnwireCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unwire IN...",
		Short: "Give wired ports back to their bridge",
		Long: `Removes the wires of ports: the bridges that they belong to decide about their
frames again.`,
		Example: `  millrace port unwire vm1 vm2`,
		Args:    between(1, 1<<20, "IN"),
	}
	db := a.rewire(cmd, func(args []string) map[string]string {
		wires := map[string]string{}
		for _, in := range args {
			wires[in] = ""
		}
		return wires
	})
	cmd.ValidArgsFunction = a.rowPorts(db)
	return cmd
}

// rewire makes a command one that gives ports the wires that its arguments
// mean; an empty name is none.
func (a *app) rewire(cmd *cobra.Command, wires func(args []string) map[string]string) *dbFlags {
	var db dbFlags
	var wait waitFlags
	db.add(cmd)
	wait.add(cmd)
	cmd.RunE = a.onDB(&db, wait.most, func(ctx context.Context, d *database, args []string) error {
		all := wires(args)
		next, err := d.edit(ctx, func(v *vswitch, e *edit) error {
			for _, in := range slices.Sorted(maps.Keys(all)) {
				if err := wirePort(v, e, in, all[in]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, in := range slices.Sorted(maps.Keys(all)) {
			if _, err := d.settled(ctx, &wait, next, in); err != nil {
				return err
			}
		}
		if a.json {
			return a.printJSON(object{{"in_force", !wait.noWait}})
		}
		return nil
	})
	return &db
}

// wirePort gives a port a wire, or none.
func wirePort(v *vswitch, e *edit, in, out string) error {
	p, _, _, err := v.simple(in)
	if err != nil {
		return err
	}
	config := writable(p.OtherConfig)
	delete(config, bridge.KeyWire)
	if out != "" {
		other, _ := v.port(out)
		if other == nil {
			return noPort(out)
		}
		e.expect(model.PortTable, other.UUID, columns{"name": out})
		config[bridge.KeyWire] = out
	}
	e.expect(model.PortTable, p.UUID, columns{"name": p.Name})
	e.change(model.PortTable, p.UUID, columns{"other_config": p.OtherConfig}, columns{"other_config": config})
	return nil
}
