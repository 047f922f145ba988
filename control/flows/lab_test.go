package flows

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// A lab is a book and the flow table that it fills.
type lab struct {
	t      testing.TB
	book   *Book
	tables *flowtable.Tables
	rows   int
	sent   []Change // of the last transaction
}

// The bridge of a lab, its ports p1 to p4, and the numbers of what belongs to it.
const (
	labFDB   = 7
	labFlood = flowtable.FloodPort | 3
)

func labBridges() map[string]*Bridge {
	return map[string]*Bridge{"br0": {FDB: labFDB, Flood: labFlood, Ports: map[string]uint32{"p1": 1, "p2": 2, "p3": 3, "p4": 4}}}
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, book: NewBook()}
	l.restart()
	l.book.SetBridges(labBridges())
	return l
}

// restart gives the lab an empty flow table, as a new dataplane has.
func (l *lab) restart() {
	l.t.Helper()
	tables, err := flowtable.New(flowtable.Options{Reserve: 1 << 30})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { tables.Close() })
	x := tables.Begin()
	for p := range uint32(4) {
		if err := x.SetEntry(&flowtable.Entry{Port: p + 1, Datapath: flowtable.DatapathOf("br0"), Inport: p + 1}); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := x.SetFlood(labFlood, []uint32{1, 2, 3, 4}); err != nil {
		l.t.Fatal(err)
	}
	if _, err := x.Commit(false); err != nil {
		l.t.Fatal(err)
	}
	l.tables = tables
}

// row adds a row of Flow and returns its UUID.
func (l *lab) row(table, priority int, match, actions string) string {
	l.rows++
	uuid := fmt.Sprint("flow", l.rows)
	l.book.SetFlow(&flowmodel.Flow{UUID: uuid, Bridge: "br0", Table: table, Priority: priority, Match: match, Actions: actions}, true)
	return uuid
}

// put makes one transaction of what has changed.
func (l *lab) put() {
	l.t.Helper()
	l.book.Compile()
	l.sent = l.book.Changes()
	x := l.tables.Begin()
	refused := map[int]string{}
	for i := range l.sent {
		if err := apply(x, &l.sent[i]); err != nil {
			refused[i] = err.Error()
		}
	}
	if _, err := x.Commit(true); err != nil {
		l.t.Fatal(err)
	}
	l.book.Done(l.sent, refused)
	l.book.Settle()
}

// apply makes one change.
func apply(x *flowtable.Txn, c *Change) error {
	switch c.Kind {
	case AddRule:
		r := *c.Rule
		return x.Add(&r)
	case RemoveRule:
		return x.Remove(c.Removed)
	case SetSet:
		return x.SetSet(c.Set, c.Members)
	case AddMembers:
		return x.AddMembers(c.Set.ID, c.Members...)
	case DelMembers:
		return x.DelMembers(c.Set.ID, c.Members...)
	case RemoveSet:
		return x.RemoveSet(flowtable.SetID(c.ID))
	case SetSelect:
		return x.SetSelect(&c.Select)
	case RemoveSelect:
		return x.RemoveSelect(flowtable.SelectID(c.ID))
	case SetMeter:
		return x.SetMeter(&c.Meter)
	case RemoveMeter:
		return x.RemoveMeter(flowtable.MeterID(c.ID))
	}
	return fmt.Errorf("kind %d", c.Kind)
}

// have is what the flow table has, as a new session would find it.
func (l *lab) have() Have {
	var h Have
	l.tables.EachBrief(func(b flowtable.Brief) bool { h.Rules = append(h.Rules, b.ID); return true })
	for _, s := range l.tables.Sets() {
		_, m, _ := l.tables.Members(s.ID)
		h.Sets = append(h.Sets, HaveSet{s, m})
	}
	for _, id := range l.tables.Selects() {
		s, _ := l.tables.Select(id)
		h.Selects = append(h.Selects, s)
	}
	for _, id := range l.tables.Meters() {
		m, _ := l.tables.Meter(id)
		h.Meters = append(h.Meters, m)
	}
	return h
}

// status is what a row should say.
func (l *lab) status(uuid string) string {
	v := l.book.flows[uuid].verdict
	return strings.TrimSpace(v.status + " " + v.err)
}

// kinds are the kinds of the last transaction's changes, in words.
func (l *lab) kinds() string {
	names := [...]string{"", "+rule", "-rule", "set", "+members", "-members", "-set", "select", "-select", "meter", "-meter"}
	var out []string
	for i := range l.sent {
		out = append(out, names[l.sent[i].Kind])
	}
	return strings.Join(out, " ")
}

// out is where a packet goes: ports, "flood", or "drop".
func (l *lab) out(key flowtable.Key) string {
	l.t.Helper()
	w := l.tables.NewWalker(flowtable.SideTables{})
	defer w.Close()
	var ports []string
	for _, op := range w.Walk(&key, 100, 0).Ops {
		switch op.Code {
		case flowtable.OpOutput:
			ports = append(ports, fmt.Sprint(op.Arg))
		case flowtable.OpFlood:
			ports = append(ports, "flood")
		}
	}
	if ports == nil {
		return "drop"
	}
	return strings.Join(ports, " ")
}

// key is a packet: in port 1 and an IPv4 destination.
func key(dst uint64) flowtable.Key {
	return flowtable.Key{flowtable.WordIn: 1<<32 | 0x800, flowtable.WordIP4: dst, flowtable.WordSrc: 64}
}

func strs(list ...string) []string { return slices.Clone(list) }
