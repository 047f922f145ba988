package flows

import (
	"fmt"
	"testing"

	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// TestLargeSet: a set of very many members comes in pieces that fit messages.
func TestLargeSet(t *testing.T) {
	l := newLab(t)
	row := &flowmodel.AddressSet{UUID: "s", Name: "s"}
	const n = 2*membersMax + 5
	for i := range n {
		row.Addresses = append(row.Addresses, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	l.book.SetAddressSet(row, true)
	l.row(0, 1, "ip4.src == $s", "drop;")
	l.put()
	if got, want := l.kinds(), "set +members +members +rule"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, s := range l.tables.Sets() {
		if _, m, _ := l.tables.Members(s.ID); len(m) != n {
			t.Errorf("%d members, want %d", len(m), n)
		}
	}
}

// TestRefusal: what the flow table refuses is refused alone, its row says why, and it
// is tried again.
func TestRefusal(t *testing.T) {
	l := newLab(t)
	good, bad := l.row(0, 1, "ip4", "drop;"), l.row(0, 2, "ip6", "drop;")
	set := l.row(0, 3, "ip4.src == {1.1.1.1, 2.2.2.2, 3.3.3.3}", "drop;")
	l.book.Compile()
	changes := l.book.Changes()
	refused := map[int]string{}
	for i := range changes {
		if r := changes[i].Rule; r != nil && r.Priority == 2 || changes[i].Kind == SetSet {
			refused[i] = "no"
		}
	}
	l.book.Done(changes, refused)
	l.book.Settle()
	for uuid, want := range map[string]string{good: "active", bad: "refused no", set: "refused no"} {
		if got := l.status(uuid); got != want {
			t.Errorf("%s: %s, want %s", uuid, got, want)
		}
	}
	if got := l.book.Changes(); len(got) != 0 {
		t.Errorf("%d changes before it is tried again", len(got))
	}
	if !l.book.Retry() {
		t.Error("nothing to try again")
	}
	l.book.Done(l.book.Changes(), nil)
	l.book.Settle()
	if l.book.Retry() || l.status(bad) != "active" || l.status(set) != "active" {
		t.Errorf("after another try: %s, %s", l.status(bad), l.status(set))
	}
	if got, want := l.book.Tally(), (Tally{Rows: 3, Active: 3}); got != want {
		t.Errorf("tally %+v, want %+v", got, want)
	}
}

// TestCount: rows that say the same share their rules and counters, and go one by
// one.
func TestCount(t *testing.T) {
	l := newLab(t)
	a, b := l.row(0, 1, "ip4", "drop;"), l.row(0, 1, "ip4", "drop;")
	l.put()
	if got, want := l.kinds(), "+rule"; got != want {
		t.Errorf("two rows of one rule: %s, want %s", got, want)
	}
	l.book.Count(l.sent[0].Rule.ID, 5, 500)
	for _, uuid := range []string{a, b} {
		if v := l.book.flows[uuid].verdict; v.packets != 5 || v.bytes != 500 {
			t.Errorf("%s counts %d, %d", uuid, v.packets, v.bytes)
		}
	}
	news := l.book.News(1)
	if len(news) != 1 || !news[0].NewCounters || !news[0].NewStatus {
		t.Fatalf("news %+v", news)
	}
	l.book.Told(news)
	if rest := l.book.News(10); len(rest) != 1 || rest[0].UUID == news[0].UUID {
		t.Errorf("the rest of the news %+v", rest)
	}
	l.book.DropFlow(a)
	if l.put(); l.kinds() != "" {
		t.Errorf("one of two rows goes: %s", l.kinds())
	}
	l.book.DropFlow(b)
	if l.put(); l.kinds() != "-rule" {
		t.Errorf("the other goes: %s", l.kinds())
	}
	var none flowtable.RuleID
	l.book.Count(none, 1, 1) // of a rule that is not ours
}
