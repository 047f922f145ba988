// Package model has a struct for each table of the Open_vSwitch database, with
// a field for each column, as libovsdb's modelgen makes them from the stock
// schema. hack/generate writes all but this file.
package model
