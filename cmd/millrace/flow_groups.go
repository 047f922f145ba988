package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"millrace/control/flows"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
)

func (a *app) flowMeterCmd() *cobra.Command {
	n := named{flowmodel.MeterTable, "meter"}
	cmd := &cobra.Command{
		Use:   "meter",
		Short: "Set, remove and list meters",
		Long: `A meter is a rate that flows name: meter("slow"). All flows that name it share it; what
is beyond it is dropped.`,
		Example: `  millrace flow meter set slow --kbps 10000
  millrace flow meter list`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.meterSetCmd(n), a.namedDel(n, "meter", "slow"), a.namedList(n, "meter", "NAME", ">RATE", ">BURST", "UNIT", "PROBLEM"))
	return cmd
}

func (a *app) meterSetCmd(n named) *cobra.Command {
	var db dbFlags
	var wait waitFlags
	var kbps, pktps, burst uint32
	cmd := &cobra.Command{
		Use:   "set NAME --kbps N | --pktps N",
		Short: "Give a meter a rate; it is made if there is none",
		Long: `Gives a meter of the Millrace database a rate, and makes it if there is none of that
name. Flows that name it go on.`,
		Example: `  millrace flow meter set slow --kbps 10000 --burst 20000
  millrace flow meter set arp --pktps 100`,
		Args: exactly("NAME"),
	}
	db.add(cmd)
	wait.add(cmd)
	fs := cmd.Flags()
	fs.Uint32Var(&kbps, "kbps", 0, "kilobits a second")
	fs.Uint32Var(&pktps, "pktps", 0, "packets a second")
	fs.Uint32Var(&burst, "burst", 0, "kilobits or packets that may come at once (default: those of one second)")
	run := a.onNamed(&db, &wait, n, func(_ *cobra.Command, e *flowEdit, name string, _ []string, old *ovsdb.Change) error {
		row := map[string]any{"name": name, "unit": flowmodel.MeterUnitKbps, "rate": kbps, "burst": burst}
		if pktps > 0 {
			row["unit"], row["rate"] = flowmodel.MeterUnitPktps, pktps
		}
		if old == nil {
			return e.op(ovsdb.Op{"op": "insert", "table": n.table, "row": row})
		}
		return e.op(ovsdb.Op{"op": "update", "table": n.table, "where": is("_uuid", uuid(old.UUID)), "row": row})
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (kbps == 0) == (pktps == 0) {
			return usage(cmd, "give the meter a rate above 0: --kbps or --pktps")
		}
		return run(cmd, args)
	}
	return cmd
}

func (a *app) flowGroupCmd() *cobra.Command {
	n := named{flowmodel.GroupTable, "group"}
	cmd := &cobra.Command{
		Use:   "group",
		Short: "Set, remove and list groups of actions to choose from",
		Long: `A group is lists of actions of which flows take one: group("uplinks"). Which, a hash of
the packet says, so that the packets of a connection stay together.`,
		Example: `  millrace flow group set uplinks 'outport = "up1"; output;' '2:outport = "up2"; output;'
  millrace flow group list`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.groupSetCmd(n), a.namedDel(n, "group", "uplinks"), a.namedList(n, "group", "NAME", ">WEIGHT", "ACTIONS", "HASH FIELDS", "PROBLEM"))
	return cmd
}

func (a *app) groupSetCmd(n named) *cobra.Command {
	var db dbFlags
	var wait waitFlags
	var fields []string
	cmd := &cobra.Command{
		Use:   "set NAME [WEIGHT:]ACTIONS...",
		Short: "Give a group its buckets; it is made if there is none",
		Long: `Gives a group of the Millrace database its buckets, and makes it if there is none of that
name. A bucket is actions, with a weight if it is not 1. Packets stay with buckets that
stay; those of one that goes, or whose port is not there, go to the others.`,
		Example: `  millrace flow group set uplinks 'outport = "up1"; output;' '2:outport = "up2"; output;'
  millrace flow group set uplinks 'outport = "up1"; output;' --hash-fields eth.src,eth.dst`,
		Args: between(2, 1<<10, "NAME", "ACTIONS"),
	}
	db.add(cmd)
	wait.add(cmd)
	cmd.Flags().StringSliceVar(&fields, "hash-fields", nil, "fields to choose by, named as in matches (default: IP addresses, protocol and ports)")
	cmd.RunE = a.onNamed(&db, &wait, n, func(cmd *cobra.Command, e *flowEdit, name string, list []string, old *ovsdb.Change) error {
		var refs []any
		for i, text := range list {
			weight, actions, err := bucket(text)
			if err != nil {
				return usage(cmd, "ACTIONS: %w", err)
			}
			id := fmt.Sprintf("bucket%d", i)
			if err := e.op(ovsdb.Op{"op": "insert", "table": flowmodel.BucketTable, "uuid-name": id, "row": map[string]any{"weight": weight, "actions": actions}}); err != nil {
				return err
			}
			refs = append(refs, []any{"named-uuid", id})
		}
		row := map[string]any{"name": name, "buckets": []any{"set", refs}, "hash_fields": stringSet(fields)}
		if old == nil {
			return e.op(ovsdb.Op{"op": "insert", "table": n.table, "row": row})
		}
		return e.op(ovsdb.Op{"op": "update", "table": n.table, "where": is("_uuid", uuid(old.UUID)), "row": row})
	})
	return cmd
}

// bucket reads [WEIGHT:]ACTIONS.
func bucket(text string) (weight int, actions string, err error) {
	weight, actions = 1, text
	if before, after, ok := strings.Cut(text, ":"); ok {
		if n, err := strconv.Atoi(strings.TrimSpace(before)); err == nil {
			weight, actions = n, after
		}
	}
	if weight < 0 || weight > math.MaxUint16 {
		return 0, "", fmt.Errorf("weight %d is not from 0 to 65535", weight)
	}
	if _, p := flows.NewChecker().Check(&flowmodel.Flow{Match: "1", Actions: actions}); p != nil && !p.Missing {
		return 0, "", p
	}
	return weight, actions, nil
}
