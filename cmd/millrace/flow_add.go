package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"millrace/control/flows"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
)

const flowAddHelp = `Adds a row of Flow to the Millrace database. Bridges that run flows (millrace bridge
set BRIDGE --pipeline flows) do with a frame what the flow of table 0 says that matches
it and has the highest priority; its actions may go on in other tables. What no flow
matches is dropped. Of flows of equal priority any may be taken.

MATCH and ACTIONS are in OVN's logical flow language (ovn-sb(5), Logical_Flow), where
inport and outport are names of the bridge's ports:

  ip4.dst == 10.0.0.0/8 && tcp.dst == {80, 443}
  inport == @tenants && ip4.src == $allowed && !ip.later_frag
  1                                     all frames

  outport = "vm2"; output;       to a port
  outport = "_flood"; output;    to all ports but that which it came by
  reg0 = 5; next;                on in the next table; next(7): in table 7
  put_fdb(inport, eth.src);      learn where an address is
  outport = get_fdb(eth.dst);    where an address was learned to be
  vlan.tci = 0x1064; output;     with the tag of VLAN 100; 0 takes the tag off
  meter("slow");                 drop what is beyond a rate: flow meter
  group("uplinks");              one of some lists of actions: flow group
  ct_next;                       look its connection up; on in the next table
  ct_commit;                     remember its connection
  ct_snat(192.0.2.1);            translate it; ct_dnat, ct_lb_mark(backends=...)
  drop;

The command returns when the flow is in force. A text that is not in the language is an
error with exit code 2, and nothing is written. What else is wrong is one with exit
code 1: the row stays, and comes into force when what it lacks is there.`

func (a *app) flowAddCmd() *cobra.Command {
	var db dbFlags
	var wait waitFlags
	var f flowFlags
	var mayExist bool
	cmd := &cobra.Command{
		Use:   "add BRIDGE MATCH ACTIONS",
		Short: "Add a flow to a bridge",
		Long:  flowAddHelp,
		Example: `  millrace flow add br0 'inport == "vm1"' 'outport = "vm2"; output;' --priority 10
  millrace flow add br0 'eth.dst == 02:00:00:00:00:01 && ip4' 'ip.ttl--; next;' --table 3 --cookie 0x17
  millrace flow add br0 1 'drop;' --may-exist`,
		Args: exactly("BRIDGE", "MATCH", "ACTIONS"),
	}
	db.add(cmd)
	wait.add(cmd)
	f.add(cmd)
	cmd.Flags().BoolVar(&mayExist, "may-exist", false, "a flow that there is already, word for word, is no error")
	cmd.ValidArgsFunction = byPosition(a.rowBridges(&db))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		row := &flowmodel.Flow{Bridge: args[0], Match: args[1], Actions: args[2]}
		var err error
		if row.Table, row.Priority, row.Cookie, err = f.numbers(cmd); err != nil {
			return err
		}
		if _, p := flows.NewChecker().Check(row); p != nil {
			return usage(cmd, "%w", p)
		}
		return a.onFlows(&db, wait.most, func(ctx context.Context, d *flowDB, _ []string) error {
			return a.flowAdd(ctx, d, &wait, row, mayExist)
		})(cmd, args)
	}
	return cmd
}

// flowAdd adds a row, and tells what came of it.
func (a *app) flowAdd(ctx context.Context, d *flowDB, wait *waitFlags, row *flowmodel.Flow, mayExist bool) error {
	var e flowEdit
	where := []any{
		[]any{"bridge", "==", row.Bridge}, []any{"table", "==", row.Table}, []any{"priority", "==", row.Priority},
		[]any{"cookie", "==", row.Cookie}, []any{"match", "==", row.Match}, []any{"actions", "==", row.Actions},
	}
	if err := e.op(ovsdb.Op{"op": "wait", "table": flowmodel.FlowTable, "where": where, "columns": []string{"bridge"}, "until": "==", "rows": []any{}, "timeout": 0}); err != nil {
		return err
	}
	e.insertFlow(row)
	next, results, err := d.commit(ctx, &e)
	var refused *ovsdb.TransactError
	switch {
	case errors.As(err, &refused) && refused.Op == 0 && refused.Name == ovsdb.TimedOut && mayExist:
		return a.flowTold(ctx, d, where)
	case errors.As(err, &refused) && refused.Op == 0 && refused.Name == ovsdb.TimedOut:
		return fmt.Errorf("the flow is there already: with --may-exist that is no error")
	case err != nil:
		return err
	}
	id, err := insertedUUID(results[1].UUID)
	if err == nil {
		err = d.inForce(ctx, wait, next)
	}
	if err != nil || wait.noWait && !a.json {
		return err
	}
	if wait.noWait {
		row.UUID = id
		return a.printJSON(flowJSON(row))
	}
	return a.flowTold(ctx, d, is("_uuid", uuid(id)))
}

// insertedUUID is the UUID that an insert yields.
func insertedUUID(text json.RawMessage) (string, error) {
	var pair [2]string
	if err := json.Unmarshal(text, &pair); err != nil {
		return "", fmt.Errorf("the database tells no UUID of the new row: %w", err)
	}
	return pair[1], nil
}

// flowTold tells what came of one row.
func (a *app) flowTold(ctx context.Context, d *flowDB, where []any) error {
	rows, err := d.flowRows(ctx, where)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("flow: somebody else has deleted it")
	}
	if a.json {
		if err := a.printJSON(flowJSON(rows[0])); err != nil {
			return err
		}
	}
	if why := refusal(rows[0]); why != "" {
		return fmt.Errorf("flow of bridge %s: %s (its row stays; `millrace flow del` deletes it)", rows[0].Bridge, why)
	}
	return nil
}
