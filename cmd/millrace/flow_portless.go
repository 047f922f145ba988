package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"millrace/control/ovsdb/model"
	"millrace/dataplane/api"
)

// portless returns nil instead of an error which says that the dataplane has no such
// bridge, if the database has it: a bridge gets into the dataplane with its first
// port. It prints that nothing of it is in force then: none of what, and in JSON
// nothing.
func (a *app) portless(ctx context.Context, name, what string, nothing any, err error) error {
	if name == "" || !errors.Is(err, api.ErrNoBridge) || !a.hasBridgeRow(ctx, name) {
		return err
	}
	if a.json {
		return a.printJSON(nothing)
	}
	_, err = fmt.Fprintf(a.out, "bridge %s: no %s: it has no ports (`millrace flow list %s` shows the rows it is to run)\n", name, what, name)
	return err
}

// hasBridgeRow reports whether the database has a bridge. One that is not reached has
// none.
func (a *app) hasBridgeRow(ctx context.Context, name string) bool {
	d, err := a.dialDB(ctx, &dbFlags{})
	if err != nil {
		return false
	}
	defer d.Close()
	v, err := d.read(ctx)
	return err == nil && slices.ContainsFunc(v.bridges(), func(b *model.Bridge) bool { return b.Name == name })
}
