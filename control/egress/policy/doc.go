// Package policy decides where requests out of a tunnel may go.
//
// A peer at the far end of a tunnel names a target: a protocol, and a host or
// address with a port. It is not trusted: it may name a socket of this node, the
// cloud's metadata service, or a name whose address changes between two looks.
// So everything is denied that no rule lets through, a name is looked up once,
// and what is dialled is the address that was judged, never the name.
//
// # Rules
//
// A policy is text, words with blanks between them:
//
//	pods=10.16.0.0/16,fd00:16::/64        through the switch, any port
//	services=10.96.0.0/12@443,6443        through the switch, these ports
//	node=192.0.2.10@10250                 through the host
//	deny=10.16.3.0/24                     nowhere
//	port-names=*.svc.cluster.local@443    names that DNS behind the port is asked for
//	host-names=node-*@10250               names that the host's resolver is asked for
//
// Of the rules for addresses those with the longest prefix that holds the
// address count, and no others: a deny among them ends it, and one of them must
// have the port. A name must match a rule for names, and then its addresses are
// judged like any: those that pass are tried.
//
// # What no rule can allow
//
// Protocols but tcp, tcp4, tcp6 and, where it is turned on, udp, udp4, udp6.
// Port 0. Addresses with a zone, unspecified, multicast and broadcast ones. An
// IPv4 address in IPv6 clothes (::ffff:192.0.2.1) is the IPv4 address. Loopback
// and link-local addresses pass only by a prefix that lies within theirs, not by
// one, such as 0.0.0.0/0, that happens to hold them.
//
// # Cost
//
// A decision is a scan of the rules, longest prefix first: some nanoseconds a
// rule, once for each request.
package policy
