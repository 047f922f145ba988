package service

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/dataplane/service/switchtest"
	"millrace/flowtable"
)

// A model is what a flow table should have of clients, in maps.
type model struct {
	rules   map[flowtable.RuleID]flowtable.Rule
	sets    map[flowtable.SetID]flowtable.Set
	members map[flowtable.SetID]map[flowtable.Member]bool
	groups  map[flowtable.GroupID][]uint64
	selects map[flowtable.SelectID]flowtable.Select
	meters  map[flowtable.MeterID]flowtable.Meter
}

func newModel() *model {
	return &model{
		map[flowtable.RuleID]flowtable.Rule{}, map[flowtable.SetID]flowtable.Set{}, map[flowtable.SetID]map[flowtable.Member]bool{},
		map[flowtable.GroupID][]uint64{}, map[flowtable.SelectID]flowtable.Select{}, map[flowtable.MeterID]flowtable.Meter{},
	}
}

func (m *model) clone() *model {
	c := &model{maps.Clone(m.rules), maps.Clone(m.sets), map[flowtable.SetID]map[flowtable.Member]bool{}, maps.Clone(m.groups), maps.Clone(m.selects), maps.Clone(m.meters)}
	for id, s := range m.members {
		c.members[id] = maps.Clone(s)
	}
	return c
}

// refers reports whether a rule or a bucket names an object by an action.
func (m *model) refers(code uint8, id uint32) bool {
	var in func(acts []flowtable.Action) bool
	in = func(acts []flowtable.Action) bool {
		return slices.ContainsFunc(acts, func(a flowtable.Action) bool {
			names := a.Code == code || code == flowtable.ActMeter && a.Code == flowtable.ActReply
			return names && a.Arg == id || in(a.Nested)
		})
	}
	for _, r := range m.rules {
		if in(r.Actions) {
			return true
		}
	}
	for _, s := range m.selects {
		if slices.ContainsFunc(s.Buckets, func(b flowtable.Bucket) bool { return in(b.Actions) }) {
			return true
		}
	}
	return false
}

// named says what actions name that is not there.
func (m *model) named(acts []flowtable.Action) error {
	for _, a := range acts {
		_, sel := m.selects[flowtable.SelectID(a.Arg)]
		_, met := m.meters[flowtable.MeterID(a.Arg)]
		switch {
		case a.Code == flowtable.ActSelect && !sel, a.Code == flowtable.ActMeter && !met, a.Code == flowtable.ActReply && !met:
			return flowtable.ErrUnknown
		}
		if err := m.named(a.Nested); err != nil {
			return err
		}
	}
	return nil
}

// canAdd says why a rule may not come, as far as others than itself matter.
func (m *model) canAdd(r *flowtable.Rule, replace bool) error {
	if _, there := m.rules[r.ID]; there && !replace {
		return flowtable.ErrExists
	}
	if _, ok := m.groups[r.Group]; r.Group != 0 && !ok {
		return flowtable.ErrUnknown
	}
	for _, p := range r.Preds {
		if _, ok := m.sets[p.Set]; p.Kind <= flowtable.NotInSet && !ok {
			return flowtable.ErrUnknown
		}
	}
	return m.named(r.Actions)
}

// apply makes a change, or says why it must be refused. It does not look at
// changes for what they are by themselves.
func (m *model) apply(c *flowapi.Change) error {
	switch c.Kind {
	case flowapi.AddRule, flowapi.ReplaceRule:
		if err := m.canAdd(&c.Rule, c.Kind == flowapi.ReplaceRule); err != nil {
			return err
		}
		m.rules[c.Rule.ID] = plainRule(c.Rule)
	case flowapi.RemoveRule:
		if _, ok := m.rules[c.RuleID()]; !ok {
			return flowtable.ErrUnknown
		}
		delete(m.rules, c.RuleID())
	case flowapi.SetSet:
		if old, ok := m.sets[c.Set.ID]; ok && old != c.Set {
			return errors.New("another set")
		}
		m.sets[c.Set.ID], m.members[c.Set.ID] = c.Set, map[flowtable.Member]bool{}
		m.addMembers(c)
	case flowapi.AddMembers, flowapi.DelMembers, flowapi.RemoveSet:
		return m.applySet(c)
	default:
		return m.applyObject(c)
	}
	return nil
}

func (m *model) addMembers(c *flowapi.Change) {
	for _, v := range c.Members {
		m.members[c.Set.ID][v] = true
	}
}

func (m *model) applySet(c *flowapi.Change) error {
	id := c.Set.ID
	if c.Kind == flowapi.RemoveSet {
		id = flowtable.SetID(c.ID)
	}
	old, ok := m.sets[id]
	switch {
	case !ok:
		return flowtable.ErrUnknown
	case c.Kind != flowapi.RemoveSet && old.Width != c.Set.Width:
		return errors.New("another width")
	case c.Kind == flowapi.AddMembers:
		m.addMembers(c)
	case c.Kind == flowapi.DelMembers:
		for _, v := range c.Members {
			delete(m.members[id], v)
		}
	default:
		for _, r := range m.rules {
			if slices.ContainsFunc(r.Preds, func(p flowtable.Pred) bool { return p.Kind <= flowtable.NotInSet && p.Set == id }) {
				return flowtable.ErrInUse
			}
		}
		delete(m.sets, id)
		delete(m.members, id)
	}
	return nil
}

func (m *model) applyObject(c *flowapi.Change) error {
	switch c.Kind {
	case flowapi.SetGroup:
		all := slices.Clone(c.Datapaths)
		slices.Sort(all)
		m.groups[c.Group] = slices.Compact(all)
	case flowapi.RemoveGroup:
		if _, ok := m.groups[flowtable.GroupID(c.ID)]; !ok {
			return flowtable.ErrUnknown
		}
		for _, r := range m.rules {
			if r.Group == flowtable.GroupID(c.ID) {
				return flowtable.ErrInUse
			}
		}
		delete(m.groups, flowtable.GroupID(c.ID))
	case flowapi.SetSelect:
		s := flowtable.Select{ID: c.Select.ID}
		for _, b := range c.Select.Buckets {
			if err := m.named(b.Actions); err != nil {
				return err
			}
			b.Actions = plainActions(b.Actions)
			s.Buckets = append(s.Buckets, b)
		}
		s.Fields = append(s.Fields, c.Select.Fields...)
		m.selects[s.ID] = s
	case flowapi.RemoveSelect:
		return removeNamed(m, m.selects, flowtable.SelectID(c.ID), flowtable.ActSelect)
	case flowapi.SetMeter:
		m.meters[c.Meter.ID] = c.Meter
	case flowapi.RemoveMeter:
		return removeNamed(m, m.meters, flowtable.MeterID(c.ID), flowtable.ActMeter)
	}
	return nil
}

func removeNamed[ID ~uint32, V any](m *model, from map[ID]V, id ID, code uint8) error {
	if _, ok := from[id]; !ok {
		return flowtable.ErrUnknown
	}
	if m.refers(code, uint32(id)) {
		return flowtable.ErrInUse
	}
	delete(from, id)
	return nil
}

// plainRule is a rule without what a flow table does not keep: names of fields,
// the order of predicates, and numbers that they do not use.
func plainRule(r flowtable.Rule) flowtable.Rule {
	r.Match = append([]flowtable.Masked(nil), r.Match...)
	var preds []flowtable.Pred
	for _, p := range r.Preds {
		q := flowtable.Pred{Kind: p.Kind, Field: unnamed(p.Field), Set: p.Set}
		switch p.Kind {
		case flowtable.InRange:
			q.Low, q.High = p.Low, p.High
		case flowtable.NotEqual:
			q.Low, q.LowLow, q.Mask, q.MaskLow = p.Low, p.LowLow, p.Mask, p.MaskLow
		}
		preds = append(preds, q)
	}
	slices.SortFunc(preds, func(a, b flowtable.Pred) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	r.Preds, r.Actions = preds, plainActions(r.Actions)
	return r
}

func unnamed(f flowtable.Field) flowtable.Field {
	f.Name = ""
	return f
}

func plainActions(acts []flowtable.Action) []flowtable.Action {
	var out []flowtable.Action
	for _, a := range acts {
		a.Dst, a.Src, a.Src2, a.Nested = unnamed(a.Dst), unnamed(a.Src), unnamed(a.Src2), plainActions(a.Nested)
		out = append(out, a)
	}
	return out
}

// readModel returns what a switch's flow table has of clients.
func readModel(sw *switchtest.Switch) *model {
	m, t := newModel(), sw.Tables()
	t.EachRule(func(r flowtable.Listed) bool {
		if !sw.OwnRule(flowtable.Brief{ID: r.ID, Table: r.Table, Datapath: r.Datapath, Group: r.Group}) {
			m.rules[r.ID] = plainRule(r.Rule)
		}
		return true
	})
	for _, s := range t.Sets() {
		_, members, _ := t.Members(s.ID)
		m.sets[s.ID], m.members[s.ID] = s, map[flowtable.Member]bool{}
		for _, v := range members {
			m.members[s.ID][v] = true
		}
	}
	for _, g := range t.Groups() {
		m.groups[g], _ = t.Group(g)
		if len(m.groups[g]) == 0 {
			m.groups[g] = nil
		}
	}
	for _, id := range t.Selects() {
		s, _ := t.Select(id)
		for i := range s.Fields {
			s.Fields[i] = unnamed(s.Fields[i])
		}
		for i := range s.Buckets {
			s.Buckets[i].Actions = plainActions(s.Buckets[i].Actions)
		}
		m.selects[id] = s
	}
	for _, id := range t.Meters() {
		m.meters[id], _ = t.Meter(id)
	}
	return m
}

// A feed is a client's stream of messages, without a client.
type feed struct {
	grpc.ServerStream
	messages [][]byte
}

func (f *feed) RecvMsg(m any) error {
	if len(f.messages) == 0 {
		return io.EOF
	}
	err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(f.messages[0])}, m)
	f.messages = f.messages[1:]
	return err
}

// A trial is a switch and the model that it is held to.
type trial struct {
	sw    *switchtest.Switch
	model *model
	own   flowtable.Listed
}

// The switch of trials has the bridge br0 with two ports.
const trialBridge = "br0"

func newTrial(t testing.TB) *trial {
	t.Helper()
	sw := &switchtest.Switch{}
	t.Cleanup(func() { sw.Close() })
	for _, name := range []string{"a", "b"} {
		if _, err := sw.AddPort(t.Context(), dataplane.PortSpec{Bridge: trialBridge, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	own, ok := sw.Tables().Rule(flowtable.RuleID(switchtest.Private(trialBridge)))
	if !ok {
		t.Fatal("the switch has no rule of its own")
	}
	return &trial{sw, newModel(), own}
}

// transact sends a transaction, and compares what it did with the model.
func (tr *trial) transact(t testing.TB, messages [][]byte) {
	t.Helper()
	sp, err := newSpool(1<<20, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer sp.close()
	var answer *api.TransactResponse
	if err = sp.fill(&feed{messages: messages}); err == nil {
		answer, err = transact(tr.sw, sp)
	}
	var e *api.Error
	switch {
	case errors.As(err, &e) && e.Kind == api.ErrRefused:
		if sp.partial || e.Refused.GetNRefused() == 0 {
			t.Fatalf("refused as a whole: %v", e.Refused)
		}
		tr.follow(t, messages, e.Refused) // into a copy: nothing comes of it
	case err != nil:
		if !errors.Is(err, api.ErrInvalid) {
			t.Fatal(err)
		}
	default:
		tr.model = tr.follow(t, messages, answer)
	}
	tr.compare(t)
}

// follow makes in a copy of the model the changes that were not refused. What
// was refused for the sake of others must be refused there, too.
func (tr *trial) follow(t testing.TB, messages [][]byte, answer *api.TransactResponse) *model {
	t.Helper()
	m, n := tr.model.clone(), uint32(0)
	refused := map[uint32]string{}
	for _, r := range answer.GetRefused() {
		refused[r.GetChange()] = r.GetError()
	}
	if uint32(len(refused)) != answer.GetNRefused() {
		t.Fatalf("%d refusals told, of %d", len(refused), answer.GetNRefused())
	}
	for _, b := range messages {
		var req api.TransactRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			t.Fatalf("taken although protobuf does not: %v", err)
		}
		for _, msg := range req.GetChanges() {
			c := flowapi.FromChange(msg)
			why, no := refused[n]
			n++
			if no {
				continue
			}
			if c.Err != nil {
				t.Fatalf("change %d, taken: %v", n-1, c.Err)
			}
			if err := m.apply(&c); err != nil {
				t.Fatalf("change %d, taken: %v (%s)", n-1, err, why)
			}
		}
	}
	return m
}

// compare holds the switch to the model, and its own rules to what they were.
func (tr *trial) compare(t testing.TB) {
	t.Helper()
	if got := readModel(tr.sw); !reflect.DeepEqual(got, tr.model) {
		t.Fatalf("flow table:\n got %+v\nwant %+v", got, tr.model)
	}
	if own, ok := tr.sw.Tables().Rule(tr.own.ID); !ok || !reflect.DeepEqual(own, tr.own) {
		t.Fatalf("own rule: got %+v, want %+v", own, tr.own)
	}
	if ports, ok := tr.sw.Tables().Flood(1<<31 | 1); !ok || !slices.Equal(ports, []uint32{1, 2}) {
		t.Fatalf("flood list: %v", ports)
	}
	if n := tr.sw.Tables().Rules(); n != len(tr.model.rules)+1 {
		t.Fatalf("%d rules, want %d and our own", n, len(tr.model.rules))
	}
}

// randomChanges returns changes of few ids, so that they meet.
func randomChanges(r *rand.Rand, n int) []*api.FlowChange {
	var out []*api.FlowChange
	for range n {
		out = append(out, randomChange(r))
	}
	return out
}

func randomChange(r *rand.Rand) *api.FlowChange {
	id := uint32(r.IntN(4))
	switch r.IntN(16) {
	case 0, 1, 2:
		return addRule(randomRule(r))
	case 3, 4:
		return &api.FlowChange{Change: &api.FlowChange_Replace{Replace: randomRule(r)}}
	case 5:
		return &api.FlowChange{Change: &api.FlowChange_Remove{Remove: randomID(r)}}
	case 6, 7:
		return &api.FlowChange{Change: &api.FlowChange_Set{Set: randomSet(r, id)}}
	case 8:
		return &api.FlowChange{Change: &api.FlowChange_AddMembers{AddMembers: randomSet(r, id)}}
	case 9:
		return &api.FlowChange{Change: &api.FlowChange_DelMembers{DelMembers: randomSet(r, id)}}
	case 10:
		return &api.FlowChange{Change: &api.FlowChange_RemoveSet{RemoveSet: id}}
	case 11:
		dps := []uint64{uint64(r.IntN(3)), uint64(r.IntN(3)), switchtest.Private(trialBridge)}
		return &api.FlowChange{Change: &api.FlowChange_Group{Group: &api.FlowGroup{Id: id, Datapaths: dps[:min(r.IntN(12), 3)%(2+r.IntN(2))]}}}
	case 12:
		return &api.FlowChange{Change: &api.FlowChange_RemoveGroup{RemoveGroup: id}}
	case 13:
		s := &api.FlowSelect{Id: id, Fields: []uint32{flowapi.PackField(flowtable.Fields()[r.IntN(12)])}}
		for i := range r.IntN(3) {
			s.Buckets = append(s.Buckets, &api.FlowBucket{Id: uint32(i), Weight: r.Uint32N(3), Actions: randomActions(r, 1)})
		}
		return &api.FlowChange{Change: &api.FlowChange_Select{Select: s}}
	case 14:
		if r.IntN(2) == 0 {
			return &api.FlowChange{Change: &api.FlowChange_RemoveSelect{RemoveSelect: id}}
		}
		return &api.FlowChange{Change: &api.FlowChange_RemoveMeter{RemoveMeter: id}}
	}
	return &api.FlowChange{Change: &api.FlowChange_Meter{Meter: &api.FlowMeter{Id: id, Packets: r.IntN(2) == 0, Rate: r.Uint64N(3)}}}
}

func addRule(r *api.FlowRule) *api.FlowChange {
	return &api.FlowChange{Change: &api.FlowChange_Add{Add: r}}
}

// randomID is the id of a rule, now and then that of the switch's own.
func randomID(r *rand.Rand) uint64 {
	if r.IntN(20) == 0 {
		return switchtest.Private(trialBridge)
	}
	return uint64(r.IntN(6))
}

func randomRule(r *rand.Rand) *api.FlowRule {
	f := &api.FlowRule{Id: randomID(r), Table: r.Uint32N(3), Priority: r.Uint32N(4), Cookie: r.Uint64N(3), Actions: randomActions(r, 1)}
	switch r.IntN(12) {
	case 0:
		f.Datapath = switchtest.Private(trialBridge)
	case 1, 2, 3, 4:
		f.Group = r.Uint32N(4)
	default:
		f.Datapath = flowtable.DatapathOf(trialBridge)
	}
	for w := range uint32(5) {
		if r.IntN(3) == 0 {
			mask := r.Uint64N(4)
			f.Match = append(f.Match, &api.FlowMasked{Word: w, Mask: mask, Value: mask & r.Uint64()})
		}
	}
	for range r.IntN(3) {
		f.Predicates = append(f.Predicates, &api.FlowPredicate{
			Kind: api.PredicateKind(r.IntN(6)), Field: flowapi.PackField(flowtable.Fields()[r.IntN(12)]), Set: r.Uint32N(4),
			Low: r.Uint64N(3), High: r.Uint64N(4), Mask: r.Uint64N(4),
		})
	}
	return f
}

func randomActions(r *rand.Rand, depth int) []*api.FlowAction {
	var out []*api.FlowAction
	for range r.IntN(3) {
		a := &api.FlowAction{Code: api.ActionCode(r.IntN(30)), Table: r.Uint32N(4), Arg: r.Uint32N(4), Value: r.Uint64N(4)}
		if a.Code == api.ActionCode_ACTION_CODE_FLOOD {
			a.Arg |= 1 << 31
		}
		for _, f := range []*uint32{&a.Dst, &a.Src, &a.Src2} {
			if r.IntN(3) > 0 {
				*f = flowapi.PackField(flowtable.Fields()[r.IntN(60)])
			}
		}
		if (a.Code == api.ActionCode_ACTION_CODE_CLONE || a.Code == api.ActionCode_ACTION_CODE_REPLY) && depth < 4 {
			a.Nested = randomActions(r, depth+1)
		}
		out = append(out, a)
	}
	return out
}

func randomSet(r *rand.Rand, id uint32) *api.FlowSet {
	s := &api.FlowSet{Id: id, Width: []uint32{16, 32, 32, 48, 128, 65}[r.IntN(6)], Exact: r.IntN(3) == 0}
	for range r.IntN(4) {
		mask := []uint64{0xffff, 0xffffffff, 0xfffe, 0}[r.IntN(4)]
		if s.Width == 128 {
			s.Members = append(s.Members, 0, 0)
		}
		s.Members = append(s.Members, r.Uint64N(5)&mask, mask)
	}
	return s
}

// encode returns changes as messages of a stream.
func encode(t testing.TB, partial bool, changes []*api.FlowChange) [][]byte {
	t.Helper()
	var out [][]byte
	for part := range slices.Chunk(changes, 3) {
		b, err := proto.Marshal(&api.TransactRequest{AllowPartial: partial, Changes: part})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// TestTransactModel: whatever clients ask for, the flow table has what a simple
// model has.
func TestTransactModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 7))
	taken := 0
	for range 20 {
		tr := newTrial(t)
		for range 100 {
			before := tr.model
			tr.transact(t, encode(t, r.IntN(4) > 0, randomChanges(r, 1+r.IntN(12))))
			if tr.model != before {
				taken++
			}
		}
		if len(tr.model.rules) == 0 && len(tr.model.sets) == 0 {
			t.Error("nothing came of it: the changes are too wild to test anything")
		}
	}
	if taken < 1000 {
		t.Errorf("%d of 2000 transactions taken", taken)
	}
}

// frames cuts fuzz input into messages: two bytes of length, and as many bytes.
func frames(b []byte) (out [][]byte) {
	for len(b) >= 2 {
		n := min(int(b[0])<<8|int(b[1]), len(b)-2)
		out, b = append(out, b[2:2+n]), b[2+n:]
	}
	return out
}

// joined is what frames cuts.
func joined(messages [][]byte) (out []byte) {
	for _, m := range messages {
		out = append(append(out, byte(len(m)>>8), byte(len(m))), m...)
	}
	return out
}

// FuzzTransact: no bytes that a client sends do harm, and what comes of them is
// what a simple model makes of the changes that were taken.
func FuzzTransact(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 9))
	for i := range 12 {
		f.Add(joined(encode(f, i%2 == 0, randomChanges(r, 6))), joined(encode(f, i%3 == 0, randomChanges(r, 6))))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		tr := newTrial(t)
		tr.transact(t, frames(first))
		tr.transact(t, frames(second))
	})
}
