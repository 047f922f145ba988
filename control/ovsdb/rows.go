package ovsdb

import (
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// A Table says what to know of a table.
type Table struct {
	Name  string
	Row   model.Model // pointer to the generated struct
	Watch []string    // columns of which every change is told
	Once  []string    // columns that are read with a new row only: nobody but us writes them
}

// A Change is a row that is new, has changed, or is gone.
type Change struct {
	Table string
	UUID  string
	Row   model.Model // of the type of Table.Row; not changed any more; nil: the row is gone
}

// A Batch is one or more whole transactions, each row at most once.
type Batch struct {
	Reset     bool     // forget all rows first: Changes has all that there are
	Changes   []Change // in no order
	Connected bool     // as of now
	Owner     bool     // connected, and holding the lock if there is one
}

// rowKey names a row.
type rowKey struct{ table, uuid string }

// pending is what has changed since somebody took it. Usually that is one
// transaction: only with the second, rows are looked for.
type pending struct {
	list []Change
	at   map[rowKey]int // places in list; nil: not known yet
}

// add adds the changes of a transaction, which it keeps.
func (p *pending) add(changes []Change) {
	if len(p.list) == 0 {
		p.list, p.at = changes, nil
		return
	}
	if p.at == nil {
		p.at = make(map[rowKey]int, len(p.list)+len(changes))
		for i := range p.list {
			p.at[rowKey{p.list[i].Table, p.list[i].UUID}] = i
		}
	}
	for _, c := range changes {
		k := rowKey{c.Table, c.UUID}
		i, known := p.at[k]
		if !known {
			p.at[k] = len(p.list)
			p.list = append(p.list, c)
			continue
		}
		p.list[i] = c
	}
}

// store is the rows as the server has told of them. The connection's reader
// owns it.
type store struct {
	db     model.DatabaseModel               // for what is written
	shapes map[string]*shape                 // by table
	rows   map[string]map[string]model.Model // by table and UUID
	known  *strs
}

// newStore makes a store for rows of these tables.
func newStore(schema ovsdb.DatabaseSchema, tables []Table) (*store, error) {
	models := make(map[string]model.Model, len(tables))
	s := &store{rows: make(map[string]map[string]model.Model, len(tables)), shapes: make(map[string]*shape, len(tables)), known: &strs{seed: maphash.MakeSeed()}}
	for _, t := range tables {
		models[t.Name], s.rows[t.Name] = t.Row, map[string]model.Model{}
		sh, err := newShape(t.Row)
		if err != nil {
			return nil, fmt.Errorf("model of table %s: %w", t.Name, err)
		}
		s.shapes[t.Name] = sh
	}
	client, err := model.NewClientDBModel(schema.Name, models)
	if err != nil {
		return nil, fmt.Errorf("model of database %s: %w", schema.Name, err)
	}
	db, errs := model.NewDatabaseModel(schema, client)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("model of database %s: %w", schema.Name, err)
	}
	s.db = db
	return s, nil
}

// forget forgets all rows.
func (s *store) forget() {
	for table := range s.rows {
		s.rows[table] = map[string]model.Model{}
	}
}

// apply takes one update2 (ovsdb-server(7)), which is one transaction, and
// returns what it changed. Tables that are not known are not looked at.
func (s *store) apply(updates []byte) ([]Change, error) {
	in := &scanner{text: updates, known: s.known}
	var changes []Change
	in.object(func(name []byte) {
		table := string(name)
		sh := s.shapes[table]
		if sh == nil {
			in.skip()
			return
		}
		rows := s.rows[table]
		in.object(func(id []byte) {
			uuid := string(id)
			before := rows[uuid]
			row := s.row(in, sh, rows, uuid)
			if in.err != nil {
				in.err = fmt.Errorf("row %.60s of %s: %w", id, table, in.err)
				return
			}
			if row != nil && row == before {
				return // servers tell so that something has changed of what is read once
			}
			changes = append(changes, Change{Table: table, UUID: uuid, Row: row})
		})
	})
	if in.err == nil && in.peek() != 0 {
		in.fail("more than one value")
	}
	return changes, in.err
}

// row takes the update of one row and returns the row as it is now, nil if it
// is gone.
func (s *store) row(in *scanner, sh *shape, rows map[string]model.Model, uuid string) (row model.Model) {
	n := 0
	in.object(func(what []byte) {
		if n++; n > 1 {
			in.fail("more than one update")
			return
		}
		switch string(what) {
		case "initial", "insert":
			row = sh.fresh(in, uuid)
		case "modify":
			old := rows[uuid]
			if old == nil {
				in.fail("was modified, but never there")
				return
			}
			row = sh.modified(in, old)
		default:
			in.skip()
		}
	})
	switch {
	case in.err != nil:
		return nil
	case row == nil:
		delete(rows, uuid)
	default:
		rows[uuid] = row
	}
	return row
}

// NewUpdate is the operation that gives row, a pointer to a generated struct,
// the values that it has in columns.
func (c *Client) NewUpdate(table, uuid string, row model.Model, columns ...string) (ovsdb.Operation, error) {
	info, err := c.store.db.NewModelInfo(row)
	if err != nil {
		return ovsdb.Operation{}, err
	}
	values := ovsdb.NewRow()
	for _, name := range columns {
		native, err := info.FieldByColumn(name)
		if err != nil {
			return ovsdb.Operation{}, err
		}
		v, err := ovsdb.NativeToOvs(info.Metadata.TableSchema.Column(name), native)
		if err != nil {
			return ovsdb.Operation{}, fmt.Errorf("column %s of %s: %w", name, table, err)
		}
		values[name] = v
	}
	return ovsdb.Operation{
		Op: ovsdb.OperationUpdate, Table: table, Row: values,
		Where: []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, ovsdb.UUID{GoUUID: uuid})},
	}, nil
}
