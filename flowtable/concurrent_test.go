package flowtable

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/waittest"
)

// ruleAt returns a rule of datapath 1 or, if group is not zero, of that.
func ruleAt(id RuleID, group GroupID, table uint8, priority uint16, match []Masked, preds []Pred, acts ...Action) *Rule {
	r := &Rule{ID: id, Table: table, Priority: priority, Datapath: 1, Match: match, Preds: preds, Actions: acts}
	if group != 0 {
		r.Datapath, r.Group = 0, group
	}
	return r
}

func setTo(name string, v uint64) Action { return Action{Code: ActSet, Dst: field(name), Value: v} }
func goTo(table uint8) Action            { return Action{Code: ActNext, Table: table} }
func outTo(port uint32) Action           { return Action{Code: ActOutput, Arg: port} }

// round puts the rules of round k in the place of those of the round before:
// each of four tables writes k somewhere, through a rule, a group, a set and a
// select group.
func round(x *Txn, k uint64) error {
	base := RuleID(k * 100)
	in := []Member{{Low: 1 + k&1, MaskLow: 0xffffffff}}
	errs := []error{
		x.SetGroup(GroupID(1+k%3), []uint64{1}), x.SetGroup(GroupID(1+(k+1)%3), nil),
		x.SetSet(Set{ID: SetID(1 + k&1), Width: 32, Exact: true}, []Member{{Low: 1, MaskLow: 0xffffffff}}),
		x.SetSet(Set{ID: SetID(1 + (k+1)&1), Width: 32, Exact: true}, in[:0]),
		x.SetSelect(&Select{ID: 1, Buckets: []Bucket{{Weight: 1, Actions: []Action{setTo("tp.dst", k&0xffff), outTo(1)}}}}),
		x.Add(ruleAt(base+1, 0, 0, uint16(k&7), nil, nil, setTo("eth.dst", k), goTo(1))),
		x.Add(ruleAt(base+2, GroupID(1+k%3), 1, 3, nil, nil, setTo("ip4.src", k), goTo(2))),
		x.Add(ruleAt(base+3, 0, 2, 5, nil, []Pred{{Kind: InSet, Field: field("in_port"), Set: SetID(1 + k&1)}}, setTo("ip4.dst", k), goTo(3))),
		x.Add(ruleAt(base+4, 0, 3, 5, []Masked{{WordReg0, 0, 1}}, nil, Action{Code: ActSelect, Arg: 1})),
	}
	for i := range RuleID(20) { // others, so that chains and hashes move
		errs = append(errs, x.Add(ruleAt(base+10+i, 0, uint8(i%4), 7, []Masked{{WordIP6Dst, uint64(i) + k + 1, ^uint64(0) >> (i % 3)}}, nil)))
	}
	if k > 1 {
		for _, i := range []RuleID{1, 2, 3, 4} {
			errs = append(errs, x.Remove(base-100+i))
		}
		for i := range RuleID(20) {
			errs = append(errs, x.Remove(base-100+10+i))
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// whole returns in which round a packet went, and whether all tables were of
// that round.
func whole(p *Composed, key *Key) (k uint64, ok bool) {
	d := replay(p.Ops, key)
	if len(d) != 1 {
		return 0, false
	}
	k = d[0].key[WordDst] >> 16
	return k, d[0].key[WordIP4] == k<<32|k && d[0].key[WordL4]>>32&0xffff == k&0xffff
}

// TestAtomic walks while transactions change everything that a packet meets.
func TestAtomic(t *testing.T) {
	tab, err := New(Options{Reserve: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	x := tab.Begin()
	x.must(t, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
	x.must(t, round(x, 1))
	x.commit(t)
	var stop atomic.Bool
	var walks atomic.Uint64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true) // also after a failure
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			w := tab.NewWalker(SideTables{})
			defer w.Close()
			last := uint64(0)
			for n := 0; !stop.Load(); n++ {
				key := Key{WordIn: 1 << 32}
				p := w.Walk(&key, 60, 0)
				k, ok := whole(p, &key)
				if !ok || k < last {
					t.Errorf("version %d after round %d: %+v drop %d", p.Version, last, p.Ops, p.Drop)
					return
				}
				last = k
				walks.Add(1)
				switch {
				case n%64 == 63:
					w.Offline()
					w.Quiet()
				case n%4 == 3:
					w.Quiet()
				}
			}
		}()
	}
	const fewWalks, fewRounds = 100, 20
	deadline, most := time.Now().Add(3*time.Second), time.Now().Add(waittest.Most)
	few := func(k uint64) bool { return walks.Load() < fewWalks || k < fewRounds }
	k := uint64(2)
	for ; k < 3000 && !t.Failed() && (time.Now().Before(deadline) || few(k) && time.Now().Before(most)); k++ {
		x := tab.Begin()
		if k%7 == 3 {
			x.must(t, round(x, k))
			x.Abort()
			x = tab.Begin()
		}
		x.must(t, round(x, k))
		x.commit(t)
		for k%200 == 0 && tab.Reclaim() && time.Now().Before(deadline) {
			runtime.Gosched() // a walker that others keep from its CPU holds memory meanwhile
		}
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d transactions beside %d walks", k, walks.Load())
	if few(k) {
		t.Errorf("%d transactions beside %d walks: too few to tell", k, walks.Load())
	}
	if tab.Reclaim() {
		t.Error("memory waits for walkers although there are none")
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
}

// must fails the test on an error.
func (x *Txn) must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		x.Abort() // or nothing of the tables could be ended
		t.Fatal(err)
	}
}

// commit commits a transaction in which nothing was refused.
func (x *Txn) commit(t testing.TB) Result {
	t.Helper()
	r, err := x.Commit(false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
