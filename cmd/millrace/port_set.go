package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
)

// portSetFlags are the flags of port set.
type portSetFlags struct {
	db    dbFlags
	wait  waitFlags
	port  portFlags
	clear []string
}

// clearable are the settings that port set --clear takes away.
func clearable() []string {
	return []string{"ip", "mac", "mac-limit", "mtu", "netns", "ofport", "persist", "queues", "tag", "trunks", "up", "vlan-mode"}
}

func (a *app) portSetCmd() *cobra.Command {
	var f portSetFlags
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change settings of a port",
		Long: `Changes those settings of a port that flags name, in its rows of the database, and
takes away those that --clear names. Most change in flight; for --path, --peer,
--queues, --netns and --persist the port is made anew: its peer has to connect
again, and a device of the kernel is another one.`,
		Example: `  millrace port set vm1 --tag 20
  millrace port set vm1 --trunks 10,20-29 --clear tag,vlan-mode
  millrace port set vm1 --mtu 9000`,
		Args: exactly("NAME"),
	}
	f.db.add(cmd)
	f.wait.add(cmd)
	f.port.add(cmd, a, &f.db)
	cmd.ValidArgsFunction = byPosition(a.rowPorts(&f.db))
	cmd.Flags().StringSliceVar(&f.clear, "clear", nil, "settings to take away: "+strings.Join(clearable(), ", "))
	complete(cmd, "clear", clearable()...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.check(cmd); err != nil {
			return err
		}
		return a.onDB(&f.db, f.wait.most, func(ctx context.Context, d *database, args []string) error {
			next, err := d.edit(ctx, func(v *vswitch, e *edit) error { return f.edit(cmd, a, v, e, args[0]) })
			if err != nil {
				return err
			}
			r, err := d.settled(ctx, &f.wait, next, args[0])
			if err == nil && a.json {
				err = a.printJSON(object{{"name", args[0]}, {"ofport", r.ofport}})
			}
			return err
		})(cmd, args)
	}
	return cmd
}

// check looks at the flags alone.
func (f *portSetFlags) check(cmd *cobra.Command) error {
	for _, c := range f.clear {
		switch {
		case !slices.Contains(clearable(), c):
			return usage(cmd, "--clear: %q is none of %s", c, strings.Join(clearable(), ", "))
		case cmd.Flag(c).Changed:
			return usage(cmd, "--clear: %s contradicts --%s", c, c)
		}
	}
	return nil
}

// edit changes the rows of a port.
func (f *portSetFlags) edit(cmd *cobra.Command, a *app, v *vswitch, e *edit, name string) error {
	p, i, in, err := v.simple(name)
	if err != nil {
		return err
	}
	port, iface := *p, *i
	if err := f.port.put(cmd, &port, &iface); err != nil {
		return err
	}
	f.unset(&port, &iface)
	if err := a.judge(cmd, in.Name, &port, &iface); err != nil {
		return err
	}
	e.expect(model.PortTable, p.UUID, columns{"name": p.Name})
	e.change(model.PortTable, p.UUID, portColumns(p), portColumns(&port))
	e.change(model.InterfaceTable, i.UUID, interfaceColumns(i), interfaceColumns(&iface))
	return nil
}

// unset takes settings away.
func (f *portSetFlags) unset(p *model.Port, i *model.Interface) {
	for _, c := range f.clear {
		switch c {
		case "ip", "netns", "persist", "up":
			delete(i.Options, c) // the keys are named like the flags
		case "mac":
			i.MAC = nil
		case "mac-limit":
			delete(p.OtherConfig, bridge.KeyMACLimit)
		case "mtu":
			i.MTURequest = nil
		case "ofport":
			i.OfportRequest = nil
		case "queues":
			delete(i.Options, keyQueues)
		case "tag":
			p.Tag = nil
		case "trunks":
			p.Trunks = nil
		case "vlan-mode":
			p.VLANMode = nil
		}
	}
}

// simple returns the rows of a port that has one interface.
func (v *vswitch) simple(name string) (*model.Port, *model.Interface, *model.Bridge, error) {
	p, in := v.port(name)
	if p == nil {
		return nil, nil, nil, noPort(name)
	}
	interfaces := v.interfacesOf(p)
	switch {
	case own(p, in):
		return nil, nil, nil, fmt.Errorf("port %s is the bridge's own: `millrace bridge set %s` changes the bridge", name, name)
	case len(interfaces) != 1:
		return nil, nil, nil, fmt.Errorf("port %s has %d interfaces: change them with ovs-vsctl", name, len(interfaces))
	}
	return p, interfaces[0], in, nil
}

func noPort(name string) error {
	return fmt.Errorf("no such port: %s: `millrace show` lists the database's", name)
}
