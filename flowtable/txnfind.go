package flowtable

// Brief returns the brief of the rule with an id, as the transaction has it so
// far.
func (x *Txn) Brief(id RuleID) (Brief, bool) {
	ref := x.t.findRule(id)
	if ref == 0 {
		return Brief{}, false
	}
	return x.t.briefAt(ref), true
}

// Set returns what a set was declared as, as the transaction has it so far.
func (x *Txn) Set(id SetID) (Set, bool) {
	ref := x.t.findSet(id)
	if ref == 0 {
		return Set{}, false
	}
	return x.t.declared(ref), true
}
