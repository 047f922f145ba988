package flowtable

import (
	"slices"
	"testing"
)

// TestTxnSees: a transaction tells of rules and sets as it has made them.
func TestTxnSees(t *testing.T) {
	tb, _ := newTables(t, Options{Reserve: 256 << 20})
	x := tb.Begin()
	_, rule := x.Brief(1)
	_, set := x.Set(1)
	if rule || set {
		t.Error("what is not there is seen")
	}
	if x.Add(&Rule{ID: 1, Table: 4, Datapath: 9}) != nil || x.SetSet(Set{ID: 1, Width: 16}, nil) != nil {
		t.Fatal("refused")
	}
	b, _ := x.Brief(1)
	s, _ := x.Set(1)
	if b.ID != 1 || b.Table != 4 || b.Datapath != 9 || s != (Set{ID: 1, Width: 16}) {
		t.Errorf("got %+v, %+v", b, s)
	}
	if x.Remove(1) != nil || x.RemoveSet(1) != nil {
		t.Fatal("refused")
	}
	_, rule = x.Brief(1)
	_, set = x.Set(1)
	if rule || set {
		t.Error("what was removed is seen")
	}
	x.Abort()
}

// TestRefusedSetStays: a change of a set that is refused for its last member
// leaves the members as they were, although the rest of the transaction comes
// into force.
func TestRefusedSetStays(t *testing.T) {
	tb, _ := newTables(t, Options{Reserve: 256 << 20})
	s := Set{ID: 3, Width: 16}
	old := []Member{{Low: 1, MaskLow: 0xffff}, {Low: 0x20, MaskLow: 0xfff0}}
	x := tb.Begin()
	if err := x.SetSet(s, old); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Commit(false); err != nil {
		t.Fatal(err)
	}
	wide := Member{Low: 1 << 16, MaskLow: 1 << 16}
	var masks []Member
	for i := range SetMasksMax + 1 {
		masks = append(masks, Member{MaskLow: uint64(i)})
	}
	good := Member{Low: 7, MaskLow: 0xffff}
	x = tb.Begin()
	for i, err := range []error{
		x.SetSet(s, []Member{good, wide}), x.AddMembers(3, good, wide), x.SetSet(s, masks), x.AddMembers(3, masks...),
		x.SetSet(Set{ID: 4, Width: 16}, []Member{good, wide}), x.SetSet(Set{ID: 5, Width: 16, Exact: true}, []Member{{Low: 7, MaskLow: 0xff}}), x.SetSet(Set{ID: 6, Width: 65}, nil),
	} {
		if err == nil {
			t.Errorf("change %d is not refused", i)
		}
	}
	if err := x.AddMembers(3, good); err != nil {
		t.Error(err)
	}
	if _, err := x.Commit(true); err != nil {
		t.Fatal(err)
	}
	_, got, _ := tb.Members(3)
	if len(got) != 3 || !slices.Contains(got, good) || !slices.Contains(got, old[0]) || !slices.Contains(got, old[1]) {
		t.Errorf("members %+v", got)
	}
	if sets := tb.Sets(); len(sets) != 1 {
		t.Errorf("sets %v", sets)
	}
}

// TestRefusedRuleLeavesNothing: rules that are refused for their actions do not
// use up the masks that a table can have.
func TestRefusedRuleLeavesNothing(t *testing.T) {
	tb, _ := newTables(t, Options{Reserve: 256 << 20})
	tooMuch := slices.Repeat([]Action{{Code: ActSet, Dst: field("reg0"), Value: 1}}, ActionWordsMax/3+1)
	x := tb.Begin()
	for i := range SubtablesMax + 10 {
		r := &Rule{ID: RuleID(i + 1), Match: []Masked{{Word: WordIP4, Mask: uint64(i + 1)}}, Actions: tooMuch}
		if x.Add(r) == nil {
			t.Fatal("too many actions are not refused")
		}
	}
	if err := x.Add(&Rule{ID: 1 << 20, Match: []Masked{{Word: WordL4, Mask: 1 << 40}}}); err != nil {
		t.Error(err)
	}
	if _, err := x.Commit(true); err != nil {
		t.Error(err)
	}
}
