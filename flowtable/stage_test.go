package flowtable

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// testConnect answers like connection tracking without memory: what it says follows from
// the zone and the packet's addresses and ports.
func testConnect(c *Context, ask *Connect, got *Connected) {
	got.Mask[WordIP4], got.Mask[WordL4] = ^uint64(0), 0xffffffff<<32
	h := c[WordIP4]*0x9e3779b97f4a7c15 + c[WordL4]>>32*0xff51afd7ed558ccd + uint64(ask.Zone)
	h ^= h >> 29
	states := [...]uint32{0x21, 0x22, 0x2a, 0x30, 0x24}
	got.State, got.Mark = states[h%5], uint32(h>>8&1)
	if ask.Flags&CTCommit != 0 {
		got.Mark = got.Mark&^ask.MarkMask | ask.Mark
		got.Label = ask.Label
	}
	got.Original[WordCTIP4-WordCTL4] = c[WordIP4]
	got.Ref, got.Reply = h&^countTestBits|1, h>>11&1 != 0
	got.Guard, got.Cacheable = Guard{Cell: Cell(1 + h>>40&0xff), Want: 7}, h>>12&3 != 0
	if ask.Flags&CTTranslate != 0 && h>>14&1 != 0 {
		got.Write(WordIP4, h>>20&3, 0xffffffff)
	}
	if h>>16&15 == 0 {
		got.Drop = 77
	}
}

const countTestBits = 3 << 29

// stageRule is a random rule that asks connection tracking more often than others do.
func stageRule(c chooser, id RuleID) Rule {
	r := Rule{ID: id, Table: uint8(c.n(testTables)), Priority: uint16(c.n(4)), Datapath: 1, Cookie: uint64(id)}
	for _, m := range []struct {
		field string
		few   int
	}{{"ct_state", 2}, {"ct_mark", 5}, {"ip4.dst", 3}, {"tp.dst", 4}, {"reg0", 4}, {"ct_nw_dst", 6}} {
		if c.n(m.few) == 0 {
			f := field(m.field)
			mask, _ := f.Bits()
			v, bits := uint64(c.n(3)), uint64(3)
			if m.field == "ct_state" {
				v, bits = []uint64{0, 1, 2, 0x20}[c.n(4)], 0x23
				v |= uint64(0x20) * uint64(c.n(2))
			}
			mask &= bits << f.Shift
			r.Match = append(r.Match, Masked{f.Word, v << f.Shift & mask, mask})
		}
	}
	slices.SortFunc(r.Match, func(a, b Masked) int { return int(a.Word) - int(b.Word) })
	for i := 1; i < len(r.Match); i++ { // words are matched once
		if a, b := &r.Match[i-1], r.Match[i]; a.Word == b.Word {
			a.Mask, a.Value = a.Mask|b.Mask, a.Value&^b.Mask|b.Value
			r.Match = slices.Delete(r.Match, i, i+1)
			i--
		}
	}
	for range c.n(3) {
		r.Actions = append(r.Actions, stageAction(c, r.Table))
	}
	switch c.n(5) {
	case 0:
		r.Actions = append(r.Actions, outTo(uint32(1+c.n(3))))
	case 1, 2:
		r.Actions = append(r.Actions, stageAsks(c, r.Table))
	default:
		r.Actions = append(r.Actions, goTo(r.Table+1+uint8(c.n(2))))
	}
	return r
}

// stageAsks is a random question.
func stageAsks(c chooser, table uint8) Action {
	a := Action{Code: ActCT, Arg: uint32(1+c.n(2)) << 16, Table: table + 1}
	for _, flag := range []uint32{CTResume, CTResume, CTCommit, CTTranslate} {
		a.Arg |= flag * uint32(c.n(2))
	}
	if c.n(4) == 0 {
		a.Arg, a.Src = a.Arg&0xffff, field("reg1")
	}
	if a.Arg&CTCommit != 0 {
		a.Nested = append(a.Nested, Action{Code: ActSet, Dst: field("ct_mark"), Value: uint64(c.n(2))})
		if c.n(3) == 0 {
			a.Nested = append(a.Nested, Action{Code: ActNAT, Table: NATDestination | NATOriginal})
		}
	}
	return a
}

func stageAction(c chooser, table uint8) Action {
	switch c.n(12) {
	case 0, 1, 2, 3:
		return setTo([]string{"reg0", "reg1", "ip4.dst", "tp.dst"}[c.n(4)], uint64(c.n(3)))
	case 4, 5:
		return Action{Code: ActMove, Dst: field("reg0"), Src: field([]string{"ip4.dst", "reg1", "ct_mark", "ct_nw_dst"}[c.n(4)])}
	case 6:
		return Action{Code: ActExchange, Dst: field("reg0"), Src: field("ip4.src")}
	case 7:
		return Action{Code: ActDecTTL}
	case 8:
		return Action{Code: ActCTClear}
	case 9:
		if c.n(2) == 0 {
			return randomAction(c, table, 2)
		}
		fallthrough
	default:
		return stageAsks(c, table)
	}
}

// TestStages holds walks by stages to walks without: all that comes of them is equal, before
// transactions and after, and most of them are found as a whole.
func TestStages(t *testing.T) {
	n := packets(t, 60_000)
	const perTables = 3000
	whole, asked := 0, 0
	for s := range uint64((n + perTables - 1) / perTables) {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			c := randChooser{rand.New(rand.NewPCG(s, 3))}
			x := newTwin(t, c, 0)
			w, plain := x.walkers()
			id := RuleID(1000)
			for i := range perTables {
				if i%500 == 0 {
					id = stageTransaction(t, x.tab, c, id)
					w.Quiet()
					plain.Quiet()
				}
				key := stageKey(c)
				w.Came = [4]uint64{0, uint64(c.n(3)), 0, uint64(c.n(2))} // of the packet, not of its port
				plain.Came = w.Came
				want, _ := plain.Trace(&key, 100, 0)
				got := w.Walk(&key, 100, 0)
				if !reflect.DeepEqual(*got, *want) {
					t.Fatalf("packet %d %x:\n got %+v\nwant %+v\nstages %+v", i, key, *got, *want, w.stages.list)
				}
				if w.stages.path != nil {
					whole++
				}
				if len(got.Ops) > 0 && got.Ops[0].Code == OpCT {
					asked++
				}
			}
		})
	}
	t.Logf("%d of %d walks were found as a whole, %d asked", whole, n, asked)
	if !raceOn && (whole < n/10 || asked < n/10) { // the mix of a short run is as its few tables are
		t.Errorf("%d of %d walks found as a whole, %d asked: too few", whole, n, asked)
	}
}

// walkers are two walkers of the twin's tables that ask connections.
func (x *twin) walkers() (w, plain *Walker) {
	side := x.w.side
	side.Connect = testConnect
	w, plain = x.tab.NewWalker(side), x.tab.NewWalker(side)
	x.t.Cleanup(w.Close)
	x.t.Cleanup(plain.Close)
	return w, plain
}

// stageKey draws a packet that comes in by port 1, with few addresses.
func stageKey(c chooser) Key {
	key := randomKey(c)
	key[WordIn] = 1<<32 | key[WordIn]&0xffff
	key[WordIP4] = uint64(c.n(8))<<32 | uint64(c.n(3))
	return key
}

// stageTransaction adds some rules, and makes port 1 come in by datapath 1.
func stageTransaction(t *testing.T, tab *Tables, c chooser, id RuleID) RuleID {
	txn := tab.Begin()
	txn.must(t, txn.SetEntry(&Entry{Port: 1, Datapath: 1, Inport: uint32(c.n(3)), Words: []Masked{{WordReg0, uint64(c.n(2)), 1}}}))
	for range 12 {
		r := stageRule(c, id)
		if txn.Add(&r) == nil {
			id++
		}
	}
	if _, err := txn.Commit(true); err != nil { // some refer to what is not there
		t.Fatal(err)
	}
	return id
}

// TestStagesAllocate checks that walks by stages, and those that note them, do not allocate.
func TestStagesAllocate(t *testing.T) {
	if raceOn {
		t.Skip("needs a build without the race detector, which allocates")
	}
	c := randChooser{rand.New(rand.NewPCG(5, 3))}
	x := newTwin(t, c, 0)
	w := x.tab.NewWalker(SideTables{Connect: testConnect})
	defer w.Close()
	stageTransaction(t, x.tab, c, 1000)
	i, key := uint64(0), Key{}
	walk := func() {
		i++
		key = Key{WordIn: 1<<32 | 0x800, WordSrc: 64, WordIP4: i % 8 << 32, WordL4: i % 64 << 32}
		w.Walk(&key, 100, 0)
		if i%100 == 0 {
			w.stages.forget()
		}
	}
	for range 1000 {
		walk()
	}
	if n := testing.AllocsPerRun(1000, walk); n != 0 {
		t.Errorf("%v allocations a walk", n)
	}
}
