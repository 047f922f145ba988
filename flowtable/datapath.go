package flowtable

// Words of a datapath. A walk that comes to table n of it probes the rule sets
// that the n-th list names: its own, and those of the groups that it is in.
const (
	datapathID    = iota
	datapathLists // block [tables, list...], or 0
	datapathWords
)

// A list of rule sets is [number (0..31), capacity (32..63)] and for each: the
// rule set, the version in which it came, that in which it went.

// Words of a group of datapaths.
const (
	groupID      = iota
	groupTables  // block [tables, rule set...], or 0
	groupMembers // block [number, datapath...] in order, or 0
	groupRules   // rules in force
	groupWords
)

// findDatapath returns the block of a datapath, or 0.
func (t *Tables) findDatapath(id uint64) uint32 {
	p := t.dps.search(t.mem, t.whoTag(id))
	for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
		if t.mem.words[ref+datapathID] == id {
			return ref
		}
	}
	return 0
}

// datapath returns the block of a datapath, made if it is not there.
func (t *Tables) datapath(id uint64) uint32 {
	if ref := t.findDatapath(id); ref != 0 {
		return ref
	}
	ref := t.mem.allocZero(memDatapaths, datapathWords)
	if ref == 0 {
		return 0
	}
	t.mem.words[ref+datapathID] = id
	if !t.dps.insert(t, memDatapaths, t.whoTag(id), ref) {
		t.mem.release(memDatapaths, ref, datapathWords)
		return 0
	}
	t.touchAll(regionUnknown)
	return ref
}

// findGroup returns the block of a group, or 0.
func (t *Tables) findGroup(id GroupID) uint32 {
	p := t.groups.search(t.mem, t.whoTag(uint64(id)))
	for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
		if t.mem.words[ref+groupID] == uint64(id) {
			return ref
		}
	}
	return 0
}

// group returns the block of a group, made if it is not there.
func (t *Tables) group(id GroupID) uint32 {
	if ref := t.findGroup(id); ref != 0 {
		return ref
	}
	ref := t.mem.allocZero(memDatapaths, groupWords)
	if ref == 0 {
		return 0
	}
	t.mem.words[ref+groupID] = uint64(id)
	if !t.groups.insert(t, memDatapaths, t.whoTag(uint64(id)), ref) {
		t.mem.release(memDatapaths, ref, groupWords)
		return 0
	}
	return ref
}

// tableSlot returns where entry n of the block of tables that root names is,
// with the block made long enough.
func (t *Tables) tableSlot(root uint32, n uint8) uint32 {
	b := uint32(t.mem.words[root])
	have := uint32(0)
	if b != 0 {
		have = uint32(t.mem.words[b])
	}
	if uint32(n) >= have {
		want := max(uint32(n)+1, min(2*have, TablesMax), 7)
		nb := t.mem.allocZero(memDatapaths, int(want)+1)
		if nb == 0 {
			return 0
		}
		t.mem.words[nb] = uint64(want)
		if b != 0 {
			copy(t.mem.words[nb+1:nb+1+want], t.mem.words[b+1:b+1+have])
			t.retire(memDatapaths, b, int(have)+1)
		}
		t.mem.store(root, uint64(nb))
		b = nb
	}
	return b + 1 + uint32(n)
}

// listOf returns the list of rule sets of a table of a datapath, or 0.
func (t *Tables) listOf(dp uint32, table uint8) uint32 {
	b := uint32(t.mem.load(dp + datapathLists))
	if b == 0 || uint64(table) >= t.mem.words[b] {
		return 0
	}
	return uint32(t.mem.load(b + 1 + uint32(table)))
}

// rulesetFor returns the rule set of a rule, made if it is not there. A new one
// of a group comes to all members from version on.
func (t *Tables) rulesetFor(r *Rule, version uint64) uint32 {
	if r.Group != 0 {
		return t.groupRuleset(t.findGroup(r.Group), r.Table, version)
	}
	dp := t.datapath(r.Datapath)
	if dp == 0 {
		return 0
	}
	if list := t.listOf(dp, r.Table); list != 0 {
		for i := range uint32(t.mem.words[list]) {
			rs := uint32(t.mem.words[list+1+3*i])
			if rs != 0 && t.mem.words[rs+rulesetTable]>>8 == 0 {
				return rs
			}
		}
	}
	rs := t.newRuleset(r.Datapath, r.Table, false)
	if rs == 0 {
		return 0
	}
	if !t.listRuleset(dp, r.Table, rs, version) {
		t.mem.release(memDatapaths, rs, rulesetWords)
		return 0
	}
	t.touchAll(dp)
	return rs
}

// groupRuleset returns the rule set of a table of a group.
func (t *Tables) groupRuleset(g uint32, table uint8, version uint64) uint32 {
	slot := t.tableSlot(g+groupTables, table)
	if slot == 0 {
		return 0
	}
	rs := uint32(t.mem.words[slot])
	if rs == 0 {
		if rs = t.newRuleset(t.mem.words[g+groupID], table, true); rs == 0 {
			return 0
		}
		t.mem.words[slot] = uint64(rs)
		t.mem.words[rs+rulesetTable] |= rulesetPart
	}
	if t.mem.words[rs+rulesetTable]&rulesetPart == 0 {
		return rs
	}
	for _, id := range t.membersOf(g) {
		dp := t.datapath(id)
		if dp == 0 || !t.isListed(dp, table, rs) && !t.listRuleset(dp, table, rs, version) {
			return 0
		}
		t.touchAll(dp)
	}
	t.mem.words[rs+rulesetTable] &^= rulesetPart
	return rs
}

// isListed reports whether a rule set is in the list of a table of a datapath,
// and stays there.
func (t *Tables) isListed(dp uint32, table uint8, rs uint32) bool {
	list := t.listOf(dp, table)
	if list == 0 {
		return false
	}
	for i := range uint32(t.mem.words[list]) {
		if at := list + 1 + 3*i; uint32(t.mem.words[at]) == rs && t.mem.words[at+2] == never {
			return true
		}
	}
	return false
}

// membersOf returns the datapaths of a group, in order. They are not to be
// changed.
func (t *Tables) membersOf(g uint32) []uint64 {
	b := uint32(t.mem.words[g+groupMembers])
	if b == 0 {
		return nil
	}
	return t.mem.words[b+1 : uint64(b)+1+t.mem.words[b]]
}

// listRuleset adds a rule set to the list of a table of a datapath.
func (t *Tables) listRuleset(dp uint32, table uint8, rs uint32, version uint64) bool {
	w := t.mem.words
	slot := t.tableSlot(dp+datapathLists, table)
	if slot == 0 {
		return false
	}
	list := uint32(w[slot])
	n, room := uint32(0), uint32(0)
	if list != 0 {
		n, room = uint32(w[list]), uint32(w[list]>>32)
	}
	if n < room {
		t.putRuleset(list, n, rs, version)
		return true
	}
	room = max(1, 2*n)
	nb := t.mem.alloc(memDatapaths, 1+3*int(room))
	if nb == 0 {
		return false
	}
	w[nb] = uint64(room) << 32
	kept := uint32(0)
	for i := range n {
		if e := w[list+1+3*i : list+4+3*i]; e[2] > t.settled {
			copy(w[nb+1+3*kept:], e)
			kept++
		}
	}
	w[nb] |= uint64(kept)
	t.putRuleset(nb, kept, rs, version)
	t.mem.store(slot, uint64(nb))
	if list != 0 {
		t.retire(memDatapaths, list, 1+3*int(uint32(w[list]>>32)))
	}
	return true
}

// putRuleset writes entry n of a list, and then the number of entries.
func (t *Tables) putRuleset(list, n, rs uint32, version uint64) {
	at := list + 1 + 3*n
	t.mem.store(at, uint64(rs))
	t.mem.store(at+1, version)
	t.mem.store(at+2, never)
	t.mem.store(list, t.mem.words[list]&^0xffffffff|uint64(n+1))
}

// eachRuleset calls f with the rule sets of a group.
func (t *Tables) eachRuleset(g uint32, f func(table uint8, rs uint32)) {
	b := uint32(t.mem.words[g+groupTables])
	if b == 0 {
		return
	}
	for i := range uint32(t.mem.words[b]) {
		if rs := uint32(t.mem.words[b+1+i]); rs != 0 {
			f(uint8(i), rs)
		}
	}
}

// join gives a datapath the rules of a group.
func (t *Tables) join(g, dp uint32, version uint64) bool {
	ok := dp != 0
	t.eachRuleset(g, func(table uint8, rs uint32) { ok = ok && t.listRuleset(dp, table, rs, version) })
	t.touchAll(dp)
	return ok
}

// unjoin undoes a join with the same version, of which a part may have been
// done.
func (t *Tables) unjoin(g, dp uint32, version uint64) {
	t.eachRuleset(g, func(table uint8, rs uint32) {
		list := t.listOf(dp, table)
		if list == 0 {
			return
		}
		for i := range uint32(t.mem.words[list]) {
			if at := list + 1 + 3*i; uint32(t.mem.words[at]) == rs && t.mem.words[at+1] == version {
				t.mem.store(at+2, 0)
			}
		}
	})
	t.gone.push(t.mem, goneLists<<32|uint64(dp))
}

// leave takes the rules of a group away from a datapath.
func (t *Tables) leave(g, dp uint32, version uint64) {
	t.eachRuleset(g, func(table uint8, rs uint32) {
		list := t.listOf(dp, table)
		if list == 0 {
			return
		}
		for i := range uint32(t.mem.words[list]) {
			if at := list + 1 + 3*i; uint32(t.mem.words[at]) == rs && t.mem.words[at+2] == never {
				t.mem.store(at+2, version)
			}
		}
	})
	t.gone.push(t.mem, goneLists<<32|uint64(dp))
	t.touchAll(dp)
}

// purgeLists takes out of the lists of a datapath the rule sets that nobody
// sees there any more.
func (t *Tables) purgeLists(dp uint32) {
	w := t.mem.words
	tables := uint32(w[dp+datapathLists])
	if tables == 0 {
		return
	}
	for i := range uint32(w[tables]) {
		if list := uint32(w[tables+1+i]); list != 0 {
			t.purgeList(tables+1+i, list)
		}
	}
}

// purgeList does so for one list, which slot names.
func (t *Tables) purgeList(slot, list uint32) {
	w := t.mem.words
	n, room := uint32(w[list]), int(w[list]>>32)
	kept := uint32(0)
	for i := range n {
		if w[list+3+3*i] > t.settled {
			kept++
		}
	}
	if kept == n {
		return
	}
	nb := uint32(0)
	if kept > 0 {
		if nb = t.mem.alloc(memDatapaths, 1+3*int(kept)); nb == 0 {
			t.blankList(list)
			return
		}
		w[nb] = uint64(kept) | uint64(kept)<<32
		at := nb + 1
		for i := range n {
			if e := w[list+1+3*i : list+4+3*i]; e[2] > t.settled {
				copy(w[at:], e)
				at += 3
			}
		}
	}
	t.mem.store(slot, uint64(nb))
	t.retire(memDatapaths, list, 1+3*room)
}

// blankList takes rule sets that nobody sees out of a list for which there is no
// new block: they may be gone soon.
func (t *Tables) blankList(list uint32) {
	for i := range uint32(t.mem.words[list]) {
		if at := list + 1 + 3*i; t.mem.words[at+2] <= t.settled {
			t.mem.store(at, 0)
		}
	}
}

// dropGroup removes a group, from version on.
func (t *Tables) dropGroup(g uint32, version uint64) {
	for _, id := range t.membersOf(g) {
		t.leave(g, t.findDatapath(id), version)
	}
	t.groups.remove(t.mem, t.whoTag(t.mem.words[g+groupID]), g)
	t.gone.push(t.mem, goneGroup<<32|uint64(g))
}

// unlinkGroup retires a group, whose rules have gone before it.
func (t *Tables) unlinkGroup(g uint32) {
	w := t.mem.words
	t.eachRuleset(g, func(_ uint8, rs uint32) {
		if b := uint32(w[rs+rulesetWritten]); b != 0 {
			t.retire(memDatapaths, b, KeyWords)
		}
		t.retire(memDatapaths, rs, rulesetWords)
	})
	if b := uint32(w[g+groupTables]); b != 0 {
		t.retire(memDatapaths, b, int(w[b])+1)
	}
	if b := uint32(w[g+groupMembers]); b != 0 {
		t.retire(memDatapaths, b, int(w[b])+1)
	}
	t.retire(memDatapaths, g, groupWords)
}
