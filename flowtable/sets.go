package flowtable

import (
	"errors"
	"fmt"
)

// A Set declares a set. Its members come by transactions.
type Set struct {
	ID SetID
	// Width is that of the fields that rules compare with it, 1..64 or 128.
	Width uint8
	// Exact says that every member has a full mask, as ports and Ethernet
	// addresses do. Sets that are exact are found faster.
	Exact bool
}

// Bounds of sets.
const (
	// SetMasksMax is how many different masks the members of one set, and of
	// all sets of one width that are not exact, may have.
	SetMasksMax = 256
	domainsMax  = 2 * 129
)

// Words of a set.
const (
	setID      = iota // id (0..31), width (32..39), exact (40), domain (48..)
	setUses           // rules that refer to it
	setMasks          // block of masks, or 0
	setMembers        // first member (0..31), number (32..63)
	setFirst          // first use: the rule sets where it is referred to
	setVersion        // in which it came, or never once it is removed; for the writer
	setWords
)

// Words of a member.
const (
	memberSet    = iota // id of the set (0..31), domain (32..)
	memberHigh          // value and mask, as Member has them
	memberLow           //
	memberMaskHi        //
	memberMaskLo        //
	memberAdded         // version in which it came
	memberGone          // version in which it went
	memberNext          // next member of the same domain, mask and value (0..31); for the writer, the previous one (32..63)
	memberLinks         // next (0..31) and previous (32..63) of the set, for the writer
	memberOwner         // block of the set
	memberWords
)

// Words of a use: a set is referred to by rules of a rule set, by a field.
const (
	useRuleset = iota // rule set (0..31), packed field (32..)
	useCount          // rules (0..31), previous use of the set (32..63)
	useNext           // next use of the set
	useSet            // block of the set
	useWords
)

// A list of masks is [number (0..31), capacity (32..63)], and for each the mask
// (high half, low half) and how many members have it.

// domainOf numbers what members are looked up together: those of sets of one
// width, apart the exact ones.
func domainOf(s Set) uint64 {
	d := uint64(s.Width) << 1
	if s.Exact {
		d |= 1
	}
	return d
}

// fullMask returns the mask of all bits of a width, as Member has it: for up to
// 64 bits in the low half.
func fullMask(width uint8) (high, low uint64) {
	if width == 128 {
		return ^uint64(0), ^uint64(0)
	}
	return 0, ^uint64(0) >> (64 - width)
}

// findSet returns the block of a set that no transaction has removed, or 0.
func (t *Tables) findSet(id SetID) uint32 {
	p := t.sets.search(t.mem, tagOf(t.seed.mix(t.seed.start, uint64(id))))
	for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
		if uint32(t.mem.words[ref+setID]) == uint32(id) && t.mem.words[ref+setVersion] != never {
			return ref
		}
	}
	return 0
}

// newSet makes a set without members.
func (t *Tables) newSet(s Set, version uint64) (uint32, error) {
	if s.Width == 0 || s.Width > 64 && s.Width != 128 {
		return 0, fmt.Errorf("set %d: width %d", s.ID, s.Width)
	}
	ref := t.mem.allocZero(memSets, setWords)
	if ref == 0 {
		return 0, fmt.Errorf("set %d: %w", s.ID, ErrFull)
	}
	if !t.sets.insert(t, memSets, tagOf(t.seed.mix(t.seed.start, uint64(s.ID))), ref) {
		t.mem.release(memSets, ref, setWords)
		return 0, fmt.Errorf("set %d: %w", s.ID, ErrFull)
	}
	v := uint64(s.ID) | uint64(s.Width)<<32 | domainOf(s)<<48
	if s.Exact {
		v |= 1 << 40
	}
	t.mem.words[ref+setID] = v
	t.mem.words[ref+setVersion] = version
	return ref, nil
}

// declared returns what a set was declared as.
func (t *Tables) declared(ref uint32) Set {
	v := t.mem.words[ref+setID]
	return Set{ID: SetID(v), Width: uint8(v >> 32), Exact: v>>40&1 != 0}
}

// setTag and valueTag are what members are found by.
func (t *Tables) setTag(set uint32, maskHigh, maskLow, high, low uint64) uint32 {
	h := t.seed.mix(t.seed.start, uint64(set))
	return t.valueHash(h, maskHigh, maskLow, high, low)
}

// valueTag is the tag of a value in a domain.
func (t *Tables) valueTag(domain, maskHigh, maskLow, high, low uint64) uint32 {
	return t.valueHash(t.seed.mix(t.seed.start, domain<<32), maskHigh, maskLow, high, low)
}

// valueHash folds a masked value into h.
func (t *Tables) valueHash(h, maskHigh, maskLow, high, low uint64) uint32 {
	h = t.seed.mix(h, low)
	h = t.seed.mix(h, maskLow)
	if maskHigh != 0 {
		h = t.seed.mix(h, high)
		h = t.seed.mix(h, maskHigh)
	}
	return tagOf(h)
}

// checkMember checks a member against what the set was declared as.
func checkMember(s Set, m Member) error {
	high, low := fullMask(s.Width)
	switch {
	case m.High&^m.MaskHigh|m.Low&^m.MaskLow != 0:
		return errors.New("value has bits outside the mask")
	case m.MaskHigh&^high|m.MaskLow&^low != 0:
		return fmt.Errorf("mask is wider than %d bits", s.Width)
	case s.Exact && (m.MaskHigh != high || m.MaskLow != low):
		return errors.New("mask of a member of an exact set")
	}
	return nil
}

// sameMember reports whether the member at ref is m.
func (t *Tables) sameMember(ref uint32, m Member) bool {
	w := t.mem.words[ref : ref+memberWords]
	return w[memberHigh] == m.High && w[memberLow] == m.Low && w[memberMaskHi] == m.MaskHigh && w[memberMaskLo] == m.MaskLow
}

// findMember returns the member of the set that no transaction has removed, or
// 0.
func (t *Tables) findMember(set uint32, m Member) uint32 { return t.memberGone(set, m, never) }

// memberGone returns the member of the set that went in a version, or 0.
func (t *Tables) memberGone(set uint32, m Member, version uint64) uint32 {
	p := t.members.search(t.mem, t.setTag(uint32(t.mem.words[set+setID]), m.MaskHigh, m.MaskLow, m.High, m.Low))
	for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
		if t.mem.words[ref+memberOwner] == uint64(set) && t.sameMember(ref, m) && t.mem.words[ref+memberGone] == version {
			return ref
		}
	}
	return 0
}

// memberAt returns the member at ref.
func (t *Tables) memberAt(ref uint32) Member {
	w := t.mem.words[ref : ref+memberWords]
	return Member{w[memberHigh], w[memberLow], w[memberMaskHi], w[memberMaskLo]}
}

// addMember adds a member that is not there, from version on. If it fails,
// nothing is changed.
func (t *Tables) addMember(set uint32, m Member, version uint64) (uint32, error) {
	s := t.declared(set)
	if err := checkMember(s, m); err != nil {
		return 0, err
	}
	domain := t.domains + uint32(domainOf(s))
	if err := t.addMask(set+setMasks, m); err != nil {
		return 0, err
	}
	if err := t.addMask(domain, m); err != nil {
		t.dropMask(set+setMasks, m)
		return 0, err
	}
	ref := t.newMember(set, m, version)
	if ref == 0 {
		t.dropMask(domain, m)
		t.dropMask(set+setMasks, m)
		return 0, ErrFull
	}
	first := uint32(t.mem.words[set+setMembers])
	t.mem.words[ref+memberLinks] = uint64(first)
	if first != 0 {
		l := &t.mem.words[first+memberLinks]
		*l = *l&0xffffffff | uint64(ref)<<32
	}
	t.mem.words[set+setMembers] = t.mem.words[set+setMembers]&^0xffffffff + 1<<32 | uint64(ref)
	return ref, nil
}

// newMember makes a member that is found by set and by value, or returns 0.
func (t *Tables) newMember(set uint32, m Member, version uint64) uint32 {
	s := t.declared(set)
	ref := t.mem.alloc(memSets, memberWords)
	if ref == 0 {
		return 0
	}
	*(*[memberWords]uint64)(t.mem.words[ref:]) = [memberWords]uint64{uint64(s.ID) | domainOf(s)<<32, m.High, m.Low, m.MaskHigh, m.MaskLow, 0, 0, 0, 0, uint64(set)}
	t.mem.store(ref+memberAdded, version)
	t.mem.store(ref+memberGone, never)
	tag := t.setTag(uint32(s.ID), m.MaskHigh, m.MaskLow, m.High, m.Low)
	if !t.members.insert(t, memSets, tag, ref) {
		t.mem.release(memSets, ref, memberWords)
		return 0
	}
	if !t.linkValue(ref, m, domainOf(s)) {
		t.members.remove(t.mem, tag, ref)
		t.mem.store(ref+memberGone, 0)
		t.retire(memSets, ref, memberWords)
		return 0
	}
	return ref
}

// linkValue puts the member where it is found by its value.
func (t *Tables) linkValue(ref uint32, m Member, domain uint64) bool {
	tag := t.valueTag(domain, m.MaskHigh, m.MaskLow, m.High, m.Low)
	head := t.findValue(tag, domain, m)
	t.mem.store(ref+memberNext, uint64(head))
	if head == 0 {
		return t.values.insert(t, memSets, tag, ref)
	}
	t.setHigh(head+memberNext, ref)
	t.values.replace(t.mem, tag, head, ref)
	return true
}

// unlinkValue undoes linkValue.
func (t *Tables) unlinkValue(ref uint32, m Member, domain uint64) {
	tag := t.valueTag(domain, m.MaskHigh, m.MaskLow, m.High, m.Low)
	next, before := uint32(t.mem.words[ref+memberNext]), uint32(t.mem.words[ref+memberNext]>>32)
	switch {
	case before != 0:
		t.setLow(before+memberNext, next)
	case next != 0:
		t.values.replace(t.mem, tag, ref, next)
	default:
		t.values.remove(t.mem, tag, ref)
	}
	if next != 0 {
		t.setHigh(next+memberNext, before)
	}
}

// findValue returns the first of the members with this domain, mask and value.
func (t *Tables) findValue(tag uint32, domain uint64, m Member) uint32 {
	p := t.values.search(t.mem, tag)
	for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
		if t.mem.words[ref+memberSet]>>32 == domain && t.sameMember(ref, m) {
			return ref
		}
	}
	return 0
}

// unlinkMember takes a removed member out, and retires it.
func (t *Tables) unlinkMember(ref uint32) {
	m, set := t.memberAt(ref), uint32(t.mem.words[ref+memberOwner])
	domain, id := t.mem.words[ref+memberSet]>>32, uint32(t.mem.words[ref+memberSet])
	t.members.remove(t.mem, t.setTag(id, m.MaskHigh, m.MaskLow, m.High, m.Low), ref)
	t.unlinkValue(ref, m, domain)
	t.dropMask(t.domains+uint32(domain), m)
	t.dropMask(set+setMasks, m)
	links := t.mem.words[ref+memberLinks]
	after, before := uint32(links), uint32(links>>32)
	if after != 0 {
		l := &t.mem.words[after+memberLinks]
		*l = *l&0xffffffff | uint64(before)<<32
	}
	if before != 0 {
		l := &t.mem.words[before+memberLinks]
		*l = *l&^0xffffffff | uint64(after)
	} else {
		t.mem.words[set+setMembers] = t.mem.words[set+setMembers]&^0xffffffff | uint64(after)
	}
	t.mem.words[set+setMembers] -= 1 << 32
	t.retire(memSets, ref, memberWords)
}

// eachMember calls f with the members of a set that no transaction has removed.
func (t *Tables) eachMember(set uint32, f func(ref uint32)) {
	for ref := uint32(t.mem.words[set+setMembers]); ref != 0; {
		next := uint32(t.mem.words[ref+memberLinks])
		if t.mem.words[ref+memberGone] == never {
			f(ref)
		}
		ref = next
	}
}

// unlinkSet takes out a removed set, whose members have gone before it.
func (t *Tables) unlinkSet(ref uint32) {
	id := uint32(t.mem.words[ref+setID])
	t.sets.remove(t.mem, tagOf(t.seed.mix(t.seed.start, uint64(id))), ref)
	if b := uint32(t.mem.words[ref+setMasks]); b != 0 {
		t.retire(memSets, b, 1+3*int(t.mem.words[b]>>32))
	}
	t.retire(memSets, ref, setWords)
}

// addMask counts a mask in the list whose block root names.
func (t *Tables) addMask(root uint32, m Member) error {
	b := uint32(t.mem.words[root])
	if i := t.maskAt(b, m); i != 0 {
		t.mem.words[i+2]++
		return nil
	}
	n := t.masksIn(b)
	if n == SetMasksMax {
		return fmt.Errorf("more than %d different masks", SetMasksMax)
	}
	nb := t.copyMasks(b, n+1)
	if nb == 0 {
		return ErrFull
	}
	w := t.mem.words[nb+1+3*n:]
	w[0], w[1], w[2] = m.MaskHigh, m.MaskLow, 1
	t.swapMasks(root, b, nb)
	return nil
}

// masksIn returns how many masks of a list have members.
func (t *Tables) masksIn(b uint32) (n uint32) {
	if b == 0 {
		return 0
	}
	for i := range uint32(t.mem.words[b]) {
		if t.mem.words[b+3+3*i] > 0 {
			n++
		}
	}
	return n
}

// copyMasks returns a list of n masks that begins with those of another that
// have members, or 0.
func (t *Tables) copyMasks(b, n uint32) uint32 {
	nb := t.mem.alloc(memSets, 1+3*int(n))
	if nb == 0 {
		return 0
	}
	w := t.mem.words
	w[nb] = uint64(n) | uint64(n)<<32
	if b == 0 {
		return nb
	}
	at := nb + 1
	for i := range uint32(w[b]) {
		if e := w[b+1+3*i : b+4+3*i]; e[2] > 0 {
			copy(w[at:], e)
			at += 3
		}
	}
	return nb
}

// swapMasks puts another list in place.
func (t *Tables) swapMasks(root, old, b uint32) {
	t.mem.store(root, uint64(b))
	if old != 0 {
		t.retire(memSets, old, 1+3*int(t.mem.words[old]>>32))
	}
}

// maskAt returns where the mask is in the list, or 0.
func (t *Tables) maskAt(b uint32, m Member) uint32 {
	if b == 0 {
		return 0
	}
	for i := range uint32(t.mem.words[b]) {
		if at := b + 1 + 3*i; t.mem.words[at] == m.MaskHigh && t.mem.words[at+1] == m.MaskLow {
			return at
		}
	}
	return 0
}

// dropMask counts a mask down, and takes it out of the list at zero.
func (t *Tables) dropMask(root uint32, m Member) {
	b := uint32(t.mem.words[root])
	at := t.maskAt(b, m)
	if at == 0 {
		return
	}
	if t.mem.words[at+2]--; t.mem.words[at+2] > 0 {
		return
	}
	n := t.masksIn(b)
	if n == 0 {
		t.swapMasks(root, b, 0)
		return
	}
	if nb := t.copyMasks(b, n); nb != 0 { // a mask without members costs a probe, no more
		t.swapMasks(root, b, nb)
	}
}

// useTag is what a use is found by.
func (t *Tables) useTag(set SetID, key uint64) uint32 {
	return tagOf(t.seed.mix(t.seed.mix(t.seed.start, uint64(set)), key))
}

// findUse returns the use of a set by rules of a rule set for a field, or 0, and
// its tag.
func (t *Tables) findUse(set, ruleset uint32, f Field) (ref, tag uint32) {
	id, key := SetID(t.mem.words[set+setID]), uint64(ruleset)|pack(f)<<32
	tag = t.useTag(id, key)
	p := t.uses.search(t.mem, tag)
	for ref = p.next(t.mem); ref != 0 && (t.mem.words[ref+useRuleset] != key || uint32(t.mem.words[ref+useSet]) != set); {
		ref = p.next(t.mem)
	}
	return ref, tag
}

// needUse makes a use if it is not there, of no rule yet.
func (t *Tables) needUse(set, ruleset uint32, f Field) bool {
	ref, tag := t.findUse(set, ruleset, f)
	if ref != 0 {
		return true
	}
	if ref = t.mem.alloc(memSets, useWords); ref == 0 {
		return false
	}
	w := t.mem.words
	first := uint32(w[set+setFirst])
	w[ref+useRuleset], w[ref+useCount] = uint64(ruleset)|pack(f)<<32, 0
	w[ref+useNext], w[ref+useSet] = uint64(first), uint64(set)
	if !t.uses.insert(t, memSets, tag, ref) {
		t.mem.release(memSets, ref, useWords)
		return false
	}
	if first != 0 {
		t.setHigh(first+useCount, ref)
	}
	w[set+setFirst] = uint64(ref)
	return true
}

// countUse notes that one more rule, or one less, of a rule set compares the
// field with the set. The use is there.
func (t *Tables) countUse(set, ruleset uint32, f Field, up bool) {
	ref, _ := t.findUse(set, ruleset, f)
	n := uint64(1)
	if !up {
		n = ^uint64(0)
	}
	t.setLow(ref+useCount, uint32(t.mem.words[ref+useCount]+n))
	t.mem.words[set+setUses] += n
}

// pruneUse takes a use out if no rule is left. Only the writer reads uses.
func (t *Tables) pruneUse(set, ruleset uint32, f Field) {
	ref, tag := t.findUse(set, ruleset, f)
	if ref == 0 || uint32(t.mem.words[ref+useCount]) != 0 {
		return
	}
	t.uses.remove(t.mem, tag, ref)
	next, before := uint32(t.mem.words[ref+useNext]), uint32(t.mem.words[ref+useCount]>>32)
	if before == 0 {
		t.mem.words[set+setFirst] = uint64(next)
	} else {
		t.setLow(before+useNext, next)
	}
	if next != 0 {
		t.setHigh(next+useCount, before)
	}
	t.mem.release(memSets, ref, useWords)
}

// halves returns the value of a field in a context, as Member has it.
func halves(ctx *Context, f Field) (high, low uint64) {
	w := ctx[f.Word&(ContextWords-1)]
	if f.Width == 128 {
		return w, ctx[(f.Word+1)&(ContextWords-1)]
	}
	return 0, w >> f.Shift & (^uint64(0) >> ((64 - f.Width) & 63))
}

// inSet reports whether the value is a member of the set in version v.
func (t *Tables) inSet(set uint32, high, low, v uint64) bool {
	b := uint32(t.mem.load(set + setMasks))
	if b == 0 {
		return false
	}
	id := uint32(t.mem.words[set+setID])
	for i := range uint32(t.mem.words[b]) {
		mh, ml := t.mem.words[b+1+3*i], t.mem.words[b+2+3*i]
		p := t.members.search(t.mem, t.setTag(id, mh, ml, high&mh, low&ml))
		for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
			w := t.mem.words[ref : ref+memberWords]
			if w[memberOwner] == uint64(set) && w[memberLow] == low&ml && w[memberHigh] == high&mh && w[memberMaskLo] == ml && w[memberMaskHi] == mh &&
				visible(v, t.mem.load(ref+memberAdded), t.mem.load(ref+memberGone)) {
				return true
			}
		}
	}
	return false
}
