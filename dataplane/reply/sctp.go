package reply

import (
	"encoding/binary"
	"hash/crc32"

	"millrace/flowtable"
)

// Types of SCTP chunk (RFC 9260 3.2).
const (
	chunkInit             = 1
	chunkAbort            = 6
	chunkShutdownComplete = 14
)

// castagnoli is the polynomial of SCTP's checksum (RFC 9260 appendix A).
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// abort writes what a host sends that has no such association (RFC 9260 8.4). Packets that end one
// are not answered: it reports false.
func (m *maker) abort() bool {
	sctp := m.frame[m.l.L4:]
	tag, reflected := binary.BigEndian.Uint32(sctp[4:]), uint8(1)
	for b := sctp[sctpLen:]; len(b) >= chunkLen; {
		switch {
		case b[0] == chunkAbort || b[0] == chunkShutdownComplete:
			return false
		case b[0] == chunkInit && len(b) >= 8:
			tag, reflected = binary.BigEndian.Uint32(b[4:]), 0 // the tag that it wants to see (8.5.1 A)
		}
		size := (int(binary.BigEndian.Uint16(b[2:])) + 3) &^ 3
		if size < chunkLen || size > len(b) {
			break
		}
		b = b[size:]
	}
	m.ip(protoSCTP, flowtable.ReplyTTL, sctpLen+chunkLen)
	l4 := len(m.out)
	m.out = append(append(m.out, sctp[2:4]...), sctp[:2]...)
	m.out = binary.BigEndian.AppendUint32(m.out, tag)
	m.out = append(m.out, 0, 0, 0, 0, chunkAbort, reflected, 0, chunkLen)
	binary.LittleEndian.PutUint32(m.out[l4+8:], crc32.Checksum(m.out[l4:], castagnoli))
	return true
}
