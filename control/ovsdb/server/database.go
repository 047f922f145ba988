package server

import (
	"errors"
	"fmt"
	"sync/atomic"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/storage"
)

// A database is one database that is served. All but log is the hub's.
type database struct {
	path     string
	schema   *schema.Database
	rows     *engine.DB
	monitors []*monitor
	waiting  []*waiting
	commits  uint64

	log          *storage.Log // the flusher's; nil for _Server
	compacting   bool         // the flusher's
	compactFrom  int64        // the flusher's: bytes of the file before which none is tried, after one has failed
	size         atomic.Int64 // of the file
	compactions  atomic.Uint64
	compacted    atomic.Int64 // when that last was, in ms since 1970; 0: not yet
	wantsCompact atomic.Bool  // set by the flusher, taken by the hub
}

// openDatabase reads the file of d, or makes it. A file with an older version
// of the schema is converted; one with a newer version keeps it, so that what
// another program stored there is not lost.
func openDatabase(d Database) (*database, error) {
	want, err := schema.Parse(d.Schema)
	if err != nil {
		return nil, err
	}
	db := &database{path: d.Path, schema: want}
	log, err := storage.Open(d.Path, []byte(want.Text), db.replay)
	if err != nil {
		return nil, err
	}
	db.log = log
	if db.rows == nil {
		err = errors.New("file has no schema")
	} else {
		err = db.adopt(want)
	}
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("open database %s: %w", d.Path, err)
	}
	now, _ := log.Size()
	db.size.Store(now)
	return db, nil
}

// replay applies a record of the file; the first is the schema.
func (db *database) replay(json []byte) error {
	v, err := jsonval.Parse(json)
	if err != nil {
		return err
	}
	if db.rows != nil {
		return db.rows.Replay(v)
	}
	s, err := schema.FromJSON(v)
	if err != nil {
		return err
	}
	if s.Name != db.schema.Name {
		return fmt.Errorf("file holds database %s, not %s", s.Name, db.schema.Name)
	}
	db.schema = s
	db.rows = engine.New(s)
	return nil
}

// adopt makes what was read ready for use, under the schema we want if the
// file's is older.
func (db *database) adopt(want *schema.Database) error {
	if !older(db.schema.Version, want.Version) {
		return db.rows.Finish()
	}
	db.schema = want
	db.rows = db.rows.Convert(want)
	db.wantsCompact.Store(true)
	if err := db.rows.Finish(); err != nil {
		return err
	}
	return db.rewrite()
}

// rewrite compacts the file at once, before anybody is served.
func (db *database) rewrite() error {
	c, err := db.log.BeginCompact()
	if err != nil {
		return err
	}
	if err := writeSnapshot(c, db.schema, db.rows.Snapshot()); err != nil {
		return errors.Join(err, db.log.Abort(c))
	}
	db.wantsCompact.Store(false)
	return db.log.Commit(c)
}

// older reports whether version a, like 8.3.1, comes before b.
func older(a, b string) bool {
	var x, y [3]int
	_, _ = fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2]) // what is missing is 0
	_, _ = fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

// newServerDatabase returns the _Server database, which tells about dbs and
// itself.
func newServerDatabase(dbs []*database) (*database, error) {
	s, err := schema.Parse(schema.Server)
	if err != nil {
		return nil, err
	}
	self := &database{schema: s, rows: engine.New(s)}
	t := s.Table("Database")
	str := func(s string) schema.Datum { return schema.Datum{schema.StringAtom(s)} }
	for _, db := range append(dbs, self) {
		r := engine.NewRow(t, schema.NewUUID())
		r.Set(t.Column("name"), str(db.schema.Name))
		r.Set(t.Column("model"), str("standalone"))
		r.Set(t.Column("connected"), schema.Datum{schema.BoolAtom(true)})
		r.Set(t.Column("leader"), schema.Datum{schema.BoolAtom(true)})
		r.Set(t.Column("schema"), str(db.schema.Text))
		self.rows.Put(t, r.ID, r)
	}
	return self, self.rows.Finish()
}
