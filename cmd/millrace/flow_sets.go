package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"millrace/control/logical"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
)

// A setKind is a kind of set that flows look into.
type setKind struct {
	named
	use, column string // of the command and of the row
	element     string // in usage lines
	short, long string
	example     string
	heads       []string
	check       func(string) error
}

func addressSets() setKind {
	return setKind{
		named: named{flowmodel.AddressSetTable, "address set"}, use: "address-set", column: "addresses", element: "ADDRESS",
		short: "Add, remove and list address sets",
		long: `An address set holds IP addresses, networks, Ethernet addresses or numbers. Matches name
it: ip4.src == $web. IPv4 addresses go with fields of IPv4, and so on. A set that
changes costs the switch work for what has changed only, however many flows name it.`,
		example: "web 10.0.0.1 10.1.0.0/16 fd00::/64", heads: []string{"NAME", ">ADDRESSES", "THESE", "PROBLEM"},
		check: func(s string) error { _, err := logical.ParseConstant(s); return err },
	}
}

func portGroups() setKind {
	return setKind{
		named: named{flowmodel.PortGroupTable, "port group"}, use: "port-group", column: "ports", element: "PORT",
		short: "Add, remove and list port groups",
		long: `A port group holds names of ports. Matches name it: inport == @tenants. Ports that there
are not (yet) may be in it.`,
		example: "tenants vm1 vm2", heads: []string{"NAME", ">PORTS", "THESE"},
		check: func(string) error { return nil },
	}
}

// setCmd is the command of a kind of set.
func (a *app) setCmd(k setKind) *cobra.Command {
	cmd := &cobra.Command{
		Use: k.use, Short: k.short, Long: k.long,
		Example: "  millrace flow " + k.use + " add " + k.example + "\n  millrace flow " + k.use + " list",
		Args:    noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.setAddCmd(k), a.setRemoveCmd(k), a.namedDel(k.named, k.use, firstOf(strings.Fields(k.example))), a.namedList(k.named, k.use, k.heads...))
	return cmd
}

func (a *app) setAddCmd(k setKind) *cobra.Command {
	var db dbFlags
	var wait waitFlags
	cmd := &cobra.Command{
		Use:   "add NAME [" + k.element + "...]",
		Short: "Add elements to " + article(k.word) + ", which is made if there is none",
		Long: `Adds elements to ` + article(k.word) + ` of the Millrace database, and makes it if there is none of
that name. Elements that it has may be among them.`,
		Example: "  millrace flow " + k.use + " add " + k.example,
		Args:    between(1, 1<<20, "NAME", k.element),
	}
	db.add(cmd)
	wait.add(cmd)
	cmd.RunE = a.onNamed(&db, &wait, k.named, func(cmd *cobra.Command, e *flowEdit, name string, list []string, old *ovsdb.Change) error {
		for _, s := range list {
			if err := k.check(s); err != nil {
				return usage(cmd, "%s: %q: %w", k.element, s, err)
			}
		}
		if old == nil && !logical.IsName(name) {
			return usage(cmd, "NAME: no match can name %q: names are letters, digits, _ and ., and begin with no digit", name)
		}
		if old == nil {
			return e.op(ovsdb.Op{"op": "insert", "table": k.table, "row": map[string]any{"name": name, k.column: stringSet(list)}})
		}
		return mutateSet(e, k.named, old.UUID, k.column, "insert", list)
	})
	return cmd
}

func (a *app) setRemoveCmd(k setKind) *cobra.Command {
	var db dbFlags
	var wait waitFlags
	cmd := &cobra.Command{
		Use:   "remove NAME " + k.element + "...",
		Short: "Take elements out of " + article(k.word),
		Long: `Takes elements out of the ` + k.word + `, written as they are in it. It stays, if empty. It
is no error if some are not in it.`,
		Example: "  millrace flow " + k.use + " remove " + k.example,
		Args:    between(2, 1<<20, "NAME", k.element),
	}
	db.add(cmd)
	wait.add(cmd)
	cmd.RunE = a.onNamed(&db, &wait, k.named, func(_ *cobra.Command, e *flowEdit, name string, list []string, old *ovsdb.Change) error {
		if old == nil {
			return fmt.Errorf("no such %s: %s: `millrace flow %s list` lists them", k.word, name, k.use)
		}
		return mutateSet(e, k.named, old.UUID, k.column, "delete", list)
	})
	return cmd
}
