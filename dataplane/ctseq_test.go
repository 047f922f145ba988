package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"millrace/dataplane/conntrack"
)

// Random sequences of packets for comparing connection tracking with that of others.
//
// A talk is a connection, or what might be one. Its steps say what its ends send, not
// which bytes: an end answers to what it has seen, which a translation that is free
// in its choice makes different in each switch.

// Sides: the client's, and the server's.
const (
	clientSide = iota
	serverSide
)

// Classes of talks: what the pipeline does with them. The client's address is
// 10.CLASS.x.x, the server's 198.51.CLASS.x.
const (
	classFirewall = 1 + iota // only the client may begin
	classOpen                // both may
	classSource              // the source becomes 203.0.113.3
	classRange               // the source becomes 203.0.114.1 to .3, ports 20000 to 20499
	classServer              // the destination is 192.0.2.5, and becomes 198.51.5.1, port 8080
	classBoth                // in two zones: the destination is 192.0.2.6, and becomes 198.51.6.1:8080; the source 203.0.113.6
	classTwo                 // in two zones: as classFirewall, then the source becomes 203.0.113.7
	classes
)

// A talk is one sequence of packets.
type talk struct {
	number         int
	class          int
	proto          byte
	client, server netip.AddrPort // as the client sees both
	steps          []step
	known          bool // there was a connection
}

// A step is a datagram that one end sends.
type step struct {
	talk  *talk
	side  int // who sends it
	id    uint16
	flags byte // TCP's
	seq   uint32
	ack   uint32
	win   uint16
	data  int  // bytes of payload
	dscp  byte // 10 asks the pipeline to change the mark
	kind  int
	code  byte // of an error
	quote int  // bytes of the quoted packet behind its IP header
	parts []part

	before  string // state of our connection when it was sent
	against bool   // that began with a packet of the server
}

// Kinds of steps.
const (
	stepData  = iota // TCP, UDP, or an echo
	stepError        // an ICMP error about the last packet that came to its sender
)

// A part is a fragment that arrives: bytes of the datagram behind its IP header.
type part struct {
	from, to int
	last     bool
}

// remark is the DSCP of packets that change their connection's mark.
const remark = 10

// A writer writes the steps of talks.
type writer struct {
	*rand.Rand
	next map[int]uint16 // client's port, by class
	id   uint16         // of the last datagram

	quoteMin int // fewest bytes that an error quotes behind the IP header
}

// newTalk makes a talk with all its steps, as they arrive.
func (w *writer) newTalk(number int) *talk {
	t := &talk{number: number, class: 1 + w.IntN(classes-1), proto: []byte{conntrack.ProtoTCP, conntrack.ProtoTCP, conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoICMP}[w.IntN(5)]}
	port := 2000 + w.next[t.class]
	if w.next[t.class] == 0 || w.IntN(10) > 0 {
		w.next[t.class]++ // else the port of another client: translations clash
	}
	t.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(t.class), byte(w.id >> 8), byte(1 + number%250)}), port)
	server := [4]byte{198, 51, byte(t.class), byte(1 + w.IntN(2))}
	if t.class == classServer || t.class == classBoth {
		server = [4]byte{192, 0, 2, byte(t.class)}
	}
	t.server = netip.AddrPortFrom(netip.AddrFrom4(server), 80)
	switch t.proto {
	case conntrack.ProtoTCP:
		w.tcp(t)
	case conntrack.ProtoUDP:
		w.udp(t)
	case conntrack.ProtoICMP:
		t.server = netip.AddrPortFrom(t.server.Addr(), 0)
		w.echo(t)
	}
	w.disturb(t)
	for i := range t.steps {
		t.steps[i].talk = t
	}
	return t
}

// add appends a step.
func (t *talk) add(s step) { t.steps = append(t.steps, s) }

// Flags of TCP.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

// An exchange is two ends of TCP that follow the rules.
type exchange struct {
	t   *talk
	seq [2]uint32 // what each end sends next
}

// send has an end send a segment, which its peer will see.
func (x *exchange) send(side int, flags byte, data int) {
	s := step{side: side, flags: flags, seq: x.seq[side], win: 8000, data: data}
	if flags&ack != 0 {
		s.ack = x.seq[1-side]
	}
	x.seq[side] += uint32(data)
	if flags&(syn|fin) != 0 {
		x.seq[side]++
	}
	x.t.add(s)
}

// tcp writes a connection, or two after one another.
func (w *writer) tcp(t *talk) {
	x := &exchange{t: t, seq: [2]uint32{w.Uint32(), w.Uint32()}}
	w.open(x)
	w.converse(x)
	w.end(x)
	if w.IntN(4) == 0 { // another one with the same ports
		x.seq[0] += 100000
		x.seq[1] = w.Uint32()
		w.open(x)
		w.converse(x)
		w.end(x)
	}
}

// open writes the beginning: a handshake, SYNs that cross, none at all.
func (w *writer) open(x *exchange) {
	switch w.IntN(12) {
	case 0: // both at once
		a, b := x.seq[0], x.seq[1]
		x.send(clientSide, syn, 0)
		x.send(serverSide, syn, 0)
		x.seq[0], x.seq[1] = a, b
		x.t.add(step{side: clientSide, flags: syn | ack, seq: a, ack: b + 1, win: 8000})
		x.t.add(step{side: serverSide, flags: syn | ack, seq: b, ack: a + 1, win: 8000})
		x.seq[0], x.seq[1] = a+1, b+1
	case 1: // it was there before us
	case 2: // refused
		x.send(clientSide, syn, 0)
		x.send(serverSide, rst|ack, 0)
	default:
		x.send(clientSide, syn, 0)
		x.send(serverSide, syn|ack, 0)
		x.send(clientSide, ack, 0)
	}
}

// converse writes data in both directions.
func (w *writer) converse(x *exchange) {
	for range w.IntN(6) {
		side := w.IntN(2)
		x.send(side, psh|ack, w.IntN(100))
		if w.IntN(2) == 0 {
			x.send(1-side, ack, 0)
		}
	}
}

// end writes the end: by FIN from both ends, half of it, RST, nothing.
func (w *writer) end(x *exchange) {
	first := w.IntN(2)
	switch w.IntN(6) {
	case 0:
		x.send(first, rst|ack, 0)
	case 1:
		x.send(first, rst, 0)
	case 2:
		x.send(first, fin|ack, 0)
		x.send(1-first, ack, 0)
		w.converse(x)
	case 3:
	default:
		x.send(first, fin|ack, 0)
		if w.IntN(2) == 0 {
			x.send(1-first, ack, 0)
		}
		x.send(1-first, fin|ack, 0)
		x.send(first, ack, 0)
	}
}

// udp writes datagrams in both directions.
func (w *writer) udp(t *talk) {
	side := clientSide
	for range 1 + w.IntN(8) {
		t.add(step{side: side, data: w.IntN(100)})
		side = w.IntN(2)
	}
}

// echo writes pings, and answers to most.
func (w *writer) echo(t *talk) {
	for range 1 + w.IntN(4) {
		t.add(step{side: clientSide, data: w.IntN(100)})
		if w.IntN(4) > 0 {
			t.add(step{side: serverSide, data: w.IntN(100)})
		}
	}
}

// disturb does what the network does: it loses, repeats, reorders, breaks into pieces,
// and sends errors.
func (w *writer) disturb(t *talk) {
	var steps []step
	for _, s := range t.steps {
		if w.IntN(20) == 0 {
			s.dscp = remark
		}
		if w.IntN(8) == 0 && t.proto != conntrack.ProtoTCP {
			w.fragment(&s)
		}
		switch w.IntN(24) {
		case 0: // lost
			continue
		case 1: // lost before it came here, and sent again later
			defer func(s step) { t.steps = append(t.steps, s) }(s)
			continue
		case 2: // repeated
			steps = append(steps, s)
		case 3: // late
			if n := len(steps); n > 0 {
				steps = append(steps[:n-1:n-1], s, steps[n-1])
				continue
			}
		}
		steps = append(steps, s)
		if w.IntN(16) == 0 {
			steps = append(steps, step{side: w.IntN(2), kind: stepError, code: byte(w.IntN(4)), quote: w.quoteMin + w.IntN(40)})
		}
	}
	t.steps = steps
}

// Sizes of fragments: those of OVS must be at least of a size that can be set, down to
// 400 bytes with the header.
const fragmentSize = 400

// fragment breaks a step's datagram into two or three pieces, which come in some order,
// some of them twice or never.
func (w *writer) fragment(s *step) {
	n := 2 + w.IntN(2)
	s.data = (n-1)*fragmentSize + 8*w.IntN(40) + w.IntN(8)
	size := s.data + 8 // header of UDP or of an echo
	for i := range n {
		p := part{from: i * fragmentSize, to: min((i+1)*fragmentSize, size), last: i == n-1}
		if p.last {
			p.to = size
		}
		if w.IntN(12) > 0 {
			s.parts = append(s.parts, p)
		}
		if w.IntN(12) == 0 {
			s.parts = append(s.parts, p)
		}
	}
	if w.IntN(2) == 0 {
		w.Shuffle(len(s.parts), func(i, j int) { s.parts[i], s.parts[j] = s.parts[j], s.parts[i] })
	}
	if len(s.parts) == 0 {
		s.parts = []part{{0, fragmentSize, false}}
	}
}

// whole reports whether all of a datagram arrives.
func (s *step) whole() bool {
	if s.parts == nil {
		return true
	}
	got := map[int]bool{}
	last := -1
	for _, p := range s.parts {
		got[p.from] = true
		if p.last {
			last = p.from
		}
	}
	return last >= 0 && len(got) == last/fragmentSize+1
}

// ordered reports whether a datagram's first piece comes first, and each once.
func (s *step) ordered() bool {
	for i, p := range s.parts {
		if p.from != i*fragmentSize {
			return false
		}
	}
	return true
}

// String shows a step as it is told in failures.
func (s *step) String() string {
	out := fmt.Sprintf("%c%d", "><"[s.side], s.id)
	switch {
	case s.kind == stepError:
		return out + fmt.Sprintf(" error 3/%d", s.code)
	case s.talk.proto == conntrack.ProtoTCP:
		out += " "
		for i, c := range "FSRPA" {
			if s.flags>>i&1 != 0 {
				out += string(c)
			}
		}
		out += fmt.Sprintf(" seq %d ack %d", s.seq, s.ack)
	}
	out += fmt.Sprintf(" +%d", s.data)
	if s.dscp != 0 {
		out += " remark"
	}
	if s.parts != nil {
		out += fmt.Sprint(" in pieces ", s.parts)
	}
	return out
}

// A scene is the talks of one run, and their steps in rounds: each has at most one
// step of a talk.
type scene struct {
	talks  []*talk
	rounds [][]*step
	steps  map[uint16]*step // by id
}

// newScene makes a scene of n talks.
func (w *writer) newScene(n int) *scene {
	w.next = map[int]uint16{}
	c := &scene{steps: map[uint16]*step{}}
	for i := range n {
		c.talks = append(c.talks, w.newTalk(i))
	}
	for r := 0; ; r++ {
		var round []*step
		for _, t := range c.talks {
			if r < len(t.steps) {
				s := &t.steps[r]
				w.id = max(w.id+1, 1)
				s.id = w.id
				c.steps[s.id] = s
				round = append(round, s)
			}
		}
		if round == nil {
			return c
		}
		w.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		c.rounds = append(c.rounds, round)
	}
}
