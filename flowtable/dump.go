package flowtable

// A Listed is a rule that is in force, and its handle, by which workers count.
type Listed struct {
	Rule
	Handle uint32
}

// EachRule calls f with every rule in force, in no order, until it returns false.
// Transactions wait meanwhile. Predicates may come in another order than they
// were given in, and fields by the first name that their bits have.
func (t *Tables) EachRule(f func(Listed) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids.each(t.mem, func(ref uint32) bool {
		return t.mem.words[ref+ruleGone] != never || f(Listed{t.decodeRule(ref), uint32(t.mem.words[ref+ruleHandle])})
	})
}

// Rule returns the rule with an id that is in force.
func (t *Tables) Rule(id RuleID) (Listed, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ref := t.findRule(id)
	if ref == 0 {
		return Listed{}, false
	}
	return Listed{t.decodeRule(ref), uint32(t.mem.words[ref+ruleHandle])}, true
}

// Members returns the members of a set, in no order, and whether it is there.
func (t *Tables) Members(id SetID) (Set, []Member, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ref := t.findSet(id)
	if ref == 0 {
		return Set{}, nil, false
	}
	var out []Member
	t.eachMember(ref, func(at uint32) { out = append(out, t.memberAt(at)) })
	return t.declared(ref), out, true
}

// Group returns the datapaths of a group, in order, and whether it is there.
func (t *Tables) Group(id GroupID) ([]uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.findGroup(id)
	if g == 0 {
		return nil, false
	}
	return append([]uint64(nil), t.membersOf(g)...), true
}
