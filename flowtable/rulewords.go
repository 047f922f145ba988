package flowtable

import "fmt"

// encodeRule appends the words of a rule; by is the predicate that it is found by,
// which comes first, or -1.
func (t *Tables) encodeRule(out []uint64, r *Rule, by int) ([]uint64, error) {
	out = append(out, uint64(r.ID), 0, 0, 0, 0, 0, r.Cookie, 0)
	for _, m := range r.Match {
		out = append(out, m.Value)
	}
	if by >= 0 {
		out = encodePred(out, &r.Preds[by], t.findSet(r.Preds[by].Set))
	}
	for i := range r.Preds {
		if i != by {
			out = encodePred(out, &r.Preds[i], t.findSet(r.Preds[i].Set))
		}
	}
	actions := len(out)
	out, err := encodeActions(out, r.Actions)
	if err != nil {
		return out, err
	}
	if len(out)-actions > ActionWordsMax {
		return out, fmt.Errorf("actions take %d words, of at most %d", len(out)-actions, ActionWordsMax)
	}
	out[ruleShape] = uint64(r.Priority) | uint64(len(r.Match))<<16 | uint64(len(r.Preds))<<24 | uint64(actions)<<32 | uint64(len(out))<<48
	return out, nil
}

// decodeRule returns the rule at ref.
func (t *Tables) decodeRule(ref uint32) Rule {
	w := t.mem.words
	st := uint32(w[ref+ruleSubtable])
	rs := uint32(w[t.cold(st)+coldRuleset])
	sh := shapeOf(w[ref+ruleShape])
	r := Rule{ID: RuleID(w[ref+ruleID]), Table: uint8(w[rs+rulesetTable]), Priority: sh.priority, Cookie: w[ref+ruleCookie]}
	if w[rs+rulesetTable]>>8 != 0 {
		r.Group = GroupID(w[rs+rulesetWho])
	} else {
		r.Datapath = w[rs+rulesetWho]
	}
	at, i := t.allMasks(st), uint32(0)
	for word := range uint8(ContextWords) {
		if w[st+subtableAll]>>word&1 != 0 && i < uint32(sh.values) {
			r.Match = append(r.Match, Masked{word, w[ref+ruleValues+i], w[at+i]})
			i++
		}
	}
	preds := w[ref+sh.before : ref+sh.actions]
	for len(preds) > 0 {
		p, n := decodePred(preds)
		r.Preds = append(r.Preds, p)
		preds = preds[n:]
	}
	r.Actions = decodeActions(w[ref+sh.actions : ref+sh.size])
	return r
}
