// Package agent is the node's end of a Konnectivity tunnel. It dials the
// proxy-servers of a control plane, takes requests from them, and opens the
// connections that they ask for, as far as a policy allows. It speaks the
// protocol of sigs.k8s.io/apiserver-network-proxy, so that servers need no change.
//
//	Agent       all servers
//	└ address   one address of one server: some links, and a new one when one fails
//	  └ link    one gRPC connection: a pool of idle streams, and those in use
//	    └ stream    one Connect stream: an agent of its own, as a server sees it
//	      └ request     one connection to a target
//
// # A stream for each request
//
// The protocol has no flow control for each connection, and the server writes to
// a stream's clients one after the other, so whoever stops reading stops all
// that share the stream. Here no two requests share one. Each stream tells the
// server another agent id; at its first dial it sends DRAIN, which has servers
// (v0.35 and later) prefer others, and the link opens another. What limits a
// request then is its own HTTP/2 window, in both directions, from the client's
// socket to the target's.
//
// Servers that take no notice of DRAIN are found by what they do, a dial on a
// stream long drained. Their streams are shared: a request whose queue is full
// is closed then, for the stream must be read on.
//
// # Invariants
//
//   - A connect id is never used twice by a process, whatever the stream.
//   - What came from the client before a CLOSE_REQ goes to the target before the
//     connection is closed; what came from the target goes to the client before
//     the CLOSE_RSP. Each connection has one CLOSE_RSP.
//   - A drained stream ends when it has had no dial and no connection for a second, or for
//     300 ms if the server heeds DRAIN and is known to have had it.
//   - The first bytes of a target wait until the client has spoken, or for 50 ms:
//     servers and clients lose data that comes on the heels of a DIAL_RSP.
//   - Queues hold 64 MiB together, and a packet each beyond that, so one that is
//     full never stops one that is empty.
package agent
