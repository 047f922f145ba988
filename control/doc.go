// Package control holds a dataplane to what the Open_vSwitch and Millrace databases
// say.
//
// # The way of a change
//
//	ovsdb.Client     whole transactions of rows          ovsdb/
//	bridge.From      rows -> State, or RowErrors         bridge/, pure
//	bridge.Diff      State - what there is -> changes    bridge/, pure
//	apply            changes -> calls of the dataplane   apply.go
//	report           State + what there is -> columns    tell.go, report.go
//	Transact         columns, and cur_cfg with them
//
// Rows of the Millrace database go another way, in the same goroutine:
//
//	ovsdb.Client     whole transactions of rows          flowrows.go
//	flows.Book       rows -> rules -> changes            flows/, pure
//	transact         one transaction of the flow table   flowsend.go, flowwire.go
//	flowTell         what came of it -> columns          flowtell.go
//
// One goroutine does all of it, once for whatever has come since it last
// looked: a pass. A pass over rows that say nothing new does nothing.
//
// # Who may die
//
// Control: the dataplane works on. The next control compares and changes what
// is not right. The dataplane: the stream of port events ends, and a new
// session begins with a comparison. The database: nothing changes until it is
// back; what was wanted last is kept in a file for a start without it.
package control
