// Package edit carries out what a composed program says about the bytes of a
// frame: [flowtable.OpSet], OpPushVLAN, OpPopVLAN and OpDecTTL, on the private
// head of a frame in a batch.
//
// A word of the key is a view of the frame, so setting bits of a word means to write the
// fields that lie there and to correct the checksums over them. Fields are where
// [parse.Locate] finds them in the frame as it came, whatever tags are put on
// or taken off meanwhile. What the frame does not have is not written: the
// rules' prerequisites see to it that this does not matter. What describes the frame
// and is not a field that can be chosen (in port, Ethernet type, IP protocol,
// fragment bits, TCP flags) cannot be set either; nor can the tunnel, which
// belongs to ports, and the drop eligible bit, whose place in the key says that there is a tag.
//
// # Checksums
//
// They are corrected by what changed (RFC 1624), not computed anew: the payload
// is not looked at, and a wrong checksum stays wrong. A UDP checksum of zero
// (none) stays zero, and none becomes zero. SCTP's CRC32c is corrected the same
// way, since it is linear; that of a fragmented SCTP message cannot be, as its
// length is not in the frame.
//
// A checksum is corrected only if its header is in the head: a frame that the
// parser calls [parse.Deep] keeps that of TCP or UDP when its addresses
// change, and its receiver drops it.
package edit
