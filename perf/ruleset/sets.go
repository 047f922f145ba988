package ruleset

import "millrace/perf/pktgen"

// What the generator's own flows look like: see package pktgen.
const (
	ownNet  = 10 << 24             // sources
	ownDst  = 10<<24 | 255<<16 | 1 // destination of the first stream
	ownPort = 7787                 // destination port
	firstSP = 1024                 // source port of flow 0
)

// full is a mask that leaves nothing open.
const full = ^uint32(0)

// service matches UDP packets that come by in, to a port at an address.
func service(in string, dst uint32, port uint16) Match {
	return Match{InPort: in, IPv4: true, Dst: dst, DstMask: full, Proto: UDP, DstPort: port, DstBits: 0xffff}
}

// L4 leads the generator's first stream from in to out, by address and port of
// its destination. Other ports are closed, so the ports must be looked at.
func L4(in, out string) Set {
	return Set{
		{Priority: 100, Match: service(in, ownDst, ownPort), Output: out},
		{Priority: 90, Match: service(in, ownDst, 53)},
		{Priority: 80, Match: Match{InPort: in, IPv4: true, Proto: TCP, DstPort: 22, DstBits: 0xffff}},
	}
}

// clientBits are the bits that tell clients apart in Clients, of addresses and
// of ports.
const clientBits = 14

// Clients is five tables in which each client has a rule for its network and one
// for its range of ports, 2^14 of each: packets that differ in these have
// nothing in common that could be cached.
func Clients(in, out string) Set { return clients(in, out, 1<<clientBits) }

// clients is Clients for the first n of each.
func clients(in, out string, n uint32) Set {
	s := Set{
		{Priority: 10, Match: Match{InPort: in, IPv4: true}, Set: []Assign{{0, 1}}, Next: 1},
		{Table: 1, Priority: 10, Match: Match{IPv4: true, Dst: ownDst, DstMask: full, Reg: 0, RegValue: 1, RegMask: full}, Next: 2},
		{Table: 4, Priority: 10, Match: Match{IPv4: true, Proto: UDP, DstPort: ownPort, DstBits: 0xffff}, Output: out},
	}
	for i := range n {
		s = append(s,
			Rule{Table: 2, Priority: 10, Match: Match{IPv4: true, Src: ownNet | i<<2, SrcMask: full &^ 3}, Set: []Assign{{1, i}}, Next: 3},
			Rule{Table: 3, Priority: 10, Match: Match{IPv4: true, Proto: UDP, SrcPort: uint16(i << 2), SrcBits: 0xfffc}, Set: []Assign{{2, i}}, Next: 4},
		)
	}
	return s
}

// The three rules of Guarded's attacked side let these pass.
const (
	openPort   = 80
	openSource = 10<<24 | 10
	openSender = 12345
)

// Guarded has two tenants. The victim's packets go from in to out. The other's
// go from from to to if they have a certain destination port, source address,
// or source port, and are dropped otherwise: a packet that is dropped differs
// from each of the three in some first bit, and that is what a cache of
// wildcards has to know of it.
func Guarded(in, out, from, to string) Set {
	return append(L4(in, out),
		Rule{Priority: 400, Match: Match{InPort: from, IPv4: true, Proto: UDP, DstPort: openPort, DstBits: 0xffff}, Output: to},
		Rule{Priority: 300, Match: Match{InPort: from, IPv4: true, Src: openSource, SrcMask: full}, Output: to},
		Rule{Priority: 200, Match: Match{InPort: from, IPv4: true, Proto: UDP, SrcPort: openSender, SrcBits: 0xffff}, Output: to},
	)
}

// AttackMasks is how many different sets of bits Attack makes a cache look at.
const AttackMasks = 16 * 32 * 16

// Attack returns headers against Guarded: for each bit of the destination port,
// of the source address and of the source port the first that differs, rounds
// times, with the bits that follow at random. Their order is random, too.
func Attack(rounds int) []pktgen.Header {
	r := newRand(3)
	var hs []pktgen.Header
	for range rounds {
		for i := range AttackMasks {
			hs = append(hs, pktgen.Header{
				DstPort: uint16(differ(r.Uint32(), openPort, 16, i%16)),
				SrcPort: uint16(differ(r.Uint32(), openSender, 16, i/16%16)),
				Src:     differ(r.Uint32(), openSource, 32, i/256),
				Dst:     ownDst + 256,
			})
		}
	}
	r.Shuffle(len(hs), func(i, k int) { hs[i], hs[k] = hs[k], hs[i] })
	return hs
}

// differ is a value of width bits that agrees with want in the first n bits,
// differs in the next, and has the rest from random.
func differ(random, want uint32, width, n int) uint32 {
	bit := uint32(1) << (width - 1 - n)
	return want&^(2*bit-1) | ^want&bit | random&(bit-1)
}

// Gate has the generator's first stream go from in to out by one rule, which is
// the first, beside n rules for other destinations that nobody asks for. They
// begin with one that leads to alt, for those who want to know how that is said.
func Gate(in, out, alt string, n int) Set {
	s := Set{{Priority: GatePriority, Match: service(in, ownDst, ownPort), Output: out}}
	for i := range n {
		s = append(s, Rule{Priority: IdlePriority, Match: service(in, IdleDst(i), ownPort), Output: out})
	}
	s[1].Output = alt
	return s
}

// Priorities of Gate's rules: of the first, and of the others.
const (
	GatePriority = 100
	IdlePriority = 50
)

// GateDst and GatePort are the destination of the first rule of Gate; the others
// have addresses of their own.
const (
	GateDst  = ownDst
	GatePort = ownPort
)

// IdleDst is the destination of rule i of those of Gate that nobody asks for.
func IdleDst(i int) uint32 { return 10<<24 | 200<<16 | uint32(i) }

// Generation has n flows of the generator's first stream go from in to out, by
// two rules for each: one says which generation of rules it has met, the other
// takes packets of that generation only. What meets rules of two generations
// goes to astray.
func Generation(g uint32, n int, in, out, astray string) Set {
	s := Set{
		{Priority: 1, Match: Match{InPort: in}, Output: astray},
		{Table: 1, Priority: 1, Output: astray},
	}
	for i := range n {
		from := Match{InPort: in, IPv4: true, Proto: UDP, SrcPort: uint16(firstSP + i), SrcBits: 0xffff}
		met := from
		met.InPort, met.RegValue, met.RegMask = "", g, full
		s = append(s,
			Rule{Priority: 100, Match: from, Set: []Assign{{0, g}}, Next: 1},
			Rule{Table: 1, Priority: 100, Match: met, Output: out},
		)
	}
	return s
}
