package flows

import (
	"millrace/control/logical"
	"millrace/flowtable"
)

// load lowers an assignment of a constant.
func (l *lowering) load(a *logical.Load) error {
	f := l.at[a.To.Symbol.Field]
	mask, value := logical.Ones(bitsIn(a.To)), a.Value.Value
	switch a.Value.Kind {
	case logical.ConstString:
		value = logical.U64(uint64(l.objects.port(a.Value.Text)))
	case logical.ConstMasked:
		mask = a.Value.Mask
	}
	mask, value = mask.Shl(lowBit(a.To)), value.Shl(lowBit(a.To))
	switch {
	case f.Width == 0:
		return fail(logical.Verb(a.To.Symbol.Name), "%s is set in the list of the verb that makes the ICMP error itself, in no other", a.To.Symbol.Name)
	case a.To.Symbol.Field == logical.FieldVLANTCI:
		return l.loadTCI(uint16(mask.Lo), uint16(value.Lo))
	}
	l.set(f, mask, value)
	return nil
}

// set writes masked bits of a field, by as few actions as there can be.
func (l *lowering) set(f flowtable.Field, mask, value logical.Value) {
	if f.Width == 128 && mask == logical.Ones(128) {
		l.add(flowtable.Action{Code: flowtable.ActSet, Dst: f, Value: value.Hi, ValueLow: value.Lo})
		return
	}
	if f.Width == 128 {
		l.setWord(flowtable.Field{Word: f.Word, Width: 64}, mask.Hi, value.Hi)
		f = flowtable.Field{Word: f.Word + 1, Width: 64}
	}
	l.setWord(f, mask.Lo, value.Lo)
}

// setWord writes runs of bits of a field.
func (l *lowering) setWord(f flowtable.Field, mask, value uint64) {
	for low := 0; low < int(f.Width); {
		n := 0
		for low+n < int(f.Width) && mask>>(low+n)&1 != 0 {
			n++
		}
		if n > 0 {
			l.add(flowtable.Action{Code: flowtable.ActSet, Dst: bitsOf(f, low, n), Value: value >> low & (^uint64(0) >> (64 - n))})
		}
		low += n + 1
	}
}

// tpid is the Ethernet type of a tag (IEEE 802.1Q 9.6).
const tpid = 0x8100

// loadTCI writes bits of the tag. Bit 12 says that there is one: setting it
// pushes a tag where there is none, clearing it pops the tag. Other bits of a tag
// that there is not are nowhere.
func (l *lowering) loadTCI(mask, value uint16) error {
	if mask&flowtable.TagPresent != 0 {
		switch {
		case l.tag == tagUnknown:
			return tagNotKnown()
		case value&flowtable.TagPresent == 0 && value != 0:
			return fail("vlan.tci", "0x%04x is no tag: bit 12 is set where there is one", value)
		case value&flowtable.TagPresent == 0 && l.tag == tagged:
			l.add(flowtable.Action{Code: flowtable.ActPopVLAN})
			l.tag = untagged
		case value&flowtable.TagPresent != 0 && l.tag == untagged:
			l.add(flowtable.Action{Code: flowtable.ActPushVLAN, Arg: tpid})
			l.tag = tagged
		}
	}
	if l.tag == tagUnknown {
		return tagNotKnown()
	}
	if l.tag == tagged {
		mask &^= flowtable.TagPresent
		l.setWord(l.at[logical.FieldVLANTCI], uint64(mask), uint64(value&mask))
	}
	return nil
}

// tagNotKnown is the error of a write to the tag behind what may have changed it.
func tagNotKnown() error {
	return fail("vlan.tci", "whether the packet has a tag is not known behind next, group and the like: write the tag before")
}

// coversPresent reports whether a reference has the bit that says that there is a
// tag.
func coversPresent(r logical.Ref) bool {
	return r.Symbol.Field == logical.FieldVLANTCI && lowBit(r) <= 12 && lowBit(r)+bitsIn(r) > 12
}

// move lowers an assignment of one reference to another.
func (l *lowering) move(to, from logical.Ref) error {
	if to.Symbol.Field == logical.FieldVLANTCI {
		switch {
		case coversPresent(to):
			return fail(logical.Verb(to.Symbol.Name), "bit 12 of vlan.tci pushes and pops a tag: it can be given constants only; vlan.vid and vlan.pcp take fields")
		case l.tag == tagUnknown:
			return tagNotKnown()
		case l.tag == untagged:
			return nil
		}
	}
	parts := l.pairs(to, from)
	if to.Symbol.Field == from.Symbol.Field && lowBit(to) > lowBit(from) {
		for i := range len(parts) / 2 { // from the top down, as what is read must not be written before
			parts[i], parts[len(parts)-1-i] = parts[len(parts)-1-i], parts[i]
		}
	}
	for _, p := range parts {
		l.add(flowtable.Action{Code: flowtable.ActMove, Dst: p.to, Src: p.from})
	}
	return nil
}

// A pair is two fields of one width.
type pair struct{ to, from flowtable.Field }

// pairs cuts two references of one width at the ends of words, from the lowest
// bit up.
func (l *lowering) pairs(to, from logical.Ref) []pair {
	a, b := l.at[to.Symbol.Field], l.at[from.Symbol.Field]
	if x, ok := whole(a, lowBit(to), bitsIn(to)); ok {
		if y, ok := whole(b, lowBit(from), bitsIn(to)); ok {
			return []pair{{x, y}}
		}
	}
	var out []pair
	xs, ys := halves(a, lowBit(to), bitsIn(to)), halves(b, lowBit(from), bitsIn(to))
	for len(xs) > 0 {
		x, y := xs[0], ys[0]
		n := min(x.Width, y.Width)
		out = append(out, pair{bitsOf(x, 0, int(n)), bitsOf(y, 0, int(n))})
		xs, ys = without(xs, n), without(ys, n)
	}
	return out
}

// without takes the lowest n bits off the first of some fields.
func without(list []flowtable.Field, n uint8) []flowtable.Field {
	if list[0].Width == n {
		return list[1:]
	}
	list[0].Shift, list[0].Width = list[0].Shift+n, list[0].Width-n
	return list
}

// exchange lowers <->.
func (l *lowering) exchange(a, b logical.Ref) error {
	for _, r := range [...]logical.Ref{a, b} {
		if r.Symbol.Field == logical.FieldVLANTCI && (coversPresent(r) || l.tag != tagged) {
			return fail(logical.Verb(r.Symbol.Name), "the tag can be exchanged where the match says vlan.present, and bit 12 never")
		}
	}
	if lowBit(a) != lowBit(b) && overlap(a, b) {
		return fail(logical.Verb(a.Symbol.Name), "exchange of bits that overlap")
	}
	for _, p := range l.pairs(a, b) {
		l.add(flowtable.Action{Code: flowtable.ActExchange, Dst: p.to, Src: p.from})
	}
	return nil
}
