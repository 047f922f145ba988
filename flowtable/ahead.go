package flowtable

import (
	"math/bits"
	"sync/atomic"

	"millrace/flowtable/prefetch"
)

// Frames that miss the cache come in batches, and a walk waits for memory most
// of its time: for a slot of an index, for the rule, for the rule's counter. So
// the memory that the walks of a batch will read is asked for ahead, all at
// once, as if they went through the subtables that the last walk found something in.
// If they do not, nothing but time is lost: addresses may be wrong, and where that does
// harm, nothing is remembered.

// AheadMax is how many keys Ahead takes at once.
const AheadMax = prefetch.Max

const (
	aheadProbes = 8   // subtables that are remembered of a walk
	aheadLines  = 3   // of a rule
	aheadSteps  = 8   // slots that are searched, which may lead into the filter behind the last
	aheadSlots  = 256 // of a subtable whose index does not stay near the core
)

// ahead is what Ahead works with.
type ahead struct {
	n      int         // subtables remembered
	words  []aheadWord // of a key that a subtable matches on
	probes [aheadProbes]uint32
	at     [aheadProbes][AheadMax]uint64 // slots, then rules, then handles' counters
	tags   [aheadProbes][AheadMax]uint32

	filters [AheadMax]uint64
}

// An aheadWord is a word of a key and the bits of it that count.
type aheadWord struct {
	word int
	mask uint64
}

// remember notes a subtable in which the walk has found something.
func (a *ahead) remember(st, mask uint32) {
	if prefetch.Harmless && mask >= aheadSlots-1 && a.n < aheadProbes {
		a.probes[a.n&(aheadProbes-1)] = st
		a.n++
	}
}

// Ahead asks for the memory that walks of packets with these keys will read,
// and for the counters of the rules that they will meet. Registers are
// taken to be as after the last walk. It may be called between walks only.
func (w *Walker) Ahead(keys *[AheadMax]Key, n int, c *Counters) {
	a := &w.ahead
	n = min(n, AheadMax)
	for i := range a.n {
		w.aheadSlots(i, keys, n)
	}
	for i := range a.n {
		w.aheadRules(i, n)
	}
	for i := range a.n {
		w.aheadCounters(i, n, c)
	}
}

// aheadSlots asks for the slots of the keys in subtable i of those remembered.
func (w *Walker) aheadSlots(i int, keys *[AheadMax]Key, n int) {
	a := &w.ahead
	st, at, tags := a.probes[i&(aheadProbes-1)], &a.at[i&(aheadProbes-1)], &a.tags[i&(aheadProbes-1)]
	rec, seed := (*[subtableView]uint64)(w.words[st:]), &w.t.seed
	v := atomic.LoadUint64(&rec[subtableRules])
	block, mask := uint32(v), uint32(v>>32)
	a.words = a.words[:0]
	rest, at2 := uint64(0), uint(subtableMasks)
	for _, stage := range [2]uint32{uint32(rec[subtableStages]), uint32(rec[subtableStages] >> 32)} {
		for b := stage; b != 0; b &= b - 1 {
			k := bits.TrailingZeros32(b) & (ContextWords - 1)
			m := rec[at2%subtableView]
			at2++
			if k < KeyWords {
				a.words = append(a.words, aheadWord{k, m})
			} else {
				rest = seed.add(rest, w.ctx[k]&m, k)
			}
		}
	}
	for j := 0; j < n && j < AheadMax; j++ {
		sum, key := rest, &keys[j]
		for _, x := range a.words {
			sum = seed.add(sum, key[x.word%KeyWords]&x.mask, x.word)
		}
		tags[j] = seed.sumTag(sum, 0)
		at[j] = uint64(block + 1 + tags[j]&mask)
	}
	base := w.t.mem.base()
	prefetch.Lines(base, at, n, 1<<32-1, 3)
	for j := range tags[:n] {
		a.filters[j] = uint64(filterAt(block, mask, tags[j]))
	}
	prefetch.Lines(base, &a.filters, n, 1<<32-1, 3)
}

// aheadRules asks for the rules that the slots name.
func (w *Walker) aheadRules(i, n int) {
	a := &w.ahead
	at, tags := &a.at[i&(aheadProbes-1)], &a.tags[i&(aheadProbes-1)]
	for j := 0; j < n && j < AheadMax; j++ {
		slots, ref := w.words[at[j]:], uint64(0)
		for k := range slots[:aheadSteps] {
			s := atomic.LoadUint64(&slots[k])
			if s == 0 {
				break
			}
			if uint32(s>>32) == tags[j] && uint32(s) != grave {
				ref = uint64(uint32(s))
				break
			}
		}
		at[j] = ref
	}
	base := w.t.mem.base()
	for line := range uintptr(aheadLines) {
		prefetch.Lines(base+64*line, at, n, 1<<32-1, 3)
	}
}

// aheadCounters asks for the counters of the rules.
func (w *Walker) aheadCounters(i, n int, c *Counters) {
	at := &w.ahead.at[i&(aheadProbes-1)]
	for j := 0; j < n && j < AheadMax; j++ {
		if at[j] != 0 {
			at[j] = counterAt(uint32(w.words[at[j]+ruleHandle]))
		}
	}
	prefetch.Lines(c.mem.base(), at, n, 1<<32-1, 3)
}
