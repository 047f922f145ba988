package pktgen

// A tracker follows the sequence numbers of a stream's flows at one port. Each
// flow has a window of the last numbers: one that comes again inside of it is a
// duplicate, one that was left out and comes after others is reordered, and one
// from before it is stale: nobody can tell.
type tracker struct {
	next  []uint32 // by flow: number after the highest that came
	seen  []uint64 // by flow, words each: bit n mod window is number n
	words uint32

	unique, duplicated, reordered, stale uint64
}

const (
	windowLeast = 128
	windowMost  = 16384
	windowAll   = 32 << 20 // bits, for all flows together
)

func newTracker(flows int) *tracker {
	w := uint32(windowMost)
	for w > windowLeast && uint64(w)*uint64(flows) > windowAll {
		w /= 2
	}
	return &tracker{next: make([]uint32, flows), seen: make([]uint64, flows*int(w/64)), words: w / 64}
}

// see takes note of frame seq of a flow.
func (t *tracker) see(flow, seq uint32) {
	next := t.next[flow]
	window := t.seen[flow*t.words : (flow+1)*t.words]
	bit := func(n uint32) (*uint64, uint64) {
		n &= 64*t.words - 1
		return &window[n/64], 1 << (n % 64)
	}
	ahead := seq - next
	if ahead < 1<<31 {
		for n := next; n != seq && seq-n <= 64*t.words; n++ {
			w, b := bit(n)
			*w &^= b
		}
		if ahead >= 64*t.words {
			clear(window)
		}
		w, b := bit(seq)
		*w |= b
		t.next[flow] = seq + 1
		t.unique++
		return
	}
	if next-seq > 64*t.words {
		t.stale++
		return
	}
	w, b := bit(seq)
	if *w&b != 0 {
		t.duplicated++
		return
	}
	*w |= b
	t.reordered++
	t.unique++
}

// restart makes seqs the numbers that come next and forgets all counts. What
// was before them counts as seen: a copy of it is a duplicate.
func (t *tracker) restart(seqs []uint32) {
	copy(t.next, seqs)
	for i := range t.seen {
		t.seen[i] = ^uint64(0)
	}
	t.unique, t.duplicated, t.reordered, t.stale = 0, 0, 0, 0
}
