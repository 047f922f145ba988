package conntrack

import "sync/atomic"

// remove takes a connection out, counts it, and reports whether it did: somebody
// else may have been first. The caller is inside: the record cannot have become
// another's since it looked.
func (t *Table) remove(ref Ref, count *atomic.Uint64) bool {
	i := ref.index()
	r := &t.records[i]
	for {
		s := r.state.Load()
		if status(s)&dead != 0 || r.generation() != ref.generation() {
			return false
		}
		if r.state.CompareAndSwap(s, s|uint64(dead)) {
			t.bury(i, count)
			return true
		}
	}
}

// bury takes record i, which the caller has made dead, out of the index and its
// zone. The cell moves when nobody finds the record any more.
func (t *Table) bury(i uint32, count *atomic.Uint64) {
	r := &t.records[i]
	x := &t.index
	ho, hr := x.seed.hash(&r.original), x.seed.hash(&r.reply)
	x.lockBoth(ho, hr)
	x.take(ho, slotOf(ho, i, 0))
	x.take(hr, slotOf(hr, i, 1))
	x.unlockBoth(ho, hr)
	r.ident.Add(1 << 32)
	t.deadlines[i].Store(0)
	t.move(i)
	t.delist(i)
	count.Add(1)
	t.retire(i)
}

// move gives a cell a new value: programs that have it as guard are stale.
func (t *Table) move(cell uint32) { atomic.AddUint32(&t.cells[cell], 1) }

// cell returns the value of a cell.
func (t *Table) cell(cell uint32) uint32 { return atomic.LoadUint32(&t.cells[cell]) }
