// Package schema holds OVSDB's types and values: what a database's schema says
// (RFC 7047 3.2) and the values its columns take (RFC 7047 5.1).
//
// A Datum is an immutable, sorted slice of atoms, so rows share data freely
// between goroutines, and comparing, joining and subtracting sets is a merge.
//
// The schemas that come with the program are data of other projects:
// vswitch.ovsschema (version 8.3.1) and server.ovsschema (1.2.0) are Open
// vSwitch 3.1's, under the Apache licence 2.0.
package schema
