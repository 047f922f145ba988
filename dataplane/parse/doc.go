// Package parse turns the private bytes of frames into keys of the flow table.
//
// [Narrow] does so for a batch, [One] for a frame that a tool shows, and
// [Build] makes a frame that has a given key. [Locate] says where the headers
// are; One, the slow part of Narrow, and whoever edits frames use it, so that
// what was matched is what is edited.
//
// # What is read
//
// Only the head is read, which nobody but the worker can change. What was not
// read is zero in the key, so no rule matches on it by chance: every field has
// as its prerequisite the type, protocol or tag that says that it is there.
//
//   - Ethernet II. In 802.3 frames the type of a SNAP header with the
//     Ethernet's own organisation code counts; other frames have the type
//     [NoType], as in OVS.
//   - One tag, 802.1Q (0x8100) or 802.1ad (0x88a8). A second one is payload: the
//     type behind the tag is then the second tag's, as in OVS with vlan-limit 1.
//     Bit 12 of the TCI (drop eligible) reads as [flowtable.TagPresent].
//   - IPv4 with options. A header whose version, header length or total length
//     cannot be right has no fields but the Ethernet type. OVS does the same but for
//     the version, which it does not look at. Bytes behind the total length
//     are padding.
//   - IPv6 with hop-by-hop, routing, destination options, fragment and
//     authentication headers, as many as the head holds. ip.proto is what
//     follows them; if that cannot be told, it is the type of the header that could
//     not be read. A payload length beyond the frame's end has the effect of a
//     wrong IPv4 length.
//   - Fragments: ip.frag is 1 for the first, 3 for later ones, which have no
//     ports, and for IPv6 have ip.proto 44, as in OVS. An IPv6 fragment header
//     that says "all of it" (RFC 6946) is none.
//   - TCP, UDP, SCTP, ICMP and ICMPv6, if the whole fixed header is within the IP length.
//   - Neighbour discovery (ICMPv6 135 and 136 with code 0): target and
//     link-layer address options. If an option is broken or comes twice, there
//     are none of the three.
//   - ARP and RARP for IPv4 over Ethernet. Others have only their type.
//
// # Flaws
//
// A frame whose headers contradict its length is [Bad]; OVS and this switch
// forward it on what could be read. One whose headers go on beyond the head is
// [Deep]: the sender hides from rules what the receiver will read, so a port
// with rules about ports or protocols should not let it pass.
package parse
