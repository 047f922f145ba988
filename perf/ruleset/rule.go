package ruleset

import (
	"slices"

	"millrace/perf/pktgen"
)

// Protocols of IPv4.
const (
	TCP = 6
	UDP = 17
)

// TablesMax is the number of tables that a Set may have.
const TablesMax = 16

// Registers is how many a rule can use.
const Registers = 4

// A Rule is one line of a table. Of the rules of a table that match, the one
// with the highest priority holds; no packet matches two that have the same. One
// that no rule matches is dropped.
type Rule struct {
	Table    int
	Priority int
	Match    Match
	Set      []Assign // registers, before anything else
	Connect  *Connect // then the packet's connection, if not nil; Next is the table after this one, or 0
	Next     int      // table to look on in; 0: none
	Output   string   // port; with neither Next nor Output the packet is dropped
}

// An Assign gives a register a value.
type Assign struct {
	Reg   int
	Value uint32
}

// A Match says which packets a rule is for. Bits that are not in a mask don't
// matter and are 0. All but the zero Match are about IPv4.
type Match struct {
	InPort           string // any if empty
	IPv4             bool
	Src, SrcMask     uint32
	Dst, DstMask     uint32
	Proto            uint8 // TCP or UDP; 0: any, and no ports then
	SrcPort, SrcBits uint16
	DstPort, DstBits uint16
	Reg              int // compared if RegMask is not 0
	RegValue         uint32
	RegMask          uint32
	State, StateBits State // of its connection
}

// A Mask is what a Match looks at: two matches with one Mask differ in values
// only.
type Mask struct {
	InPort, IPv4, Proto bool
	Src, Dst            uint32
	SrcPort, DstPort    uint16
	Reg                 int
	RegMask             uint32
	State               State
}

// Mask is what m looks at.
func (m *Match) Mask() Mask {
	return Mask{m.InPort != "", m.IPv4, m.Proto != 0, m.SrcMask, m.DstMask, m.SrcBits, m.DstBits, m.Reg, m.RegMask, m.StateBits}
}

// A Set is the rules of a switch.
type Set []Rule

// A Verdict is what a set decides about a packet.
type Verdict struct {
	Output string // empty: drop
	Regs   [Registers]uint32
	Steps  int // tables looked up
}

// An Answer is what connection tracking says of a packet, one time that it is asked:
// its state, and the addresses and ports that it has then.
type Answer struct {
	State  State
	Header pktgen.Header
}

// Decide takes a UDP packet from a port through the tables. answers are those of
// connection tracking, in their order; it has none for what is only committed.
func (s Set) Decide(port string, h pktgen.Header, answers ...Answer) Verdict {
	var v Verdict
	var state State
	for table := 0; ; {
		v.Steps++
		r := s.find(table, port, h, state, &v.Regs)
		if r == nil {
			return v
		}
		for _, a := range r.Set {
			v.Regs[a.Reg] = a.Value
		}
		if r.Connect != nil && r.Next != 0 {
			state, h, answers = answers[0].State, answers[0].Header, answers[1:]
		}
		if r.Next == 0 {
			v.Output = r.Output
			return v
		}
		table = r.Next
	}
}

func (s Set) find(table int, port string, h pktgen.Header, state State, regs *[Registers]uint32) *Rule {
	var best *Rule
	for i := range s {
		r := &s[i]
		if r.Table == table && (best == nil || r.Priority > best.Priority) && r.Match.holds(port, h, state, regs) {
			best = r
		}
	}
	return best
}

// holds reports whether a UDP packet is one that m is for.
func (m *Match) holds(port string, h pktgen.Header, state State, regs *[Registers]uint32) bool {
	return (m.InPort == "" || m.InPort == port) &&
		h.Src&m.SrcMask == m.Src && h.Dst&m.DstMask == m.Dst &&
		(m.Proto == 0 || m.Proto == UDP && h.SrcPort&m.SrcBits == m.SrcPort && h.DstPort&m.DstBits == m.DstPort) &&
		regs[m.Reg]&m.RegMask == m.RegValue && state&m.StateBits == m.State
}

// Masks is the number of different masks, over all tables.
func (s Set) Masks() int {
	seen := map[Mask]bool{}
	for i := range s {
		seen[s[i].Match.Mask()] = true
	}
	return len(seen)
}

// Ports are the names of the ports that the rules speak of.
func (s Set) Ports() []string {
	var ports []string
	for i := range s {
		ports = append(ports, s[i].Match.InPort, s[i].Output)
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	return slices.DeleteFunc(ports, func(p string) bool { return p == "" })
}
