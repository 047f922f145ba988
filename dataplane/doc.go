// Package dataplane moves frames: ports, workers, bridges, the rules of bridges,
// and the account of every frame.
//
// # The way of a frame
//
//	RxQueue.Rx        headers to private memory             (port)
//	Worker.classify   direct: one program for all frames    (forward.go)
//	decideAll         decisions of learning bridges         (decision.go)
//	lookup            key, flow cache: program              (forward.go)
//	slow              a miss: walk through the rules        (slow.go)
//	perform           the program: edits, copies, outputs   (perform.go)
//	TxQueue.Tx        copy to each destination              (port)
//	RxQueue.Release   the source has its buffers back
//	TxQueue.Commit    the destinations see the frames
//	Signal            once a turn, to peers that sleep
//
// All of it happens in one worker, to completion, batch by batch: there is no
// queue between workers, no pool, and no reference count.
//
// # Rules
//
// There is one fast path. Where frames of a port begin is an entry in the flow
// table (package flowtable): a learning bridge is rules of the switch's own in a
// datapath of its own (learning.go), a wire is one rule, and a bridge whose pipeline is
// PipelineFlows begins in table 0 of the datapath that clients' rules are for. own.go
// keeps what is the switch's own in step with ports and bridges, each change in one
// transaction.
//
// Each worker has a walker, a flow cache and counters of rules of its own (engine.go). What
// it has cached is right as long as the guard cells of the program have not
// moved; transactions, and forwarding databases that learn or forget, move them
// (bank.go). A worker needs no word of a transaction beside that.
//
// A patch port is the one place where a program does not know the whole way: the frame
// comes in by its other end, with a key, a lookup and an account of its own.
//
// # Tunnels
//
// A tunnel port has no device (decision 0034). What is output to it gets outer headers and
// goes on as a frame of the underlay (tunnelpush.go); what the underlay delivers to the
// end of a tunnel loses them and is decided about as a frame of the tunnel port, after the
// batch that it came in and with the others of its kind (tunnelpop.go). tunnels.go keeps ports
// in step with what an [Underlay] knows of routes and neighbours.
//
// # Copies of a frame
//
// A program may send a frame many times, changed in between. Lists of what goes
// to ports name slots of the batch, so a slot that is on a list stays as it is: whoever
// changes the frame then goes on with a copy of its private bytes, in a slot behind
// those of received frames. The borrowed payload belongs to all versions. A frame that
// leaves once is changed where it lies; a batch has room for 960 copies, and what is beyond
// is dropped under its reason.
//
// # Lengths
//
// A key does not have the frame's length. For a port on whose frames some walk has asked for
// it (ActLarger), the lengths that made a difference divide frames into classes, which
// are put into bits of the key that no frame sets.
//
// # Workers and control
//
// A worker owns its queues, its counters and its view of ports and bridges.
// Control changes them by running a function on the worker, between two turns
// (Worker.do): that is the one way in, for configuration, for snapshots and for
// waiting until nothing old is in use. So the hot path has no lock and no
// atomic store, and a snapshot is exact.
//
// # The account
//
// For every port: frames received plus copies made equal outputs plus drops on
// the way in; outputs to it equal frames sent plus drops on the way out. A
// frame is counted when it is received, when its outputs are decided and when
// it is committed or dropped, all in the same turn; PortStats.Balanced holds
// between any two turns, also after a guest has pulled its memory away in the
// middle of a copy.
package dataplane
