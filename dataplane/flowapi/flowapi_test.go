package flowapi

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"millrace/dataplane/api"
	"millrace/flowtable"
)

// anyField returns a field without its name, sometimes some bits of one.
func anyField(r *rand.Rand) flowtable.Field {
	all := flowtable.Fields()
	f := all[r.IntN(len(all))]
	f.Name = ""
	if f.Width <= 64 && r.IntN(3) == 0 {
		low := uint8(r.IntN(int(f.Width)))
		f.Shift, f.Width = f.Shift+low, 1+uint8(r.IntN(int(f.Width-low)))
	}
	return f
}

func anyActions(r *rand.Rand, depth int) []flowtable.Action {
	var out []flowtable.Action
	for range r.IntN(4) {
		a := flowtable.Action{Code: uint8(1 + r.IntN(18)), Table: uint8(r.IntN(256)), Arg: r.Uint32() >> r.IntN(32), Value: r.Uint64() >> r.IntN(64)}
		for _, f := range []*flowtable.Field{&a.Dst, &a.Src, &a.Src2} {
			if r.IntN(2) == 0 {
				*f = anyField(r)
			}
		}
		if depth < 4 && r.IntN(3) == 0 {
			a.ValueLow, a.Nested = r.Uint64(), anyActions(r, depth+1)
		}
		out = append(out, a)
	}
	return out
}

func anyRule(r *rand.Rand) flowtable.Rule {
	rule := flowtable.Rule{ID: flowtable.RuleID(r.Uint64()), Table: uint8(r.IntN(256)), Priority: uint16(r.IntN(65536)), Cookie: r.Uint64() >> r.IntN(64)}
	if r.IntN(2) == 0 {
		rule.Datapath = r.Uint64()
	} else {
		rule.Group = flowtable.GroupID(r.Uint32())
	}
	for w := range uint8(flowtable.ContextWords) {
		if r.IntN(6) == 0 {
			m := r.Uint64()
			rule.Match = append(rule.Match, flowtable.Masked{Word: w, Value: m & r.Uint64(), Mask: m})
		}
	}
	for range r.IntN(3) {
		rule.Preds = append(rule.Preds, flowtable.Pred{Kind: uint8(1 + r.IntN(4)), Field: anyField(r), Set: flowtable.SetID(r.Uint32()), Low: r.Uint64(), High: r.Uint64(), LowLow: r.Uint64(), Mask: r.Uint64(), MaskLow: r.Uint64()})
	}
	rule.Actions = anyActions(r, 1)
	return rule
}

func anySet(r *rand.Rand) (flowtable.Set, []flowtable.Member) {
	s := flowtable.Set{ID: flowtable.SetID(r.Uint32()), Width: []uint8{1, 32, 48, 64, 128}[r.IntN(5)], Exact: r.IntN(2) == 0}
	var members []flowtable.Member
	for range r.IntN(5) {
		m := flowtable.Member{Low: r.Uint64(), MaskLow: r.Uint64()}
		if s.Width == 128 {
			m.High, m.MaskHigh = r.Uint64(), r.Uint64()
		}
		members = append(members, m)
	}
	return s, members
}

// anyChange returns a change as a message, and what it must be read as.
func anyChange(r *rand.Rand) (*api.FlowChange, Change) {
	c := Change{Kind: Kind(1 + r.IntN(13)), ID: uint64(r.Uint32())}
	m := &api.FlowChange{}
	switch c.Kind {
	case AddRule, ReplaceRule:
		c.Rule, c.ID = anyRule(r), 0
		if m.Change = (&api.FlowChange_Add{Add: ToRule(&c.Rule)}); c.Kind == ReplaceRule {
			m.Change = &api.FlowChange_Replace{Replace: ToRule(&c.Rule)}
		}
	case RemoveRule:
		c.ID = r.Uint64()
		m.Change = &api.FlowChange_Remove{Remove: c.ID}
	case SetSet, AddMembers, DelMembers:
		c.ID = 0
		c.Set, c.Members = anySet(r)
		s := ToSet(c.Set, c.Members)
		switch c.Kind {
		case SetSet:
			m.Change = &api.FlowChange_Set{Set: s}
		case AddMembers:
			m.Change = &api.FlowChange_AddMembers{AddMembers: s}
		default:
			m.Change = &api.FlowChange_DelMembers{DelMembers: s}
		}
	case RemoveSet:
		m.Change = &api.FlowChange_RemoveSet{RemoveSet: uint32(c.ID)}
	case SetGroup:
		c.ID = 0
		c.Group = flowtable.GroupID(r.Uint32())
		for range r.IntN(4) {
			c.Datapaths = append(c.Datapaths, r.Uint64())
		}
		m.Change = &api.FlowChange_Group{Group: ToGroup(c.Group, c.Datapaths)}
	case RemoveGroup:
		m.Change = &api.FlowChange_RemoveGroup{RemoveGroup: uint32(c.ID)}
	case SetSelect:
		c.ID = 0
		c.Select = flowtable.Select{ID: flowtable.SelectID(r.Uint32())}
		for range r.IntN(3) {
			c.Select.Fields = append(c.Select.Fields, anyField(r))
			c.Select.Buckets = append(c.Select.Buckets, flowtable.Bucket{ID: r.Uint32(), Weight: uint16(r.IntN(65536)), Actions: anyActions(r, 1)})
		}
		m.Change = &api.FlowChange_Select{Select: ToSelect(&c.Select)}
	case RemoveSelect:
		m.Change = &api.FlowChange_RemoveSelect{RemoveSelect: uint32(c.ID)}
	case SetMeter:
		c.ID = 0
		c.Meter = flowtable.Meter{ID: flowtable.MeterID(r.Uint32()), Packets: r.IntN(2) == 0, Rate: r.Uint64(), Burst: r.Uint64() >> r.IntN(64)}
		m.Change = &api.FlowChange_Meter{Meter: ToMeter(&c.Meter)}
	case RemoveMeter:
		m.Change = &api.FlowChange_RemoveMeter{RemoveMeter: uint32(c.ID)}
	}
	return m, c
}

// same leaves of a change what its kind has, with empty lists as none, so that
// two of them can be compared.
func same(c Change) Change {
	out := Change{Kind: c.Kind, Err: c.Err}
	switch c.Kind {
	case AddRule, ReplaceRule:
		out.Rule = c.Rule
		out.Rule.Match, out.Rule.Preds, out.Rule.Actions = emptyIsNil(c.Rule.Match), emptyIsNil(c.Rule.Preds), emptyIsNil(c.Rule.Actions)
	case RemoveRule, RemoveSet, RemoveGroup, RemoveSelect, RemoveMeter:
		out.ID = c.ID
	case SetSet, AddMembers, DelMembers:
		out.Set, out.Members = c.Set, emptyIsNil(c.Members)
	case SetGroup:
		out.Group, out.Datapaths = c.Group, emptyIsNil(c.Datapaths)
	case SetSelect:
		out.Select = flowtable.Select{ID: c.Select.ID, Fields: emptyIsNil(c.Select.Fields), Buckets: emptyIsNil(c.Select.Buckets)}
	case SetMeter:
		out.Meter = c.Meter
	}
	return out
}

func emptyIsNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone(s)
}

// read returns the changes of an encoded request.
func read(t *testing.T, message []byte) ([]Change, error) {
	t.Helper()
	var d Decoder
	var out []Change
	err := d.Read(message, func(c *Change) bool {
		out = append(out, same(*c))
		return true
	})
	return out, err
}

// TestChanges: what is written as a message is read back, through protobuf and
// through Decoder, whose memory is used again for each.
func TestChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	req := &api.TransactRequest{AllowPartial: true}
	var want []Change
	for range 2000 {
		m, c := anyChange(r)
		req.Changes, want = append(req.Changes, m), append(want, same(c))
		if got := same(FromChange(m)); !reflect.DeepEqual(got, same(c)) { //nolint:govet // there is no error in either
			t.Fatalf("from message:\n got %+v\nwant %+v", got, c)
		}
	}
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	if n, partial, err := Count(b); n != 2000 || !partial || err != nil {
		t.Errorf("%d changes, partial %t, %v", n, partial, err)
	}
	got, err := read(t, b)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d changes, %v", len(got), err)
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) { //nolint:govet // there is no error in what is wanted
			t.Fatalf("change %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

// deep returns an action in which others are nested depth times.
func deep(depth int) *api.FlowAction {
	a := &api.FlowAction{Code: api.ActionCode_ACTION_CODE_CLONE}
	for range depth {
		a = &api.FlowAction{Code: api.ActionCode_ACTION_CODE_CLONE, Nested: []*api.FlowAction{a}}
	}
	return a
}

// many returns n of a message.
func many[M any](n int, m M) []M { return slices.Repeat([]M{m}, n) }

// TestRefused: what cannot be is refused in words, by both readers, and does not
// keep a change from saying which rule it is about.
func TestRefused(t *testing.T) {
	add := func(r *api.FlowRule) *api.FlowChange {
		r.Id = 7
		return &api.FlowChange{Change: &api.FlowChange_Add{Add: r}}
	}
	act := func(a *api.FlowAction) *api.FlowChange { return add(&api.FlowRule{Actions: []*api.FlowAction{a}}) }
	sel := func(s *api.FlowSelect) *api.FlowChange {
		return &api.FlowChange{Change: &api.FlowChange_Select{Select: s}}
	}
	drop := &api.FlowAction{Code: api.ActionCode_ACTION_CODE_DROP}
	for _, tt := range []struct {
		change *api.FlowChange
		want   string
	}{
		{&api.FlowChange{}, "no change"},
		{add(&api.FlowRule{Table: 256}), "table 256 is more than 255"},
		{add(&api.FlowRule{Priority: 65536}), "priority 65536 is more than 65535"},
		{add(&api.FlowRule{Match: []*api.FlowMasked{{Word: 32}}}), "match: word 32 is more than 31"},
		{add(&api.FlowRule{Match: many(33, &api.FlowMasked{})}), "more than 32 words to match"},
		{add(&api.FlowRule{Predicates: []*api.FlowPredicate{{}}}), "predicate: no kind 0"},
		{add(&api.FlowRule{Predicates: []*api.FlowPredicate{{Kind: 5}}}), "predicate: no kind 5"},
		{add(&api.FlowRule{Predicates: []*api.FlowPredicate{{Kind: -1}}}), "predicate: no kind -1"},
		{add(&api.FlowRule{Predicates: []*api.FlowPredicate{{Kind: 1, Field: 1 << 24}}}), "predicate: no field has"},
		{add(&api.FlowRule{Predicates: many(33, &api.FlowPredicate{Kind: 1})}), "more than 32 predicates"},
		{act(&api.FlowAction{}), "action: no code 0"},
		{act(&api.FlowAction{Code: flowtable.ActHairpinReply + 1}), "action: no code 29"},
		{act(&api.FlowAction{Code: 4, Table: 300}), "action: table 300 is more than 255"},
		{act(&api.FlowAction{Code: 1, Dst: flowtable.WordL4 << 16}), "action: destination: no field has 0 bits at word 4, shift 0"},
		{act(&api.FlowAction{Code: 1, Src: flowtable.WordL4<<16 | 16}), "action: source: no field has 16 bits at word 4, shift 0"},
		{act(&api.FlowAction{Code: 1, Src2: flowtable.WordIP4<<16 | 8<<8 | 48}), "action: second source: no field has 48 bits at word 3, shift 8"},
		{act(&api.FlowAction{Code: 1, Dst: flowtable.WordSHA<<16 | 128}), "action: destination: no field has 128 bits at word 10, shift 0"},
		{act(deep(64)), "actions nested deeper than 64"},
		{act(deep(63)), ""},
		{add(&api.FlowRule{Actions: many(4097, drop)}), "more than 4096 actions"},
		{act(&api.FlowAction{Code: 7, Nested: many(4096, drop)}), "more than 4096 actions"},
		{&api.FlowChange{Change: &api.FlowChange_Set{Set: &api.FlowSet{Width: 129}}}, "set: width 129 is more than 128"},
		{&api.FlowChange{Change: &api.FlowChange_AddMembers{AddMembers: &api.FlowSet{Width: 8, Members: []uint64{1}}}}, "1 numbers for members of 2 each"},
		{&api.FlowChange{Change: &api.FlowChange_DelMembers{DelMembers: &api.FlowSet{Width: 128, Members: []uint64{1, 1}}}}, "2 numbers for members of 4 each"},
		{sel(&api.FlowSelect{Fields: []uint32{flowtable.WordL4<<16 | 5}}), "select: no field has"},
		{sel(&api.FlowSelect{Fields: many(17, PackField(flowtable.Fields()[0]))}), "more than 16 fields"},
		{sel(&api.FlowSelect{Buckets: many(1025, &api.FlowBucket{})}), "more than 1024 buckets"},
		{sel(&api.FlowSelect{Buckets: []*api.FlowBucket{{Weight: 65536}}}), "weight 65536 is more than 65535"},
		{sel(&api.FlowSelect{Buckets: many(3, &api.FlowBucket{Actions: many(2000, drop)})}), "more than 4096 actions"},
	} {
		b, err := proto.Marshal(&api.TransactRequest{Changes: []*api.FlowChange{tt.change}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(t, b)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []Change{got[0], FromChange(tt.change)} {
			if text := errorText(c.Err); (text == "") != (tt.want == "") || !strings.HasPrefix(text, tt.want) {
				t.Errorf("got %q, want %q", text, tt.want)
			}
			if _, ok := tt.change.GetChange().(*api.FlowChange_Add); ok && c.RuleID() != 7 {
				t.Errorf("%s: about rule %d", tt.want, c.RuleID())
			}
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestMalformed: bytes that are no message are told apart from a message that
// makes no sense.
func TestMalformed(t *testing.T) {
	nested := func(fields ...uint32) []byte {
		b := []byte{0x0a} // number 1, bytes, cut off
		for i := len(fields) - 1; i >= 0; i-- {
			b = protowire.AppendBytes(protowire.AppendTag(nil, protowire.Number(fields[i]), protowire.BytesType), b)
		}
		return b
	}
	for _, path := range [][]uint32{{2}, {2, 1}, {2, 1, 6}, {2, 1, 7}, {2, 1, 8}, {2, 1, 8, 9}, {2, 4}, {2, 4, 4}, {2, 8}, {2, 8, 2}, {2, 10}, {2, 10, 3}, {2, 10, 3, 3}, {2, 12}} {
		if _, err := read(t, nested(path...)); err == nil {
			t.Errorf("%v: no error", path)
		}
		if err := proto.Unmarshal(nested(path...), &api.TransactRequest{}); err == nil {
			t.Errorf("%v: protobuf takes it", path)
		}
	}
	if _, _, err := Count([]byte{0x12, 5}); err == nil {
		t.Error("Count takes a message that is cut off")
	}
	two := protowire.AppendBytes([]byte{0x12}, []byte{0x38, 1, 0x48, 1}) // remove_set, remove_group
	if got, err := read(t, two); err != nil || len(got) != 1 || got[0].Err != errChanges {
		t.Errorf("two changes in one: %v, %v", got, err)
	}
	stops := 0
	b, _ := proto.Marshal(&api.TransactRequest{Changes: many(3, &api.FlowChange{})})
	if err := new(Decoder).Read(b, func(*Change) bool { stops++; return false }); err != nil || stops != 1 {
		t.Errorf("%d changes read after the first was enough, %v", stops, err)
	}
}

// TestCodes: the API's numbers are flowtable's.
func TestCodes(t *testing.T) {
	for name, got := range map[string][2]int{
		"in set": {int(api.PredicateKind_PREDICATE_KIND_IN_SET), flowtable.InSet}, "not equal": {int(api.PredicateKind_PREDICATE_KIND_NOT_EQUAL), flowtable.NotEqual},
		"not in set": {int(api.PredicateKind_PREDICATE_KIND_NOT_IN_SET), flowtable.NotInSet}, "in range": {int(api.PredicateKind_PREDICATE_KIND_IN_RANGE), flowtable.InRange},
		"set": {int(api.ActionCode_ACTION_CODE_SET), flowtable.ActSet}, "move": {int(api.ActionCode_ACTION_CODE_MOVE), flowtable.ActMove},
		"exchange": {int(api.ActionCode_ACTION_CODE_EXCHANGE), flowtable.ActExchange}, "next": {int(api.ActionCode_ACTION_CODE_NEXT), flowtable.ActNext},
		"output": {int(api.ActionCode_ACTION_CODE_OUTPUT), flowtable.ActOutput}, "flood": {int(api.ActionCode_ACTION_CODE_FLOOD), flowtable.ActFlood},
		"clone": {int(api.ActionCode_ACTION_CODE_CLONE), flowtable.ActClone}, "drop": {int(api.ActionCode_ACTION_CODE_DROP), flowtable.ActDrop},
		"push": {int(api.ActionCode_ACTION_CODE_PUSH_VLAN), flowtable.ActPushVLAN}, "pop": {int(api.ActionCode_ACTION_CODE_POP_VLAN), flowtable.ActPopVLAN},
		"ttl": {int(api.ActionCode_ACTION_CODE_DEC_TTL), flowtable.ActDecTTL}, "select": {int(api.ActionCode_ACTION_CODE_SELECT), flowtable.ActSelect},
		"meter": {int(api.ActionCode_ACTION_CODE_METER), flowtable.ActMeter}, "get": {int(api.ActionCode_ACTION_CODE_GET_FDB), flowtable.ActGetFDB},
		"lookup": {int(api.ActionCode_ACTION_CODE_LOOKUP_FDB), flowtable.ActLookupFDB}, "put": {int(api.ActionCode_ACTION_CODE_PUT_FDB), flowtable.ActPutFDB},
		"larger": {int(api.ActionCode_ACTION_CODE_LARGER), flowtable.ActLarger}, "datapath": {int(api.ActionCode_ACTION_CODE_DATAPATH), flowtable.ActDatapath},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d, in flowtable %d", name, got[0], got[1])
		}
	}
}

// TestLayout: a layout that is not ours is noticed, and one with more than ours
// is good enough.
func TestLayout(t *testing.T) {
	theirs := ToLayout()
	if err := CheckLayout(append(theirs, &api.FlowField{Name: "new"})); err != nil {
		t.Error(err)
	}
	if err := CheckLayout(theirs[1:]); err == nil || !strings.Contains(err.Error(), theirs[0].GetName()) {
		t.Errorf("a field is missing: %v", err)
	}
	theirs[3].Shift++
	if err := CheckLayout(theirs); err == nil || !strings.Contains(err.Error(), theirs[3].GetName()) {
		t.Errorf("a field has moved: %v", err)
	}
}

// TestDecoderAllocates nothing, once its lists have grown.
func TestDecoderAllocates(t *testing.T) {
	req := &api.TransactRequest{}
	r := rand.New(rand.NewPCG(3, 4))
	for len(req.GetChanges()) < 100 {
		m, c := anyChange(r)
		nested := func(a flowtable.Action) bool { return a.Nested != nil }
		if c.Kind != SetSelect && !slices.ContainsFunc(c.Rule.Actions, nested) {
			req.Changes = append(req.Changes, m)
		}
	}
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	var d Decoder
	all := func() {
		if err := d.Read(b, func(*Change) bool { return true }); err != nil {
			t.Error(err)
		}
	}
	all()
	if n := testing.AllocsPerRun(10, all); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecoder: Decoder takes what protobuf takes, and reads it as FromChange does.
func FuzzDecoder(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		m, _ := anyChange(r)
		b, _ := proto.Marshal(&api.TransactRequest{Changes: []*api.FlowChange{m}})
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := read(t, b)
		var m api.TransactRequest
		theirs := proto.Unmarshal(b, &m)
		if theirs == nil && err != nil {
			t.Fatalf("protobuf takes what Decoder refuses: %v", err)
		}
		if theirs != nil {
			return // protobuf may be stricter: field numbers, deep nesting
		}
		if n, partial, err := Count(b); err != nil || n != len(m.GetChanges()) || partial != m.GetAllowPartial() {
			t.Fatalf("%d changes, partial %t, %v; want %d, %t", n, partial, err, len(m.GetChanges()), m.GetAllowPartial())
		}
		if len(got) != len(m.GetChanges()) {
			t.Fatalf("%d changes, want %d", len(got), len(m.GetChanges()))
		}
		// Fields that come twice are joined by protobuf, so compare what it makes
		// of them, in its own words.
		b, err = proto.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = read(t, b); err != nil {
			t.Fatal(err)
		}
		for i, c := range m.GetChanges() {
			want := same(FromChange(c))
			if (got[i].Err == nil) != (want.Err == nil) {
				t.Fatalf("change %d: got %v, want %v", i, got[i].Err, want.Err)
			}
			if want.Err == nil && !reflect.DeepEqual(got[i], want) { //nolint:govet // neither has an error
				t.Fatalf("change %d:\n got %+v\nwant %+v", i, got[i], want)
			}
		}
	})
}

// TestSetChanges: a large set comes in pieces, which make the whole.
func TestSetChanges(t *testing.T) {
	for _, tt := range []struct {
		width   uint8
		n, want int
	}{{32, 0, 1}, {32, 1, 1}, {32, setNumbers / 2, 1}, {32, setNumbers/2 + 1, 2}, {128, setNumbers, 4}} {
		members := make([]flowtable.Member, tt.n)
		for i := range members {
			members[i] = flowtable.Member{Low: uint64(i), MaskLow: ^uint64(0)}
		}
		changes := SetChanges(flowtable.Set{ID: 5, Width: tt.width}, members)
		var got []flowtable.Member
		for i, m := range changes {
			c := FromChange(m)
			if c.Err != nil || c.Set.ID != 5 || c.Set.Width != tt.width || (c.Kind == SetSet) != (i == 0) {
				t.Errorf("change %d: %+v", i, c)
			}
			got = append(got, c.Members...)
		}
		if len(changes) != tt.want || !slices.Equal(got, members) {
			t.Errorf("%d members: %d changes with %d, want %d", tt.n, len(changes), len(got), tt.want)
		}
	}
}

// TestFieldNumber: a number that no field can have is not taken for the one whose tag it is in 32 bits.
func TestFieldNumber(t *testing.T) {
	number := protowire.Number(1<<29 + requestChange>>3)
	message := protowire.AppendBytes(protowire.AppendVarint(nil, uint64(number)<<3|bytes), nil)
	var d Decoder
	err := d.Read(message, func(*Change) bool { return true })
	if bad := proto.Unmarshal(message, &api.TransactRequest{}); !errors.Is(err, ErrMalformed) || bad == nil {
		t.Errorf("got %v, and %v of protobuf", err, bad)
	}
}
