package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
)

func (a *app) portDelCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "del NAME...",
		Short: "Remove ports",
		Long: `Removes ports from the database, and the wires to them. When the command returns,
no frame comes from them or goes to them, and their sockets are gone. The bridge
stays, also without ports.`,
		Example: `  millrace port del vm1
  millrace port del vm1 vm2 --if-exists`,
	}
	a.deletes(cmd, "port", a.rowPorts, deletePorts)
	return cmd
}

// deletes makes cmd one that deletes what its arguments name, by drop, which returns the
// names of those that there were.
func (a *app) deletes(cmd *cobra.Command, what string, names func(*dbFlags) cobra.CompletionFunc, drop func(v *vswitch, e *edit, names []string, ifExists bool) ([]string, error)) {
	var db dbFlags
	var wait waitFlags
	var ifExists bool
	cmd.Args = between(1, 1<<20, "NAME")
	db.add(cmd)
	wait.add(cmd)
	cmd.Flags().BoolVar(&ifExists, "if-exists", false, "a "+what+" that there is not is no error")
	cmd.ValidArgsFunction = names(&db)
	cmd.RunE = a.onDB(&db, wait.most, func(ctx context.Context, d *database, args []string) error {
		var deleted []string
		next, err := d.edit(ctx, func(v *vswitch, e *edit) (err error) {
			deleted, err = drop(v, e, args, ifExists)
			return err
		})
		if err == nil {
			err = d.inForce(ctx, &wait, next)
		}
		if err == nil && a.json {
			err = a.printJSON(object{{"deleted", deleted}})
		}
		return err
	})
}

// deletePorts takes ports out of their bridges: rows that nothing refers to are
// gone. It returns the names of those that there were.
func deletePorts(v *vswitch, e *edit, names []string, ifExists bool) ([]string, error) {
	deleted := []string{}
	for _, name := range names {
		p, in := v.port(name)
		switch {
		case slices.Contains(deleted, name), p == nil && ifExists:
			continue
		case p == nil:
			return nil, noPort(name)
		case own(p, in):
			return nil, fmt.Errorf("port %s is the bridge's own and goes with it: `millrace bridge del %s`", name, name)
		}
		deleted = append(deleted, name)
		e.mutate(model.BridgeTable, uuid(in.UUID), []any{"ports", "delete", uuid(p.UUID)})
	}
	for _, b := range v.bridges() {
		for _, p := range v.portsOf(b) {
			if slices.Contains(deleted, p.OtherConfig[bridge.KeyWire]) && !slices.Contains(deleted, p.Name) {
				e.mutate(model.PortTable, uuid(p.UUID), []any{"other_config", "delete", encode(map[string]string{bridge.KeyWire: p.OtherConfig[bridge.KeyWire]})})
			}
		}
	}
	return deleted, nil
}
