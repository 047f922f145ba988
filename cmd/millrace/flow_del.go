package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
)

func (a *app) flowDelCmd() *cobra.Command {
	var db dbFlags
	var wait waitFlags
	var f flowFilter
	var all bool
	cmd := &cobra.Command{
		Use:   "del BRIDGE",
		Short: "Remove flows of a bridge",
		Long: `Removes the rows of Flow of a bridge that are like all of the flags that are given, or
--all of them, in one transaction. It is no error if there are none. When the command
returns, they are not in force any more.`,
		Example: `  millrace flow del br0 --table 3 --priority 10
  millrace flow del br0 --match 'inport == "vm1"'
  millrace flow del br0 --cookie 0x17 --json | jq .deleted
  millrace flow del br0 --all`,
		Args: exactly("BRIDGE"),
	}
	db.add(cmd)
	wait.add(cmd)
	f.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all flows of the bridge")
	cmd.ValidArgsFunction = byPosition(a.rowBridges(&db))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all == f.given(cmd) {
			return usage(cmd, "say which flows: by --table, --priority, --cookie, --match and --actions, or --all")
		}
		where, err := f.where(cmd, args[0])
		if err != nil {
			return err
		}
		return a.onFlows(&db, wait.most, func(ctx context.Context, d *flowDB, _ []string) error {
			var e flowEdit
			if err := e.op(ovsdb.Op{"op": "delete", "table": flowmodel.FlowTable, "where": where}); err != nil {
				return err
			}
			next, results, err := d.commit(ctx, &e)
			if err == nil {
				err = d.inForce(ctx, &wait, next)
			}
			if err == nil && a.json {
				err = a.printJSON(object{{"deleted", results[0].Count}})
			}
			return err
		})(cmd, args)
	}
	return cmd
}

func (a *app) flowListCmd() *cobra.Command {
	var db dbFlags
	var f flowFilter
	var file bool
	cmd := &cobra.Command{
		Use:   "list [BRIDGE]",
		Short: "List the flows of the database with what came of them",
		Long: `Lists the rows of Flow: of a bridge, or of all, that are like all of the flags that are
given. ` + "`millrace flow dump`" + ` lists the rules that they are compiled to, as the switch has
them.

  active    in force
  inactive  something is not there that it refers to: it comes into force with that
  refused   it is not in the language, or the switch cannot have it

With --file, they are printed as ` + "`millrace flow replace`" + ` reads them.`,
		Example: `  millrace flow list br0
  millrace flow list br0 --file > br0.flows
  millrace flow list --json | jq '.[] | select(.status != "active")'`,
		Args: between(0, 1, "BRIDGE"),
	}
	db.add(cmd)
	f.add(cmd)
	cmd.Flags().BoolVar(&file, "file", false, "print lines as flow replace reads them; of one bridge")
	cmd.ValidArgsFunction = byPosition(a.rowBridges(&db))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file && len(args) == 0 {
			return usage(cmd, "--file: name the BRIDGE whose flows are printed")
		}
		where, err := f.where(cmd, firstOf(args))
		if err != nil {
			return err
		}
		return a.onFlows(&db, func() time.Duration { return longFlows }, func(ctx context.Context, d *flowDB, _ []string) error {
			rows, err := d.flowRows(ctx, where)
			switch {
			case err != nil:
				return err
			case file:
				return printLines(a.out, rows)
			case a.json:
				return a.printJSON(flowsJSON(rows))
			}
			a.printFlows(rows)
			return nil
		})(cmd, args)
	}
	return cmd
}

// longFlows is how long a command may take that reads or writes a million flows,
// beyond waiting.
const longFlows = 2 * time.Minute

// printLines prints flows as files have them.
func printLines(w io.Writer, rows []*flowmodel.Flow) error {
	for _, r := range rows {
		if _, err := fmt.Fprintln(w, flowLine(r)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printFlows(rows []*flowmodel.Flow) {
	t := newTable("BRIDGE", ">TABLE", ">PRIORITY", "STATUS", ">PACKETS", "MATCH", "ACTIONS", "PROBLEM")
	for _, r := range rows {
		t.add(r.Bridge, fmt.Sprint(r.Table), fmt.Sprint(r.Priority), value(r.Status), count(uint64(r.NPackets)), r.Match, r.Actions, value(r.Error))
	}
	t.print(a.out, "no flows")
}
