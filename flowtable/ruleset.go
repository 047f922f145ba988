package flowtable

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
)

// Words of a rule set: the rules of one table for one datapath or group.
const (
	rulesetList    = iota // block of subtables, or 0
	rulesetMax            // highest priority of a rule, plus one; 0 without rules
	rulesetWho            // datapath, or group id
	rulesetTable          // table (0..7), is of a group (8), not yet listed for all of its members (9)
	rulesetCount          // rules linked
	rulesetWritten        // block of KeyWords masks: bits of the key that its actions write; or 0
	rulesetWords

	rulesetPart = 1 << 9
)

// A list of subtables is [number (0..31), capacity (32..63)] and for each, by
// highest priority falling: [priority (32..63), subtable (0..31)] and the hash of what it
// matches on.

// SubtablesMax is how many different masks the rules of one table of one
// datapath may have. Each costs every walk a probe.
const SubtablesMax = 1024

// Words of a subtable: rules of a rule set that match on the same bits. A
// lookup has two stages: the bits of the first say what kind of packet it is
// (see kindBits) and where it is in the pipeline; if no rule has these, the rest
// is neither probed nor consulted.
//
// What lookups read comes first; the rest is in a block of its own.
const (
	subtableRules  = iota // index: hash of masked words (and set) -> chain of rules
	_                     //
	subtableKind          // tag of the first stage (0..31) and 1<<32, if all rules have the same; else 0: see coldKinds
	subtableStages        // words of the first stage (0..31), of the second (32..63), as bits
	subtableAll           // words of both (0..31), how many (32..39), how many of the first stage (40..47)
	subtableFirst         // hash of the words and masks of the first stage; 0 if it has none
	subtableSet           // packed field (0..23) and domain (32..47) of the set by which rules are found; 0 if none
	subtableCold          // block of the rest
	subtableMasks         // masks of the first stage, of the second, of all

	subtableView = 128 // at least that: what lookups see, of which any index is checked by a mask
)

// Words of the rest of a subtable.
const (
	coldKinds   = iota // presence: tags of the first stage
	_                  //
	coldTop            // highest priority (0..31) and how many rules have it (32..63)
	coldCount          // rules
	coldRuleset        // rule set
	coldHash           // hash of masks and set
	coldListed         // 1 once it is in the list of its rule set
	coldLost           // rules that went since the highest priority was found
	coldWords
)

// kindBits returns the bits of a word that say what kind of packet it is, and
// for metadata all.
func kindBits(word uint8) uint64 {
	switch {
	case word >= KeyWords:
		return ^uint64(0)
	case word == WordIn:
		return 0xffffffff_0000ffff | TagPresent<<16
	case word == WordSrc:
		return 0xff << 8
	case word == WordL4:
		return 3 << 16
	}
	return 0
}

// Words of a rule.
const (
	ruleID       = iota
	ruleAdded    // version in which it came
	ruleGone     // version in which it went
	ruleNext     // next of the chain (0..31), tower (32..63)
	ruleShape    // priority (0..15), values (16..23), predicates (24..31), where the actions are (32..47), size (48..63), in words
	ruleHandle   // handle (0..31), set by which it is found (32..63)
	ruleCookie   //
	ruleSubtable // subtable (0..31), block of the set by which it is found (32..63)
	ruleValues   // values of the subtable's words, predicates, actions
)

// shape is a decoded ruleShape.
type shape struct {
	priority              uint16
	values, preds         uint8
	actions, size, before uint32
}

// shapeOf decodes.
func shapeOf(v uint64) shape {
	return shape{priority: uint16(v), values: uint8(v >> 16), preds: uint8(v >> 24),
		actions: uint32(v >> 32 & 0xffff), size: uint32(v >> 48), before: ruleValues + uint32(v>>16&0xff)}
}

// whoTag is what a datapath or group is found by.
func (t *Tables) whoTag(who uint64) uint32 { return tagOf(t.seed.mix(t.seed.start, who)) }

// newRuleset makes an empty rule set.
func (t *Tables) newRuleset(who uint64, table uint8, group bool) uint32 {
	ref := t.mem.allocZero(memDatapaths, rulesetWords)
	if ref != 0 {
		t.mem.words[ref+rulesetWho] = who
		t.mem.words[ref+rulesetTable] = uint64(table)
		if group {
			t.mem.words[ref+rulesetTable] |= 1 << 8
		}
	}
	return ref
}

// foundBy returns which of the predicates a rule is found by, or -1: the first
// that compares metadata with a set, else the first that compares anything with
// one. Without it rules that differ only in their sets would be one long chain.
func foundBy(preds []Pred) int {
	best := -1
	for i := range preds {
		if preds[i].Kind != InSet {
			continue
		}
		if preds[i].Field.Word >= KeyWords {
			return i
		}
		if best < 0 {
			best = i
		}
	}
	return best
}

// maskHash is the hash of what a subtable matches on.
func (t *Tables) maskHash(match []Masked, set uint64) uint64 {
	h := t.seed.mix(t.seed.start, set)
	for _, m := range match {
		h = t.seed.mix(t.seed.mix(h, uint64(m.Word)), m.Mask)
	}
	return h
}

// subtableFor returns the subtable of a rule set for these masks, made if it is
// not there. A new one is not listed yet.
func (t *Tables) subtableFor(rs uint32, match []Masked, set uint64) (uint32, error) {
	hash := t.maskHash(match, set)
	list := uint32(t.mem.words[rs+rulesetList])
	n := uint32(0)
	if list != 0 {
		n = uint32(t.mem.words[list])
	}
	for i := range n {
		st := uint32(t.mem.words[list+1+2*i])
		if t.mem.words[list+2+2*i] == hash && t.matchesOn(st, match, set) {
			return st, nil
		}
	}
	if n == SubtablesMax {
		return 0, fmt.Errorf("more than %d different masks in one table", SubtablesMax)
	}
	if st := t.newSubtable(rs, match, set, hash); st != 0 {
		return st, nil
	}
	return 0, ErrFull
}

// matchesOn reports whether a subtable has exactly these masks.
func (t *Tables) matchesOn(st uint32, match []Masked, set uint64) bool {
	w := t.mem.words
	all := uint32(w[st+subtableAll])
	if bits.OnesCount32(all) != len(match) || w[st+subtableSet] != set {
		return false
	}
	at := t.allMasks(st)
	for i, m := range match {
		if all>>m.Word&1 == 0 || w[at+uint32(i)] != m.Mask {
			return false
		}
	}
	return true
}

// allMasks returns where the masks of both stages together are.
func (t *Tables) allMasks(st uint32) uint32 {
	s := t.mem.words[st+subtableStages]
	return st + subtableMasks + uint32(bits.OnesCount64(s))
}

// subtableSize returns the size of a subtable.
func (t *Tables) subtableSize(st uint32) int {
	return subtableMasks + bits.OnesCount64(t.mem.words[st+subtableStages]) + int(t.mem.words[st+subtableAll]>>32&0xff)
}

// newSubtable makes an empty subtable, or returns 0.
func (t *Tables) newSubtable(rs uint32, match []Masked, set, hash uint64) uint32 {
	var first, second, all uint32
	var masks []uint64
	for _, m := range match {
		all |= 1 << m.Word
		if k := m.Mask & kindBits(m.Word); k != 0 {
			first |= 1 << m.Word
			masks = append(masks, k)
		}
	}
	for _, m := range match {
		if k := m.Mask &^ kindBits(m.Word); k != 0 {
			second |= 1 << m.Word
			masks = append(masks, k)
		}
	}
	for _, m := range match {
		masks = append(masks, m.Mask)
	}
	st := t.mem.allocZero(memClassifier, subtableMasks+len(masks))
	if st == 0 {
		return 0
	}
	cold := t.mem.allocZero(memClassifier, coldWords)
	if cold == 0 {
		t.mem.release(memClassifier, st, subtableMasks+len(masks))
		return 0
	}
	w := t.mem.words
	w[st+subtableCold] = uint64(cold)
	w[st+subtableStages] = uint64(first) | uint64(second)<<32
	w[st+subtableAll] = uint64(all) | uint64(len(match))<<32 | uint64(bits.OnesCount32(first))<<40
	w[st+subtableFirst] = t.firstHash(first, masks)
	w[st+subtableSet], w[cold+coldRuleset], w[cold+coldHash] = set, uint64(rs), hash
	copy(w[st+subtableMasks:], masks)
	return st
}

// firstHash is the hash of what a first stage matches on, whose masks begin
// masks.
func (t *Tables) firstHash(first uint32, masks []uint64) uint64 {
	if first == 0 {
		return 0
	}
	h := t.seed.mix(t.seed.start, uint64(first))
	for _, m := range masks[:bits.OnesCount32(first)] {
		h = t.seed.mix(h, m)
	}
	return h | 1
}

// entriesOf returns what a list of subtables has.
func (t *Tables) entriesOf(list uint32) (out [][2]uint64) {
	if list == 0 {
		return nil
	}
	w := t.mem.words
	n := uint32(w[list])
	out = make([][2]uint64, 0, n+1)
	for at := list + 1; at < list+1+2*n; at += 2 {
		out = append(out, [2]uint64{w[at], w[at+1]})
	}
	return out
}

// listSubtable puts a new subtable into the list of its rule set, by its highest
// priority.
func (t *Tables) listSubtable(rs, st, priority uint32) bool {
	entries := t.entriesOf(uint32(t.mem.words[rs+rulesetList]))
	at := slices.IndexFunc(entries, func(e [2]uint64) bool { return uint32(e[0]>>32) < priority })
	if at < 0 {
		at = len(entries)
	}
	entries = slices.Insert(entries, at, [2]uint64{uint64(priority)<<32 | uint64(st), t.mem.words[t.cold(st)+coldHash]})
	return t.swapSubtables(rs, entries)
}

// raiseSubtable raises the priority of a subtable in the list of its rule set. It
// stays where it is, and those before it are given as high a priority if theirs is
// lower, until the list is sorted: a lookup may go through them for nothing.
func (t *Tables) raiseSubtable(rs, st, priority uint32) {
	w := t.mem.words
	list := uint32(w[rs+rulesetList])
	at := list + 1
	for uint32(w[at]) != st {
		at += 2
	}
	for last := at; at > list && uint32(w[at]>>32) < priority; at -= 2 {
		t.setHigh(at, priority)
		if at != last {
			t.unsorted[rs] = struct{}{}
		}
	}
}

// sortSubtables sorts the lists of rule sets whose order may be another.
func (t *Tables) sortSubtables() {
	for rs := range t.unsorted {
		entries := t.entriesOf(uint32(t.mem.words[rs+rulesetList]))
		for i := range entries {
			st := uint32(entries[i][0])
			entries[i][0] = t.mem.words[t.cold(st)+coldTop]<<32 | uint64(st)
		}
		slices.SortStableFunc(entries, func(a, b [2]uint64) int { return cmp.Compare(b[0]>>32, a[0]>>32) })
		if t.swapSubtables(rs, entries) {
			t.setMax(rs)
		}
	}
	clear(t.unsorted)
}

// swapSubtables puts another list of subtables in place.
func (t *Tables) swapSubtables(rs uint32, entries [][2]uint64) bool {
	w := t.mem.words
	old := uint32(w[rs+rulesetList])
	nb := uint32(0)
	if len(entries) > 0 {
		if nb = t.mem.alloc(memClassifier, 1+2*len(entries)); nb == 0 {
			return false
		}
		w[nb] = uint64(len(entries)) | uint64(len(entries))<<32
		for i, e := range entries {
			w[int(nb)+1+2*i], w[int(nb)+2+2*i] = e[0], e[1]
		}
	}
	t.mem.store(rs+rulesetList, uint64(nb))
	if old != 0 {
		t.retire(memClassifier, old, 1+2*int(w[old]>>32))
	}
	return true
}

// ruleTags returns what a rule with these values is found by in its subtable:
// after the first stage, and after both and the set.
func (t *Tables) ruleTags(st uint32, values []uint64, set uint32) (first, full uint32) {
	w := t.mem.words
	stages, all := w[st+subtableStages], uint32(w[st+subtableAll])
	sum, at := uint64(0), st+subtableMasks
	for i, stage := range [2]uint32{uint32(stages), uint32(stages >> 32)} {
		for b := stage; b != 0; b &= b - 1 {
			nth := bits.OnesCount32(all & (b&-b - 1))
			sum = t.seed.add(sum, values[nth]&w[at], bits.TrailingZeros32(b))
			at++
		}
		if i == 0 {
			first = t.seed.sumTag(sum, 0)
		}
	}
	return first, t.seed.sumTag(sum, set)
}

// cold returns where the rest of a subtable is.
func (t *Tables) cold(st uint32) uint32 { return uint32(t.mem.words[st+subtableCold]) }

// linkRule puts a prepared rule where lookups find it. If it fails, nothing is
// changed, but readers may stand on the rule.
func (t *Tables) linkRule(rule uint32) bool {
	st := uint32(t.mem.words[rule+ruleSubtable])
	if !t.countKind(st, rule, true) {
		return false
	}
	c := t.chainOf(st, rule)
	if !t.linkNode(&c, rule) {
		t.countKind(st, rule, false)
		return false
	}
	if !t.countRule(st, rule) {
		t.unlinkNode(&c, rule)
		t.countKind(st, rule, false)
		return false
	}
	if t.isRoot(c.head) {
		t.rangeRule(c.head, rule)
	}
	return true
}

// unchainRule takes a rule out of its chain.
func (t *Tables) unchainRule(st, rule uint32) {
	c := t.chainOf(st, rule)
	if b := t.rangesOf(c.head); b != 0 {
		t.dropLinks(b, rule)
	}
	t.unlinkNode(&c, rule)
}

// staged reports whether the subtable has a second stage worth a presence.
func staged(stages uint64) bool { return uint32(stages) != 0 && stages>>32 != 0 }

// countRule notes a linked rule in the counts of its subtable and rule set.
func (t *Tables) countRule(st, rule uint32) bool {
	w := t.mem.words
	cold := t.cold(st)
	rs := uint32(w[cold+coldRuleset])
	priority, top := uint32(uint16(w[rule+ruleShape])), w[cold+coldTop]
	switch {
	case w[cold+coldListed] == 0:
		if !t.listSubtable(rs, st, priority) {
			return false
		}
		t.setMax(rs)
		w[cold+coldListed], w[cold+coldTop] = 1, uint64(priority)|1<<32
	case priority > uint32(top):
		t.raiseSubtable(rs, st, priority)
		t.setMax(rs)
		w[cold+coldTop] = uint64(priority) | 1<<32
	case priority == uint32(top):
		w[cold+coldTop] += 1 << 32
	}
	w[rs+rulesetCount]++
	t.mem.store(cold+coldCount, w[cold+coldCount]+1)
	return true
}

// countKind notes what the first stage of a rule is, up or down.
func (t *Tables) countKind(st, rule uint32, up bool) bool {
	w := t.mem.words
	if !staged(w[st+subtableStages]) {
		return true
	}
	n := uint32(w[st+subtableAll] >> 32 & 0xff)
	first, _ := t.ruleTags(st, w[rule+ruleValues:rule+ruleValues+n], 0)
	kinds := presence(t.cold(st) + coldKinds)
	if !count(t, kinds, first, up) {
		return false
	}
	only := uint64(0)
	if w[kinds+1]>>32 == 1 {
		only = 1<<32 | uint64(kinds.only(t.mem))
	}
	if only != w[st+subtableKind] {
		t.mem.store(st+subtableKind, only)
	}
	return true
}

// setMax renews the highest priority of a rule set from its list.
func (t *Tables) setMax(rs uint32) {
	list, v := uint32(t.mem.words[rs+rulesetList]), uint64(0)
	if list != 0 {
		v = t.mem.words[list+1]>>32 + 1
	}
	if t.mem.words[rs+rulesetMax] != v {
		t.mem.store(rs+rulesetMax, v)
	}
}

// unlinkRule takes a removed rule out of its chain and the index of ids, and
// retires it. Subtables whose highest priority may be lower now are put into
// dirty: at once while they are small, else when they have lost a part of
// their rules.
func (t *Tables) unlinkRule(rule uint32, dirty map[uint32]struct{}) {
	w := t.mem.words
	st := uint32(w[rule+ruleSubtable])
	if w[rule+ruleAdded] != never { // see Txn.drop
		t.unchainRule(st, rule)
	}
	t.ids.remove(t.mem, t.idTag(w[rule+ruleID]), rule)
	sh := shapeOf(w[rule+ruleShape])
	cold := t.cold(st)
	w[uint32(w[cold+coldRuleset])+rulesetCount]--
	t.mem.store(cold+coldCount, w[cold+coldCount]-1)
	t.countKind(st, rule, false)
	if uint32(sh.priority) == uint32(w[cold+coldTop]) {
		w[cold+coldTop] -= 1 << 32
	}
	w[cold+coldLost]++
	if w[cold+coldTop]>>32 == 0 && w[cold+coldCount] <= max(smallSubtable, 16*w[cold+coldLost]) {
		dirty[st] = struct{}{}
	}
	t.freeHandle(uint32(w[rule+ruleHandle]))
	t.retire(memRules, rule, int(sh.size))
}

// smallSubtable is up to how many rules the highest priority of a subtable is
// always exact.
const smallSubtable = 64

// settle finds the highest priority of a subtable anew, or takes it out if it
// has no rules.
func (t *Tables) settle(st uint32) {
	w := t.mem.words
	cold := t.cold(st)
	rs := uint32(w[cold+coldRuleset])
	if w[cold+coldCount] == 0 {
		t.dropSubtable(rs, st)
		t.setMax(rs)
		return
	}
	top, n := uint32(0), uint64(0)
	b := uint32(w[st+subtableRules])
	for i := range uint32(w[b]) + 1 {
		s := w[b+1+i]
		if s == 0 || uint32(s) == grave {
			continue
		}
		for r := uint32(s); r != 0; r = uint32(w[r+ruleNext]) {
			p := uint32(uint16(w[r+ruleShape]))
			if t.isRoot(r) {
				continue
			}
			if p < top {
				break
			}
			if p > top {
				top, n = p, 0
			}
			n++
		}
	}
	w[cold+coldTop], w[cold+coldLost] = uint64(top)|n<<32, 0
	t.unsorted[rs] = struct{}{}
}

// dropSubtable takes an empty subtable out of its rule set.
func (t *Tables) dropSubtable(rs, st uint32) {
	entries := slices.DeleteFunc(t.entriesOf(uint32(t.mem.words[rs+rulesetList])), func(e [2]uint64) bool { return uint32(e[0]) == st })
	if t.swapSubtables(rs, entries) { // an empty subtable costs a probe, no more
		t.retireSubtable(st)
	}
}

// retireSubtable frees an empty subtable that is not listed.
func (t *Tables) retireSubtable(st uint32) {
	index(st+subtableRules).drop(t, memClassifier)
	cold := t.cold(st)
	index(cold+coldKinds).drop(t, memClassifier)
	t.retire(memClassifier, cold, coldWords)
	t.retire(memClassifier, st, t.subtableSize(st))
}
