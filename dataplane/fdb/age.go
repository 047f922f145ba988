package fdb

// Age looks at the next n buckets for learned entries that were last heard
// maxAge seconds ago or earlier, and removes them. It returns how many those
// were, and whether it has come to the end of the table, from where the next
// call starts again. With maxAge 0 entries live for ever.
//
// The mutex is held for one call: with n = 256, a few microseconds.
func (t *Table) Age(now, maxAge uint32, n int) (removed int, end bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if maxAge == 0 || t.learned == 0 {
		t.ageNext = 0
		return 0, true
	}
	from, to := t.ageNext, min(t.ageNext+n, len(t.buckets))
	removed = t.removeIn(from, to, func(_ Key, v value) bool {
		return !v.static() && v.age(now) >= maxAge
	})
	t.events.Aged += uint64(removed)
	t.ageNext = to
	if to == len(t.buckets) {
		t.ageNext = 0
	}
	return removed, t.ageNext == 0
}

// Flush removes all learned entries and returns how many those were.
func (t *Table) Flush() int {
	return t.flush(func(_ Key, v value) bool { return !v.static() })
}

// FlushPort removes the learned entries of a port and returns how many those
// were.
func (t *Table) FlushPort(port uint32) int {
	return t.flush(func(_ Key, v value) bool { return !v.static() && v.port() == port })
}

// FlushVLAN removes the learned entries of a VLAN and returns how many those
// were.
func (t *Table) FlushVLAN(vlan uint16) int {
	return t.flush(func(k Key, v value) bool { return !v.static() && k.VLAN() == vlan })
}

// RemovePort removes all entries of a port, static ones too, and forgets its
// limit. It returns how many entries those were. Workers must have stopped to
// learn on the port before.
func (t *Table) RemovePort(port uint32) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	removed := 0
	if p := t.ports[port]; t.static > 0 || p != nil && p.learned > 0 { // else there is nothing to find
		removed = t.removeIn(0, len(t.buckets), func(_ Key, v value) bool { return v.port() == port })
	}
	t.events.Flushed += uint64(removed)
	delete(t.ports, port)
	return removed
}

// flush removes the entries that go chooses. It holds the mutex for the whole
// table, so that none escapes by a move.
func (t *Table) flush(goes func(Key, value) bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	removed := t.removeIn(0, len(t.buckets), goes)
	t.events.Flushed += uint64(removed)
	return removed
}

// removeIn removes the entries of buckets from to to-1 that goes chooses.
func (t *Table) removeIn(from, to int, goes func(Key, value) bool) (removed int) {
	for s := from * bucketSlots; s < to*bucketSlots; s++ {
		b, i := t.at(s)
		k := Key(b.keys[i].Load())
		if k != 0 && goes(k, value(b.vals[i].Load())) {
			t.empty(s)
			removed++
		}
	}
	return removed
}
