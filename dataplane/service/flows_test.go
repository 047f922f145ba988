package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/service/switchtest"
	"millrace/flowtable"
	"millrace/waittest"
)

// startFlows serves a fake switch whose bridge br0 has the ports p1 and p2.
func startFlows(t *testing.T) (*switchtest.Switch, *api.Client) {
	t.Helper()
	sw, c, _ := start(t)
	addPort(t, c, "br0", "p1")
	addPort(t, c, "br0", "p2")
	return sw, c
}

// one is a rule of br0 with an id, that outputs to a port.
func one(id uint64, port uint32) *api.FlowRule {
	return &api.FlowRule{Id: id, Datapath: flowtable.DatapathOf("br0"), Actions: []*api.FlowAction{{Code: api.ActionCode_ACTION_CODE_OUTPUT, Arg: port}}}
}

func add(rules ...*api.FlowRule) []*api.FlowChange {
	var out []*api.FlowChange
	for _, r := range rules {
		out = append(out, addRule(r))
	}
	return out
}

func transactAll(t *testing.T, c *api.Client, partial bool, changes ...*api.FlowChange) (*api.TransactResponse, error) {
	t.Helper()
	return c.Transact(testContext(t), partial, slices.Values(changes))
}

// mustTransact is transactAll without refusals.
func mustTransact(t *testing.T, c *api.Client, changes ...*api.FlowChange) *api.TransactResponse {
	t.Helper()
	r, err := transactAll(t, c, false, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// collect receives all messages of a listing.
func collect[M any](t *testing.T, s interface{ Recv() (M, error) }, err error) (all []M) {
	t.Helper()
	for err == nil {
		var m M
		if m, err = s.Recv(); err == nil {
			all = append(all, m)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return all
}

// listRules returns the rules in force, by id.
func listRules(t *testing.T, c *api.Client, req *api.ListRulesRequest) map[uint64]*api.RuleStatus {
	t.Helper()
	s, err := c.Flows.ListRules(testContext(t), req)
	out := map[uint64]*api.RuleStatus{}
	for _, m := range collect(t, s, err) {
		for _, r := range m.GetRules() {
			out[r.GetRule().GetId()] = r
		}
		for _, id := range m.GetIds() {
			out[id] = nil
		}
	}
	return out
}

// TestTransactAndList: what a client has made is listed as it was sent.
func TestTransactAndList(t *testing.T) {
	sw, c := startFlows(t)
	set := &api.FlowSet{Id: 3, Width: 32, Members: []uint64{10 << 24, 0xff << 24}}
	group := &api.FlowGroup{Id: 4, Datapaths: []uint64{1 << 63, flowtable.DatapathOf("br0")}}
	meter := &api.FlowMeter{Id: 5, Packets: true, Rate: 100, Burst: 10}
	sel := &api.FlowSelect{Id: 6, Fields: []uint32{flowtable.WordIP4<<16 | 32<<8 | 32}, Buckets: []*api.FlowBucket{{Id: 1, Weight: 2, Actions: one(0, 2).GetActions()}}}
	full := &api.FlowRule{
		Id: 0xfedcba9876543210, Table: 255, Priority: 65535, Group: 4, Cookie: 7,
		Match:      []*api.FlowMasked{{Word: 0, Value: 0x800, Mask: 0xffff}, {Word: 3, Value: 1, Mask: 0xff}},
		Predicates: []*api.FlowPredicate{{Kind: api.PredicateKind_PREDICATE_KIND_IN_SET, Field: flowtable.WordIP4<<16 | 32, Set: 3}},
		Actions: []*api.FlowAction{
			{Code: api.ActionCode_ACTION_CODE_CLONE, Nested: one(0, 1).GetActions()}, {Code: api.ActionCode_ACTION_CODE_METER, Arg: 5},
			{Code: api.ActionCode_ACTION_CODE_SELECT, Arg: 6}, {Code: api.ActionCode_ACTION_CODE_PUT_FDB, Arg: 1, Src: flowtable.WordSrc<<16 | 16<<8 | 48, Src2: flowtable.WordPorts<<16 | 32<<8 | 32},
			{Code: api.ActionCode_ACTION_CODE_FLOOD, Arg: 1<<31 | 1},
		},
	}
	r := mustTransact(t, c,
		&api.FlowChange{Change: &api.FlowChange_Set{Set: set}}, &api.FlowChange{Change: &api.FlowChange_Group{Group: group}},
		&api.FlowChange{Change: &api.FlowChange_Meter{Meter: meter}}, &api.FlowChange{Change: &api.FlowChange_Select{Select: sel}}, addRule(full), addRule(one(1, 2)))
	if r.GetAdded() != 2 || r.GetVersion() != sw.Tables().Version() || r.GetNRefused() != 0 {
		t.Errorf("got %v", r)
	}
	sw.Count(flowtable.RuleID(full.GetId()), 10, 600)
	got := listRules(t, c, &api.ListRulesRequest{Counters: true})
	if len(got) != 2 || !proto.Equal(got[full.GetId()], &api.RuleStatus{Rule: full, Packets: 10, Bytes: 600}) || !proto.Equal(got[1], &api.RuleStatus{Rule: one(1, 2)}) {
		t.Errorf("rules %v", got)
	}
	s, err := c.Flows.ListObjects(testContext(t), &api.ListObjectsRequest{})
	all := &api.ListObjectsResponse{}
	for _, m := range collect(t, s, err) {
		proto.Merge(all, m)
	}
	if !proto.Equal(all, &api.ListObjectsResponse{Sets: []*api.FlowSet{set}, Groups: []*api.FlowGroup{group}, Selects: []*api.FlowSelect{sel}, Meters: []*api.FlowMeter{meter}}) {
		t.Errorf("objects %v", all)
	}
	r = mustTransact(t, c,
		&api.FlowChange{Change: &api.FlowChange_Remove{Remove: full.GetId()}}, &api.FlowChange{Change: &api.FlowChange_RemoveSet{RemoveSet: 3}},
		&api.FlowChange{Change: &api.FlowChange_RemoveGroup{RemoveGroup: 4}}, &api.FlowChange{Change: &api.FlowChange_RemoveSelect{RemoveSelect: 6}},
		&api.FlowChange{Change: &api.FlowChange_RemoveMeter{RemoveMeter: 5}}, &api.FlowChange{Change: &api.FlowChange_Replace{Replace: one(1, 1)}})
	if r.GetAdded() != 1 || r.GetRemoved() != 2 {
		t.Errorf("got %v", r)
	}
	if got := listRules(t, c, &api.ListRulesRequest{}); len(got) != 1 || !proto.Equal(got[1].GetRule(), one(1, 1)) {
		t.Errorf("rules %v", got)
	}
}

// TestListFilters: rules by datapath, with those of its groups; ids alone; and
// the dataplane's own only if they are asked for.
func TestListFilters(t *testing.T) {
	_, c := startFlows(t)
	br0, other := one(1, 1), one(2, 1)
	other.Datapath = 77
	grouped := &api.FlowRule{Id: 3, Group: 4}
	foreign := &api.FlowRule{Id: 4, Group: 5}
	mustTransact(t, c, append([]*api.FlowChange{
		{Change: &api.FlowChange_Group{Group: &api.FlowGroup{Id: 4, Datapaths: []uint64{5, br0.GetDatapath()}}}},
		{Change: &api.FlowChange_Group{Group: &api.FlowGroup{Id: 5, Datapaths: []uint64{5}}}},
	}, add(br0, other, grouped, foreign)...)...)
	own := switchtest.Private("br0")
	for _, tt := range []struct {
		req  *api.ListRulesRequest
		want []uint64
	}{
		{&api.ListRulesRequest{}, []uint64{1, 2, 3, 4}},
		{&api.ListRulesRequest{Brief: true}, []uint64{1, 2, 3, 4}},
		{&api.ListRulesRequest{Datapath: br0.GetDatapath()}, []uint64{1, 3}},
		{&api.ListRulesRequest{Datapath: 77, Brief: true}, []uint64{2}},
		{&api.ListRulesRequest{Datapath: own}, nil},
		{&api.ListRulesRequest{Datapath: own, Bridges: true}, []uint64{own}},
		{&api.ListRulesRequest{Bridges: true, Brief: true}, []uint64{1, 2, 3, 4, own}},
	} {
		got := listRules(t, c, tt.req)
		var ids []uint64
		for id, r := range got {
			if ids = append(ids, id); (r == nil) != tt.req.GetBrief() {
				t.Errorf("%v: rule %d is %v", tt.req, id, r)
			}
		}
		if slices.Sort(ids); !slices.Equal(ids, tt.want) {
			t.Errorf("%v: got %x, want %x", tt.req, ids, tt.want)
		}
	}
}

// TestRefusals: each change that is refused is told, with its place, its rule
// and the reason; the others come into force only if the client allows it.
func TestRefusals(t *testing.T) {
	_, c := startFlows(t)
	private := switchtest.Private("br0")
	act := func(a *api.FlowAction) *api.FlowChange {
		r := one(9, 1)
		r.Actions = []*api.FlowAction{{Code: api.ActionCode_ACTION_CODE_CLONE, Nested: []*api.FlowAction{a}}}
		return addRule(r)
	}
	inPrivate, inBoth, squatter := one(9, 1), one(9, 1), one(private, 1)
	inPrivate.Datapath, inBoth.Group = private, 1
	reg := uint32(flowtable.WordReg0<<16 | 32)
	for _, tt := range []struct {
		name   string
		change *api.FlowChange
		rule   uint64
		want   string
	}{
		{"id 0", addRule(one(0, 1)), 0, "rule 0000000000000000: rule id is 0"},
		{"word", addRule(&api.FlowRule{Id: 9, Match: []*api.FlowMasked{{Word: 99, Mask: 1}}}), 9, "rule 0000000000000009: match: word 99 is more than 31"},
		{"value outside mask", addRule(&api.FlowRule{Id: 9, Match: []*api.FlowMasked{{Word: 1, Mask: 1, Value: 2}}}), 9, "rule 0000000000000009: match: word 1 has value bits outside its mask"},
		{"no group", addRule(&api.FlowRule{Id: 9, Group: 8}), 9, "rule 0000000000000009: group 8: is not there"},
		{"both", addRule(inBoth), 9, "rule 0000000000000009: both a datapath and a group"},
		{"private datapath", addRule(inPrivate), 9, fmt.Sprintf("rule 0000000000000009: datapath %016x is the dataplane's own", private)},
		{"own rule replaced", &api.FlowChange{Change: &api.FlowChange_Replace{Replace: squatter}}, private, fmt.Sprintf("rule %016x: is the dataplane's own", private)},
		{"own rule removed", &api.FlowChange{Change: &api.FlowChange_Remove{Remove: private}}, private, fmt.Sprintf("rule %016x: is the dataplane's own", private)},
		{"into a private datapath", act(&api.FlowAction{Code: api.ActionCode_ACTION_CODE_DATAPATH, Value: private}), 9, fmt.Sprintf("rule 0000000000000009: action 0: datapath %016x is the dataplane's own", private)},
		{"flood list", act(&api.FlowAction{Code: api.ActionCode_ACTION_CODE_FLOOD, Arg: 7}), 9, "rule 0000000000000009: action 0: no bridge has flood list 7"},
		{"FDB", act(&api.FlowAction{Code: api.ActionCode_ACTION_CODE_GET_FDB, Arg: 7, Dst: reg, Src: reg}), 9, "rule 0000000000000009: action 0: no bridge has forwarding database 7"},
		{"group of private datapath", &api.FlowChange{Change: &api.FlowChange_Group{Group: &api.FlowGroup{Id: 1, Datapaths: []uint64{1, private}}}}, 0, fmt.Sprintf("group 1: datapath %016x is the dataplane's own", private)},
		{"large group", &api.FlowChange{Change: &api.FlowChange_Group{Group: &api.FlowGroup{Id: 1, Datapaths: make([]uint64, groupMax+1)}}}, 0, "group 1: 65537 datapaths, of at most 65536"},
		{"bucket", &api.FlowChange{Change: &api.FlowChange_Select{Select: &api.FlowSelect{Id: 2, Buckets: []*api.FlowBucket{{Id: 3, Actions: []*api.FlowAction{{Code: api.ActionCode_ACTION_CODE_DATAPATH, Value: private}}}}}}}, 0, fmt.Sprintf("select 2: bucket 3: action 0: datapath %016x is the dataplane's own", private)},
		{"no set", &api.FlowChange{Change: &api.FlowChange_RemoveSet{RemoveSet: 5}}, 0, "set 5: is not there"},
		{"other width", &api.FlowChange{Change: &api.FlowChange_AddMembers{AddMembers: &api.FlowSet{Id: 1, Width: 128}}}, 0, "set 1: members of 128 bits for a set of 32"},
		{"set in use", &api.FlowChange{Change: &api.FlowChange_RemoveSet{RemoveSet: 1}}, 0, "set 1: is in use by 1 rules"},
		{"own set", &api.FlowChange{Change: &api.FlowChange_Set{Set: &api.FlowSet{Id: 1 << 31, Width: 32}}}, 0, "set 2147483648: is the dataplane's own"},
		{"members of own set", &api.FlowChange{Change: &api.FlowChange_AddMembers{AddMembers: &api.FlowSet{Id: 1 << 31, Width: 32}}}, 0, "set 2147483648: is the dataplane's own"},
		{"own set removed", &api.FlowChange{Change: &api.FlowChange_RemoveSet{RemoveSet: 1 << 31}}, 0, "set 2147483648 is the dataplane's own"},
		{"own set named", addRule(&api.FlowRule{Id: 9, Predicates: []*api.FlowPredicate{{Kind: 1, Set: 1 << 31, Field: reg}}}), 9, "rule 0000000000000009: predicate 0: set 2147483648 is the dataplane's own"},
		{"own id", addRule(one(private+1, 1)), private + 1, fmt.Sprintf("rule %016x: is the dataplane's own", private+1)},
		{"nothing", &api.FlowChange{}, 0, "no change, or one of a kind that this dataplane does not know"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			user := one(2, 1)
			user.Predicates = []*api.FlowPredicate{{Kind: api.PredicateKind_PREDICATE_KIND_NOT_IN_SET, Field: flowtable.WordIP4<<16 | 32, Set: 1}}
			changes := []*api.FlowChange{{Change: &api.FlowChange_Set{Set: &api.FlowSet{Id: 1, Width: 32}}}, addRule(user), tt.change, addRule(one(1, 2))}
			want := []*api.Refusal{{Change: 2, Rule: tt.rule, Error: tt.want}}
			_, err := transactAll(t, c, false, changes...)
			var e *api.Error
			if !errors.As(err, &e) || !errors.Is(err, api.ErrRefused) || !reflect.DeepEqual(text(e.Refused.GetRefused()), text(want)) || e.Refused.GetNRefused() != 1 {
				t.Fatalf("got %v, %v, want %v", err, e, want)
			}
			if !strings.Contains(e.Text, "1 of 4 changes") || !strings.Contains(e.Text, tt.want) {
				t.Errorf("text %q", e.Text)
			}
			if got := listRules(t, c, &api.ListRulesRequest{}); len(got) != 0 {
				t.Fatalf("rules in force: %v", got)
			}
			r, err := transactAll(t, c, true, changes...)
			if err != nil || r.GetAdded() != 2 || !reflect.DeepEqual(text(r.GetRefused()), text(want)) {
				t.Fatalf("got %v, %v", r, err)
			}
			mustTransact(t, c, &api.FlowChange{Change: &api.FlowChange_Remove{Remove: 1}}, &api.FlowChange{Change: &api.FlowChange_Remove{Remove: 2}}, &api.FlowChange{Change: &api.FlowChange_RemoveSet{RemoveSet: 1}})
		})
	}
}

func text(refusals []*api.Refusal) (out []string) {
	for _, r := range refusals {
		out = append(out, fmt.Sprintf("%d %016x %s", r.GetChange(), r.GetRule(), r.GetError()))
	}
	return out
}

// TestManyRefusals: a client is told of so many refusals, and of all in number.
func TestManyRefusals(t *testing.T) {
	_, c := startFlows(t)
	changes := slices.Repeat([]*api.FlowChange{{Change: &api.FlowChange_RemoveSet{RemoveSet: 5}}}, refusalsMax+5)
	r, err := transactAll(t, c, true, changes...)
	if err != nil || r.GetNRefused() != refusalsMax+5 || len(r.GetRefused()) != refusalsMax {
		t.Errorf("%d of %d told, %v", len(r.GetRefused()), r.GetNRefused(), err)
	}
	_, err = transactAll(t, c, false, changes...)
	var e *api.Error
	if !errors.As(err, &e) || e.Refused.GetNRefused() != refusalsMax+5 || len(e.Refused.GetRefused()) != refusalsErrorMax {
		t.Errorf("%d of %d told, %v", len(e.Refused.GetRefused()), e.Refused.GetNRefused(), err)
	}
}

// TestTransactBounds: more than there is room for is refused, and so are bytes
// that are no message.
func TestTransactBounds(t *testing.T) {
	message := encode(t, true, add(one(1, 1), one(2, 1)))[0]
	for _, tt := range []struct {
		name           string
		bytes, changes int
		messages       [][]byte
		want           string
	}{
		{"fits", 2 * (len(message) + 4), 4, [][]byte{message, message}, ""},
		{"bytes", 2*(len(message)+4) - 1, 4, [][]byte{message, message}, "changes: more than"},
		{"changes", 1 << 20, 3, [][]byte{message, message}, "changes: more than 3 in one transaction: make several"},
		{"no message", 1 << 20, 3, [][]byte{{0x12}}, "changes: not a TransactRequest"},
		{"nothing", 1, 0, nil, ""},
		{"empty", 4, 0, [][]byte{{}}, ""},
	} {
		sp, err := newSpool(tt.bytes, tt.changes)
		if err != nil {
			t.Fatal(err)
		}
		err = sp.fill(&feed{messages: tt.messages})
		if got := fmt.Sprint(err); (err == nil) != (tt.want == "") || err != nil && (!strings.HasPrefix(got, tt.want) || !errors.Is(err, api.ErrInvalid)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if err == nil && sp.partial != (len(tt.messages) == 2) {
			t.Errorf("%s: partial %t", tt.name, sp.partial)
		}
		if err := sp.close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTransactNothing: a transaction without changes makes none.
func TestTransactNothing(t *testing.T) {
	_, c := startFlows(t)
	r, err := transactAll(t, c, false)
	if err != nil || r.GetVersion() == 0 || r.GetAdded() != 0 {
		t.Errorf("got %v, %v", r, err)
	}
}

// TestSlowClient: a client that does not finish its transaction holds up neither
// another nor a listing, and only so many can be under way. When it goes away,
// nothing comes of it.
func TestSlowClient(t *testing.T) {
	_, c := startFlows(t)
	ctx, cancel := context.WithCancel(testContext(t))
	var streams [transactMax]api.Flows_TransactClient
	waitFor(t, "all are under way", func() bool {
		for i, s := range streams {
			if s != nil && s.Send(&api.TransactRequest{}) == nil {
				continue // or it was refused: the call below had its place
			}
			s, err := c.Flows.Transact(ctx)
			if err == nil {
				err = s.Send(&api.TransactRequest{Changes: add(one(uint64(100+i), 1))})
			}
			if err != nil {
				t.Fatal(err)
			}
			streams[i] = s
		}
		_, err := transactAll(t, c, false)
		return errors.Is(err, api.ErrBusy)
	})
	if r, err := streams[0].CloseAndRecv(); err != nil || r.GetAdded() != 1 {
		t.Fatalf("got %v, %v", r, err)
	}
	if r := mustTransact(t, c, add(one(1, 1))...); r.GetAdded() != 1 {
		t.Errorf("got %v", r)
	}
	if got := listRules(t, c, &api.ListRulesRequest{}); len(got) != 2 {
		t.Errorf("rules %v", got)
	}
	cancel()
	waitFor(t, "abandoned transactions end", func() bool {
		s, err := c.Flows.Transact(testContext(t))
		if err == nil {
			_, err = s.CloseAndRecv()
		}
		return err == nil
	})
	if got := listRules(t, c, &api.ListRulesRequest{}); len(got) != 2 {
		t.Errorf("rules %v", got)
	}
}

// waitFor waits until it is so.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waittest.Until(t, what, ok)
}

// TestCounters: a client is told of rules that have counted since its last
// listing, and of all if it has none, or one of another life of the dataplane.
func TestCounters(t *testing.T) {
	sw, c := startFlows(t)
	mustTransact(t, c, add(one(1, 1), one(2, 1), one(3, 1))...)
	sw.Count(flowtable.RuleID(switchtest.Private("br0")), 9, 9)
	list := func(since uint64) (string, uint64) {
		s, err := c.Flows.ListCounters(testContext(t), &api.ListCountersRequest{Since: since})
		var out []string
		cursor := uint64(0)
		for _, m := range collect(t, s, err) {
			for i, id := range m.GetRules() {
				out = append(out, fmt.Sprint(id, ":", m.GetPackets()[i], "/", m.GetBytes()[i]))
			}
			cursor = m.GetCursor()
		}
		slices.Sort(out)
		return strings.Join(out, " "), cursor
	}
	want := func(since uint64, want string) uint64 {
		t.Helper()
		got, cursor := list(since)
		if got != want || cursor == 0 {
			t.Fatalf("got %q, cursor %x, want %q", got, cursor, want)
		}
		return cursor
	}
	none := want(0, "")
	sw.Count(1, 10, 600)
	sw.Count(2, 1, 60)
	first := want(0, "1:10/600 2:1/60")
	second := want(first, "")
	sw.Count(2, 2, 120)
	other := want(none, "1:10/600 2:2/120") // another client
	want(second, "2:2/120")
	want(first, "2:2/120")
	want(other, "")
	sw.Count(3, 1<<40, 1<<60)
	mustTransact(t, c, &api.FlowChange{Change: &api.FlowChange_Remove{Remove: 1}})
	third := want(other, "3:1099511627776/1152921504606846976")
	want(third, "")
	want(0, "2:2/120 3:1099511627776/1152921504606846976")
	want(third+1<<40, "2:2/120 3:1099511627776/1152921504606846976") // of another life
	want(third+1000, "2:2/120 3:1099511627776/1152921504606846976")  // of the future
	mustTransact(t, c, &api.FlowChange{Change: &api.FlowChange_Remove{Remove: 3}})
	mustTransact(t, c, add(one(4, 1))...) // gets the handle of a rule that went
	_, cursor := list(0)
	sw.Count(4, 1, 1)
	want(cursor, "4:1/1")
}

// TestListsInPieces: long lists come in several messages, and whole.
func TestListsInPieces(t *testing.T) {
	sw, c := startFlows(t)
	const n = 3 * numbersPerMessage / 2
	var changes []*api.FlowChange
	members := make([]flowtable.Member, n)
	datapaths := make([]uint64, n)
	for i := range n {
		r := one(uint64(i+1), 1)
		r.Match = []*api.FlowMasked{{Word: flowtable.WordIP4, Value: uint64(i), Mask: 0xffffffff}}
		changes = append(changes, addRule(r))
		members[i] = flowtable.Member{Low: uint64(i), MaskLow: 0xffffffff}
		datapaths[i] = uint64(i)
	}
	changes = append(changes, flowapi.SetChanges(flowtable.Set{ID: 1, Width: 32, Exact: true}, members)...)
	changes = append(changes, &api.FlowChange{Change: &api.FlowChange_Group{Group: &api.FlowGroup{Id: 1, Datapaths: datapaths}}})
	mustTransact(t, c, changes...)
	for i := range n {
		sw.Count(flowtable.RuleID(i+1), 1, 60)
	}
	ctx := testContext(t)
	brief, err := c.Flows.ListRules(ctx, &api.ListRulesRequest{Brief: true})
	ids := 0
	pieces := collect(t, brief, err)
	for _, m := range pieces {
		ids += len(m.GetIds())
	}
	if ids != n || len(pieces) < 2 {
		t.Errorf("%d ids in %d messages", ids, len(pieces))
	}
	if got := listRules(t, c, &api.ListRulesRequest{}); len(got) != n {
		t.Errorf("%d rules", len(got))
	}
	counters, err := c.Flows.ListCounters(ctx, &api.ListCountersRequest{})
	counted, all := 0, collect(t, counters, err)
	for i, m := range all {
		counted += len(m.GetRules())
		if (m.GetCursor() != 0) != (i == len(all)-1) {
			t.Errorf("cursor %d in message %d of %d", m.GetCursor(), i, len(all))
		}
	}
	if counted != n || len(all) < 2 {
		t.Errorf("%d counters in %d messages", counted, len(all))
	}
	objects, err := c.Flows.ListObjects(ctx, &api.ListObjectsRequest{})
	inSets, inGroups := 0, 0
	for _, m := range collect(t, objects, err) {
		if proto.Size(m) > 1<<20 {
			t.Errorf("message of %d bytes", proto.Size(m))
		}
		for _, s := range m.GetSets() {
			inSets += len(s.GetMembers()) / 2
		}
		for _, g := range m.GetGroups() {
			inGroups += len(g.GetDatapaths())
		}
	}
	if inSets != n || inGroups != n {
		t.Errorf("%d members and %d datapaths", inSets, inGroups)
	}
}

// TestFlowTable tells bridges with their numbers, and the layout.
func TestFlowTable(t *testing.T) {
	sw, c := startFlows(t)
	addPort(t, c, "a", "p3")
	mustTransact(t, c, add(one(1, 1))...)
	if _, err := c.SetBridge(testContext(t), &api.SetBridgeRequest{Name: "a", Pipeline: api.Pipeline_PIPELINE_FLOWS}); err != nil {
		t.Fatal(err)
	}
	r, err := c.Flows.GetFlowTable(testContext(t), &api.GetFlowTableRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := flowapi.CheckLayout(r.GetFields()); err != nil {
		t.Error(err)
	}
	if r.GetRules() != 1 || r.GetVersion() != sw.Tables().Version() || r.GetTablesMax() != 256 || r.GetSubtablesMax() != flowtable.SubtablesMax {
		t.Errorf("got %v", r)
	}
	want := []*api.FlowBridge{
		{Name: "a", Datapath: flowtable.DatapathOf("a"), Fdb: 2, Flood: 1<<31 | 2, Pipeline: api.Pipeline_PIPELINE_FLOWS},
		{Name: "br0", Datapath: flowtable.DatapathOf("br0"), Fdb: 1, Flood: 1<<31 | 1, Pipeline: api.Pipeline_PIPELINE_LEARNING},
	}
	if !slices.EqualFunc(r.GetBridges(), want, func(a, b *api.FlowBridge) bool { return proto.Equal(a, b) }) {
		t.Errorf("bridges %v", r.GetBridges())
	}
	own := map[uint64]string{}
	for _, d := range r.GetOwn() {
		own[d.GetDatapath()] = d.GetBridge()
	}
	if !reflect.DeepEqual(own, map[uint64]string{switchtest.Private("a"): "a", switchtest.Private("br0"): "br0"}) {
		t.Errorf("own datapaths %v", r.GetOwn())
	}
}

// TestPipelineIsRemembered over a restart, shown in a listing, and checked.
func TestPipelineIsRemembered(t *testing.T) {
	dir := t.TempDir()
	_, stop := serve(t, dir, &switchtest.Switch{}, false)
	c := dial(t, dir)
	addPort(t, c, "br0", "p1")
	set := func(p api.Pipeline) error {
		_, err := c.SetBridge(testContext(t), &api.SetBridgeRequest{Name: "br0", Pipeline: p})
		return err
	}
	var e *api.Error
	if err := set(7); !errors.As(err, &e) || e.Field != "pipeline" {
		t.Errorf("unknown pipeline: %v", err)
	}
	if err := set(api.Pipeline_PIPELINE_FLOWS); err != nil {
		t.Fatal(err)
	}
	stop()
	second := &switchtest.Switch{}
	serve(t, dir, second, false)
	c = dial(t, dir)
	list, err := c.ListBridges(testContext(t), &api.ListBridgesRequest{})
	if err != nil || list.GetBridges()[0].GetPipeline() != api.Pipeline_PIPELINE_FLOWS || second.Bridges()[0].Pipeline != dataplane.PipelineFlows {
		t.Errorf("got %v, %v", list, err)
	}
	if err := set(api.Pipeline_PIPELINE_UNSPECIFIED); err != nil || second.Bridges()[0].Pipeline != dataplane.PipelineLearning {
		t.Errorf("pipeline %s, %v", second.Bridges()[0].Pipeline, err)
	}
}

// TestCached: programs come with the ids of their rules, in several messages if
// there are many.
func TestCached(t *testing.T) {
	sw, c := startFlows(t)
	mustTransact(t, c, add(one(1, 1))...)
	rule, _ := sw.Tables().Rule(1)
	entry := dataplane.CachedEntry{Mask: flowtable.Key{0xffff, 0, 3}, Key: flowtable.Key{0x800, 5, 1}, Exact: true, Idle: 1500 * time.Millisecond}
	programs := slices.Repeat([]dataplane.CachedProgram{{
		CPU: 3, Packets: 5, Bytes: 300, Ops: []flowtable.Op{{Code: flowtable.OpOutput, Arg: 1}}, Entries: slices.Repeat([]dataplane.CachedEntry{entry}, 20),
		NEntries: 20, Rules: []uint32{rule.Handle, 0xffffff}, Stale: true,
	}}, 2*cachedPerMessage)
	programs = append(programs, dataplane.CachedProgram{Drop: flowtable.DropNoRule})
	sw.SetCached(programs...)
	list := func(req *api.ListCachedRequest) (all []*api.CachedProgram) {
		t.Helper()
		s, err := c.Flows.ListCached(testContext(t), req)
		messages := collect(t, s, err)
		if len(messages) < 3 {
			t.Errorf("%d messages", len(messages))
		}
		for _, m := range messages {
			all = append(all, m.GetPrograms()...)
		}
		return all
	}
	got := list(&api.ListCachedRequest{})
	want := &api.CachedProgram{
		Cpu: 3, Packets: 5, Bytes: 300, Ops: []*api.FlowOp{{Code: flowtable.OpOutput, Arg: 1}}, NEntries: 20, Rules: []uint64{1}, Stale: true,
		Entries: slices.Repeat([]*api.CachedEntry{{Match: []*api.FlowMasked{{Word: 0, Value: 0x800, Mask: 0xffff}, {Word: 2, Value: 1, Mask: 3}}, Exact: true, IdleSeconds: 1.5}}, entriesUsual),
	}
	if len(got) != len(programs) || !proto.Equal(got[0], want) {
		t.Errorf("%d programs, the first %v", len(got), got[0])
	}
	if last := got[len(got)-1]; last.GetDrop() != flowtable.DropNoRule || last.GetDropReason() == "" || len(last.GetOps()) != 0 {
		t.Errorf("last program %v", last)
	}
	if got := list(&api.ListCachedRequest{EntriesMax: 20, Port: "p1"}); len(got[0].GetEntries()) != 20 {
		t.Errorf("%d entries", len(got[0].GetEntries()))
	}
	for _, tt := range []struct {
		req  *api.ListCachedRequest
		kind error
	}{{&api.ListCachedRequest{Port: "x"}, api.ErrNoPort}, {&api.ListCachedRequest{EntriesMax: 1025}, api.ErrInvalid}} {
		s, err := c.Flows.ListCached(testContext(t), tt.req)
		if err == nil {
			_, err = s.Recv()
		}
		if !errors.Is(err, tt.kind) {
			t.Errorf("%v: %v", tt.req, err)
		}
	}
}

// TestCachedBounds: a listing that takes too much memory is refused, and says
// what helps.
func TestCachedBounds(t *testing.T) {
	sw := &switchtest.Switch{}
	s, _ := serve(t, t.TempDir(), sw, false)
	sw.SetCached(slices.Repeat([]dataplane.CachedProgram{{Ops: []flowtable.Op{{Code: flowtable.OpOutput, Arg: 1}}}}, 10*cachedPerMessage)...)
	for _, tt := range []struct {
		bytes int
		code  codes.Code
	}{{1 << 20, codes.OK}, {cachedPerMessage, codes.ResourceExhausted}, {20 * cachedPerMessage, codes.ResourceExhausted}} {
		sp, err := newSpool(tt.bytes, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.flows.cached(sp, "", 8); status.Code(err) != tt.code || err != nil && !strings.Contains(err.Error(), "ask for one port") {
			t.Errorf("%d bytes: %v, want %v", tt.bytes, err, tt.code)
		}
		if err := sp.close(); err != nil {
			t.Error(err)
		}
	}
}

// testFrame is a TCP packet from 10.0.0.1 to 10.0.0.2.
func testFrame() []byte {
	return parse.Build(flowtable.Key{
		flowtable.WordIn: 0x800, flowtable.WordDst: 0x020000000002 << 16, flowtable.WordSrc: 0x020000000001<<16 | 6<<8 | 64,
		flowtable.WordIP4: 0x0a000001<<32 | 0x0a000002, flowtable.WordL4: 1234<<48 | 80<<32,
	})
}

// TestTrace tells of each step, of what it changed, and of what leaves.
func TestTrace(t *testing.T) {
	sw, c := startFlows(t)
	if _, err := c.SetBridge(testContext(t), &api.SetBridgeRequest{Name: "br0", Pipeline: api.Pipeline_PIPELINE_FLOWS}); err != nil {
		t.Fatal(err)
	}
	reg0, reg1 := uint32(flowtable.WordReg0<<16|32<<8|32), uint32(flowtable.WordReg0<<16|32)
	first := one(1, 0)
	first.Match = []*api.FlowMasked{{Word: flowtable.WordIn, Value: 0x800, Mask: 0xffff}}
	first.Actions = []*api.FlowAction{
		{Code: api.ActionCode_ACTION_CODE_SET, Dst: reg0, Value: 5},
		{Code: api.ActionCode_ACTION_CODE_CLONE, Nested: []*api.FlowAction{{Code: api.ActionCode_ACTION_CODE_EXCHANGE, Dst: reg0, Src: reg1}}},
		{Code: api.ActionCode_ACTION_CODE_NEXT, Table: 3},
	}
	second := one(2, 2)
	second.Table = 3
	mustTransact(t, c, add(first, second)...)
	r, err := c.Flows.Trace(testContext(t), &api.TraceRequest{Port: "p1", Frame: testFrame()})
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, s := range r.GetSteps() {
		if s.GetAction() == nil {
			steps = append(steps, fmt.Sprintf("%d:table %d rule %d", s.GetDepth(), s.GetTable(), s.GetRule().GetId()))
			continue
		}
		changed := ""
		for _, m := range s.GetChanged() {
			changed += fmt.Sprintf(" %d=%x/%x", m.GetWord(), m.GetValue(), m.GetMask())
		}
		steps = append(steps, fmt.Sprintf("%d:%d%s", s.GetDepth(), s.GetAction().GetCode(), changed))
	}
	w := flowtable.WordReg0
	want := []string{"0:table 0 rule 1", fmt.Sprintf("0:1 %d=500000000/500000000", w), "0:7", fmt.Sprintf("1:3 %d=5/500000005", w), "0:4", "0:table 3 rule 2", "0:5"}
	if !slices.Equal(steps, want) {
		t.Errorf("steps\n got %q\nwant %q", steps, want)
	}
	if len(r.GetOutputs()) != 1 || r.GetOutputs()[0].GetPort() != "p2" || len(r.GetOutputs()[0].GetFrame()) != 60 || len(r.GetOps()) != 1 {
		t.Errorf("outputs %v, ops %v", r.GetOutputs(), r.GetOps())
	}
	if r.GetKey()[flowtable.WordIP4] != 0x0a000001<<32|0x0a000002 || len(r.GetConsulted()) == 0 {
		t.Errorf("key %x, consulted %v", r.GetKey(), r.GetConsulted())
	}
	mustTransact(t, c, &api.FlowChange{Change: &api.FlowChange_Remove{Remove: 2}})
	r, err = c.Flows.Trace(testContext(t), &api.TraceRequest{Port: "p1", Frame: testFrame()})
	if err != nil || r.GetDrop() != flowtable.DropNoRule || r.GetDropReason() == "" || len(r.GetOps()) != 0 {
		t.Errorf("got %v, %v", r, err)
	}
	if s := r.GetSteps()[len(r.GetSteps())-1]; s.GetRule() != nil || s.GetAction() != nil || s.GetTable() != 3 {
		t.Errorf("last step %v", s)
	}
	before := sw.Tables().Version()
	for _, tt := range []struct {
		req  *api.TraceRequest
		kind error
	}{
		{&api.TraceRequest{Port: "x", Frame: testFrame()}, api.ErrNoPort}, {&api.TraceRequest{Frame: testFrame()}, api.ErrInvalid},
		{&api.TraceRequest{Port: "p1", Frame: testFrame()[:13]}, api.ErrInvalid}, {&api.TraceRequest{Port: "p1", Frame: make([]byte, packet.FrameMax+1)}, api.ErrInvalid},
	} {
		if _, err := c.Flows.Trace(testContext(t), tt.req); !errors.Is(err, tt.kind) {
			t.Errorf("%s, %d bytes: %v", tt.req.GetPort(), len(tt.req.GetFrame()), err)
		}
	}
	if sw.Tables().Version() != before {
		t.Error("a trace has changed the tables")
	}
}

// TestMemory tells of the parts and of the process.
func TestMemory(t *testing.T) {
	sw, c := startFlows(t)
	sw.SetMemory(dataplane.MemoryUse{Part: "rules", Bytes: 4096, Used: 7, Capacity: 9})
	m, err := c.Flows.GetMemory(testContext(t), &api.GetMemoryRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.GetUses()) != 1 || !proto.Equal(m.GetUses()[0], &api.MemoryUse{Part: "rules", Bytes: 4096, Used: 7, Capacity: 9}) {
		t.Errorf("uses %v", m.GetUses())
	}
	if m.GetResidentBytes() < 1<<20 || m.GetHeapBytes() == 0 || m.GetHeapGoalBytes() < 1<<20 || m.GetMachineBytes() < m.GetResidentBytes() {
		t.Errorf("got %v", m)
	}
}

// TestClosedFlows: calls that come when the server ends do not touch what is
// gone.
func TestClosedFlows(t *testing.T) {
	dir := t.TempDir()
	s, stop := serve(t, dir, &switchtest.Switch{}, false)
	stop()
	if _, err := s.flows.enter("/millrace.dataplane.v1.Flows/ListRules"); !errors.Is(err, api.ErrClosing) {
		t.Errorf("got %v", err)
	}
	leave, err := s.flows.enter("/millrace.dataplane.v1.Dataplane/GetInfo")
	if err != nil {
		t.Fatal(err)
	}
	leave()
}

// TestSpareSpools: a spool that was hardly used is used again, and is empty then; one that was
// filled is not kept.
func TestSpareSpools(t *testing.T) {
	spare := make(spareSpools, sparesMax)
	first, err := spare.take()
	if err != nil {
		t.Fatal(err)
	}
	copy(first.room(8), "a change")
	first.changes, first.partial, first.full = 3, true, true
	if err := spare.give(first); err != nil {
		t.Fatal(err)
	}
	again, err := spare.take()
	if err != nil || again != first {
		t.Fatalf("got %p, %v, want %p", again, err, first)
	}
	if again.used != 0 || again.changes != 0 || again.partial || again.full || again.limit != transactChanges {
		t.Errorf("not empty: %+v", again)
	}
	if again.room(spareBytes) == nil {
		t.Fatal("no room")
	}
	if err := spare.give(again); err != nil || len(spare) != 0 || again.mem != nil {
		t.Errorf("a spool of %d bytes was kept: %v", again.used, err)
	}
	for range sparesMax + 2 {
		sp, err := newSpool(1<<20, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := spare.give(sp); err != nil {
			t.Error(err)
		}
	}
	if len(spare) != sparesMax {
		t.Errorf("%d are spare, want %d", len(spare), sparesMax)
	}
	if err := spare.close(); err != nil || len(spare) != 0 {
		t.Errorf("close: %v, %d left", err, len(spare))
	}
}
