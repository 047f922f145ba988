package flows

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// A groupRow is a row of Group.
type groupRow struct {
	plaint
	model   *flowmodel.Group
	buckets []string // as the book's holders have them
	choices []choice // of its buckets, in order of their ids; nil: not made yet
}

func (g *groupRow) title() string { return g.model.Name }

// A bucketRow is a row of Bucket.
type bucketRow struct {
	model *flowmodel.Bucket
}

// A choice is a bucket that can be read.
type choice struct {
	id     uint32
	weight uint16
	acts   list
}

// SetGroup takes a row of Group that is new or has changed.
func (b *Book) SetGroup(row *flowmodel.Group, fresh bool) {
	g := b.groups.rows[row.UUID]
	if g == nil || g.model.Name != row.Name {
		b.DropGroup(row.UUID)
		g = &groupRow{plaint: plaint{table: flowmodel.GroupTable, uuid: row.UUID}, model: row}
		fresh = true
		b.groups.put(row.UUID, g)
	}
	g.model = row
	if fresh {
		g.told = textOf(row.Error)
	}
	b.holdBuckets(g, row.Buckets)
	b.regroup(g)
}

// holdBuckets notes which buckets a group has now.
func (b *Book) holdBuckets(g *groupRow, now []string) {
	for _, uuid := range g.buckets {
		if b.holders[uuid] = slices.DeleteFunc(b.holders[uuid], func(x *groupRow) bool { return x == g }); len(b.holders[uuid]) == 0 {
			delete(b.holders, uuid)
		}
	}
	g.buckets = now
	for _, uuid := range now {
		b.holders[uuid] = append(b.holders[uuid], g)
	}
}

// DropGroup forgets a row.
func (b *Book) DropGroup(uuid string) {
	if g := b.groups.drop(uuid); g != nil {
		delete(b.errors, &g.plaint)
		b.holdBuckets(g, nil)
		b.touch(refGroup, g.model.Name)
	}
}

// SetBucket takes a row of Bucket that is new or has changed.
func (b *Book) SetBucket(row *flowmodel.Bucket) {
	b.buckets[row.UUID] = &bucketRow{row}
	for _, g := range b.holders[row.UUID] {
		b.regroup(g)
	}
}

// DropBucket forgets a row.
func (b *Book) DropBucket(uuid string) {
	if _, ok := b.buckets[uuid]; !ok {
		return
	}
	delete(b.buckets, uuid)
	for _, g := range b.holders[uuid] {
		b.regroup(g)
	}
}

// regroup has a group and all rows that use it made anew.
func (b *Book) regroup(g *groupRow) {
	g.choices = nil
	b.touch(refGroup, g.model.Name)
	b.ungrouped[g] = struct{}{}
}

// read reads the buckets of a group. Those that cannot be read are left out, and
// the row says so.
func (b *Book) read(g *groupRow) {
	var rows []*flowmodel.Bucket
	for _, uuid := range g.model.Buckets {
		if r := b.buckets[uuid]; r != nil {
			rows = append(rows, r.model)
		}
	}
	slices.SortFunc(rows, func(x, y *flowmodel.Bucket) int { return strings.Compare(x.UUID, y.UUID) })
	g.choices = []choice{}
	var problems []string
	same := map[string]int{}
	for _, r := range rows {
		acts, err := b.parseActions(r.Actions)
		if err == nil {
			err = b.checkBucket(acts)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("bucket %q: %v", clip(r.Actions), ofText("actions", err)))
			continue
		}
		id := b.bucketID(r.Actions, same[r.Actions])
		same[r.Actions]++
		g.choices = append(g.choices, choice{id, uint16(r.Weight), acts})
	}
	l := lowering{at: &b.at, objects: blank{}, tag: tagged}
	if _, err := l.hashFields(sorted(g.model.HashFields)); err != nil {
		problems = append(problems, "hash_fields: "+err.Error())
	}
	slices.SortFunc(g.choices, func(x, y choice) int { return int(x.id>>1) - int(y.id>>1) })
	g.own = strings.Join(problems, "; ")
	b.complain(&g.plaint)
}

// checkBucket says what is wrong with the actions of a bucket wherever it is used.
func (b *Book) checkBucket(acts list) error {
	if len(acts.refer.Groups) > 0 {
		return errors.New("a bucket cannot use a group")
	}
	l := lowering{at: &b.at, objects: blank{}, tag: tagged}
	return l.list(acts.List)
}

// blank makes nothing: it is for lists that are checked only.
type blank struct{}

func (blank) port(string) uint32                                              { return 0 }
func (blank) meter(string) flowtable.MeterID                                  { return 0 }
func (blank) replyMeter() flowtable.MeterID                                   { return 0 }
func (blank) ownMeter(uint64, uint64) flowtable.MeterID                       { return 0 }
func (blank) group(string, *lowering) flowtable.SelectID                      { return 0 }
func (blank) choice([]flowtable.Field, []flowtable.Bucket) flowtable.SelectID { return 0 }

// bucketID is the id of a bucket: a digest of what it does, so that flows stay
// with it whatever becomes of others, and its number among those that do the same.
func (b *Book) bucketID(actions string, same int) uint32 {
	b.digest.b = b.digest.b[:0]
	b.digest.text(actions)
	b.digest.u32(uint32(same))
	return b.digest.number()
}

// clip is the beginning of a text.
func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// needs notes what a row depends on because it uses a group.
func (v *view) needs(g *groupRow) {
	b, f := v.book, v.flow
	if g.choices == nil {
		b.read(g)
	}
	for i := range g.choices {
		c := &g.choices[i]
		r := &c.acts.refer
		b.dependAll(f, refPort, r.Ports)
		b.dependAll(f, refPort, r.Backends)
		b.dependAll(f, refPort, r.Residents)
		b.dependAll(f, refMeter, r.Meters)
		b.dependAll(f, refGroup, r.Groups)
		if c.acts.Prereq != nil {
			v.prereqs = append(v.prereqs, c.acts.Prereq)
		}
		v.writes = v.writes || writesTag(c.acts.List)
	}
}

// group implements objectMaker. Buckets that cannot be had here, say because a
// port is not there, are left out: their share goes to the others.
func (v *view) group(name string, from *lowering) flowtable.SelectID {
	v.made = true
	b := v.book
	g := b.groups.byName[name]
	key := groupKey(v.flow.row.Bridge, from.table, from.family, from.tag, name)
	if g == nil { // assumed to be there
		g = &groupRow{model: &flowmodel.Group{}}
	}
	fields, err := from.hashFields(sorted(g.model.HashFields))
	if err != nil {
		fields, _ = from.hashFields(nil) // the row says so
	}
	var buckets []flowtable.Bucket
	for i := range g.choices {
		if acts, ok := v.bucket(&g.choices[i], from); ok {
			buckets = append(buckets, flowtable.Bucket{ID: g.choices[i].id, Weight: g.choices[i].weight, Actions: acts})
		}
	}
	fill := func(o *object) {
		o.choice = flowtable.Select{ID: flowtable.SelectID(o.id), Fields: fields, Buckets: buckets}
	}
	o := b.objectOf(v.flow, key, fill)
	if now := (flowtable.Select{ID: o.choice.ID, Fields: fields, Buckets: buckets}); !reflect.DeepEqual(o.choice, now) {
		o.choice = now
		b.changed[o] = struct{}{}
	}
	return o.choice.ID
}

// bucket is the actions of a bucket, if they can be had.
func (v *view) bucket(c *choice, from *lowering) ([]flowtable.Action, bool) {
	r := &c.acts.refer
	for _, name := range r.Ports {
		if !v.hasPort(name) {
			return nil, false
		}
	}
	for _, name := range r.Meters {
		if v.book.meters.byName[name] == nil {
			return nil, false
		}
	}
	l := *from
	l.out = nil
	if l.list(c.acts.List) != nil {
		return nil, false
	}
	return l.out, true
}
