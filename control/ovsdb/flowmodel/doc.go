// Package flowmodel has a struct for each table of the Millrace database, with
// a field for each column, as libovsdb's modelgen makes them from our schema.
// hack/generate writes all but this file.
package flowmodel
