// Package reply makes the packets that answer others: ICMP errors (RFC 792, RFC 4443), TCP
// resets (RFC 9293 3.10.7.1) and SCTP aborts (RFC 9260 8.4).
//
// Whether a packet may be answered at all, the walk has said (flowtable.ActReply): none that is an error
// itself, none to or from a group. Here is what the bytes say: headers that are not whole, a
// segment whose length is not known, and an abort are not answered either.
//
//	Ethernet | tag, if the packet has one | IPv4 or IPv6 | ICMP, and the packet from IP on
//	                                                     | TCP
//	                                                     | SCTP, ABORT chunk
//
// A reply has its IP header's differentiated services from the packet, no ECN, and is not to
// be fragmented. An ICMP error is at most 576 bytes of IPv4 or 1,280 of IPv6, and quotes as much as that
// allows (RFC 1812 4.3.2.3, RFC 4443 2.4 c).
package reply
