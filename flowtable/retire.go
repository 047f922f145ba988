package flowtable

// What a transaction removed goes in two steps. When no walker is left that may
// use a version in which it was there, it is unlinked; when no walker is left
// that may stand on it, its memory is free.

// Kinds of what is gone, in the high half of a word of Tables.gone.
const (
	goneRule = iota + 1
	goneMember
	goneObject
	goneSet
	goneLists // of a datapath: entries that nobody sees
	goneGroup
	goneRanges // of a chain
)

// A batch waits until all walkers have reached an epoch.
type batch struct {
	epoch   uint64
	version uint64 // in force when the period began
	gone    queue  // to be unlinked then
	dead    queue  // to be freed then
}

// retire frees a block, of n words, that new readers do not find any more, when
// all others are done. If even the note of it finds no room, the block is lost.
func (t *Tables) retire(kind int, ref uint32, n int) {
	t.dead.push(t.mem, uint64(ref)<<32|uint64(n)<<3|uint64(kind))
}

// Reclaim frees what walkers have left behind, and reports whether more waits
// for them. Transactions do so too; a switch at rest may call it now and then.
func (t *Tables) Reclaim() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reclaim()
}

// reclaim is Reclaim for whoever holds the lock.
func (t *Tables) reclaim() bool {
	t.sortSubtables()
	for {
		t.endPeriod()
		if len(t.waiting) == 0 || t.waiting[0].epoch > t.quietSince() {
			t.mem.trim()
			return len(t.waiting) > 0
		}
		b := t.waiting[0]
		t.waiting = t.waiting[1:]
		t.settled = b.version
		b.dead.drain(t.mem, func(v uint64) { t.mem.release(int(v&7), uint32(v>>32), int(v>>3&(1<<29-1))) })
		t.unlink(&b.gone)
	}
}

// endPeriod begins a new grace period if there is something to wait for.
func (t *Tables) endPeriod() {
	if t.gone.n+t.dead.n > 0 {
		t.beginPeriod()
	}
}

// beginPeriod begins a new grace period.
func (t *Tables) beginPeriod() {
	v := t.version.Load()
	t.waiting = append(t.waiting, batch{epoch: t.epoch.Add(1), version: v, gone: t.gone, dead: t.dead})
	t.gone, t.dead = queue{}, queue{}
}

// quietSince returns the last epoch that all walkers have reached.
func (t *Tables) quietSince() uint64 {
	quiet := t.epoch.Load()
	for _, w := range t.walkers {
		quiet = min(quiet, w.epoch.Load())
	}
	return quiet
}

// unlink takes out of all chains and hashes what is gone.
func (t *Tables) unlink(q *queue) {
	dirty, lists := make(map[uint32]struct{}), make(map[uint32]struct{})
	q.drain(t.mem, func(v uint64) {
		ref := uint32(v)
		switch v >> 32 {
		case goneRule:
			t.unlinkRule(ref, dirty)
		case goneMember:
			t.unlinkMember(ref)
		case goneObject:
			t.unlinkObject(ref)
		case goneSet:
			t.unlinkSet(ref)
		case goneLists:
			lists[ref] = struct{}{}
		case goneGroup:
			t.unlinkGroup(ref)
		case goneRanges:
			t.retireRanges(ref)
		}
	})
	for dp := range lists {
		t.purgeLists(dp)
	}
	for st := range dirty {
		t.settle(st)
	}
	t.sortSubtables()
}
