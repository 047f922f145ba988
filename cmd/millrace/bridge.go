package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/bridge"
	"millrace/control/ovsdb/model"
)

func (a *app) bridgeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "Add, remove, change and list bridges",
		Long: `Adds, removes, changes and lists the bridges in the database, as ovs-vsctl does. A
bridge is a learning switch that knows VLANs, or does what flows say (--pipeline flows).
It does something from its first port on.`,
		Example: `  millrace bridge add br0
  millrace bridge list
  millrace bridge del br0`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.bridgeAddCmd(), a.bridgeSetCmd(), a.bridgeDelCmd(), a.bridgeListCmd())
	return cmd
}

// bridgeFlags are the settings of a bridge, and the row that has them.
type bridgeFlags struct {
	db    dbFlags
	wait  waitFlags
	flood string
	age   string
	table uint32
	pipe  string
}

func (f *bridgeFlags) add(cmd *cobra.Command) {
	f.db.add(cmd)
	f.wait.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.flood, "flood-vlans", "", "VLANs in which nothing is learned and all is flooded, such as 10,20-29; none: \"\"")
	fs.StringVar(&f.pipe, "pipeline", "", "what decides about frames: learning (addresses; the default) or flows (rows of Flow: millrace flow)")
	complete(cmd, "pipeline", string(bridge.Learning), string(bridge.Flows))
	fs.StringVar(&f.age, "mac-aging-time", "", fmt.Sprintf("how long a silent address is remembered, in seconds or such as 5m (default %v)", bridge.MACAgeDefault))
	fs.Uint32Var(&f.table, "mac-table-size", 0, fmt.Sprintf("addresses that the bridge can learn (default %d)", bridge.MACMaxDefault))
}

// put gives a row what the flags say that are given.
func (f *bridgeFlags) put(cmd *cobra.Command, b *model.Bridge) error {
	b.OtherConfig = writable(b.OtherConfig)
	if cmd.Flag("flood-vlans").Changed {
		vlans, err := parseVLANs(f.flood)
		if err == nil && len(vlans) > 0 && slices.Max(vlans) > bridge.VLANMax {
			err = fmt.Errorf("%d is not a VLAN: they are 0 to %d", slices.Max(vlans), bridge.VLANMax)
		}
		if err != nil {
			return usage(cmd, "--flood-vlans: %w", err)
		}
		b.FloodVLANs = vlanSet(vlans)
	}
	if cmd.Flag("mac-aging-time").Changed {
		seconds, err := strconv.Atoi(f.age)
		if d, bad := time.ParseDuration(f.age); err != nil && bad == nil {
			seconds, err = int(d.Seconds()), nil
		}
		if err != nil || seconds < 15 || seconds > 3600 {
			return usage(cmd, "--mac-aging-time: %q is not between 15 seconds and an hour", f.age)
		}
		b.OtherConfig["mac-aging-time"] = strconv.Itoa(seconds)
	}
	if cmd.Flag("mac-table-size").Changed {
		if f.table < 10 || f.table > 1<<20 {
			return usage(cmd, "--mac-table-size: %d is not in 10..%d", f.table, 1<<20)
		}
		b.OtherConfig["mac-table-size"] = number(f.table)
	}
	switch p := bridge.Pipeline(f.pipe); {
	case !cmd.Flag("pipeline").Changed:
	case p != bridge.Learning && p != bridge.Flows:
		return usage(cmd, "--pipeline: %q is neither %s nor %s", f.pipe, bridge.Learning, bridge.Flows)
	case p == bridge.Learning:
		delete(b.OtherConfig, bridge.KeyPipeline)
	default:
		b.OtherConfig[bridge.KeyPipeline] = f.pipe
	}
	return nil
}

func (a *app) bridgeAddCmd() *cobra.Command {
	var f bridgeFlags
	var mayExist bool
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a bridge",
		Long: `Adds a bridge with its own port, as ovs-vsctl add-br does. Adding a port to a bridge
that there is not makes it, too.`,
		Example: `  millrace bridge add br0
  millrace bridge add br0 --may-exist --mac-aging-time 60 --mac-table-size 65536
  millrace bridge add br0 --flood-vlans 100
  millrace bridge add br0 --pipeline flows`,
		Args:              exactly("NAME"),
		ValidArgsFunction: byPosition(),
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&mayExist, "may-exist", false, "if there is one already, give it the settings that flags name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := badBridgeName(cmd, args[0]); err != nil {
			return err
		}
		return a.onDB(&f.db, f.wait.most, func(ctx context.Context, d *database, args []string) error {
			return a.editBridge(ctx, d, &f, args[0], func(v *vswitch, e *edit, b *model.Bridge) error {
				if b != nil && !mayExist {
					return fmt.Errorf("bridge %s exists: with --may-exist that is no error; `millrace bridge set` changes it", b.Name)
				}
				if b != nil {
					return f.edit(cmd, e, b)
				}
				b = &model.Bridge{Name: args[0]}
				if err := f.put(cmd, b); err != nil {
					return err
				}
				return insertBridge(v, e, b)
			})
		})(cmd, args)
	}
	return cmd
}

// badBridgeName refuses a name that no bridge can have.
func badBridgeName(cmd *cobra.Command, name string) error {
	s := bridge.From(bridge.Rows{
		Root:    &model.OpenvSwitch{Bridges: []string{"b"}},
		Bridges: map[string]*model.Bridge{"b": {UUID: "b", Name: name}},
	}, bridge.Policy{})
	for _, e := range s.Errors {
		return usage(cmd, "NAME: %w", e.Err)
	}
	return nil
}

// editBridge makes a change of a bridge, which may not be there yet, and waits
// for it.
func (a *app) editBridge(ctx context.Context, d *database, f *bridgeFlags, name string, build func(*vswitch, *edit, *model.Bridge) error) error {
	next, err := d.edit(ctx, func(v *vswitch, e *edit) error { return build(v, e, v.bridge(name)) })
	if err != nil {
		return err
	}
	if err := d.inForce(ctx, &f.wait, next); err != nil {
		return err
	}
	v, err := d.read(ctx)
	if err != nil {
		return err
	}
	b := v.bridge(name)
	if b == nil {
		return fmt.Errorf("bridge %s: somebody else has deleted it", name)
	}
	if problem := b.Status["error"]; problem != "" && !f.wait.noWait {
		return fmt.Errorf("bridge %s: %s (its row stays; `millrace bridge del %s` deletes it)", name, problem, name)
	}
	if a.json {
		return a.printJSON(bridgeJSON(v, b))
	}
	return nil
}

// edit gives a row what the flags say.
func (f *bridgeFlags) edit(cmd *cobra.Command, e *edit, b *model.Bridge) error {
	now := *b
	if err := f.put(cmd, &now); err != nil {
		return err
	}
	e.expect(model.BridgeTable, b.UUID, columns{"name": b.Name})
	e.change(model.BridgeTable, b.UUID, bridgeColumns(b), bridgeColumns(&now))
	return nil
}

// bridgeColumns are the columns of a Bridge row that flags set.
func bridgeColumns(b *model.Bridge) columns {
	return columns{"flood_vlans": b.FloodVLANs, "other_config": b.OtherConfig}
}

// insertBridge makes a bridge with its own port and others.
func insertBridge(v *vswitch, e *edit, b *model.Bridge, ports ...any) error {
	if p, in := v.port(b.Name); p != nil {
		return fmt.Errorf("bridge %s: there is a port of that name on bridge %s: choose another", b.Name, in.Name)
	}
	e.absent(model.BridgeTable, b.Name)
	e.absent(model.PortTable, b.Name)
	i := e.insert(model.InterfaceTable, columns{"name": b.Name, "type": bridge.TypeInternal})
	p := e.insert(model.PortTable, columns{"name": b.Name, "interfaces": i})
	row := bridgeColumns(b)
	row["name"], row["datapath_type"] = b.Name, "netdev"
	row["ports"] = []any{"set", append(ports, p)}
	e.mutate(model.OpenvSwitchTable, e.root, []any{"bridges", "insert", e.insert(model.BridgeTable, row)})
	return nil
}

func (a *app) bridgeSetCmd() *cobra.Command {
	var f bridgeFlags
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change settings of a bridge",
		Long: `Changes those settings of a bridge that flags name. Ports and what the bridge has
learned stay. A bridge that begins to run flows has those of the database when it
begins; what none of them matches is dropped.`,
		Example: `  millrace bridge set br0 --mac-aging-time 60
  millrace bridge set br0 --pipeline flows
  millrace bridge set br0 --flood-vlans ""`,
		Args: exactly("NAME"),
	}
	f.add(cmd)
	cmd.ValidArgsFunction = byPosition(a.rowBridges(&f.db))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onDB(&f.db, f.wait.most, func(ctx context.Context, d *database, args []string) error {
			return a.editBridge(ctx, d, &f, args[0], func(_ *vswitch, e *edit, b *model.Bridge) error {
				if b == nil {
					return noBridge(args[0])
				}
				return f.edit(cmd, e, b)
			})
		})(cmd, args)
	}
	return cmd
}

func noBridge(name string) error {
	return fmt.Errorf("no such bridge: %s: `millrace bridge list` lists them", name)
}

func (a *app) bridgeDelCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "del NAME...",
		Short: "Remove bridges with their ports",
		Long: `Removes bridges from the database, with all their ports. When the command returns,
none of their frames goes anywhere.`,
		Example: `  millrace bridge del br0
  millrace bridge del br0 br1 --if-exists`,
	}
	a.deletes(cmd, "bridge", a.rowBridges, deleteBridges)
	return cmd
}

// deleteBridges takes bridges out of the Open_vSwitch row: what nothing refers
// to is gone.
func deleteBridges(v *vswitch, e *edit, names []string, ifExists bool) ([]string, error) {
	deleted := []string{}
	for _, name := range names {
		b := v.bridge(name)
		switch {
		case slices.Contains(deleted, name), b == nil && ifExists:
			continue
		case b == nil:
			return nil, noBridge(name)
		}
		deleted = append(deleted, name)
		e.mutate(model.OpenvSwitchTable, e.root, []any{"bridges", "delete", uuid(b.UUID)})
	}
	return deleted, nil
}

func (a *app) bridgeListCmd() *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List bridges in a table",
		Long: `Lists the bridges in the database with their settings. The settings of Open vSwitch
that are not in the table are in the output of ` + "`ovs-vsctl list bridge`" + `.`,
		Example: `  millrace bridge list
  millrace bridge list --json | jq -r '.[].name'`,
		Args: exactly(),
	}
	db.add(cmd)
	cmd.RunE = a.onDB(&db, never, func(ctx context.Context, d *database, _ []string) error {
		v, err := d.read(ctx)
		if err != nil {
			return err
		}
		if a.json {
			all := []object{}
			for _, b := range v.bridges() {
				all = append(all, bridgeJSON(v, b))
			}
			return a.printJSON(all)
		}
		t := newTable("NAME", "PIPELINE", ">PORTS", ">MAC AGING", ">MAC TABLE", "FLOOD VLANS", "PROBLEM")
		for _, b := range v.bridges() {
			age, size := bridgeLimits(b)
			t.add(b.Name, pipelineOf(b), strconv.Itoa(len(ports(v, b))), fmt.Sprintf("%d s", age), strconv.Itoa(size), vlanRanges(b.FloodVLANs), b.Status["error"])
		}
		t.print(a.out, "no bridges")
		return nil
	})
	return cmd
}

// ports returns the names of a bridge's ports, without its own.
func ports(v *vswitch, b *model.Bridge) []string {
	names := []string{}
	for _, p := range v.portsOf(b) {
		if !own(p, b) {
			names = append(names, p.Name)
		}
	}
	return names
}

// bridgeLimits returns a bridge's settings, or their defaults.
func bridgeLimits(b *model.Bridge) (age, size int) {
	age, size = int(bridge.MACAgeDefault.Seconds()), bridge.MACMaxDefault
	if n, err := strconv.Atoi(b.OtherConfig["mac-aging-time"]); err == nil {
		age = n
	}
	if n, err := strconv.Atoi(b.OtherConfig["mac-table-size"]); err == nil {
		size = n
	}
	return age, size
}

// pipelineOf is what decides about a bridge's frames.
func pipelineOf(b *model.Bridge) string {
	if s := b.OtherConfig[bridge.KeyPipeline]; s != "" {
		return s
	}
	return string(bridge.Learning)
}

func bridgeJSON(v *vswitch, b *model.Bridge) object {
	age, size := bridgeLimits(b)
	flood := b.FloodVLANs
	if flood == nil {
		flood = []int{}
	}
	return object{
		{"uuid", b.UUID}, {"name", b.Name}, {"pipeline", pipelineOf(b)}, {"ports", ports(v, b)}, {"mac_aging_time", age}, {"mac_table_size", size},
		{"flood_vlans", flood}, {"error", b.Status["error"]},
	}
}
