package flows

import (
	"cmp"
	"slices"

	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// A Tally counts rows of Flow by what came of them.
type Tally struct {
	Rows     int `json:"rows"`
	Active   int `json:"active"`
	Refused  int `json:"refused"`
	Inactive int `json:"inactive"`
}

// Tally returns the counts. Rows of which nothing is known yet are in none but
// Rows.
func (b *Book) Tally() Tally {
	t := b.tally
	t.Rows = len(b.flows)
	return t
}

func (b *Book) count(status string, n int) {
	switch status {
	case flowmodel.FlowStatusActive:
		b.tally.Active += n
	case flowmodel.FlowStatusRefused:
		b.tally.Refused += n
	case flowmodel.FlowStatusInactive:
		b.tally.Inactive += n
	}
}

// Settle finds what has come of rows since the last call.
func (b *Book) Settle() {
	b.unsettled.take(func(f *flow) *mark { return &f.unsettled }, func(f *flow) {
		v, known := f.judge()
		if !known {
			b.unsettled.add(f, &f.unsettled) // it is on its way
			return
		}
		b.count(f.verdict.status, -1)
		b.count(v.status, 1)
		f.verdict.status, f.verdict.err = v.status, v.err
		b.compareNews(f)
	})
}

// judge is what came of a row, if that is known.
func (f *flow) judge() (v verdict, known bool) {
	if p := f.problem; p != nil {
		v.status, v.err = flowmodel.FlowStatusRefused, p.Error()
		if p.Missing {
			v.status = flowmodel.FlowStatusInactive
		}
		return v, true
	}
	for _, o := range f.objects {
		if o.refused != "" {
			return verdict{status: flowmodel.FlowStatusRefused, err: o.refused}, true
		}
	}
	for _, r := range f.rules {
		if r.refused != "" {
			return verdict{status: flowmodel.FlowStatusRefused, err: r.refused}, true
		}
	}
	for _, r := range f.rules {
		if !r.inForce {
			return v, false
		}
	}
	for _, o := range f.objects {
		if !o.inForce {
			return v, false
		}
	}
	return verdict{status: flowmodel.FlowStatusActive}, true
}

// compareNews notes whether a row does not say what it should.
func (b *Book) compareNews(f *flow) {
	if f.verdict.status == "" || f.told == f.verdict {
		f.news.set = false
		return
	}
	b.news.add(f, &f.news)
}

// Count takes the counters of a rule.
func (b *Book) Count(id flowtable.RuleID, packets, bytes uint64) {
	r := b.rules[id]
	if r == nil || r.packets == packets && r.bytes == bytes {
		return
	}
	r.packets, r.bytes = packets, bytes
	for _, f := range r.flows {
		f.sum()
		b.compareNews(f)
	}
}

// sum adds up the counters of a row's rules.
func (f *flow) sum() {
	f.verdict.packets, f.verdict.bytes = 0, 0
	for _, r := range f.rules {
		f.verdict.packets += r.packets
		f.verdict.bytes += r.bytes
	}
}

// News is what a row should say, where that is not what it says.
type News struct {
	Table, UUID string
	Status      string // of Flow; empty: it is not told
	Error       string
	Packets     uint64 // of Flow
	Bytes       uint64 // of Flow

	NewStatus, NewError, NewCounters bool // what differs

	flow   *flow
	plaint *plaint
}

// News returns what rows should say, of at most so many, in order. Told says that
// they do.
func (b *Book) News(most int) []News {
	var out []News
	for p := range b.errors {
		if len(out) == most {
			break
		}
		out = append(out, News{Table: p.table, UUID: p.uuid, Error: p.now(), NewError: true, plaint: p})
	}
	for _, f := range b.news.some(most-len(out), func(f *flow) *mark { return &f.news }) {
		v, t := &f.verdict, &f.told
		out = append(out, News{
			Table: flowmodel.FlowTable, UUID: f.uuid, Status: v.status, Error: v.err, Packets: v.packets, Bytes: v.bytes,
			NewStatus: v.status != t.status, NewError: v.err != t.err, NewCounters: v.packets != t.packets || v.bytes != t.bytes, flow: f,
		})
	}
	slices.SortFunc(out, func(x, y News) int { return cmp.Or(cmp.Compare(x.Table, y.Table), cmp.Compare(x.UUID, y.UUID)) })
	return out
}

// Told says that rows say what was new.
func (b *Book) Told(news []News) {
	for i := range news {
		n := &news[i]
		if n.plaint != nil {
			n.plaint.told = n.Error
			b.complain(n.plaint)
			continue
		}
		n.flow.told = verdict{n.Status, n.Error, n.Packets, n.Bytes}
		if b.flows[n.UUID] == n.flow {
			b.compareNews(n.flow)
		}
	}
}
