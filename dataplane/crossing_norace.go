//go:build !race

package dataplane

// connectionsMost bounds the table of connections by default.
const connectionsMost = 4 << 20
