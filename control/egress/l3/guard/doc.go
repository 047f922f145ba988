// Package guard decides which packets pass through the end of a tunnel.
//
// # On a node
//
// Operators begin flows, pods answer. A packet from an operator passes if it
// belongs to a flow that began before under the policy of now, or begins one:
//
//   - TCP, UDP and SCTP: the policy allows the destination at this port, by a rule
//     for pods or services;
//   - an echo request, and protocols without ports: a rule without ports allows the
//     destination;
//   - an ICMP error: it quotes a packet of a flow.
//
// A packet to an operator passes if it is the reply of a flow: same addresses,
// ports (or identifier of the echo) and protocol, the other way round; or an ICMP
// error that quotes a packet of one. Pods begin nothing, but to prefixes that the
// node names for it; that is judged by the other end.
//
// # On a server
//
// The same with nodes for pods and no policy: operators and the server's own host
// begin flows to addresses of nodes; nodes answer. Between two nodes all passes if
// that is turned on, and nothing otherwise. Between two operators nothing passes.
//
// # Flows
//
// A flow is remembered until nothing has come of it for 2 to 4 hours (TCP) or 3 to
// 6 minutes (all else). What is remembered is bounded; when more flows begin, old
// ones are forgotten earlier. That ends no connection: the next packet of an
// operator is judged anew, and the flow is known again. It is not tracked whether a
// connection is open, so a reply may come late or out of order, as it may anywhere.
//
// Fragments pass after the first one of their packet has passed.
package guard
