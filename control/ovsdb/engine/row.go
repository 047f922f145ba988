package engine

import (
	"encoding/binary"
	"slices"

	"millrace/control/ovsdb/schema"
)

// A Row is one immutable state of a row.
type Row struct {
	ID      schema.UUID
	version uint64 // differs between any two states of any rows
	cols    []schema.Datum
}

// Get returns the value of column c.
func (r *Row) Get(c *schema.Column) schema.Datum {
	switch c.Index {
	case schema.IndexUUID:
		return schema.Datum{schema.UUIDAtom(r.ID)}
	case schema.IndexVersion:
		return schema.Datum{schema.UUIDAtom(versionUUID(r.version))}
	}
	return r.cols[c.Index]
}

// versionUUID spreads version, which counts up, over the shape of a UUID.
func versionUUID(version uint64) schema.UUID {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], version*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(b[8:], version)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return schema.UUID(b[:])
}

// NewRow returns a row of table t that holds the defaults. Set may be called
// until the row is shown to anybody.
func NewRow(t *schema.Table, id schema.UUID) *Row {
	r := &Row{ID: id, cols: make([]schema.Datum, len(t.Columns))}
	for i, c := range t.Columns {
		r.cols[i] = c.Default
	}
	return r
}

// Clone returns a copy of r that Set may be called on.
func (r *Row) Clone() *Row {
	return &Row{ID: r.ID, version: r.version, cols: slices.Clone(r.cols)}
}

// Set changes column c of a row that only the caller knows.
func (r *Row) Set(c *schema.Column, d schema.Datum) { r.cols[c.Index] = d }

// sameDatum is schema.Equal, quick when both share their atoms.
func sameDatum(a, b schema.Datum) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || schema.Equal(a, b)
}

// sameRow reports whether two states of a row hold the same.
func sameRow(a, b *Row) bool {
	return a == b || slices.EqualFunc(a.cols, b.cols, sameDatum)
}

// A Change is what a transaction did to one row. Old is nil for an inserted
// row, New for a deleted one.
type Change struct {
	Table    *schema.Table
	Old, New *Row
}

// ID returns the row that changed.
func (c *Change) ID() schema.UUID {
	if c.New != nil {
		return c.New.ID
	}
	return c.Old.ID
}
