// Package l3 is an end of a tunnel for IP packets: operators reach whole subnets
// behind nodes that nobody can dial.
//
// The protocol is WireGuard, by the library of its authors: peers know each other
// by public keys, and each may use the addresses that it is given and no others.
// Stock WireGuard is a peer like any.
//
//	             Inward                     Deliver
//	peers ══▶ WireGuard ─▶ hub ─▶ Filter ─┬──────────▶ inner end (a device, a NIC of a stack)
//	      ◀══           ◀───┴─────────────┘◀────────── Outward
//	                        Relay, Own
//
// A Tunnel is the whole. Its hub is what WireGuard takes for a network device: it
// has the Filter judge packets a batch at a time, and hands them to the inner end,
// back to another peer, or answers them itself.
//
// # What WireGuard leaves to others
//
//   - A node that is silent is not told from one that is gone. A Tunnel sends peers
//     that have a Probe an echo each second. After 3 s without a word it shakes
//     hands anew every 2 s, with the server's name looked up anew, until it is
//     answered. So a link is used at once when it is back, and NAT has no time to
//     forget.
//   - A peer has one key. Here it may have several, for the time of a change: its
//     addresses are those of the key that shook hands last.
//   - What is not opened is not counted. Here datagrams are, by kind, and refusals
//     by reason.
package l3
