// Package bridge turns rows of the Open_vSwitch database into what a dataplane
// shall have, and compares that with what it has.
//
//	rows -> From -> State -> Diff -> changes
//	        State + what the dataplane says -> Report -> status columns
//
// All of it is functions of their arguments: nothing is opened, remembered or
// changed, and equal rows give equal results, in equal order.
//
// A row that cannot be followed does no harm to others. A [RowError] says what
// is wrong with it. If the port cannot be had at all, or only as something
// less restricted than was asked for (a VLAN that is wrong must not become all
// VLANs), it is left out; a setting without such danger has its default.
package bridge
