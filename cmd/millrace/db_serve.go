package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	libovsdb "github.com/ovn-kubernetes/libovsdb/ovsdb"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/model"
	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// Files of the embedded databases in the state directory.
const (
	databaseFile = "conf.db"  // Open_vSwitch
	flowsFile    = "flows.db" // Millrace
)

// dbServeFlags are the flags of db serve.
type dbServeFlags struct {
	stateDir string
	listen   []string
	tls      tlsFlags
	readyFD  int
}

func (a *app) dbServeCmd() *cobra.Command {
	var f dbServeFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the embedded database: what run keeps alive when it has no --db",
		Long: `Serves two databases to ovs-vsctl, to control, and to whoever else speaks OVSDB:
Open_vSwitch has the bridges and ports, Millrace the flows of bridges that run
those. It runs until it gets SIGTERM or SIGINT. ` + "`millrace run`" + ` without --db starts
it and restarts it when it dies.

  STATE-DIR/conf.db   Open_vSwitch, made if it is missing; the stock ovsdb-server
                      and ovsdb-tool read it and may take it over
  STATE-DIR/flows.db  Millrace, likewise
  RUN-DIR/db.sock     where both are served, for root and the owner

A transaction that was acknowledged is on the disk. Whoever connects by ssl must
show a certificate that --ca-cert has signed.`,
		Example: `  millrace db serve
  millrace db serve --state-dir /var/lib/millrace --listen ptcp:6640:127.0.0.1
  millrace db serve --listen pssl:6640 -p key.pem -c cert.pem -C ca.pem`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dbServe(cmd, &f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.stateDir, "state-dir", "", "directory of the database's file (default RUN-DIR)")
	fs.StringArrayVar(&f.listen, "listen", nil, "listen here as well: punix:PATH, ptcp:PORT[:ADDRESS] or pssl:PORT[:ADDRESS]; again for more")
	f.tls.add(cmd)
	fs.IntVar(&f.readyFD, "ready-fd", 0, "descriptor to write the line ready to, instead of standard output")
	return cmd
}

// dbServe serves the embedded database until it is told to end.
func (a *app) dbServe(cmd *cobra.Command, f *dbServeFlags) (err error) {
	log, err := a.serviceLogger(cmd, "database")
	if err != nil {
		return err
	}
	if err := f.tls.enough(cmd, "--listen", f.listen); err != nil {
		return err
	}
	secure, err := f.tls.server()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(a.runDir)
	if err != nil {
		return fmt.Errorf("run directory %q: %w", a.runDir, err)
	}
	if f.stateDir == "" {
		f.stateDir = dir
	}
	for _, d := range []string{dir, f.stateDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make directory for the database: %w", err)
		}
	}
	socket, file, flows := filepath.Join(dir, embeddedDB), filepath.Join(f.stateDir, databaseFile), filepath.Join(f.stateDir, flowsFile)
	spareCollector()
	standAside(cmd.Context(), a.runDir, log)
	srv, err := server.Open(server.Config{
		Databases: []server.Database{{Path: file, Schema: schema.OpenVSwitch}, {Path: flows, Schema: schema.Millrace}},
		Listen:    append([]string{"punix:" + socket}, f.listen...), Remotes: []string{server.ManagerOptions}, TLS: secure, Log: log,
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: %w", err, server.ErrInUse) // like a socket that another one serves
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	log.Info("database starts", zap.String("version", a.version), zap.String("file", file), zap.String("flows", flows), zap.String("socket", socket), zap.Strings("listen", f.listen))
	defer log.Info("database ends")
	return a.serveDatabase(cmd.Context(), srv, socket, f.readyFD)
}

// serveDatabase serves srv, and says ready when there is something in it.
func (a *app) serveDatabase(ctx context.Context, srv *server.Server, socket string, readyFD int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx) }()
	began := make(chan error, 1)
	go func() {
		err := initDatabase(ctx, socket)
		if err == nil {
			err = a.ready(readyFD)
		}
		began <- err
	}()
	for {
		select {
		case err := <-began:
			if err != nil && ctx.Err() == nil {
				cancel()
				return errors.Join(err, <-ended)
			}
			began = nil
		case err := <-ended:
			return err
		}
	}
}

// initTimeout is how long the database may take for its first transaction.
const initTimeout = 30 * time.Second

// initDatabase makes the one row of Open_vSwitch, and that of Global, if there is
// none, as `ovs-vsctl init` does: without it nothing can be configured.
func initDatabase(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	for _, first := range []struct {
		schema libovsdb.DatabaseSchema
		table  string
	}{{model.Schema(), model.OpenvSwitchTable}, {flowmodel.Schema(), flowmodel.GlobalTable}} {
		if err := firstRow(ctx, socket, first.schema, first.table); err != nil {
			return fmt.Errorf("initialise database %s: %w", first.schema.Name, err)
		}
	}
	return nil
}

// firstRow makes the one row of a table if there is none.
func firstRow(ctx context.Context, socket string, schema libovsdb.DatabaseSchema, table string) error {
	c, err := ovsdb.Dial(ctx, ovsdb.Config{Endpoints: []string{"unix:" + socket}, Schema: schema})
	if err != nil {
		return err
	}
	defer c.Close()
	// The transaction fails unless the table is empty (RFC 7047 section 5.2.6).
	_, err = c.Transact(ctx,
		ovsdb.Op{"op": "wait", "table": table, "timeout": 0, "where": []any{}, "columns": []string{"_uuid"}, "until": "==", "rows": []any{}},
		ovsdb.Op{"op": "insert", "table": table, "row": map[string]any{}})
	var refused *ovsdb.TransactError
	if errors.As(err, &refused) && refused.Op == 0 && refused.Name == ovsdb.TimedOut {
		return nil
	}
	return err
}
