package flowtable

import (
	"errors"
	"fmt"
)

// Errors of transactions, for callers that branch.
var (
	ErrExists  = errors.New("is there already")
	ErrUnknown = errors.New("is not there")
	ErrInUse   = errors.New("is in use")
	// ErrRefused says that something of a transaction was refused, so that
	// nothing of it came into force.
	ErrRefused = errors.New("transaction refused")
)

// refusedMax bounds Result.Refused.
const refusedMax = 1000

// A Refusal says what of a transaction was refused, and why.
type Refusal struct {
	Rule RuleID // if it is a rule
	Err  error  // names what it is about
}

// A Result says what a transaction did.
type Result struct {
	Version        uint64 // in force after it
	Added, Removed int    // rules
	NRefused       int
	Refused        []Refusal // the first of them
}

// What a transaction did, in the high half of a word of Txn.log.
const (
	didRule = iota + 1
	didDropRule
	didMember
	didDropMember
	didState
	didDropState
	didSet
	didDropSet
	didGroup
	didKeepMember // a member that it removed is there again
)

// A Txn is a transaction: it prepares, beside what is in force, what comes into
// force at once with Commit. Each call takes effect on what calls after it find:
// a set is there for rules from the call on that makes it. What a call is
// refused, it says, and leaves the rest of the transaction as it is. A Txn holds
// the writer's lock until Commit or Abort.
type Txn struct {
	t       *Tables
	version uint64
	log     queue                // what was done, for Commit and Abort
	groups  map[GroupID][]uint64 // members from this transaction on; nil: the group is removed
	kept    map[uint32]struct{}  // members that are in the log as removed and may be there, or in it twice
	done    map[uint32]struct{}  // those of them that are retired
	rule    []uint64             // scratch
	result  Result
}

// Begin begins a transaction, when the one before has ended.
func (t *Tables) Begin() *Txn {
	t.mu.Lock()
	t.reclaim()
	t.pending.reset()
	return &Txn{t: t, version: t.version.Load() + 1}
}

// refuse notes a refusal, and returns it.
func (x *Txn) refuse(id RuleID, err error) error {
	x.result.NRefused++
	if len(x.result.Refused) < refusedMax {
		x.result.Refused = append(x.result.Refused, Refusal{id, err})
	}
	return err
}

// note logs what was done.
func (x *Txn) note(did uint64, ref uint32) { x.log.push(x.t.mem, did<<32|uint64(ref)) }

// room makes sure that n things can be noted, now and when the transaction
// ends.
func (x *Txn) room(n int) error {
	if !x.t.mem.promise(n) {
		return ErrFull
	}
	return nil
}

// Commit puts the transaction in force, at once for packets. If something was
// refused, it does so only if allowPartial; otherwise nothing of it comes into
// force, and the error is ErrRefused, or ErrFull.
func (x *Txn) Commit(allowPartial bool) (Result, error) {
	t := x.t
	defer t.mu.Unlock()
	if x.result.NRefused > 0 && !allowPartial {
		x.undo()
		x.result.Added, x.result.Removed, x.result.Version = 0, 0, t.version.Load()
		return x.result, fmt.Errorf("%w: %d refused, the first: %w", ErrRefused, x.result.NRefused, x.result.Refused[0].Err)
	}
	if err := x.applyGroups(); err != nil {
		x.undo()
		x.result.Added, x.result.Removed, x.result.Version = 0, 0, t.version.Load()
		return x.result, err
	}
	x.publish()
	x.log.drain(t.mem, x.retire)
	t.rules += x.result.Added - x.result.Removed
	t.beginPeriod()
	t.reclaim()
	x.result.Version = x.version
	return x.result, nil
}

// applyGroups gives groups their members, and removes some. What may fail comes
// first: if it does, nothing is changed.
func (x *Txn) applyGroups() error {
	t := x.t
	var all []regroup
	for id, members := range x.groups {
		g := t.findGroup(id)
		if g == 0 {
			continue
		}
		r, now := t.regroup(g, members)
		if all = append(all, r); !t.joinAll(&all[len(all)-1], now, x.version) {
			for i := range all {
				t.unjoinAll(&all[i], x.version)
			}
			return fmt.Errorf("group %d: %w", id, ErrFull)
		}
	}
	for i := range all {
		t.leaveAll(&all[i], x.version)
	}
	return nil
}

// publish makes the version that of the transaction, and moves the guards of
// what it concerns. No program of a walk that began before it ended is kept.
func (x *Txn) publish() {
	t := x.t
	t.changes.Add(1)
	p := &t.pending
	for i := range p.list {
		t.log.add(&p.list[i], x.version)
	}
	for region := range p.all {
		t.log.add(&change{region: region}, x.version)
	}
	t.version.Store(x.version)
	t.paths.apply(t, p)
	t.changes.Add(1)
	p.kills = nil
}

// retire sends on its way what the transaction removed.
func (x *Txn) retire(v uint64) {
	t, ref := x.t, uint32(v)
	switch v >> 32 {
	case didDropRule:
		t.pruneUses(ref)
		t.gone.push(t.mem, goneRule<<32|uint64(ref))
	case didDropMember:
		if x.retireOnce(ref) {
			t.gone.push(t.mem, goneMember<<32|uint64(ref))
		}
	case didDropState:
		t.gone.push(t.mem, goneObject<<32|uint64(ref))
	case didDropSet:
		t.gone.push(t.mem, goneSet<<32|uint64(ref))
	}
}

// retireOnce reports whether a member that the log has as removed is to be
// retired: it may be there again, or be in the log once more.
func (x *Txn) retireOnce(ref uint32) bool {
	if x.t.mem.words[ref+memberGone] != x.version {
		return false
	}
	if _, ok := x.kept[ref]; !ok {
		return true
	}
	if x.done == nil {
		x.done = make(map[uint32]struct{})
	}
	_, again := x.done[ref]
	x.done[ref] = struct{}{}
	return !again
}

// Add adds a rule whose id is not there. The rule may be used again afterwards.
func (x *Txn) Add(r *Rule) error {
	if err := x.add(r); err != nil {
		return x.refuse(r.ID, fmt.Errorf("rule %016x: %w", uint64(r.ID), err))
	}
	x.result.Added++
	return nil
}

// add is Add without the count.
func (x *Txn) add(r *Rule) error {
	t := x.t
	if err := errors.Join(x.room(2), checkRule(r)); err != nil {
		return err
	}
	if t.findRule(r.ID) != 0 {
		return ErrExists
	}
	if err := t.checkReferences(r); err != nil {
		return err
	}
	if members, ok := x.groups[r.Group]; ok && members == nil {
		return fmt.Errorf("group %d: %w", r.Group, ErrUnknown)
	}
	by := foundBy(r.Preds)
	var err error
	if x.rule, err = t.encodeRule(x.rule[:0], r, by); err != nil {
		return err
	}
	rs := t.rulesetFor(r, x.version)
	if rs == 0 || !t.noteWritten(rs, r.Actions) {
		return ErrFull
	}
	ref, err := x.place(rs, r, by)
	if err != nil {
		return err
	}
	t.useRule(ref, true)
	t.touchRule(ref)
	x.note(didRule, ref)
	return nil
}

// place puts the rule of which x.rule has the words into a rule set. If it fails, nothing
// is changed.
func (x *Txn) place(rs uint32, r *Rule, by int) (uint32, error) {
	t := x.t
	handle := t.newHandle()
	if handle == 0 {
		return 0, fmt.Errorf("more than %d rules: %w", handlesMax, ErrFull)
	}
	ref := t.mem.alloc(memRules, len(x.rule))
	if ref == 0 {
		t.freeHandle(handle)
		return 0, ErrFull
	}
	set, setRef := uint64(0), uint32(0)
	x.rule[ruleHandle] = uint64(handle)
	if by >= 0 {
		setRef = t.findSet(r.Preds[by].Set)
		set = pack(r.Preds[by].Field) | domainOf(t.declared(setRef))<<32
		x.rule[ruleHandle] |= uint64(r.Preds[by].Set) << 32
	}
	st, err := t.subtableFor(rs, r.Match, set)
	if err == nil {
		x.rule[ruleSubtable] = uint64(st) | uint64(setRef)<<32
		copy(t.mem.words[ref:], x.rule)
		t.mem.store(ref+ruleAdded, x.version)
		t.mem.store(ref+ruleGone, never)
		if t.enter(ref) {
			return ref, nil
		}
		err = ErrFull
		if t.mem.words[t.cold(st)+coldListed] == 0 {
			t.retireSubtable(st)
		}
	}
	t.mem.store(ref+ruleGone, 0)
	t.freeHandle(handle)
	t.retire(memRules, ref, len(x.rule))
	return 0, err
}

// enter puts a prepared rule where it is found by its id, by its sets, and by
// lookups. If it fails, nothing is changed, but readers may stand on the rule.
func (t *Tables) enter(ref uint32) bool {
	old, ok := t.enterID(ref)
	if !ok {
		return false
	}
	if t.needUses(ref) && t.linkRule(ref) {
		return true
	}
	t.pruneUses(ref)
	if old != 0 {
		t.enterID(old)
	} else {
		t.ids.remove(t.mem, t.idTag(t.mem.words[ref+ruleID]), ref)
	}
	return false
}

// Remove removes a rule.
func (x *Txn) Remove(id RuleID) error {
	ref, err := x.t.findRule(id), x.room(1)
	if ref == 0 {
		err = ErrUnknown
	}
	if err != nil {
		return x.refuse(id, fmt.Errorf("rule %016x: %w", uint64(id), err))
	}
	x.drop(ref)
	x.result.Removed++
	return nil
}

// drop removes the rule at ref. One that came with the same transaction, which
// no walk ever sees, leaves its chain at once: a transaction may replace a rule any
// number of times.
func (x *Txn) drop(ref uint32) {
	t := x.t
	t.mem.store(ref+ruleGone, x.version)
	if t.mem.words[ref+ruleAdded] == x.version {
		t.unchainRule(uint32(t.mem.words[ref+ruleSubtable]), ref)
		t.mem.store(ref+ruleAdded, never)
	}
	t.useRule(ref, false)
	t.touchRule(ref)
	x.note(didDropRule, ref)
}

// Replace puts a rule in the place of the one that has its id, if there is one.
// If it is refused, the old one stays.
func (x *Txn) Replace(r *Rule) error {
	old := x.t.findRule(r.ID)
	if old == 0 {
		return x.Add(r)
	}
	was := x.t.mem.words[old+ruleGone]
	x.t.mem.store(old+ruleGone, x.version)
	if err := x.add(r); err != nil {
		x.t.mem.store(old+ruleGone, was)
		return x.refuse(r.ID, fmt.Errorf("rule %016x: %w", uint64(r.ID), err))
	}
	x.drop(old)
	x.result.Added++
	x.result.Removed++
	return nil
}

// idTag is what a rule is found by.
func (t *Tables) idTag(id uint64) uint32 { return tagOf(t.seed.mix(t.seed.start, id)) }

// findID returns the latest rule with an id, or 0.
func (t *Tables) findID(id uint64) uint32 {
	p := t.ids.search(t.mem, t.idTag(id))
	for ref := p.next(t.mem); ref != 0; ref = p.next(t.mem) {
		if t.mem.words[ref+ruleID] == id {
			return ref
		}
	}
	return 0
}

// findRule returns the rule that no transaction has removed, or 0.
func (t *Tables) findRule(id RuleID) uint32 {
	if ref := t.findID(uint64(id)); ref != 0 && t.mem.words[ref+ruleGone] == never {
		return ref
	}
	return 0
}

// enterID makes a rule the one with its id, and returns that which was, or 0.
func (t *Tables) enterID(ref uint32) (old uint32, ok bool) {
	id := t.mem.words[ref+ruleID]
	if old = t.findID(id); old == 0 {
		return 0, t.ids.insert(t, memClassifier, t.idTag(id), ref)
	}
	t.ids.replace(t.mem, t.idTag(id), old, ref)
	return old, true
}

// checkReferences checks that what a rule names is there.
func (t *Tables) checkReferences(r *Rule) error {
	if r.Group != 0 && t.findGroup(r.Group) == 0 {
		return fmt.Errorf("group %d: %w", r.Group, ErrUnknown)
	}
	for i := range r.Preds {
		p := &r.Preds[i]
		if p.Kind != InSet && p.Kind != NotInSet {
			continue
		}
		ref := t.findSet(p.Set)
		if ref == 0 {
			return fmt.Errorf("predicate %d: set %d: %w", i, p.Set, ErrUnknown)
		}
		if w := t.declared(ref).Width; w != p.Field.Width {
			return fmt.Errorf("predicate %d: set %d is of %d bits, the field of %d", i, p.Set, w, p.Field.Width)
		}
	}
	return t.checkNamed(r.Actions)
}

// checkNamed checks that what actions name is there.
func (t *Tables) checkNamed(acts []Action) error {
	for i := range acts {
		if kind := refersTo(acts[i].Code); kind != 0 {
			if obj := t.findObject(kind, acts[i].Arg); obj == 0 || t.current(obj) == 0 {
				return fmt.Errorf("action %d: %s %d: %w", i, kindNames[kind], acts[i].Arg, ErrUnknown)
			}
		}
		if err := t.checkNamed(acts[i].Nested); err != nil {
			return err
		}
	}
	return nil
}
