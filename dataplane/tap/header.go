package tap

import (
	"encoding/binary"

	"millrace/dataplane/packet"
)

// hdrLen is the length of the virtio-net header before every frame: struct
// virtio_net_hdr_v1, little-endian (virtio 5.1.6). TUNSETVNETHDRSZ and
// TUNSETVNETLE say so to the kernel.
const hdrLen = 12

// Fields and flags of the header, by their names in virtio 5.1.6.
const (
	hdrFlags = 0
	hdrGSO   = 1

	flagDataValid = 2 // VIRTIO_NET_HDR_F_DATA_VALID: the checksum was checked
)

// checkHeader says why a frame that the kernel sends with header h cannot be
// carried: it asks for an offload, and none was agreed on (TUNSETOFFLOAD). That
// the kernel has checked a checksum asks for nothing.
func checkHeader(h []byte) packet.Reason {
	if h[hdrFlags]&^flagDataValid != 0 || h[hdrGSO] != 0 {
		return packet.ReasonRxHeader
	}
	return packet.ReasonNone
}

// txHeader writes the header of a frame to the kernel: its checksums are there
// and it is one segment.
func txHeader(h []byte) { clear(h[:hdrLen]) }

const (
	macsLen = 12
	tagLen  = 4

	typeVLAN = 0x8100 // 802.1Q
	typeQinQ = 0x88a8 // 802.1ad
)

// isTagged reports whether a frame that begins with head has an 802.1Q or
// 802.1ad tag.
func isTagged(head []byte) bool {
	if len(head) < macsLen+2 {
		return false
	}
	t := binary.BigEndian.Uint16(head[macsLen:])
	return t == typeVLAN || t == typeQinQ
}
