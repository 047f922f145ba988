package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/server"
	"millrace/control/ovsdb/storage"
)

func (a *app) dbCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "db",
		Short: "Show, compact and export the database",
		Long: `Shows, compacts and exports the databases of a switch: Open_vSwitch, which has bridges
and ports, and Millrace, which has flows. The embedded server keeps each in a file of
OVSDB's own format: ovsdb-tool and ovsdb-server open it when nobody serves it.`,
		Example: `  millrace db info
  millrace db info --name Millrace
  millrace db export backup.db`,
		Args: noSubcommand, RunE: helpOnly,
	}
	cmd.AddCommand(a.dbServeCmd(), a.dbInfoCmd(), a.dbPathCmd(), a.dbCompactCmd(), a.dbExportCmd())
	return cmd
}

// longCall is how long a command may take that reads or writes all of the
// database.
func longCall() time.Duration { return 10 * time.Minute }

// private makes a call that only the embedded server has an answer for.
func (d *database) private(ctx context.Context, method, instead string) (server.DatabaseStats, error) {
	var st server.DatabaseStats
	err := d.Call(ctx, method, []any{d.name}, &st)
	var refused *ovsdb.CallError
	if errors.As(err, &refused) && strings.Contains(refused.Text, "unknown method") {
		hint := "it is the stock ovsdb-server: use `ovs-appctl -t ovsdb-server " + instead + "`"
		if !strings.HasPrefix(d.Endpoint(), "unix:") {
			hint = "the embedded server tells on its Unix socket only, and the stock one knows `ovs-appctl -t ovsdb-server " + instead + "`"
		}
		return st, fmt.Errorf("database at %s does not do that: %s", d.Endpoint(), hint)
	}
	return st, err
}

func (a *app) dbInfoCmd() *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show size and contents of the database",
		Long: `Shows where the database is, how large its file is, and how many rows each table
has. Of a stock ovsdb-server it shows the rows only.`,
		Example: `  millrace db info
  millrace db info --json | jq .file_size`,
		Args: exactly(),
	}
	db.add(cmd)
	db.addName(cmd)
	cmd.RunE = a.onDB(&db, never, func(ctx context.Context, d *database, _ []string) error {
		st, err := d.private(ctx, server.MethodStats, "ovsdb-server/list-dbs")
		embedded := err == nil
		if !embedded {
			if st, err = d.countRows(ctx); err != nil {
				return err
			}
		}
		if a.json {
			return a.printJSON(infoJSON(d, st, embedded))
		}
		a.printInfo(d, st, embedded)
		return nil
	})
	return cmd
}

// countRows is what can be known of a stock server's database.
func (d *database) countRows(ctx context.Context) (server.DatabaseStats, error) {
	st := server.DatabaseStats{Name: d.name, Tables: map[string]int{}}
	s, err := d.schema(ctx)
	if err != nil {
		return st, err
	}
	st.Version = s.Version
	tables, err := d.dump(ctx, s)
	for name, rows := range tables {
		st.Tables[name] = len(rows)
		st.Rows += len(rows)
	}
	return st, err
}

func tableNames(st server.DatabaseStats) []string {
	var names []string
	for name, n := range st.Tables {
		if n > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func infoJSON(d *database, st server.DatabaseStats, embedded bool) object {
	tables := []object{}
	for _, name := range tableNames(st) {
		tables = append(tables, object{{"name", name}, {"rows", st.Tables[name]}})
	}
	o := object{{"endpoint", d.Endpoint()}, {"database", st.Name}, {"schema_version", st.Version}, {"embedded", embedded}, {"rows", st.Rows}, {"tables", tables}}
	if !embedded {
		return o
	}
	o = append(o, object{
		{"path", st.Path}, {"format", "OVSDB log, stand-alone"}, {"file_size", st.FileSize}, {"transactions", st.Transactions},
		{"compactions", st.Compactions}, {"compacted", nil}, {"clients", st.Sessions}, {"monitors", st.Monitors},
	}...)
	if !st.Compacted.IsZero() {
		o[len(o)-3].value = st.Compacted
	}
	return o
}

func (a *app) printInfo(d *database, st server.DatabaseStats, embedded bool) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(a.out, "%-14s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("database", "%s, schema %s, at %s", st.Name, st.Version, d.Endpoint())
	if embedded {
		compacted := "not since the start"
		if !st.Compacted.IsZero() {
			compacted = fmt.Sprintf("%s ago, %d since the start", span(time.Since(st.Compacted)), st.Compactions)
		}
		line("path", "%s", st.Path)
		line("format", "OVSDB log, stand-alone: ovsdb-tool and ovsdb-server open it")
		line("size", "%s bytes", count(uint64(st.FileSize)))
		line("transactions", "%s since the start", count(st.Transactions))
		line("compacted", "%s", compacted)
		line("clients", "%d, with %s", st.Sessions, plural(st.Monitors, "monitor"))
	} else {
		line("server", "not the embedded one: it tells no more than its rows; see `ovs-appctl -t ovsdb-server list-commands`")
	}
	line("rows", "%d", st.Rows)
	for _, name := range tableNames(st) {
		fmt.Fprintf(a.out, "  %-20s %d\n", name, st.Tables[name])
	}
}

func (a *app) dbPathCmd() *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "path",
		Short: "Print the path of the database's file",
		Long: `Prints the path of the file in which the embedded server keeps the database. Leave
the file to its server: db export makes a copy that is whole.`,
		Example: `  millrace db path
  ls -l "$(millrace db path)"`,
		Args: exactly(),
	}
	db.add(cmd)
	db.addName(cmd)
	cmd.RunE = a.onDB(&db, never, func(ctx context.Context, d *database, _ []string) error {
		st, err := d.private(ctx, server.MethodStats, "ovsdb-server/list-dbs")
		if err != nil {
			return err
		}
		path, err := filepath.Abs(st.Path)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(object{{"path", path}, {"endpoint", d.Endpoint()}})
		}
		fmt.Fprintln(a.out, path)
		return nil
	})
	return cmd
}

func (a *app) dbCompactCmd() *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Rewrite the database's file without its history",
		Long: `Has the embedded server rewrite its file without the history of changes, while it
goes on serving. The server does so by itself when the file has doubled.`,
		Example: `  millrace db compact`,
		Args:    exactly(),
	}
	db.add(cmd)
	db.addName(cmd)
	cmd.RunE = a.onDB(&db, longCall, func(ctx context.Context, d *database, _ []string) error {
		const instead = "ovsdb-server/compact"
		before, err := d.private(ctx, server.MethodStats, instead)
		if err != nil {
			return err
		}
		st, err := d.private(ctx, server.MethodCompact, instead)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(object{{"path", st.Path}, {"file_size_before", before.FileSize}, {"file_size", st.FileSize}})
		}
		fmt.Fprintf(a.out, "%s: %s bytes, was %s\n", st.Path, count(uint64(st.FileSize)), count(uint64(before.FileSize)))
		return nil
	})
	return cmd
}

func (a *app) dbExportCmd() *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "export [FILE]",
		Short: "Write a copy of the database",
		Long: `Writes the database, as it is at one moment, into a stand-alone database file that
ovsdb-tool and ovsdb-server open, or to standard output. The file appears at once
and whole, or not at all.`,
		Example: `  millrace db export backup.db
  millrace db export > backup.db
  ovsdb-server --remote=punix:/run/ovs/db.sock backup.db`,
		Args: between(0, 1, "FILE"),
	}
	db.add(cmd)
	db.addName(cmd)
	cmd.RunE = a.onDB(&db, longCall, func(ctx context.Context, d *database, args []string) error {
		b, err := d.export(ctx)
		if err != nil {
			return err
		}
		if len(args) == 0 || args[0] == "-" {
			_, err := a.out.Write(b)
			return err
		}
		if st, err := d.private(ctx, server.MethodStats, ""); err == nil && sameFile(st.Path, args[0]) {
			return fmt.Errorf("%s is the database itself: choose another file", args[0])
		}
		if err := writeFile(args[0], b); err != nil || !a.json {
			return err
		}
		return a.printJSON(object{{"path", args[0]}, {"file_size", len(b)}})
	})
	return cmd
}

// dbSchema is what export needs to know of a schema.
type dbSchema struct {
	Version string `json:"version"`
	Tables  map[string]struct {
		Columns map[string]struct {
			Ephemeral bool `json:"ephemeral"`
		} `json:"columns"`
	} `json:"tables"`

	text json.RawMessage
}

func (d *database) schema(ctx context.Context) (s dbSchema, err error) {
	if err := d.Call(ctx, "get_schema", []any{d.name}, &s.text); err != nil {
		return s, err
	}
	if err := json.Unmarshal(s.text, &s); err != nil {
		return s, fmt.Errorf("schema of the database: %w", err)
	}
	return s, nil
}

// dump returns the lasting columns of all rows, by table and UUID, as they
// were at one moment.
func (d *database) dump(ctx context.Context, s dbSchema) (map[string]map[string]map[string]json.RawMessage, error) {
	var names []string
	var ops []ovsdb.Op
	for name, t := range s.Tables {
		columns := []string{"_uuid"}
		for c, is := range t.Columns {
			if !is.Ephemeral {
				columns = append(columns, c)
			}
		}
		names = append(names, name)
		ops = append(ops, ovsdb.Op{"op": "select", "table": name, "where": []any{}, "columns": columns})
	}
	results, err := d.Transact(ctx, ops...)
	if err != nil {
		return nil, err
	}
	tables := map[string]map[string]map[string]json.RawMessage{}
	for i, r := range results {
		var rows []map[string]json.RawMessage
		if err := json.Unmarshal(r.Rows, &rows); err != nil {
			return nil, fmt.Errorf("rows of %s: %w", names[i], err)
		}
		for _, row := range rows {
			var id [2]string
			if err := json.Unmarshal(row["_uuid"], &id); err != nil {
				return nil, fmt.Errorf("rows of %s: %w", names[i], err)
			}
			delete(row, "_uuid")
			if tables[names[i]] == nil {
				tables[names[i]] = map[string]map[string]json.RawMessage{}
			}
			tables[names[i]][id[1]] = row
		}
	}
	return tables, nil
}

// export returns the database as a stand-alone file: the schema and one record
// with all rows (ovsdb(5)).
func (d *database) export(ctx context.Context) ([]byte, error) {
	s, err := d.schema(ctx)
	if err != nil {
		return nil, err
	}
	tables, err := d.dump(ctx, s)
	if err != nil {
		return nil, err
	}
	record := map[string]any{"_date": time.Now().UnixMilli(), "_comment": "millrace db export"}
	for name, rows := range tables {
		record[name] = rows
	}
	b, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encode the database: %w", err)
	}
	return storage.AppendRecord(storage.AppendRecord(nil, s.text), b), nil
}

// sameFile reports whether two paths name one file.
func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// writeFile puts b in place of a file, at once and for good.
func writeFile(path string, b []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name()) // it is of no use
		}
	}()
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
