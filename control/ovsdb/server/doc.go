// Package server is an OVSDB server: RFC 7047 and the stock server's additions
// (ovsdb-server(7)) over Unix and TCP sockets, durable in the stock server's
// file format.
//
// Goroutines and what they own:
//
//   - The hub owns the databases, locks, monitors and waiting transactions. It
//     runs requests one after another, and never blocks on a disk or a client.
//   - The flusher owns the log files. The hub hands it what is to be written,
//     and what is to be sent, in order; it sends a message only when all that
//     was written before it is on the disk. While it waits for the disk the hub
//     goes on, so transactions that come together share one fsync.
//   - Each session has a reader, which parses, and a writer, which empties a
//     bounded queue. First answers to monitors are made in the writer, from
//     rows that never change, so a large database holds up nobody but its
//     reader.
//
// So nothing that is not durable is ever seen by a client. If the disk fails,
// the server ends: what it holds in memory may be ahead of the file.
package server
