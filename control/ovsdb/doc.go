// Package ovsdb is a client of an OVSDB server (RFC 7047): it connects and
// connects again, keeps the rows of some tables, and hands on what changed,
// whole transactions at a time.
//
// Rows are the generated structs of package model; values, operations and the
// mapping between rows and structs are libovsdb's. Its client is not used,
// because its cache can be read only table by table: a reader sees half of a
// transaction, such as a Port whose Interface is not there yet. Here, what
// Take returns is always a state that the database was in.
//
// A connection that is lost changes nothing: the rows stay as they were. After
// the next connect the batch is a Reset with all rows, and whoever compares it
// with what he has finds the difference only.
package ovsdb
