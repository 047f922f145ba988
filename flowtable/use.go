package flowtable

// refersTo returns the kind of object that an action names, or 0.
func refersTo(code uint8) uint64 {
	switch code {
	case ActSelect:
		return objSelect
	case ActMeter, ActReply:
		return objMeter
	case ActFlood:
		return objFlood
	}
	return 0
}

// eachUse calls f with the sets that a rule compares fields with, and the rule set,
// until it returns false.
func (t *Tables) eachUse(ref uint32, f func(set, rs uint32, field Field) bool) bool {
	w := t.mem.words
	rs := uint32(w[t.cold(uint32(w[ref+ruleSubtable]))+coldRuleset])
	sh := shapeOf(w[ref+ruleShape])
	for preds := w[ref+sh.before : ref+sh.actions]; len(preds) > 0; preds = preds[predWords(uint8(preds[0])):] {
		h := preds[0]
		if k := uint8(h); (k == InSet || k == NotInSet) && !f(uint32(preds[1]), rs, unpack(h>>8&0xffffff)) {
			return false
		}
	}
	return true
}

// needUses makes the uses of sets of a rule. If it fails, pruneUses takes back
// what was done.
func (t *Tables) needUses(ref uint32) bool { return t.eachUse(ref, t.needUse) }

// pruneUses takes out the uses of sets of a rule that no rule is left for.
func (t *Tables) pruneUses(ref uint32) {
	t.eachUse(ref, func(set, rs uint32, f Field) bool { t.pruneUse(set, rs, f); return true })
}

// useRule counts what a rule refers to up or down. The uses of its sets are
// there.
func (t *Tables) useRule(ref uint32, up bool) {
	t.eachUse(ref, func(set, rs uint32, f Field) bool { t.countUse(set, rs, f, up); return true })
	w := t.mem.words
	sh := shapeOf(w[ref+ruleShape])
	t.useObjects(w[ref+sh.actions:ref+sh.size], up)
	rs := uint32(w[t.cold(uint32(w[ref+ruleSubtable]))+coldRuleset])
	if w[rs+rulesetTable]>>8 == 0 {
		return
	}
	if g := t.findGroup(GroupID(w[rs+rulesetWho])); up {
		w[g+groupRules]++
	} else {
		w[g+groupRules]--
	}
}

// useObjects counts what actions name up or down.
func (t *Tables) useObjects(words []uint64, up bool) {
	var s step
	for len(words) > 0 {
		words = words[decodeStep(&s, words):]
		if kind := refersTo(s.code); kind != 0 {
			if obj := t.findObject(kind, s.arg); up {
				t.mem.words[obj+objectUses]++
			} else {
				t.mem.words[obj+objectUses]--
			}
		}
		t.useObjects(s.nested, up)
	}
}
