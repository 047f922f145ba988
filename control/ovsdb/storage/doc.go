// Package storage keeps a database in the log file of a stand-alone
// ovsdb-server (ovsdb(5)), so that either server can take over the other's file.
//
// A file is a sequence of records, each
//
//	OVSDB JSON <length> <SHA-1 in hex>\n<length bytes of JSON, the last is \n>
//
// The first holds the schema, every other one a transaction. A record is
// written with one write and is there or not: what follows the last whole
// record when a file is opened is the torn end of a write that nobody was told
// of. It is kept beside the file and cut off.
//
// One goroutine owns a Log. The lock file beside it is the stock programs' own,
// so ovsdb-tool refuses to write a file that is being served.
package storage
