package flowtable

import (
	"reflect"
	"slices"
	"testing"
)

// TestDumpObjects: what transactions have made is listed as it was given, and
// what they removed is not.
func TestDumpObjects(t *testing.T) {
	tb, err := New(Options{Reserve: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer tb.Close()
	sel := Select{ID: 7, Fields: []Field{field("ip4.src"), field("tp.src")}, Buckets: []Bucket{
		{ID: 3, Weight: 2, Actions: []Action{{Code: ActSet, Dst: field("reg0"), Value: 9}, {Code: ActMeter, Arg: 5}}}, {ID: 4, Weight: 65535},
	}}
	meter := Meter{ID: 5, Packets: true, Rate: 10, Burst: 20}
	x := tb.Begin()
	for _, err := range []error{
		x.SetSet(Set{ID: 9, Width: 32}, nil), x.SetSet(Set{ID: 2, Width: 16, Exact: true}, nil), x.SetSet(Set{ID: 3, Width: 16}, nil),
		x.SetGroup(6, []uint64{8, 1}), x.SetGroup(8, nil), x.SetGroup(9, nil), x.SetMeter(&meter), x.SetMeter(&Meter{ID: 6, Rate: 1}), x.SetSelect(&sel),
		x.SetSelect(&Select{ID: 8}), x.SetFlood(1, []uint32{4, 2}),
		x.Add(&Rule{ID: 1, Table: 3, Datapath: 77}), x.Add(&Rule{ID: 2, Table: 4, Group: 6}), x.Add(&Rule{ID: 3, Datapath: 5}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Commit(false); err != nil {
		t.Fatal(err)
	}
	x = tb.Begin()
	for _, err := range []error{x.RemoveSet(3), x.RemoveGroup(9), x.RemoveMeter(6), x.RemoveSelect(8), x.Remove(3)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Commit(false); err != nil {
		t.Fatal(err)
	}

	briefs := map[RuleID]Brief{}
	tb.EachBrief(func(b Brief) bool { briefs[b.ID] = b; return true })
	one, _ := tb.Brief(1)
	if _, ok := tb.Brief(3); ok || len(briefs) != 2 || briefs[1] != one || one.Datapath != 77 || one.Table != 3 || briefs[2].Group != 6 {
		t.Errorf("briefs %+v", briefs)
	}
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"sets", tb.Sets(), []Set{{ID: 2, Width: 16, Exact: true}, {ID: 9, Width: 32}}},
		{"groups", tb.Groups(), []GroupID{6, 8}},
		{"selects", tb.Selects(), []SelectID{7}},
		{"meters", tb.Meters(), []MeterID{5}},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.what, tt.got, tt.want)
		}
	}
	if got, ok := tb.Select(7); !ok || !reflect.DeepEqual(got, sel) {
		t.Errorf("select: got %+v, want %+v", got, sel)
	}
	if got, ok := tb.Meter(5); !ok || got != meter {
		t.Errorf("meter: got %+v", got)
	}
	if got, ok := tb.Flood(1); !ok || !slices.Equal(got, []uint32{4, 2}) {
		t.Errorf("flood list: got %v", got)
	}
	if got, ok := tb.Set(2); !ok || got != (Set{ID: 2, Width: 16, Exact: true}) {
		t.Errorf("set: got %v", got)
	}
	if _, ok := tb.Set(3); ok {
		t.Error("removed set is there")
	}
	_, ok1 := tb.Select(8)
	_, ok2 := tb.Meter(6)
	if _, ok3 := tb.Flood(2); ok1 || ok2 || ok3 {
		t.Error("what was removed, or never was, is there")
	}
}
