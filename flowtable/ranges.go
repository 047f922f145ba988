package flowtable

import "math/bits"

// Where most rules of a long chain have a range of one field, as rules for ports
// have, lookups find those whose range the value may be in. The values of the field are cut
// into blocks of 1, 4, 16... values. A rule has a link in each of the blocks that its range
// touches, of the size of which these are at most four. A lookup goes through the
// rules of one block of each size; what they say exactly, it evaluates as ever. Rules
// without such a range are in the largest blocks.
//
// Ranges only save time: without memory for a link they are given up.

// Words of the ranges of a chain.
const (
	rangesLinks  = iota // index: hash of size and number of a block -> chain of links
	_                   //
	rangesField         // packed field
	rangesSizes         // sizes of blocks that have links, as bits: bit i stands for 4^i values
	rangesCounts        // links in blocks of each size
	rangesWords  = rangesCounts + 32
)

// blockBits bounds the fields: size and number of a block fit one word.
const blockBits = 56

// A block is a size (56..63), as the exponent of 2, and the number of the block (0..55).
func block(shift uint32, v uint64) uint64 { return uint64(shift)<<blockBits | v>>shift }

// linkTag is what links in a block are found by.
func (t *Tables) linkTag(block uint64) uint32 { return tagOf(t.seed.mix(t.seed.start, block)) }

// cover returns the smallest size of blocks of which a range touches at most
// four.
func cover(low, high uint64) (shift uint32) {
	for (high>>shift)-(low>>shift) > 3 {
		shift += 2
	}
	return shift
}

// rangeOf returns which values of a packed field a rule may hold for: all of them
// if no predicate is about the field.
func (t *Tables) rangeOf(rule uint32, field uint64) (low, high uint64) {
	sh := shapeOf(t.mem.words[rule+ruleShape])
	for preds := t.mem.words[rule+sh.before : rule+sh.actions]; len(preds) > 0; preds = preds[predWords(uint8(preds[0])):] {
		if uint8(preds[0]) == InRange && preds[0]>>8&0xffffff == field {
			return preds[1], preds[2]
		}
	}
	return 0, ^uint64(0) >> (64 - unpack(field).Width)
}

// rangeField returns the field of which most rules of a chain have a range, if
// at least half of them have.
func (t *Tables) rangeField(root uint32) (field uint64, ok bool) {
	counts := map[uint64]uint64{}
	for rule := t.next(root); rule != 0; rule = t.next(rule) {
		sh := shapeOf(t.mem.words[rule+ruleShape])
		for preds := t.mem.words[rule+sh.before : rule+sh.actions]; len(preds) > 0; preds = preds[predWords(uint8(preds[0])):] {
			f := preds[0] >> 8 & 0xffffff
			if uint8(preds[0]) != InRange || unpack(f).Width > blockBits {
				continue
			}
			if counts[f]++; counts[f] > counts[field] || counts[f] == counts[field] && f < field {
				field = f
			}
		}
	}
	return field, counts[field] > 0 && 2*counts[field] >= t.mem.words[root+rootCount]
}

// tryRanges gives a long chain ranges. If there is no sense in that, or no
// memory, it is tried again when the chain is twice as long.
func (t *Tables) tryRanges(root uint32) {
	w := t.mem.words
	w[root+rootRetry] = 2 * w[root+rootCount]
	field, ok := t.rangeField(root)
	if !ok {
		return
	}
	b := t.mem.allocZero(memClassifier, rangesWords)
	if b == 0 {
		return
	}
	w[b+rangesField] = field
	for rule := t.next(root); rule != 0; rule = t.next(rule) {
		if !t.addLinks(b, rule) {
			t.freeRanges(b, t.mem.release)
			return
		}
	}
	t.mem.store(root+rootRanges, uint64(b))
}

// rangeRule puts a rule that was linked into the ranges of its chain.
func (t *Tables) rangeRule(root, rule uint32) {
	w := t.mem.words
	switch b := uint32(w[root+rootRanges]); {
	case b == 0 && w[root+rootCount] >= w[root+rootRetry]:
		t.tryRanges(root)
	case b != 0 && !t.addLinks(b, rule):
		t.dropRanges(root)
	}
}

// linksIn returns the chain of the links in a block.
func (t *Tables) linksIn(b uint32, block uint64) chain {
	c := chain{x: index(b + rangesLinks), tag: t.linkTag(block), links: true}
	p := c.x.search(t.mem, c.tag)
	for c.head = p.next(t.mem); c.head != 0 && t.mem.words[c.head+linkKey] != block; {
		c.head = p.next(t.mem)
	}
	return c
}

// addLinks puts a rule into blocks. If it fails, some of its links may be there.
func (t *Tables) addLinks(b, rule uint32) bool {
	w := t.mem.words
	low, high := t.rangeOf(rule, w[b+rangesField])
	shift := cover(low, high)
	for v := low >> shift; v <= high>>shift; v++ {
		link := t.mem.alloc(memClassifier, linkWords)
		if link == 0 {
			return false
		}
		key := block(shift, v<<shift)
		w[link+nodeID], w[link+linkRule], w[link+linkKey], w[link+nodeShape] = w[rule+ruleID], uint64(rule), key, w[rule+ruleShape]
		c := t.linksIn(b, key)
		if !t.linkNode(&c, link) {
			t.mem.release(memClassifier, link, linkWords)
			return false
		}
		if w[b+rangesCounts+shift/2]++; w[b+rangesCounts+shift/2] == 1 {
			t.mem.store(b+rangesSizes, w[b+rangesSizes]|1<<(shift/2))
		}
	}
	return true
}

// dropLinks takes a rule out of its blocks.
func (t *Tables) dropLinks(b, rule uint32) {
	w := t.mem.words
	low, high := t.rangeOf(rule, w[b+rangesField])
	shift := cover(low, high)
	for v := low >> shift; v <= high>>shift; v++ {
		c := t.linksIn(b, block(shift, v<<shift))
		link := t.linkOf(&c, rule)
		t.unlinkNode(&c, link)
		t.retire(memClassifier, link, linkWords)
		if w[b+rangesCounts+shift/2]--; w[b+rangesCounts+shift/2] == 0 {
			t.mem.store(b+rangesSizes, w[b+rangesSizes]&^(1<<(shift/2)))
		}
	}
}

// linkOf returns the link of a rule in a chain of links.
func (t *Tables) linkOf(c *chain, rule uint32) uint32 {
	w := t.mem.words
	r := rank{uint16(w[rule+ruleShape]), w[rule+ruleID], uint64(rule)}
	var above place
	at := c.head
	if t.isRoot(at) {
		at = t.next(t.seek(c, &r, &above))
	}
	for uint32(w[at+linkRule]) != rule {
		at = t.next(at)
	}
	return at
}

// rangesOf returns the ranges of the chain that begins with head, or 0.
func (t *Tables) rangesOf(head uint32) uint32 {
	if !t.isRoot(head) {
		return 0
	}
	return uint32(t.mem.words[head+rootRanges])
}

// dropRanges takes the ranges away from a chain, if it has any.
func (t *Tables) dropRanges(root uint32) {
	if b := uint32(t.mem.words[root+rootRanges]); b != 0 {
		t.mem.store(root+rootRanges, 0)
		t.mem.words[root+rootRetry] = 2 * t.mem.words[root+rootCount]
		t.gone.push(t.mem, goneRanges<<32|uint64(b))
	}
}

// retireRanges frees ranges and their links when no reader uses them.
func (t *Tables) retireRanges(b uint32) { t.freeRanges(b, t.retire) }

// freeRanges frees ranges and their links by free.
func (t *Tables) freeRanges(b uint32, free func(kind int, ref uint32, n int)) {
	w := t.mem.words
	index(b+rangesLinks).each(t.mem, func(node uint32) bool {
		for node != 0 {
			next, size := t.next(node), linkWords
			if t.isRoot(node) {
				size = rootValues
			}
			t.freeTower(t.tower(node))
			free(memClassifier, node, size)
			node = next
		}
		return true
	})
	if slots := uint32(w[b+rangesLinks]); slots != 0 {
		free(memClassifier, slots, indexWords(uint32(w[slots])+1))
	}
	free(memClassifier, b, rangesWords)
}

// lookupRanges improves best by the rules of a chain that its ranges find.
func (w *Walker) lookupRanges(b uint32, skip int, best *hit) {
	t := w.t
	f := unpack(t.mem.words[b+rangesField])
	w.consultField(f)
	_, v := halves(&w.ctx, f)
	for sizes := t.mem.load(b + rangesSizes); sizes != 0; sizes &= sizes - 1 {
		c := t.linksIn(b, block(uint32(2*bits.TrailingZeros64(sizes)), v))
		w.lookupChain(c.head, true, skip, best)
	}
}
