package flowtable

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRetrace holds retraces to walks: one that comes to its end goes by the same rules, asks the same and
// ends the same, before transactions and after.
func TestRetrace(t *testing.T) {
	n := packets(t, 60_000)
	const perTables = 3000
	ended, asked := 0, 0
	for s := range uint64((n + perTables - 1) / perTables) {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			c := randChooser{rand.New(rand.NewPCG(s, 4))}
			x := newTwin(t, c, 0)
			w, plain := x.walkers()
			counters, err := NewCounters(1 << 12)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := counters.Close(); err != nil {
					t.Error(err)
				}
			}()
			id := RuleID(1000)
			for i := range perTables {
				if i%500 == 0 {
					id = stageTransaction(t, x.tab, c, id)
					w.Quiet()
					plain.Quiet()
				}
				key := stageKey(c)
				noisy := key
				key[WordL4] &^= 0xffff
				noisy[WordL4] |= uint64(c.n(1 << 16))
				got, asks, ok := retraced(w, counters, noisy[:])
				if ok {
					want, visited := plain.Walk(&key, 100, 0), plain.visited
					if err := got.compare(want, visited); err != nil {
						t.Fatalf("packet %d %x: %v\n got %+v\nwant %+v, %d tables", i, key, err, got, *want, visited)
					}
					for _, h := range want.Rules[:min(1, len(want.Rules))] {
						if n, _ := counters.Get(h); n == 0 {
							t.Fatalf("packet %d %x: rule %d was not counted", i, key, h)
						}
					}
					ended++
					asked += asks
				}
				w.Came = [4]uint64{0, uint64(c.n(3)), 0, uint64(c.n(2))}
				w.Walk(&key, 100, 0)
			}
		})
	}
	t.Logf("%d of %d retraces came to their end, with %d questions", ended, n, asked)
	if !raceOn && (ended < n/60 || asked < n/60) {
		t.Errorf("%d of %d retraces came to their end, with %d questions: too few", ended, n, asked)
	}
}

// retracing is what came of a retrace.
type retracing struct {
	what    Retraced
	arg     uint32
	rules   []uint32
	visited int
	ops     []Op
}

// retraced retraces a packet as far as that goes. It returns how many questions were asked,
// and whether it came to its end.
func retraced(w *Walker, counters *Counters, key []uint64) (r retracing, asks int, ok bool) {
	for ok = w.Retrace(key); ok; {
		switch r.what = w.Next(); r.what {
		case RetraceAsk:
			var got Connected
			testConnect(&w.retrace.ctx, w.RetraceAsks(), &got)
			if got.Drop != 0 || got.Sets != 0 {
				return r, asks, false
			}
			op := Op{Code: OpCT, Arg: CountOriginal, Value: got.Ref}
			if got.Reply {
				op.Arg = CountReply
			}
			r.ops = append(r.ops, op)
			w.Answer(got.State, got.Mark, got.Label)
			asks++
		case RetraceUnknown:
			return r, asks, false
		default:
			r.arg = w.RetraceArg()
			for at := w.retrace.at; at != 0; at = w.stages.list[at].parent {
				s := &w.stages.list[at]
				r.rules = slices.Concat(w.stages.rules[s.rules[0]:s.rules[1]], r.rules)
			}
			r.visited = w.CountRetrace(100)
			w.TellRetraces(counters)
			return r, asks, true
		}
	}
	return r, 0, false
}

// compare compares a retrace to a walk.
func (r *retracing) compare(want *Composed, visited int) error {
	ops := r.ops
	if r.what == RetraceOutput {
		ops = append(ops, Op{Code: OpOutput, Arg: r.arg})
	} else if r.arg != want.Drop {
		return fmt.Errorf("dropped for %d", r.arg)
	} else {
		ops = nil // drops keep those of connections only if they are cached
	}
	wants := slices.Clone(want.Ops)
	if r.what == RetraceDrop {
		if slices.ContainsFunc(wants, func(o Op) bool { return o.Code != OpCT }) {
			return fmt.Errorf("is no drop")
		}
		wants = nil
	}
	if !slices.Equal(ops, wants) || !slices.Equal(r.rules, want.Rules) || r.visited != visited {
		return fmt.Errorf("ops %+v, rules %v, %d tables", ops, r.rules, r.visited)
	}
	return nil
}

// TestRetraceAllocates checks that a retrace allocates nothing.
func TestRetraceAllocates(t *testing.T) {
	c := randChooser{rand.New(rand.NewPCG(5, 3))}
	x := newTwin(t, c, 0)
	w := x.tab.NewWalker(SideTables{Connect: testConnect})
	defer w.Close()
	stageTransaction(t, x.tab, c, 1000)
	key := Key{WordIn: 1<<32 | 0x800, WordSrc: 64}
	w.Walk(&key, 100, 0)
	if n := testing.AllocsPerRun(1000, func() {
		if !w.Retrace(key[:]) {
			t.Fatal("nothing known")
		}
		for w.Next() == RetraceAsk {
			w.Answer(0x21, 0, [2]uint64{})
		}
	}); n != 0 {
		t.Errorf("%v allocations a retrace", n)
	}
}
