package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/control"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/model"
	"millrace/supervise"
)

// dbFlags say where the database is.
type dbFlags struct {
	db   []string
	tls  tlsFlags
	name string // of the database; empty: Open_vSwitch
}

// addName adds the flag of commands that are for either database.
func (f *dbFlags) addName(cmd *cobra.Command) {
	ovs, flows := model.Schema().Name, flowmodel.Schema().Name
	cmd.Flags().StringVar(&f.name, "name", ovs, "which database: "+ovs+" (bridges and ports) or "+flows+" (flows)")
	complete(cmd, "name", ovs, flows)
}

func (f *dbFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.db, "db", nil, "database: unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT; again for others that have the same (default: that of the running switch)")
	f.tls.add(cmd)
}

// A noDatabaseError says which database was not reached, and what helps.
type noDatabaseError struct {
	from string // who named it
	err  error
}

func (e *noDatabaseError) Error() string {
	reasons := strings.ReplaceAll(e.err.Error(), "\n", "; ")
	helps := "start a switch with `millrace run`, or name the database with --db"
	if errors.Is(e.err, fs.ErrPermission) {
		helps = "call as the user whose it is or as root, or name another database with --db"
	}
	return fmt.Sprintf("no database (looked where %s says): %s: %s", e.from, reasons, helps)
}

func (e *noDatabaseError) Unwrap() error { return e.err }

// where returns the endpoints of the database, and who names them.
func (f *dbFlags) where(runDir string) (endpoints []string, from string) {
	if len(f.db) > 0 {
		return f.db, "--db"
	}
	if s, err := supervise.ReadStatus(runDir); err == nil && len(s.DB) > 0 {
		return s.DB, filepath.Join(runDir, supervise.StatusName)
	}
	if s, err := control.ReadStatus(runDir); err == nil && s.Database.Endpoint != "" {
		return []string{s.Database.Endpoint}, filepath.Join(runDir, "control.json")
	}
	return []string{"unix:" + filepath.Join(runDir, embeddedDB)}, "the run directory"
}

// A database is a connection to the Open_vSwitch database, or, for commands that look
// at databases as such, to another.
type database struct {
	*ovsdb.Caller
	name string
}

// dialDB connects to the database.
func (a *app) dialDB(ctx context.Context, f *dbFlags) (*database, error) {
	secure, err := f.tls.client()
	if err != nil {
		return nil, err
	}
	endpoints, from := f.where(a.runDir)
	cfg := ovsdb.Config{Endpoints: endpoints, TLS: secure, Schema: model.Schema(), Tables: shownTables()}
	if f.name == flowmodel.Schema().Name {
		cfg.Schema, cfg.Tables = flowmodel.Schema(), flowTables()
	}
	c, err := ovsdb.Dial(ctx, cfg)
	if err != nil {
		return nil, &noDatabaseError{from, err}
	}
	return &database{c, cfg.Schema.Name}, nil
}

// A dbAction is what a command does with the database.
type dbAction func(ctx context.Context, d *database, args []string) error

// onDB makes a dbAction a command's RunE, with a time limit that grows by how
// long it may wait.
func (a *app) onDB(f *dbFlags, waits func() time.Duration, do dbAction) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if f.name != "" && f.name != model.Schema().Name && f.name != flowmodel.Schema().Name {
			return usage(cmd, "--name: %q is neither %s nor %s", f.name, model.Schema().Name, flowmodel.Schema().Name)
		}
		return dialled(cmd, args, f, waits, a.dialDB, do)
	}
}

// dialled does something with a database that dial connects to.
func dialled[D interface{ Close() }](cmd *cobra.Command, args []string, f *dbFlags, waits func() time.Duration, dial func(context.Context, *dbFlags) (D, error), do func(context.Context, D, []string) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout+waits())
	defer cancel()
	d, err := dial(ctx, f)
	if errors.Is(err, ovsdb.ErrEndpoint) && len(f.db) > 0 {
		return usage(cmd, "--db: %w", errors.Unwrap(err))
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return do(ctx, d, args)
}

// never is for commands that do not wait.
func never() time.Duration { return 0 }

// rowNames completes with names from the database's rows, or, if there is no
// database, as otherwise does.
func (a *app) rowNames(f *dbFlags, names func(*vswitch) []string, otherwise cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		d, err := a.dialDB(ctx, f)
		if err != nil {
			return otherwise(cmd, args, start)
		}
		defer d.Close()
		v, err := d.read(ctx)
		if err != nil {
			return otherwise(cmd, args, start)
		}
		return names(v), cobra.ShellCompDirectiveNoFileComp
	}
}

// rowPorts completes with names of ports in the database.
func (a *app) rowPorts(f *dbFlags) cobra.CompletionFunc {
	return a.rowNames(f, (*vswitch).portNames, a.portNames())
}

// rowBridges completes with names of bridges in the database.
func (a *app) rowBridges(f *dbFlags) cobra.CompletionFunc {
	return a.rowNames(f, (*vswitch).bridgeNames, a.bridgeNames())
}
