package ruleset

import (
	"math/bits"
	"math/rand/v2"

	"millrace/perf/pktgen"
)

// Mixed describes a pipeline of tables whose rules have many different masks,
// as access lists and load balancers make them.
type Mixed struct {
	Rules  int // over all tables, with one in each for what no other matches
	Masks  int // of the others, all different; the same number in each table
	Tables int
	Flows  int // that meet the rules
	In     string
	Out    string
}

// newRand is a source of numbers that are the same each time.
func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6d72)) }

// Headers are the flows: clients all over 10.0.0.0/8 that talk to 4096 addresses,
// most of them at some well-known ports, changed so that each meets some of the
// rules. No two are the same.
func (m Mixed) Headers() []pktgen.Header {
	r := newRand(1)
	rules := m.Set()[m.Tables:]
	seen := make(map[pktgen.Header]bool, m.Flows)
	hs := make([]pktgen.Header, 0, m.Flows)
	for len(hs) < m.Flows {
		if h := meet(rules, r); !seen[h] {
			seen[h] = true
			hs = append(hs, h)
		}
	}
	return hs
}

// rulesTried is how many rules a flow is made to meet, if they go together.
const rulesTried = 6

// meet returns a UDP packet that some of the rules are for.
func meet(rules []Rule, r *rand.Rand) pktgen.Header {
	h := someHeader(r)
	var fixed Mask // bits that a rule has decided
	for range rulesTried {
		k := &rules[r.IntN(len(rules))].Match
		if k.Proto == TCP || k.SrcMask&fixed.Src|k.DstMask&fixed.Dst != 0 || k.SrcBits&fixed.SrcPort|k.DstBits&fixed.DstPort != 0 {
			continue
		}
		fixed = Mask{Src: fixed.Src | k.SrcMask, Dst: fixed.Dst | k.DstMask, SrcPort: fixed.SrcPort | k.SrcBits, DstPort: fixed.DstPort | k.DstBits}
		h.Src, h.Dst = h.Src&^k.SrcMask|k.Src, h.Dst&^k.DstMask|k.Dst
		h.SrcPort, h.DstPort = h.SrcPort&^k.SrcBits|k.SrcPort, h.DstPort&^k.DstBits|k.DstPort
	}
	return h
}

func someHeader(r *rand.Rand) pktgen.Header {
	h := pktgen.Header{
		Src:     10<<24 | r.Uint32N(1<<24),
		Dst:     172<<24 | 16<<16 | r.Uint32N(1<<12),
		SrcPort: uint16(1024 + r.Uint32N(64512)),
		DstPort: uint16(1024 + r.Uint32N(64512)),
	}
	if r.IntN(10) < 7 {
		h.DstPort = uint16(8000 + 17*r.Uint32N(64))
	}
	return h
}

// Set returns the rules. All UDP packets that come by In leave by Out, on ways
// that differ; TCP packets may be dropped.
func (m Mixed) Set() Set {
	r := newRand(2)
	masks := m.masks(r)
	perTable := m.Masks / m.Tables
	var s Set
	for table := range m.Tables {
		s = append(s, m.onward(Rule{Table: table}, r))
		if table == 0 {
			s[0].Match.InPort = m.In
		}
	}
	left, seen := m.Rules-len(s), map[Match]bool{}
	for i := range m.Masks {
		table := i / perTable
		n := left / (m.Masks - i)
		left -= n
		for range n {
			rule := Rule{Table: table, Priority: 1000 + i%perTable}
			for rule.Match = fit(masks[i], r); seen[rule.Match]; {
				rule.Match = fit(masks[i], r)
			}
			seen[rule.Match] = true
			s = append(s, m.onward(rule, r))
		}
	}
	return s
}

// onward gives a rule its actions: on to the next table, out, or for TCP
// sometimes nowhere.
func (m Mixed) onward(rule Rule, r *rand.Rand) Rule {
	switch {
	case rule.Match.Proto == TCP && r.IntN(4) == 0:
	case rule.Table == m.Tables-1:
		rule.Output = m.Out
	default:
		rule.Set, rule.Next = []Assign{{0, r.Uint32N(zones)}}, rule.Table+1
	}
	return rule
}

// zones is how many values register 0 has.
const zones = 16

// masks draws as many masks as there shall be: the first ones for table 0, and
// so on. Each leaves enough room for its rules.
func (m Mixed) masks(r *rand.Rand) []Mask {
	var masks []Mask
	seen := map[Mask]bool{}
	room := bits.Len(uint(m.Rules / m.Masks))
	for len(masks) < m.Masks {
		k := Mask{
			IPv4: true, Proto: r.IntN(3) > 0,
			Src: oneOf(r, 0, prefix(16), prefix(24), full), Dst: oneOf(r, 0, prefix(24), prefix(28), full),
		}
		if k.Proto {
			k.SrcPort, k.DstPort = oneOf[uint16](r, 0, 0, 0xffff), oneOf[uint16](r, 0, 0xffff)
		}
		if len(masks) >= m.Masks/m.Tables && r.IntN(3) == 0 {
			k.RegMask = zones - 1
		}
		if k.entropy() >= room && !seen[k] {
			seen[k] = true
			masks = append(masks, k)
		}
	}
	return masks
}

// entropy is about how many bits of a flow a mask sees.
func (k Mask) entropy() int {
	n := max(0, bits.OnesCount32(k.Src)-8) + max(0, bits.OnesCount32(k.Dst)-20) + bits.OnesCount16(k.SrcPort)
	return n + bits.OnesCount16(k.DstPort)/2
}

// fit is a match with mask k, for packets such as there are or for TCP.
func fit(k Mask, r *rand.Rand) Match {
	h := someHeader(r)
	m := Match{
		IPv4: true, Src: h.Src & k.Src, SrcMask: k.Src, Dst: h.Dst & k.Dst, DstMask: k.Dst,
		SrcPort: h.SrcPort & k.SrcPort, SrcBits: k.SrcPort, DstPort: h.DstPort & k.DstPort, DstBits: k.DstPort,
		RegMask: k.RegMask, RegValue: r.Uint32N(zones) & k.RegMask,
	}
	if k.Proto {
		m.Proto = oneOf[uint8](r, UDP, UDP, UDP, UDP, TCP)
	}
	return m
}

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// prefix is the mask of an address' first n bits, n at least 1.
func prefix(n int) uint32 { return full << (32 - n) }
