// Package flows turns rows of the Millrace database into what a flow table holds:
// rules, sets, select groups and meters. It knows neither database nor dataplane: rows
// go in, changes come out, and what came of them goes in again.
//
//	SetFlow, SetAddressSet, ...   rows that are new or have changed
//	SetBridges                    which bridges there are, with which ports
//	Compile                       rules of what has changed, and of who names it
//	Begin                         what a dataplane has, when a session begins
//	Changes -> Done               the next transaction, and what of it was refused
//	Settle, News -> Told          what rows should say, and that they do
//
// # From text to rules
//
// Package logical parses and compiles a match into clauses and names into numbers.
// Each clause is one rule, or several: where membership in one of several sets
// is asked for, where bits cross from one word into the next, and where actions do
// different things to packets with a VLAN tag and without. Sets stay sets. Prerequisites of
// actions, also of a group's buckets, are part of the match.
//
// Beyond OVN's language, outport may be "_flood", all ports of the bridge but that
// which the packet came by, and meter("name") and group("name") are verbs.
// is_chassis_resident is true for ports of the bridge. There is one pipeline: tables
// 0 to 255. Verbs of the OVN chassis are refused.
//
// # Identity
//
// A rule's id is a digest of what it says; a set, group or meter is numbered by
// a digest of its name or content. So the same rows have the same rules in each life of
// control, and the dataplane's listing of ids is enough to find the difference.
package flows
