package flowtable

// An index is an open-addressing hash in an arena, written by one writer and
// read by all without locks. Its root is two words:
//
//	root    the block in use (low half), its slots less one (high half)
//	root+1  for the writer: entries (high half), slots in use (low half, with graves)
//
// and a block is [slots less one, slots..., filter...]. A slot is a tag of 32 hash bits (high half)
// and a reference (low half), so a block is copied without looking at what it
// refers to. Which entry it is, the reader finds out by looking. A new block is
// put in place by one store; readers may still be in the old one, which is
// retired. Probing ends at an empty slot, of which there is always one.
//
// The filter is an eighth of the slots, and is what most searches in vain read:
// each entry has two bits in the word for the eight slots where its probing begins. A bit stays when an
// entry goes, so the slot of one is not used again before the block is rebuilt.
type index uint32

// rootWords is the size of an index's root.
const rootWords = 2

// grave is a slot whose entry went.
const grave = 0xffffffff

// minSlots is the size of the first block.
const minSlots = 2

// probe is the state of a search.
type probe struct {
	block uint32 // first slot
	mask  uint32
	at    uint32
	tag   uint32
}

// filterBits are the bits of a tag in a word of a filter.
func filterBits(tag uint32) uint64 { return 1<<(tag>>26) | 1<<(tag>>20&63) }

// filterAt returns where the word of a filter for a tag is.
func filterAt(block, mask, tag uint32) uint32 { return block + 2 + mask + (tag&mask)>>3 }

// indexWords returns the size of a block.
func indexWords(slots uint32) int { return 1 + int(slots) + int(slots+7)/8 }

// search begins a search for tag. The zero probe finds nothing.
func (x index) search(a *arena, tag uint32) probe {
	v := a.load(uint32(x))
	b, m := uint32(v), uint32(v>>32)
	if bits := filterBits(tag); b == 0 || a.load(filterAt(b, m, tag))&bits != bits {
		return probe{}
	}
	return probe{block: b + 1, mask: m, at: tag & m, tag: tag}
}

// next returns the next reference with the probe's tag, or 0 at the end.
func (p *probe) next(a *arena) uint32 {
	if p.block == 0 {
		return 0
	}
	for {
		s := a.load(p.block + p.at)
		if s == 0 {
			return 0
		}
		p.at = (p.at + 1) & p.mask
		if uint32(s>>32) == p.tag && uint32(s) != grave {
			return uint32(s)
		}
	}
}

// insert adds an entry. It does not look for one that is there.
func (x index) insert(t *Tables, kind int, tag, ref uint32) bool {
	a := t.mem
	counts := a.words[x+1]
	used := uint32(counts)
	b := uint32(a.words[x])
	if b == 0 || used+1 > most(uint32(a.words[b])+1) {
		if !x.rebuild(t, kind) {
			return false
		}
		b = uint32(a.words[x])
		counts = a.words[x+1]
	}
	m := uint32(a.words[b])
	i := tag & m
	for a.words[b+1+i] != 0 {
		i = (i + 1) & m
	}
	f := filterAt(b, m, tag)
	a.store(f, a.words[f]|filterBits(tag))
	a.store(b+1+i, uint64(tag)<<32|uint64(ref))
	a.words[x+1] = counts + 1<<32 + 1
	return true
}

// sparseSlots is up to how many slots a block is kept half empty, so that most
// searches in vain end at the first. Larger ones are three quarters full.
const sparseSlots = 1 << 13

// most returns how many slots of size may be in use.
func most(size uint32) uint32 {
	if size > 2 && size <= sparseSlots {
		return size / 2
	}
	return max(1, size/4*3)
}

// rebuild moves the entries to a block with room for more.
func (x index) rebuild(t *Tables, kind int) bool {
	a := t.mem
	live := a.words[x+1] >> 32
	size := uint32(minSlots)
	for uint64(most(size)) < live+1+live/4 {
		size *= 2
	}
	nb := a.allocZero(kind, indexWords(size))
	if nb == 0 {
		return false
	}
	m := size - 1
	a.words[nb] = uint64(m)
	if b := uint32(a.words[x]); b != 0 {
		n := uint32(a.words[b])
		for i := range n + 1 {
			s := a.words[b+1+i]
			if s == 0 || uint32(s) == grave {
				continue
			}
			j := uint32(s>>32) & m
			for a.words[nb+1+j] != 0 {
				j = (j + 1) & m
			}
			a.words[nb+1+j] = s
			a.words[filterAt(nb, m, uint32(s>>32))] |= filterBits(uint32(s >> 32))
		}
		t.retire(kind, b, indexWords(n+1))
	}
	a.store(uint32(x), uint64(nb)|uint64(m)<<32)
	a.words[x+1] = live<<32 | live
	return true
}

// slot returns where the entry is, or 0.
func (x index) slot(a *arena, tag, ref uint32) uint32 {
	b := uint32(a.words[x])
	if b == 0 {
		return 0
	}
	m := uint32(a.words[b])
	want := uint64(tag)<<32 | uint64(ref)
	for i := tag & m; a.words[b+1+i] != 0; i = (i + 1) & m {
		if a.words[b+1+i] == want {
			return b + 1 + i
		}
	}
	return 0
}

// replace puts another reference in the place of one.
func (x index) replace(a *arena, tag, old, ref uint32) {
	if s := x.slot(a, tag, old); s != 0 {
		a.store(s, uint64(tag)<<32|uint64(ref))
	}
}

// remove takes an entry out.
func (x index) remove(a *arena, tag, ref uint32) {
	if s := x.slot(a, tag, ref); s != 0 {
		a.store(s, grave)
		a.words[x+1] -= 1 << 32
	}
}

// drop retires the block.
func (x index) drop(t *Tables, kind int) {
	if b := uint32(t.mem.words[x]); b != 0 {
		t.retire(kind, b, indexWords(uint32(t.mem.words[b])+1))
	}
}

// A presence is an index whose references are counts: how many entries have
// this tag. It says surely not, or perhaps.
type presence = index

// has reports whether an entry may have the tag.
func has(a *arena, x presence, tag uint32) bool {
	p := x.search(a, tag)
	return p.next(a) != 0
}

// only returns the tag of a presence that has one.
func (x presence) only(a *arena) uint32 {
	b := uint32(a.words[x])
	for i := range uint32(a.words[b]) + 1 {
		if s := a.words[b+1+i]; s != 0 && uint32(s) != grave {
			return uint32(s >> 32)
		}
	}
	return 0
}

// count changes the count of tag by one, up or down.
func count(t *Tables, x presence, tag uint32, up bool) bool {
	a := t.mem
	p := x.search(a, tag)
	n := p.next(a)
	switch {
	case up && n == 0:
		return x.insert(t, memClassifier, tag, 1)
	case up:
		x.replace(a, tag, n, n+1)
	case n == 1:
		x.remove(a, tag, 1)
	case n > 1:
		x.replace(a, tag, n, n-1)
	}
	return true
}
