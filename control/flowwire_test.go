package control

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"millrace/control/flows"
	"millrace/dataplane/api"
	"millrace/flowtable"
)

// randomRule is a rule of random numbers, most of which make no sense.
func randomRule(r *rand.Rand) *flowtable.Rule {
	few := func() uint64 { return []uint64{0, 1, 0xff, 1 << 40, ^uint64(0)}[r.IntN(5)] }
	field := func() flowtable.Field {
		return flowtable.Field{Word: uint8(few()), Shift: uint8(few()), Width: uint8(few())}
	}
	var acts func(depth int) []flowtable.Action
	acts = func(depth int) []flowtable.Action {
		var out []flowtable.Action
		for range r.IntN(3) {
			a := flowtable.Action{Code: uint8(few()), Table: uint8(few()), Dst: field(), Src: field(), Src2: field(), Arg: uint32(few()), Value: few(), ValueLow: few()}
			if depth > 0 {
				a.Nested = acts(depth - 1)
			}
			out = append(out, a)
		}
		return out
	}
	rule := &flowtable.Rule{ID: flowtable.RuleID(few()), Table: uint8(few()), Priority: uint16(few()), Datapath: few(), Group: flowtable.GroupID(few()), Cookie: few(), Actions: acts(2)}
	for range r.IntN(3) {
		rule.Match = append(rule.Match, flowtable.Masked{Word: uint8(few()), Value: few(), Mask: few()})
		rule.Preds = append(rule.Preds, flowtable.Pred{Kind: uint8(few()), Field: field(), Set: flowtable.SetID(few()), Low: few(), High: few(), LowLow: few(), Mask: few(), MaskLow: few()})
	}
	return rule
}

// TestFlowWire: changes that are written into bytes by hand are what protobuf makes
// of the messages.
func TestFlowWire(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	var changes []flows.Change
	for i := range 3000 {
		switch i % 4 {
		case 0:
			changes = append(changes, flows.Change{Kind: flows.RemoveRule, Removed: flowtable.RuleID(r.Uint64())})
		case 1:
			changes = append(changes, flows.Change{Kind: flows.SetMeter, Meter: flowtable.Meter{ID: 5, Packets: true, Rate: 7}})
		default:
			changes = append(changes, flows.Change{Kind: flows.AddRule, Rule: randomRule(r)})
		}
	}
	n, messages := 0, 0
	for rest := changes; len(rest) > 0; messages++ {
		var b encoded
		var err error
		if b, rest, err = appendChanges(rest, messages == 0); err != nil {
			t.Fatal(err)
		}
		var m api.TransactRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		if m.GetAllowPartial() != (messages == 0) {
			t.Errorf("message %d: allow_partial is %v", messages, m.GetAllowPartial())
		}
		for _, got := range m.GetChanges() {
			if want := flowChange(&changes[n]); !proto.Equal(got, want) {
				t.Fatalf("change %d: %s", n, fmt.Sprint(got, "\nwant ", want))
			}
			n++
		}
	}
	if n != len(changes) || messages < 2 {
		t.Errorf("%d changes of %d, in %d messages", n, len(changes), messages)
	}
}
