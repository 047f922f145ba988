package dataplane

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"

	"millrace/dataplane/conntrack"
)

// The ends of talks: they make packets of steps, as one switch lets them see each
// other, and read what comes out of it.

// A pair are the addresses of a packet.
type pair struct{ src, dst netip.AddrPort }

func (p pair) String() string { return p.src.String() + ">" + p.dst.String() }

// reply is the pair of an answer.
func (p pair) reply() pair { return pair{p.dst, p.src} }

// directionOf is one direction of a connection as the kernel and Open vSwitch list them. at reads
// an address and a port by the names of their fields. icmp is the type of ICMP, or empty: of an echo,
// the identifier is the client's port, and the server has none.
func directionOf(icmp string, at func(addr, port string) netip.AddrPort) pair {
	switch icmp {
	case "8":
		return pair{at("src", "id"), at("dst", "none")}
	case "0":
		return pair{at("src", "none"), at("dst", "id")}
	}
	return pair{at("src", "sport"), at("dst", "dport")}
}

// ends are those of all talks with one switch.
type ends struct {
	far  map[*talk]pair      // what the client's packets look like outside, if any came out
	last map[*talk][2][]byte // last packet that came to a side, IP
	sent map[uint16]pair
	out  map[uint16]*outcome
	rest []framed // of datagrams of which not all came: a switch may wait for it
}

func newEnds() *ends {
	return &ends{map[*talk]pair{}, map[*talk][2][]byte{}, map[uint16]pair{}, map[uint16]*outcome{}, nil}
}

// An outcome is what came out of a switch of one datagram.
type outcome struct {
	came   string // its contents, in terms that do not depend on a switch's choices
	state  byte   // ct_state when it was looked up
	then   byte   // and after its commit
	mark   uint32
	pieces map[int][]byte // of a datagram in fragments
	size   int            // of it, if the last one came
	bad    string         // what is wrong in any case
}

// expectedFar is what a talk's packets look like outside if nobody has seen them.
func (t *talk) expectedFar() pair {
	p := pair{t.client, t.server}
	port := t.client.Port()
	at := func(s string, port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), port) }
	switch t.class {
	case classSource:
		p.src = at("203.0.113.3", port)
	case classRange:
		p.src = at("203.0.114.1", port)
	case classServer:
		p.dst = at("198.51.5.1", 8080)
	case classBoth:
		p = pair{at("203.0.113.6", port), at("198.51.6.1", 8080)}
	case classTwo:
		p.src = at("203.0.113.7", port)
	}
	if t.proto == conntrack.ProtoICMP {
		p.dst = netip.AddrPortFrom(p.dst.Addr(), 0)
	}
	return p
}

// translates reports whether p is what a talk's packets may become.
func (t *talk) translates(p pair) bool {
	want := t.expectedFar()
	if p.dst != want.dst {
		return false
	}
	if t.class == classRange {
		a := p.src.Addr().As4()
		ported := p.src.Port() >= 20000 && p.src.Port() < 20500
		return a[0] == 203 && a[1] == 0 && a[2] == 114 && a[3] >= 1 && a[3] <= 3 && (ported || t.proto == conntrack.ProtoICMP)
	}
	free := t.class == classSource || t.class == classBoth || t.class == classTwo // another port, if it clashes
	return p.src == want.src || free && p.src.Addr() == want.src.Addr() && p.src.Port() != 0
}

// nobody is added to the port of a client that the server has not seen: what it sends there
// is for nobody.
const nobody = 10000

// farOf is what a talk's packets look like outside, as far as the server knows.
func (e *ends) farOf(t *talk) pair {
	p, ok := e.far[t]
	if !ok {
		p = t.expectedFar()
		if t.class > classOpen {
			p.src = netip.AddrPortFrom(p.src.Addr(), p.src.Port()+nobody)
		}
	}
	return p
}

// packets makes the IP packets of a step.
func (e *ends) packets(s *step) (list [][]byte) {
	if s.kind == stepError {
		return [][]byte{e.errorAbout(s)}
	}
	p := pair{s.talk.client, s.talk.server}
	if s.side == serverSide {
		p = e.farOf(s.talk).reply()
	}
	e.sent[s.id] = p
	l4 := s.transport(p)
	if s.parts == nil {
		return [][]byte{ipPacket(s.talk.proto, s.dscp, s.id, 0, p, l4)}
	}
	for _, f := range s.parts {
		list = append(list, s.fragment(p, l4, f))
	}
	if !s.whole() {
		for from := 0; from < len(l4); from += fragmentSize {
			e.rest = append(e.rest, framed{s.side, s.fragment(p, l4, part{from, min(from+fragmentSize, len(l4)), from+fragmentSize >= len(l4)})})
		}
	}
	return list
}

// fragment makes a fragment of a datagram.
func (s *step) fragment(p pair, l4 []byte, f part) []byte {
	at := uint16(f.from / 8)
	if !f.last {
		at |= 0x2000
	}
	return ipPacket(s.talk.proto, s.dscp, s.id, at, p, l4[f.from:f.to])
}

// transport makes what is behind the IP header.
func (s *step) transport(p pair) (l4 []byte) {
	at := 0
	be := binary.BigEndian
	switch s.talk.proto {
	case conntrack.ProtoTCP:
		l4, at = make([]byte, 20), 16
		be.PutUint32(l4[4:], s.seq)
		be.PutUint32(l4[8:], s.ack)
		l4[12], l4[13] = 5<<4, s.flags
		be.PutUint16(l4[14:], s.win)
	case conntrack.ProtoUDP:
		l4, at = make([]byte, 8), 6
		be.PutUint16(l4[4:], uint16(8+s.data))
	case conntrack.ProtoICMP:
		l4, at = make([]byte, 8), 2
		l4[0] = 8
		id := p.src.Port()
		if s.side == serverSide {
			l4[0], id = 0, p.dst.Port()
		}
		be.PutUint16(l4[4:], id)
	}
	pseudo := uint32(0)
	if s.talk.proto != conntrack.ProtoICMP {
		be.PutUint16(l4, p.src.Port())
		be.PutUint16(l4[2:], p.dst.Port())
		pseudo = pseudoHeader(s.talk.proto, p, len(l4)+s.data)
	}
	for i := range s.data {
		l4 = append(l4, byte(i)+byte(s.id))
	}
	check := folded(sum(pseudo, l4))
	if check == 0 && s.talk.proto == conntrack.ProtoUDP {
		check = 0xffff // 0 says that there is none
	}
	be.PutUint16(l4[at:], check)
	return l4
}

// pseudoHeader is the sum of what the checksums of TCP and UDP have in front.
func pseudoHeader(proto byte, p pair, size int) uint32 {
	src, dst := p.src.Addr().As4(), p.dst.Addr().As4()
	return sum(sum(uint32(proto)+uint32(size), src[:]), dst[:])
}

// ipPacket makes an IPv4 packet.
func ipPacket(proto, dscp byte, id, fragment uint16, p pair, l4 []byte) []byte {
	src, dst := p.src.Addr().As4(), p.dst.Addr().As4()
	b := []byte{0x45, dscp << 2, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	b = append(append(b, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(l4)))
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], fragment)
	binary.BigEndian.PutUint16(b[10:], folded(sum(0, b)))
	return append(b, l4...)
}

// errorAbout makes an ICMP error about the last packet that came to a side, or, if
// none has come, about one that might have.
func (e *ends) errorAbout(s *step) []byte {
	about := e.last[s.talk][s.side]
	if about == nil {
		p := pair{s.talk.server, s.talk.client}
		if s.side == serverSide {
			p = e.farOf(s.talk)
		}
		other := step{talk: s.talk, side: 1 - s.side, data: 40, flags: ack, id: 0xffff}
		about = ipPacket(s.talk.proto, 0, 0xffff, 0, p, other.transport(p))
	}
	about = about[:min(len(about), 20+s.quote)]
	router := netip.AddrFrom4([4]byte{10, byte(s.talk.class), 255, 250})
	if s.side == serverSide {
		router = netip.AddrFrom4([4]byte{198, 51, byte(s.talk.class), 250})
	}
	to := netip.AddrFrom4([4]byte(about[12:16]))
	l4 := append([]byte{3, s.code, 0, 0, 0, 0, 0, 0}, about...)
	binary.BigEndian.PutUint16(l4[2:], folded(sum(0, l4)))
	p := pair{netip.AddrPortFrom(router, 0), netip.AddrPortFrom(to, 0)}
	e.sent[s.id] = pairOf(about, 20)
	return ipPacket(conntrack.ProtoICMP, s.dscp, s.id, 0, p, l4)
}

// pairOf reads the addresses of a packet, whose IP header has size bytes. Of an echo, the
// identifier is the client's port.
func pairOf(ip []byte, size int) pair {
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	l4 := ip[size:]
	if ip[9] != conntrack.ProtoICMP {
		return pair{netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))}
	}
	id := binary.BigEndian.Uint16(l4[4:])
	if l4[0] == 0 {
		return pair{netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, id)}
	}
	return pair{netip.AddrPortFrom(src, id), netip.AddrPortFrom(dst, 0)}
}

// natBits tell that a packet was translated.
const natBits = byte(conntrack.StateSrcNAT | conntrack.StateDstNAT)

// came takes note of an IP packet that has come out: state, then and mark are what the
// switch has said of it.
func (e *ends) came(c *scene, ip []byte, state, then byte, mark uint32) error {
	id, fragment := binary.BigEndian.Uint16(ip[4:]), binary.BigEndian.Uint16(ip[6:])
	s := c.steps[id]
	if s == nil {
		return fmt.Errorf("a packet that nobody has sent: %x", ip)
	}
	ip = ip[:binary.BigEndian.Uint16(ip[2:])]
	o := e.out[id]
	if o == nil {
		o = &outcome{state: state, then: then, mark: mark, pieces: map[int][]byte{}}
		e.out[id] = o
	} else if fragment&0x3fff == 0 {
		o.bad = "came twice"
	}
	if _, again := o.pieces[0]; fragment&0x1fff == 0 && !again {
		o.state, o.then = state, then // of pieces, the first decides: those behind it may find what it has made
	}
	if (o.state^state)&^natBits != 0 || (o.then^then)&^natBits != 0 || o.mark != mark {
		o.bad = fmt.Sprintf("pieces differ: state %s then %s mark %#x, before %s %s %#x", conntrack.State(state), conntrack.State(then), mark, conntrack.State(o.state), conntrack.State(o.then), o.mark)
	}
	if folded(sum(0, ip[:20])) != 0 {
		o.bad = "checksum of the IP header"
	}
	if fragment&0x3fff != 0 {
		o.pieces[int(fragment&0x1fff)*8] = ip[20:]
		if fragment&0x2000 == 0 {
			o.size = int(fragment&0x1fff)*8 + len(ip) - 20
		}
		whole := o.assemble()
		if whole == nil {
			return nil
		}
		ip = append(ip[:20:20], whole...)
	}
	clean := ipPacket(ip[9], 0, id, 0, pair{netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0), netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)}, ip[20:])
	e.read(s, o, clean)
	return nil
}

// assemble returns the datagram if all pieces are there.
func (o *outcome) assemble() (whole []byte) {
	for o.size > 0 && len(whole) < o.size {
		p := o.pieces[len(whole)]
		if p == nil {
			return nil
		}
		whole = append(whole, p...)
	}
	return whole
}

// read takes note of a whole datagram.
func (e *ends) read(s *step, o *outcome, ip []byte) {
	if s.kind == stepError {
		o.came = e.readError(s, o, ip)
		return
	}
	p := pairOf(ip, 20)
	pseudo := uint32(0)
	if ip[9] != conntrack.ProtoICMP {
		pseudo = pseudoHeader(ip[9], p, len(ip)-20)
	}
	if folded(sum(pseudo, ip[20:])) != 0 {
		o.bad = "checksum"
	}
	o.came = e.name(s, p, e.sent[s.id]) + fmt.Sprintf(" %x", s.contents(ip[20:]))
	if s.side == clientSide && s.talk.translates(p) {
		if old, ok := e.far[s.talk]; ok && old != p && conntrack.State(o.state)&conntrack.StateEstablished != 0 {
			o.bad = fmt.Sprintf("translated to %v, and before to %v", p, old)
		}
		e.far[s.talk] = p
	}
	last := e.last[s.talk]
	last[1-s.side] = ip
	e.last[s.talk] = last
}

// contents are what no switch may change.
func (s *step) contents(l4 []byte) []byte {
	switch s.talk.proto {
	case conntrack.ProtoTCP:
		return binary.BigEndian.AppendUint32(append([]byte{}, l4[4:16]...), crc32.ChecksumIEEE(l4[18:]))
	case conntrack.ProtoUDP:
		return binary.BigEndian.AppendUint32(append([]byte{}, l4[4:6]...), crc32.ChecksumIEEE(l4[8:]))
	}
	return binary.BigEndian.AppendUint32(append([]byte{}, l4[:2]...), crc32.ChecksumIEEE(l4[6:]))
}

// name says what the addresses of a packet of a talk have become: X is what they should be on
// the other side, = is what they were.
func (e *ends) name(s *step, p, sent pair) string {
	if s.side == clientSide && s.talk.translates(p) || s.side == serverSide && p == (pair{s.talk.server, s.talk.client}) {
		return "X"
	}
	if p == sent {
		return "="
	}
	return fmt.Sprintf("%v", p)
}

// readError is read for an ICMP error: what it quotes went the other way.
func (e *ends) readError(s *step, o *outcome, ip []byte) string {
	if folded(sum(0, ip[20:])) != 0 {
		o.bad = "checksum of the error"
	}
	inner := ip[28:]
	if folded(sum(0, inner[:20])) != 0 {
		o.bad = "checksum of the quoted IP header"
	}
	p := pairOf(inner, 20)
	quoted := "X"
	switch {
	case s.side == serverSide && p == (pair{s.talk.client, s.talk.server}), s.side == clientSide && s.talk.translates(p.reply()):
	case p == e.sent[s.id]:
		quoted = "="
	default:
		quoted = fmt.Sprintf("%v", p)
	}
	from, to := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	router := from.String()
	if from != s.talk.expectedFar().src.Addr() && s.talk.class == classRange && from.As4()[0] == 203 {
		router = "203.0.114.1"
	}
	if to != p.src.Addr() {
		o.bad = fmt.Sprintf("an error for %s about a packet of %s", to, p.src)
	}
	return fmt.Sprintf("error from %s %x about %s, %x", router, ip[20:22], quoted, s.quoted(inner[20:]))
}

// quoted is what no switch may change of the quoted packet behind its IP header.
func (s *step) quoted(l4 []byte) []byte {
	if s.talk.proto == conntrack.ProtoICMP {
		return []byte{l4[0], l4[1], l4[6], l4[7]}
	}
	return l4[4:min(len(l4), 6)]
}
