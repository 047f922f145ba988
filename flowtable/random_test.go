package flowtable

import (
	"math/rand/v2"
)

// chooser makes choices: from a generator, or from the bytes of a fuzzer.
type chooser interface {
	// n returns a number below n.
	n(n int) int
}

type randChooser struct{ *rand.Rand }

func (r randChooser) n(n int) int { return r.IntN(n) }

// byteChooser takes choices from bytes; when they are used up, all are 0.
type byteChooser struct{ b []byte }

func (c *byteChooser) n(n int) int {
	if len(c.b) == 0 {
		return 0
	}
	v := int(c.b[0])
	c.b = c.b[1:]
	return v % n
}

// fieldNames are the fields by name.
var fieldNames = func() map[string]Field {
	m := map[string]Field{}
	for _, f := range Fields() {
		m[f.Name] = f
	}
	return m
}()

// field returns the field of a name.
func field(name string) Field {
	f, ok := fieldNames[name]
	if !ok {
		panic("no field " + name)
	}
	return f
}

var (
	keyFields  = []string{"in_port", "eth.type", "ip.proto", "eth.dst", "eth.src", "ip4.src", "ip4.dst", "tp.src", "tp.dst", "vlan.tci", "ip.ttl", "ip6.dst", "ip6.src", "ip.dscp"}
	metaFields = []string{"reg0", "reg1", "outport", "inport", "flags", "xreg1", "xxreg1", "pkt.mark"}
	setFields  = []string{"vlan.tci", "eth.dst", "eth.src", "ip4.src", "ip4.dst", "tp.src", "tp.dst", "ip6.dst", "ip6.src", "ip.dscp", "ip.ttl"}
)

// value returns a value of a field, one of few.
func value(c chooser, f Field) (high, low uint64) {
	if f.Width == 128 {
		return []uint64{0, 1 << 63, 0xfe80 << 48}[c.n(3)], uint64(c.n(4))
	}
	v := uint64(c.n(4))
	if c.n(3) == 0 {
		v |= uint64(c.n(4)) << (f.Width - 2)
	}
	return 0, v & (^uint64(0) >> (64 - f.Width))
}

// someMask returns a mask of a field: mostly full, sometimes a prefix.
func someMask(c chooser, f Field) (high, low uint64) {
	if f.Width == 128 {
		return ^uint64(0), []uint64{^uint64(0), 0, ^uint64(1)}[c.n(3)]
	}
	full := ^uint64(0) >> (64 - f.Width)
	switch c.n(5) {
	case 0:
		return 0, full &^ (full >> 2)
	case 1:
		return 0, full &^ 1
	}
	return 0, full
}

// putField writes a field of a key or context.
func putField(words []uint64, f Field, high, low uint64) {
	if f.Width == 128 {
		words[f.Word], words[f.Word+1] = high, low
		return
	}
	m, _ := f.Bits()
	words[f.Word] = words[f.Word]&^m | low<<f.Shift
}

// randomKey returns a packet.
func randomKey(c chooser) Key {
	var k Key
	for _, name := range keyFields {
		f := field(name)
		h, l := value(c, f)
		putField(k[:], f, h, l)
	}
	putField(k[:], field("in_port"), 0, uint64(1+c.n(4)))
	if c.n(2) == 0 {
		k[WordIn] |= TagPresent << 16
	}
	return k
}

func pickName(c chooser, names []string) Field { return field(names[c.n(len(names))]) }

// randomMatch returns masked words.
func randomMatch(c chooser) []Masked {
	var mask, val Context
	for range c.n(4) * c.n(2) {
		f := pickName(c, keyFields)
		if c.n(3) == 0 {
			f = pickName(c, metaFields)
		}
		vh, vl := value(c, f)
		mh, ml := someMask(c, f)
		putField(mask[:], f, mh, ml)
		putField(val[:], f, vh&mh, vl&ml)
	}
	var out []Masked
	for i, m := range mask {
		if m != 0 {
			out = append(out, Masked{uint8(i), val[i] & m, m})
		}
	}
	return out
}

// testSets are the sets that there may be, and the fields they go with.
var testSets = []struct {
	Set
	fields []string
}{
	{Set{1, 32, true}, []string{"outport", "inport", "in_port"}}, {Set{2, 32, true}, []string{"outport", "inport", "reg0"}},
	{Set{3, 32, false}, []string{"ip4.src", "ip4.dst", "reg1"}}, {Set{4, 32, false}, []string{"ip4.src", "ip4.dst"}},
	{Set{5, 128, false}, []string{"ip6.src", "ip6.dst", "xxreg1"}}, {Set{6, 48, true}, []string{"eth.src", "eth.dst"}},
}

// randomMember returns a member for a set.
func randomMember(c chooser, s Set) Member {
	f := Field{Width: s.Width}
	vh, vl := value(c, f)
	mh, ml := fullMask(s.Width)
	if !s.Exact {
		mh, ml = someMask(c, f)
	}
	return Member{vh & mh, vl & ml, mh, ml}
}

// randomPred returns a predicate.
func randomPred(c chooser) Pred {
	switch c.n(6) {
	case 0:
		f := pickName(c, []string{"tp.src", "tp.dst", "ip.ttl", "reg0", "ip4.dst"})
		_, a := value(c, f)
		_, b := value(c, f)
		return Pred{Kind: InRange, Field: f, Low: min(a, b), High: max(a, b)}
	case 1:
		f := pickName(c, append(keyFields, metaFields...))
		vh, vl := value(c, f)
		mh, ml := someMask(c, f)
		if f.Width == 128 {
			return Pred{Kind: NotEqual, Field: f, Low: vh & mh, LowLow: vl & ml, Mask: mh, MaskLow: ml}
		}
		return Pred{Kind: NotEqual, Field: f, Low: vl & ml, Mask: ml}
	case 2:
		s := testSets[c.n(len(testSets))]
		return Pred{Kind: NotInSet, Field: pickName(c, s.fields), Set: s.ID}
	}
	s := testSets[c.n(len(testSets))]
	return Pred{Kind: InSet, Field: pickName(c, s.fields), Set: s.ID}
}

const testTables = 5

// nextTable mostly goes forward.
func nextTable(c chooser, table uint8) uint8 {
	if c.n(12) == 0 {
		return uint8(c.n(testTables))
	}
	return table + 1 + uint8(c.n(2))
}

// randomActions returns actions of a rule in a table.
func randomActions(c chooser, table uint8, depth int) []Action {
	var out []Action
	for range c.n(4) {
		out = append(out, randomAction(c, table, depth))
	}
	switch c.n(4) {
	case 0:
		return append(out, Action{Code: ActOutput, Arg: uint32(1 + c.n(4))})
	case 1:
		if c.n(4) == 0 {
			out = append(out, Action{Code: ActSet, Dst: field("outport"), Value: FloodPort | uint64(1+c.n(2))})
		}
		return append(out, Action{Code: ActOutput, Dst: field("outport")})
	}
	return append(out, Action{Code: ActNext, Table: nextTable(c, table)})
}

// randomDst is a field that can be written.
func randomDst(c chooser) Field {
	if c.n(2) == 0 {
		return pickName(c, setFields)
	}
	return pickName(c, metaFields)
}

// sameWidth returns a field that is as wide, and may be written if it must.
func sameWidth(c chooser, f Field, written bool) Field {
	var all []Field
	names := append(append([]string{}, setFields...), metaFields...)
	if !written {
		names = append(append([]string{}, keyFields...), metaFields...)
	}
	for _, n := range names {
		if g := field(n); g.Width == f.Width {
			all = append(all, g)
		}
	}
	return all[c.n(len(all))]
}

func randomAction(c chooser, table uint8, depth int) Action {
	dst := randomDst(c)
	switch c.n(18) {
	case 0, 1, 2, 3:
		h, l := value(c, dst)
		if dst.Width == 128 {
			return Action{Code: ActSet, Dst: dst, Value: h, ValueLow: l}
		}
		return Action{Code: ActSet, Dst: dst, Value: l}
	case 4, 5:
		return Action{Code: ActMove, Dst: dst, Src: sameWidth(c, dst, false)}
	case 6:
		return Action{Code: ActExchange, Dst: dst, Src: sameWidth(c, dst, true)}
	case 7:
		return Action{Code: ActNext, Table: nextTable(c, table)}
	case 8, 9:
		if depth < 3 {
			return Action{Code: ActClone, Nested: randomActions(c, table, depth+1)}
		}
		return Action{Code: ActDecTTL}
	case 10:
		return Action{Code: ActDatapath, Value: uint64(1 + c.n(4)), Arg: uint32(c.n(4)), Table: uint8(c.n(testTables))}
	case 11:
		return Action{Code: ActPushVLAN, Arg: 0x8100}
	case 12:
		return Action{Code: ActPopVLAN}
	case 13:
		return Action{Code: ActDecTTL}
	case 14:
		if c.n(2) == 0 {
			return Action{Code: ActSelect, Arg: 1}
		}
		return Action{Code: ActSelect, Arg: uint32(1 + c.n(2)), Dst: pickName(c, []string{"reg0", "tp.dst"}), Table: nextTable(c, table)}
	case 15:
		return Action{Code: ActLarger, Arg: uint32(100 * c.n(3)), Dst: field("reg1")}
	case 16:
		return Action{Code: ActGetFDB, Arg: 1, Dst: field("outport"), Src: pickName(c, []string{"eth.dst", "eth.src"})}
	}
	return []Action{
		{Code: ActLookupFDB, Arg: 1, Dst: field("reg0"), Src: field("eth.src"), Src2: field("inport")},
		{Code: ActFlood, Arg: 1}, {Code: ActMeter, Arg: 1}, {Code: ActDrop}, {Code: ActPutFDB, Arg: 1, Src: field("eth.src"), Src2: field("inport")},
		{Code: ActOutput, Arg: 9},
	}[c.n(6)]
}

// randomRule returns a rule.
func randomRule(c chooser, id RuleID) Rule {
	r := Rule{ID: id, Table: uint8(c.n(testTables)), Priority: uint16(c.n(4)), Datapath: uint64(1 + c.n(3)), Match: randomMatch(c), Cookie: uint64(id)}
	if c.n(3) == 0 {
		r.Group = GroupID(1 + c.n(2))
		r.Datapath = 0
	}
	for range max(0, c.n(5)-2) {
		r.Preds = append(r.Preds, randomPred(c))
	}
	r.Actions = randomActions(c, r.Table, 0)
	return r
}

// randomSelect returns a select group.
func randomSelect(c chooser, id SelectID) Select {
	s := Select{ID: id, Fields: []Field{pickName(c, keyFields), pickName(c, metaFields)}}
	for i := range c.n(4) {
		s.Buckets = append(s.Buckets, Bucket{ID: uint32(i), Weight: uint16(c.n(3)), Actions: []Action{{Code: ActSet, Dst: field("ip4.dst"), Value: uint64(c.n(3))}, {Code: ActOutput, Arg: uint32(1 + c.n(3))}}})
	}
	return s
}

// crowdRule returns a rule of which there are many that differ in predicates
// only: mostly in ranges of one field.
func crowdRule(c chooser, id RuleID) Rule {
	r := randomRule(c, id)
	r.Table, r.Datapath, r.Group, r.Match = uint8(c.n(2)), 1, 0, nil
	if r.Table == 1 {
		r.Match = []Masked{{WordIn, 0, 0xfffc}}
	}
	if c.n(4) > 0 {
		f := pickName(c, []string{"tp.dst", "tp.dst", "tp.dst", "ip.ttl"})
		_, a := value(c, f)
		_, b := value(c, f)
		r.Preds = append(r.Preds, Pred{Kind: InRange, Field: f, Low: min(a, b), High: max(a, b)})
	}
	return r
}
