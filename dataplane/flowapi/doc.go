// Package flowapi turns what package flowtable works with into messages of the
// service Flows, and back. Both sides of the API use it: control makes messages,
// the dataplane reads them.
//
//	flowtable.Rule --ToRule--> api.FlowRule --FromRule--> flowtable.Rule
//	                              bytes --Decoder.Read--> Change
//
// [Decoder] is the way of a transaction: it reads what came over the wire without
// a message for each word of each rule. It is held to protobuf and [FromChange]
// by tests.
//
// From* and Decoder check that numbers fit where they go, that fields exist, and
// how many and how deep things are. What a rule means, and whether what it names
// is there, flowtable checks.
package flowapi
