package flows

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/control/logical"
	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// TestDifferential: random rows through the book and a flow table do to random
// packets what an interpreter of the language does.
func TestDifferential(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 8
	}
	var matched, delivered, packets, replies int
	for round := range rounds {
		d := newDifference(t, uint64(round))
		for i := range 200 {
			if i%50 == 49 {
				d.renumber()
			}
			m, out := d.packet()
			packets++
			matched += m
			delivered += out
		}
		replies += d.replies
	}
	t.Logf("%d packets, %d rows matched, %d frames left, %d replies", packets, matched, delivered, replies)
	if matched < packets/2 || delivered < packets/8 || replies < packets/1000 {
		t.Errorf("of %d packets, %d rows matched, %d frames left and %d replies were made: too few to show anything", packets, matched, delivered, replies)
	}
}

// A difference compares a flow table and a machine that have the same rows.
type difference struct {
	*lab
	w     *writer
	world labWorld
	rows  map[int][]*labRow
	texts map[string]string
	meta  [4]packet // of each port
	of    map[uint32]string

	replies int
}

func newDifference(t *testing.T, seed uint64) *difference {
	d := &difference{lab: newLab(t), w: newWriter(seed), rows: map[int][]*labRow{}, texts: map[string]string{}, world: labWorld{map[string]map[logical.Value]bool{}}}
	d.addSets()
	for table := range 4 {
		for range 1 + d.w.IntN(6) {
			d.addRow(table)
		}
	}
	d.put()
	x := d.tables.Begin()
	for p := range d.meta {
		for _, f := range metadata() {
			d.meta[p][f] = d.w.value(f.Width())
		}
		d.meta[p][logical.FieldOutport] = logical.U64(uint64(d.w.IntN(4)))
		c := context(&d.book.at, &d.meta[p])
		e := flowtable.Entry{Port: uint32(p + 1), Datapath: flowtable.DatapathOf("br0"), Inport: uint32(p + 1)}
		for word := flowtable.WordPorts; word < flowtable.ContextWords; word++ {
			if c[word] != 0 {
				e.Words = append(e.Words, flowtable.Masked{Word: uint8(word), Value: c[word], Mask: ^uint64(0)})
			}
		}
		d.meta[p][logical.FieldInport] = logical.U64(uint64(p + 1))
		if err := x.SetEntry(&e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Commit(false); err != nil {
		t.Fatal(err)
	}
	d.handles()
	return d
}

// handles notes whose rule has which handle.
func (d *difference) handles() {
	d.of = map[uint32]string{}
	d.tables.EachBrief(func(b flowtable.Brief) bool {
		d.of[b.Handle] = d.book.rules[b.ID].flows[0].uuid
		return true
	})
}

// addSets makes a set of numbers for each width, and a port group.
func (d *difference) addSets() {
	for bits := range 129 {
		row := &flowmodel.AddressSet{UUID: setName(bits), Name: setName(bits)}
		members := map[logical.Value]bool{}
		for range 4 {
			if v := d.w.value(max(bits, 1)); v.Hi == 0 && !members[v] {
				members[v] = true
				row.Addresses = append(row.Addresses, fmt.Sprintf("0x%x", v.Lo))
			}
		}
		d.world.sets[row.Name] = members
		d.book.SetAddressSet(row, true)
	}
	d.book.SetPortGroup(&flowmodel.PortGroup{UUID: "pg", Name: "pg", Ports: strs("p1", "p2", "p77")})
}

// addRow adds a row that the book takes. Each has a priority of its own.
func (d *difference) addRow(table int) {
	for try := 0; ; try++ {
		match, acts := d.w.expr(2), d.w.actions(table, 1)
		e, err := d.w.s.ParseMatch(match)
		if err != nil {
			continue
		}
		a, err := d.w.s.ParseActions(acts)
		if err != nil {
			continue
		}
		uuid := d.row(table, d.lab.rows+1, match, acts)
		d.put()
		if got := d.status(uuid); got != "active" {
			if try > 10000 {
				d.t.Fatalf("no row is taken: %s", got)
			}
			d.expected(got, match, acts)
			d.book.DropFlow(uuid)
			continue
		}
		d.rows[table] = append(d.rows[table], &labRow{uuid, d.lab.rows, e, a})
		d.texts[uuid] = fmt.Sprintf("table=%d priority=%d match=%s actions=%s", table, d.lab.rows, match, acts)
		return
	}
}

// renumber gives a row another priority, above all.
func (d *difference) renumber() {
	list := d.rows[d.w.IntN(4)]
	r := list[d.w.IntN(len(list))]
	d.lab.rows++
	r.priority = d.lab.rows
	row := *d.book.flows[r.uuid].row
	row.Priority, row.Cookie = r.priority, d.w.IntN(3)
	d.book.SetFlow(&row, false)
	d.put()
	if got := d.status(r.uuid); got != "active" {
		d.t.Fatalf("with another priority: %s", got)
	}
	d.handles()
}

// expected fails unless a row was refused for a reason that there may be.
func (d *difference) expected(why, match, acts string) {
	for _, known := range []string{"cross from one half", "too complex", "pop:", "whether the packet has a tag", "overlap", "has been written since", "what was pushed has", "the tag can be exchanged", "tests that are not masks", "can be given constants only"} {
		if strings.Contains(why, known) {
			return
		}
	}
	d.t.Fatalf("match %s, actions %s: %s", match, acts, why)
}

// packet sends one packet both ways, and returns how many rows matched and how
// many frames left.
func (d *difference) packet() (matched, delivered int) {
	p := d.w.packet()
	port := d.w.IntN(len(d.meta))
	for f := range p {
		if !d.meta[port][f].IsZero() {
			p[f] = d.meta[port][f]
		}
	}
	c := context(&d.book.at, &p)
	k := flowtable.Key(c[:flowtable.KeyWords])
	k[flowtable.WordIn] |= uint64(port+1) << 32
	m := &machine{at: &d.book.at, s: d.w.s, w: d.world, rows: d.rows, p: p, came: p[logical.FieldEthDst]}
	m.table(0)
	if m.wild {
		return 0, 0
	}
	w := d.tables.NewWalker(flowtable.SideTables{})
	defer w.Close()
	got := w.Walk(&k, 100, 0)
	for _, op := range got.Ops {
		if op.Code == flowtable.OpReply {
			d.replies++
		}
	}
	var steps []string
	for _, h := range got.Rules {
		steps = append(steps, d.of[h])
	}
	if out := run(got.Ops, k); !slices.Equal(steps, m.steps) || !slices.Equal(out, m.out) {
		d.explain(&p, steps, m.steps, out, m.out)
	}
	return len(steps), len(m.out)
}

// explain fails with all that is to be known.
func (d *difference) explain(p *packet, steps, wantSteps, out, wantOut []string) {
	d.t.Helper()
	var b strings.Builder
	for f, v := range p {
		if !v.IsZero() {
			fmt.Fprintf(&b, " %v=%x:%x", logical.Field(f), v.Hi, v.Lo)
		}
	}
	for _, uuid := range slices.Concat(steps, wantSteps) {
		fmt.Fprintf(&b, "\n%s: %s", uuid, d.texts[uuid])
		for _, r := range d.book.flows[uuid].rules {
			fmt.Fprintf(&b, "\n    %+v", r.Rule)
		}
	}
	d.t.Fatalf("packet%s\nmatched %v, want %v\nleft %v\nwant %v", b.String(), steps, wantSteps, out, wantOut)
}
