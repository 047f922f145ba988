// Package engine is an OVSDB database in memory: rows, and the transactions of
// RFC 7047 5.2 that change them.
//
// One goroutine owns a DB; nothing in it is locked. Rows and what they hold are
// immutable: a change puts a new Row in the place of the old one, so whoever
// was given a Row (a monitor, a snapshot being written) may read it for ever.
//
// A transaction works on an overlay of changed rows. When its operations are
// done it is checked in the order of the stock server (references, garbage,
// table sizes, weak references, indexes); only then the overlay becomes the
// database, and its Changes say how.
package engine
