package flowtable

// Abort ends the transaction without effect.
func (x *Txn) Abort() {
	defer x.t.mu.Unlock()
	x.undo()
}

// undo takes everything back.
func (x *Txn) undo() {
	x.undoTo(0)
	x.t.pending.reset()
	x.t.beginPeriod()
	x.t.reclaim()
}

// undoTo takes back what was done after the first n things, the last first.
func (x *Txn) undoTo(n int) {
	var rules []uint32
	for x.log.n > n {
		v := x.log.pop(x.t.mem)
		did, ref := v>>32, uint32(v)
		x.undoOne(did, ref)
		if did == didRule || did == didDropRule {
			rules = append(rules, ref)
		}
	}
	for _, ref := range rules {
		x.t.pruneUses(ref)
	}
}

// undoOne takes one thing back.
func (x *Txn) undoOne(did uint64, ref uint32) {
	t := x.t
	switch did {
	case didRule:
		t.mem.store(ref+ruleGone, x.version)
		t.useRule(ref, false)
		t.gone.push(t.mem, goneRule<<32|uint64(ref))
	case didDropRule:
		t.mem.store(ref+ruleGone, never)
		t.useRule(ref, true)
		t.enterID(ref)
	case didMember:
		t.mem.store(ref+memberGone, 0) // not to be kept
		t.gone.push(t.mem, goneMember<<32|uint64(ref))
	case didDropMember:
		t.mem.store(ref+memberGone, never)
	case didKeepMember:
		t.mem.store(ref+memberGone, x.version)
	case didState:
		t.endState(ref, x.version)
		t.useState(ref, false)
		t.gone.push(t.mem, goneObject<<32|uint64(ref))
	case didDropState:
		t.mem.store(ref+stateGone, never)
		t.setHigh(uint32(t.mem.words[ref+stateOwner])+objectFirst, ref)
		t.useState(ref, true)
	case didSet:
		t.mem.words[ref+setVersion] = never
		t.gone.push(t.mem, goneSet<<32|uint64(ref))
	case didDropSet:
		t.mem.words[ref+setVersion] = 0
	case didGroup:
		t.dropGroup(ref, x.version)
	}
}
