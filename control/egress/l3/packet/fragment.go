package packet

import "encoding/binary"

// Fragments cuts an IPv4 packet into pieces of at most mtu bytes (RFC 791 3.2). It
// is nil for packets that may not be cut: those of IPv6, and those that say so.
func Fragments(b []byte, mtu int) [][]byte {
	head := int(b[0]&0xf) * 4
	where := binary.BigEndian.Uint16(b[6:])
	if b[0]>>4 != 4 || where&0x4000 != 0 {
		return nil
	}
	b = b[:Size(b)]
	step := (mtu - head) &^ 7
	var all [][]byte
	for at := head; at < len(b); at += step {
		end := min(at+step, len(b))
		f := append(append(make([]byte, 0, head+end-at), b[:head]...), b[at:end]...)
		w := where + uint16((at-head)/8)
		if end < len(b) {
			w |= 0x2000
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[6:], w)
		sealIP(f[:head])
		all = append(all, f)
	}
	return all
}
