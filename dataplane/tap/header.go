package tap

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

// hdrLen is the length of the virtio-net header before every frame: struct
// virtio_net_hdr_v1, little-endian (virtio 5.1.6). TUNSETVNETHDRSZ and
// TUNSETVNETLE say so to the kernel.
const hdrLen = 12

// tunOffloads are what TUNSETOFFLOAD can be asked for, the most first: the kernel
// takes all of a set or nothing. Datagrams are cut since Linux 6.2, for both IPs at once.
var tunOffloads = [...]tunOffload{
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6,
		packet.TakesSum | packet.TakesTCP4 | packet.TakesTCP6 | packet.TakesECN | packet.TakesUDP4 | packet.TakesUDP6},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
		packet.TakesSum | packet.TakesTCP4 | packet.TakesTCP6 | packet.TakesECN},
	{},
}

// A tunOffload is one set, as the kernel and as frames have it. It is what either end may
// ask for.
type tunOffload struct {
	flags int
	takes packet.Takes
}

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
