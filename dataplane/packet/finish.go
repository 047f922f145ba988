package packet

import "encoding/binary"

// Settle makes frame i good for a peer that takes what is in takes: its checksum is
// finished if the peer does not do that. It reports whether it has; the frame then asks
// for nothing, and is good for everybody. A super-frame is for peers that take it.
//
// A checksum that is not finished holds the sum of the pseudo header. On the way it may
// have been corrected as if it were finished, when addresses or ports were changed. So it is
// written here, from the headers as they are now.
//
// It panics like any access if the lender has taken the memory away.
func (b *Batch) Settle(i int, takes Takes) bool {
	if !b.Asking || b.asks[i].start == 0 {
		return false
	}
	a := &b.asks[i]
	from := int(a.start - b.Frames[i].Off)
	n := int(b.Frames[i].Len) - from
	if a.net != 0 {
		n = b.putPseudo(i)
	}
	if takes&TakesSum != 0 {
		return false
	}
	v := ^b.SumTo(i, from, from+n)
	if v == 0 && a.field-a.start == udpSum {
		v = 0xffff // zero says that there is none (RFC 768); elsewhere it is zero (RFC 1624)
	}
	binary.BigEndian.PutUint16(b.heads[i][a.field:], v)
	*a = ask{}
	return true
}

// putPseudo writes the sum of frame i's pseudo header to the checksum's place, and
// returns how many bytes the checksum is over.
func (b *Batch) putPseudo(i int) int {
	s, a := &b.heads[i], &b.asks[i]
	proto := uint64(protoUDP)
	if a.field-a.start == tcpSum {
		proto = protoTCP
	}
	ip := s[a.net:]
	end := ip6Len + int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 == 4 {
		end = int(binary.BigEndian.Uint16(ip[2:]))
	}
	n := end - int(a.start-a.net)
	binary.BigEndian.PutUint16(s[a.field:], Fold(pseudo(ip, proto, n)))
	return n
}

// pseudo is the sum of the pseudo header of n bytes of a protocol behind an IP header.
func pseudo(ip []byte, proto uint64, n int) uint64 {
	addrs := ip[8:40]
	if ip[0]>>4 == 4 {
		addrs = ip[12:20]
	}
	sum := proto + uint64(n)
	for ; len(addrs) != 0; addrs = addrs[2:] {
		sum += uint64(binary.BigEndian.Uint16(addrs))
	}
	return sum
}

// Cut makes the segments of super-frame i, once however often it is called, and
// returns the first one's number and how many there are; they follow each other, and
// their checksums are not finished. There are none if there is no room.
//
// Each has the headers in its private head. The payload stays where it is.
func (b *Batch) Cut(i int) (first, n int) {
	f, a := &b.Frames[i], &b.asks[i]
	if a.cuts != 0 {
		return int(a.cut), int(a.cuts)
	}
	payload := f.Len - uint32(a.body-f.Off)
	size := uint32(a.size)
	n = int((payload + size - 1) / size)
	if n > SlotsMax-BatchMax-b.copies || n+int(f.NSeg)+1 > SegsMax-b.NSegs {
		return 0, 0
	}
	first = BatchMax + b.copies
	b.copies += n
	rest := Seg{b.SlotAddr(i, a.body), uintptr(f.HeadLen - (a.body - f.Off))}
	segs := b.Tail(i)
	for k := range uint32(n) {
		m := min(size, payload-k*size)
		rest, segs = b.segment(i, first+int(k), m, rest, segs)
		b.number(first+int(k), k, m, k == uint32(n)-1)
	}
	a.cut, a.cuts = uint16(first), uint16(n)
	return first, n
}

// segment makes slot j a segment of frame i with the next m bytes of its payload, of
// which rest and segs are still there; it returns what is left of them.
func (b *Batch) segment(i, j int, m uint32, rest Seg, segs []Seg) (Seg, []Seg) {
	a, off := &b.asks[i], b.Frames[i].Off
	g := &b.Frames[j]
	*g = Frame{Off: off, HeadLen: a.body - off, Len: uint32(a.body-off) + m, Seg: uint32(b.NSegs)}
	copy(b.heads[j][off:a.body], b.heads[i][off:])
	b.asks[j] = ask{start: a.start, field: a.field, net: a.net, kind: a.kind, body: a.body, size: a.size, ecn: a.ecn}
	for left := uintptr(m); left > 0; {
		for rest.Len == 0 {
			rest, segs = segs[0], segs[1:]
		}
		n := min(left, rest.Len)
		b.Segs[b.NSegs] = Seg{rest.Addr, n}
		b.NSegs++
		g.NSeg++
		rest.Addr, rest.Len, left = rest.Addr+n, rest.Len-n, left-n
	}
	return rest, segs
}

// TCP flags that not all segments have (RFC 9293, 3168).
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// number gives segment k, in slot j with m bytes of payload, lengths and numbers of its
// own in its headers. It is a super-frame no more.
func (b *Batch) number(j int, k, m uint32, last bool) {
	s, a := &b.heads[j], &b.asks[j]
	ip, l4 := s[a.net:], s[a.start:a.body]
	switch a.kind {
	case TCP4, UDP4:
		change(ip, ip[2:], a.body-a.net+uint16(m))
		change(ip, ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(k))
	default:
		binary.BigEndian.PutUint16(ip[4:], a.body-a.net-ip6Len+uint16(m))
	}
	switch a.kind {
	case TCP4, TCP6:
		binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+k*uint32(a.size))
		if !last {
			l4[13] &^= tcpFIN | tcpPSH
		}
		if k > 0 {
			l4[13] &^= tcpCWR
		}
	default:
		binary.BigEndian.PutUint16(l4[4:], udpLeast+uint16(m))
	}
	*a = ask{start: a.start, field: a.field, net: a.net}
}

// change writes v to a field of an IPv4 header and corrects the header's checksum
// (RFC 1624, equation 3).
func change(ip, field []byte, v uint16) {
	sum, old := binary.BigEndian.Uint16(ip[10:]), binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, v)
	binary.BigEndian.PutUint16(ip[10:], ^Fold(uint64(^sum)+uint64(^old)+uint64(v)))
}
