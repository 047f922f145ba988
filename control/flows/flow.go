package flows

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"millrace/control/logical"
	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// A flow is a row of Flow.
type flow struct {
	uuid string
	row  *flowmodel.Flow

	uses    []use
	rules   []*rule
	objects []*object
	problem *Problem
	told    verdict // what the row says
	verdict verdict // what it should say

	dirty, unsettled, news mark
	renumber               bool // only its numbers have changed
}

// A verdict is what a row of Flow gets to know.
type verdict struct {
	status, err    string
	packets, bytes uint64
}

// A rule is one that rows ask for.
type rule struct {
	flowtable.Rule
	flows          []*flow // usually one
	inForce        bool
	refused        string
	pass           uint64 // Book.pass in which it was wanted last
	adding         mark
	packets, bytes uint64
}

// again has a rule that was refused tried again.
func (r *rule) again(b *Book) {
	r.refused = ""
	b.adding.add(r, &r.adding)
}

// SetFlow takes a row of Flow that is new or has changed. Fresh says that the
// columns which only we write are as the database has them now; otherwise what was
// written last counts.
func (b *Book) SetFlow(row *flowmodel.Flow, fresh bool) {
	f := b.flows[row.UUID]
	known := f != nil
	if !known {
		f = &flow{uuid: row.UUID}
		b.flows[row.UUID] = f
	}
	same := known && f.row.Bridge == row.Bridge && f.row.Table == row.Table && f.row.Priority == row.Priority &&
		f.row.Match == row.Match && f.row.Actions == row.Actions && f.row.Cookie == row.Cookie
	old := f.row
	f.row = row
	if fresh || !known {
		f.told = verdict{textOf(row.Status), textOf(row.Error), uint64(row.NPackets), uint64(row.NBytes)}
		b.compareNews(f)
	}
	if !same {
		f.change(b, old)
	}
}

// change has a row that has changed made anew. If it was in order, and only its
// numbers are others, what its rules match and do is the same as before.
func (f *flow) change(b *Book, old *flowmodel.Flow) {
	now := f.row
	again := old != nil && !f.dirty.set && f.problem == nil && len(f.rules) > 0 && !f.ownMeters() &&
		old.Bridge == now.Bridge && old.Table == now.Table && old.Match == now.Match && old.Actions == now.Actions
	f.outdated(b)
	f.renumber = again
}

// ownMeters reports whether the row has meters of its own, whose names are made of
// its numbers as well.
func (f *flow) ownMeters() bool {
	return slices.ContainsFunc(f.objects, func(o *object) bool { return o.key.kind == kindMeter && strings.HasPrefix(o.key.text, ownMeter) })
}

// DropFlow forgets a row.
func (b *Book) DropFlow(uuid string) {
	f := b.flows[uuid]
	if f == nil {
		return
	}
	delete(b.flows, uuid)
	rules, objects := f.rules, f.objects
	f.rules, f.objects = nil, nil
	b.clear(f)
	b.letGo(f, rules, objects)
	b.count(f.verdict.status, -1)
	f.dirty.set, f.unsettled.set, f.news.set = false, false, false
}

// outdated implements user.
func (f *flow) outdated(b *Book) {
	f.renumber = false
	b.dirty.add(f, &f.dirty)
}

// moved implements user.
func (f *flow) moved(to *users, from, at int) { moves(f.uses, to, from, at) }

// clear forgets what f depends on.
func (b *Book) clear(f *flow) {
	for len(f.uses) > 0 {
		last := len(f.uses) - 1
		x := f.uses[last]
		f.uses = f.uses[:last]
		b.forget(x)
	}
}

// dependAll notes that f depends on names.
func (b *Book) dependAll(f *flow, kind uint8, names []string) {
	for _, name := range names {
		f.uses = append(f.uses, b.depend(f, kind, name))
	}
}

// Compile makes rules of all rows that have changed, or that depend on something
// that has.
func (b *Book) Compile() {
	for g := range b.moved {
		b.resync(g)
	}
	clear(b.moved)
	for g := range b.ungrouped {
		b.read(g)
	}
	clear(b.ungrouped)
	b.dirty.take(func(f *flow) *mark { return &f.dirty }, b.compile)
}

// compile makes the rules of a row. Those that it had already stay untouched.
func (b *Book) compile(f *flow) {
	if f.renumber {
		f.renumber = false
		b.renumber(f)
		return
	}
	rules, objects := f.rules, f.objects
	f.rules, f.objects = nil, nil
	b.clear(f)
	b.pass++
	f.problem = b.lower(f)
	if f.problem != nil { // all of it, or nothing
		made, used := f.rules, f.objects
		f.rules, f.objects = nil, nil
		b.letGo(f, made, used)
	}
	b.letGo(f, rules, objects)
	f.sum()
	b.unsettled.add(f, &f.unsettled)
}

// renumber gives a row rules that differ from those that it has in their numbers
// only.
func (b *Book) renumber(f *flow) {
	old := f.rules
	f.rules = make([]*rule, 0, len(old))
	b.pass++
	f.problem = nil
	for _, r := range old {
		now := r.Rule
		now.Priority, now.Cookie = uint16(f.row.Priority), uint64(f.row.Cookie)
		if !b.want(f, &now) {
			f.problem = sameDigest()
		}
	}
	b.letGo(f, old, nil)
	f.sum()
	b.unsettled.add(f, &f.unsettled)
}

// letGo takes f's use of rules and objects away, where it does not use them again.
func (b *Book) letGo(f *flow, rules []*rule, objects []*object) {
	for _, r := range rules {
		b.unwant(f, r)
	}
	for _, o := range objects {
		if !contains(f.objects, o) {
			b.release(f, o)
		}
	}
}

func contains[T comparable](list []T, v T) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}

// want makes r one of f's rules. It reports false if another rule has its id.
func (b *Book) want(f *flow, r *flowtable.Rule) bool {
	b.digest.rule(r)
	w := b.rules[r.ID]
	if w == nil {
		w = &rule{Rule: *r}
		b.rules[r.ID] = w
		if _, there := b.leaving[r.ID]; there {
			delete(b.leaving, r.ID)
			w.inForce = true
		} else {
			b.adding.add(w, &w.adding)
		}
	} else if !reflect.DeepEqual(&w.Rule, r) {
		return false
	}
	if w.pass == b.pass {
		return true // two of its clauses say the same
	}
	w.pass = b.pass
	w.flows = append(w.flows, f)
	f.rules = append(f.rules, w)
	return true
}

// unwant takes one use of a rule by f away.
func (b *Book) unwant(f *flow, r *rule) {
	for i := range r.flows {
		if r.flows[i] == f {
			r.flows = append(r.flows[:i], r.flows[i+1:]...)
			break
		}
	}
	if len(r.flows) > 0 {
		return
	}
	delete(b.rules, r.ID)
	r.adding.set = false
	delete(b.refused, r)
	if r.inForce {
		b.leaving[r.ID] = struct{}{}
	}
}

// lower makes the rules of a row.
func (b *Book) lower(f *flow) *Problem {
	row := f.row
	br := b.bridges[row.Bridge]
	if br == nil {
		return missing("no bridge %.60q runs flows: it needs a port, and other_config:millrace-pipeline=flows", row.Bridge)
	}
	match, err := b.symbols.ParseMatch(row.Match)
	if err != nil {
		return ofText("match", err)
	}
	acts, err := b.parseActions(row.Actions)
	if err != nil {
		return ofText("actions", err)
	}
	v := &view{book: b, flow: f, bridge: br}
	inMatch := logical.Refer(match)
	if p := v.names(&inMatch, &acts.refer); p != nil {
		return p
	}
	clauses, err := b.clauses.Compile(append(v.prereqs, match, acts.Prereq)...)
	if err != nil {
		return ofText("match", err)
	}
	if clauses, err = logical.Resolve(clauses, v); err != nil {
		return ofText("match", err)
	}
	return v.rules(clauses, acts.List)
}

// A list is actions that are parsed, and what they refer to.
type list struct {
	logical.Actions
	refer logical.References
}

// parsedMax is how many texts of actions are kept parsed.
const parsedMax = 4096

// parseActions parses actions, or remembers.
func (b *Book) parseActions(text string) (list, error) {
	if a, ok := b.parsed[text]; ok {
		return a, nil
	}
	parsed, err := b.symbols.ParseActions(text)
	if err != nil {
		return list{}, err
	}
	a := list{parsed, parsed.Refer()}
	if len(b.parsed) >= parsedMax {
		clear(b.parsed)
	}
	b.parsed[text] = a
	return a, nil
}

// A view is what a row sees while its rules are made.
type view struct {
	book    *Book
	flow    *flow
	bridge  *Bridge
	prereqs []logical.Expr // of the groups that it uses
	writes  bool           // a group that it uses writes the tag
	made    bool           // actions name objects
}

// rules makes a rule of each way in which a clause can hold.
func (v *view) rules(clauses []logical.Clause, acts []logical.Action) *Problem {
	splits := v.writes || writesTag(acts)
	n := 0
	for i := range clauses {
		ways, err := lowerClause(&v.book.at, &clauses[i], v)
		if err == nil && splits {
			ways = byTag(ways)
		}
		if n += len(ways); n > rulesMax && err == nil {
			err = tooMany()
		}
		if err != nil {
			return ofText("match", err)
		}
		for j := range ways {
			if p := v.rule(&ways[j], acts); p != nil {
				return p
			}
		}
	}
	if n > 0 {
		return nil
	}
	l := lowering{at: &v.book.at, objects: blank{}, table: uint8(v.flow.row.Table), tag: tagged}
	return v.ofActions(l.list(acts)) // no packet matches; what is wrong is wrong all the same
}

// ofActions is what is wrong with actions, if anything.
func (v *view) ofActions(err error) *Problem {
	var e *actionError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return wrong("actions", v.flow.row.Actions, e.verb, "%v", e.err)
	}
	return ofText("actions", err)
}

// rule makes one rule.
func (v *view) rule(t *terms, acts []logical.Action) *Problem {
	row := v.flow.row
	list, p := v.actions(t, acts)
	if p != nil {
		return p
	}
	r := flowtable.Rule{
		Table: uint8(row.Table), Priority: uint16(row.Priority), Datapath: flowtable.DatapathOf(row.Bridge),
		Match: t.match, Preds: t.preds, Actions: list, Cookie: uint64(row.Cookie),
	}
	if len(r.Preds) > predsMax {
		return &Problem{Where: "match", Reason: fmt.Sprintf("%d tests that are not masks, of at most %d", len(r.Preds), predsMax)}
	}
	if !v.book.want(v.flow, &r) {
		return sameDigest()
	}
	return nil
}

// A loweredKey is what actions without objects depend on.
type loweredKey struct {
	bridge, text string
	table        uint8
	family       family
	tag          tag
}

// actions lowers the actions of a rule. Rows that do the same share them.
func (v *view) actions(t *terms, acts []logical.Action) ([]flowtable.Action, *Problem) {
	b, row := v.book, v.flow.row
	k := loweredKey{row.Bridge, row.Actions, uint8(row.Table), t.family(), t.tag()}
	if list, ok := b.lowered[k]; ok {
		return list, nil
	}
	zones, ok := zonesOf(v.bridge.FDB)
	if !ok {
		return nil, &Problem{Reason: "no zones of connection tracking are left: there are too many bridges"}
	}
	l := lowering{at: &b.at, objects: v, fdb: v.bridge.FDB, zones: zones, table: k.table, family: k.family, tag: k.tag}
	v.made = false
	if p := v.ofActions(l.list(acts)); p != nil {
		return nil, p
	}
	if !v.made {
		if len(b.lowered) >= parsedMax {
			clear(b.lowered)
		}
		b.lowered[k] = l.out
	}
	return l.out, nil
}

// sameDigest is the problem of two rules that differ and have one id: what
// happens once in a very long time.
func sameDigest() *Problem {
	return &Problem{Reason: "its digest is that of another rule: give it another cookie"}
}

// predsMax is how many predicates a rule may have (flowtable).
const predsMax = 32

// writesTag reports whether actions write VLAN tags.
func writesTag(list []logical.Action) bool {
	tci := func(r logical.Ref) bool { return r.Symbol.Field == logical.FieldVLANTCI }
	for _, a := range list {
		yes := false
		switch a := a.(type) {
		case *logical.Load:
			yes = tci(a.To)
		case *logical.Move:
			yes = tci(a.To)
		case *logical.Stack:
			yes = tci(a.Ref)
		case *logical.Block:
			yes = writesTag(a.List)
		}
		if yes {
			return true
		}
	}
	return false
}

// byTag makes two of each way that does not say whether there is a tag.
func byTag(ways []terms) []terms {
	var out []terms
	for i := range ways {
		if ways[i].tag() != tagUnknown {
			out = append(out, ways[i])
			continue
		}
		with, none := ways[i].clone(), ways[i].clone()
		with.demand(flowtable.WordIn, tagBit, tagBit)
		none.demand(flowtable.WordIn, tagBit, 0)
		out = append(out, with, none)
	}
	return out
}

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
