package flowtable

import (
	"math/bits"
	"sync/atomic"
)

// A hit is the best rule that a lookup has found so far.
type hit struct {
	priority int // -1 if there is none
	id       uint64
	rule     uint32
}

// consult notes that the walk depends on these bits of a word of the context.
// What the pipeline has written itself is known, and metadata follows from
// the key.
func (w *Walker) consult(word uint8, mask uint64) {
	w.stages.asked[word] |= mask &^ w.stages.fresh[word]
	if word < KeyWords {
		w.out.Mask[word] |= mask &^ w.touched[word]
	}
}

// consultField notes that the walk depends on a field.
func (w *Walker) consultField(f Field) {
	high, low := f.Bits()
	w.consult(f.Word, high)
	if low != 0 {
		w.consult(f.Word+1, low)
	}
}

// lookup returns the rule of a table of a datapath that matches, or 0.
func (w *Walker) lookup(dp uint32, table uint8) uint32 {
	t := w.t
	list := t.listOf(dp, table)
	if list == 0 {
		return 0
	}
	best := hit{priority: -1}
	w.first = firstStage{}
	for i := range uint32(t.mem.load(list)) {
		at := list + 1 + 3*i
		if !visible(w.version, t.mem.load(at+1), t.mem.load(at+2)) {
			continue
		}
		rs := uint32(t.mem.load(at))
		if int(t.mem.load(rs+rulesetMax))-1 >= best.priority {
			w.lookupRuleset(rs, &best)
		}
	}
	return best.rule
}

// lookupRuleset improves best by the rules of a rule set. Subtables come by
// highest priority, so it ends when the rest cannot win.
func (w *Walker) lookupRuleset(rs uint32, best *hit) {
	a := w.t.mem
	list := uint32(a.load(rs + rulesetList))
	if list == 0 {
		return
	}
	entries := a.words[list+1 : uint64(list)+1+2*(a.words[list]&0xffffffff)]
	for i := 0; i < len(entries); i += 2 {
		e := atomic.LoadUint64(&entries[i])
		if int(e>>32) < best.priority {
			return
		}
		w.lookupSubtable(uint32(e), best)
	}
}

// lookupSubtable improves best by the rules of a subtable.
func (w *Walker) lookupSubtable(st uint32, best *hit) {
	words := w.words
	rec := (*[subtableView]uint64)(words[st:])
	if rec[subtableFirst] != w.first.hash {
		w.foldFirst(rec)
	}
	stages, all, seed := rec[subtableStages], rec[subtableAll], &w.t.seed
	if kind := atomic.LoadUint64(&rec[subtableKind]); kind != 0 {
		if uint32(kind) != w.first.tag {
			return
		}
	} else if staged(stages) && !has(w.t.mem, presence(rec[subtableCold]+coldKinds), w.first.tag) {
		return
	}
	sum, at := w.first.sum, uint(subtableMasks+all>>40)
	for b := uint32(stages >> 32); b != 0; b &= b - 1 {
		i := bits.TrailingZeros32(b) & (ContextWords - 1)
		m := rec[at%subtableView]
		at++
		sum = seed.add(sum, w.ctx[i]&m, i)
		w.stages.asked[i] |= m &^ w.stages.fresh[i]
		if i < KeyWords {
			w.out.Mask[i] |= m &^ w.touched[i]
		}
	}
	if rec[subtableSet] != 0 {
		w.lookupBySet(rec, rec[at%subtableView:], sum, best)
		return
	}
	tag, v := seed.sumTag(sum, 0), atomic.LoadUint64(&rec[subtableRules])
	block, mask := uint32(v), uint32(v>>32)
	if bits := filterBits(tag); atomic.LoadUint64(&words[filterAt(block, mask, tag)])&bits == bits {
		if head := w.chain(block, mask, tag, uint32(all), rec[at%subtableView:], 0); head != 0 {
			w.ahead.remember(st, mask)
			w.lookupChain(head, false, 0, best)
		}
	}
}

// firstStage is what the first stage of a subtable came to. Others of the same
// lookup that have the same first stage need not do it again.
type firstStage struct {
	hash uint64 // of words and masks; zero for those without
	sum  uint64
	tag  uint32
}

// foldFirst does the first stage of a subtable.
func (w *Walker) foldFirst(rec *[subtableView]uint64) {
	seed := &w.t.seed
	sum, at := uint64(0), uint(subtableMasks)
	for b := uint32(rec[subtableStages]); b != 0; b &= b - 1 {
		i := bits.TrailingZeros32(b) & (ContextWords - 1)
		m := rec[at%subtableView]
		at++
		sum = seed.add(sum, w.ctx[i]&m, i)
		w.stages.asked[i] |= m &^ w.stages.fresh[i]
		if i < KeyWords {
			w.out.Mask[i] |= m &^ w.touched[i]
		}
	}
	w.first = firstStage{rec[subtableFirst], sum, seed.sumTag(sum, 0)}
}

// chain returns the first rule, or the root, of the chain whose key the context
// has, found by set if that is not zero, or 0. Block and mask are those of the
// subtable's index, whose filter says that there may be one.
func (w *Walker) chain(block, mask, tag, all uint32, masks []uint64, set uint32) uint32 {
	words := w.words
	slots := words[block+1:]
	i := tag & mask
next:
	for {
		s := atomic.LoadUint64(&slots[i])
		if s == 0 {
			return 0
		}
		i = (i + 1) & mask
		ref := uint32(s)
		if uint32(s>>32) != tag || ref == grave || uint32(words[ref+ruleHandle]>>32) != set {
			continue
		}
		values := words[ref+ruleValues:]
		n := 0
		for b := all; b != 0; b &= b - 1 {
			if w.ctx[bits.TrailingZeros32(b)&(ContextWords-1)]&masks[n] != values[n] {
				continue next
			}
			n++
		}
		return ref
	}
}

// lookupBySet improves best by the rules of a subtable that are found by a set:
// it looks up in which sets the value is, and then the rules of each.
func (w *Walker) lookupBySet(rec *[subtableView]uint64, masks []uint64, sum uint64, best *hit) {
	t := w.t
	a := t.mem
	v := atomic.LoadUint64(&rec[subtableRules])
	block, mask := uint32(v), uint32(v>>32)
	f, domain, all := unpack(rec[subtableSet]), rec[subtableSet]>>32, uint32(rec[subtableAll])
	w.consultField(f)
	high, low := halves(&w.ctx, f)
	b := uint32(a.load(t.domains + uint32(domain)))
	if b == 0 {
		return
	}
	for i := range uint32(a.words[b]) {
		m := Member{MaskHigh: a.words[b+1+3*i], MaskLow: a.words[b+2+3*i]}
		m.High, m.Low = high&m.MaskHigh, low&m.MaskLow
		ref := t.findValue(t.valueTag(domain, m.MaskHigh, m.MaskLow, m.High, m.Low), domain, m)
		for ; ref != 0; ref = uint32(a.load(ref + memberNext)) {
			if !visible(w.version, a.load(ref+memberAdded), a.load(ref+memberGone)) {
				continue
			}
			id := uint32(a.words[ref+memberSet])
			tag := t.seed.sumTag(sum, id)
			if bits := filterBits(tag); a.load(filterAt(block, mask, tag))&bits != bits {
				continue
			}
			if head := w.chain(block, mask, tag, all, masks, id); head != 0 {
				w.lookupChain(head, false, 1, best)
			}
		}
	}
}

// lookupChain improves best by the first rule of a chain, of rules or of links,
// whose predicates hold, but for the first skip ones, which do.
func (w *Walker) lookupChain(node uint32, links bool, skip int, best *hit) {
	a := w.t.mem
	for ; node != 0; node = uint32(a.load(node + nodeNext)) {
		sh := a.words[node+nodeShape]
		if sh == 0 {
			if b := uint32(a.load(node + rootRanges)); b != 0 {
				w.lookupRanges(b, skip, best)
				return
			}
			continue
		}
		priority, id := int(uint16(sh)), a.words[node+nodeID]
		if priority < best.priority || priority == best.priority && id >= best.id {
			return
		}
		rule := node
		if links {
			rule = uint32(a.words[node+linkRule])
		}
		if !visible(w.version, a.load(rule+ruleAdded), a.load(rule+ruleGone)) {
			continue
		}
		if uint8(sh>>24) > uint8(skip) && !w.holds(rule, sh, skip) {
			continue
		}
		*best = hit{priority, id, rule}
		return
	}
}

// holds reports whether all predicates of a rule but the first skip hold.
func (w *Walker) holds(rule uint32, v uint64, skip int) bool {
	sh := shapeOf(v)
	words := w.t.mem.words[rule+sh.before : rule+sh.actions]
	for i := range int(sh.preds) {
		h := words[0]
		if i >= skip && !w.hold(h, words) {
			return false
		}
		words = words[predWords(uint8(h)):]
	}
	return true
}

// hold reports whether one predicate holds.
func (w *Walker) hold(h uint64, words []uint64) bool {
	f := unpack(h >> 8 & 0xffffff)
	high, low := halves(&w.ctx, f)
	switch uint8(h) {
	case InSet:
		w.consultField(f)
		return w.t.inSet(uint32(words[1]), high, low, w.version)
	case NotInSet:
		w.consultField(f)
		return !w.t.inSet(uint32(words[1]), high, low, w.version)
	case InRange:
		w.consultField(f)
		return words[1] <= low && low <= words[2]
	}
	return w.differs(f, high, low, words)
}

// differs evaluates NotEqual, which depends on the bits of its mask only.
func (w *Walker) differs(f Field, high, low uint64, words []uint64) bool {
	if f.Width == 128 {
		w.consult(f.Word, words[3])
		w.consult(f.Word+1, words[4])
		return (high^words[1])&words[3]|(low^words[2])&words[4] != 0
	}
	w.consult(f.Word, words[3]<<f.Shift)
	return (low^words[1])&words[3] != 0
}
