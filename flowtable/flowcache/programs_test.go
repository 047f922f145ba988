package flowcache

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/flowtable"
)

// newTestPrograms makes an arena that is closed with the test.
func newTestPrograms(t *testing.T, size int, retired func(uint64, []uint32, uint64, uint64)) *programs {
	t.Helper()
	if retired == nil {
		retired = func(uint64, []uint32, uint64, uint64) {}
	}
	a, err := newPrograms(size, testSecrets(), retired)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// ofLength returns a program with n steps, which differs from others by id.
func ofLength(n int, id uint32) *flowtable.Composed {
	c := &flowtable.Composed{Rules: []uint32{id}}
	for range n {
		c.Ops = append(c.Ops, flowtable.Op{Code: flowtable.OpOutput, Arg: id})
	}
	return c
}

// TestProgramsOtherLengths fills an arena with programs of one length after
// another: the memory of freed ones must serve those of any other.
func TestProgramsOtherLengths(t *testing.T) {
	a := newTestPrograms(t, 1<<17, nil)
	for _, steps := range []int{1, 600, 2, 40, 0, 200, 10} {
		var made []uint32
		bytes := 0
		for id := uint32(0); ; id++ {
			off, err := a.intern(ofLength(steps, id))
			if errors.Is(err, ErrProgramRoom) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, off)
			bytes += 8 * a.at(off).words()
		}
		if bytes < 1<<17*2/5 {
			t.Errorf("%d steps: %d programs of %d bytes in all fit", steps, len(made), bytes)
		}
		for _, off := range made {
			a.drop(off)
		}
		a.release()
		if a.live != 0 || a.lines != 0 {
			t.Fatalf("%d steps: %d programs on %d lines are left", steps, a.live, a.lines)
		}
	}
}

// TestProgramsRandom makes and drops programs at random and looks at all of
// them again and again: none may lie in another.
func TestProgramsRandom(t *testing.T) {
	told := map[uint32]uint64{}
	a := newTestPrograms(t, 1<<18, func(_ uint64, rules []uint32, packets, _ uint64) { told[rules[0]] += packets })
	r := rand.New(rand.NewPCG(8, 9))
	live := map[uint32]*flowtable.Composed{}
	counted := map[uint32]uint64{}
	for i := range uint32(20000) {
		c := ofLength(r.IntN(4)*r.IntN(60), i)
		if off, err := a.intern(c); err == nil {
			live[off] = c
			a.at(off).Packets += uint64(i)
			counted[i] = uint64(i)
		}
		for off, c := range live {
			h := a.at(off)
			if image := a.words(off, h.words()); !slices.Equal(a.allOps(off), c.Ops) || !slices.Equal(h.rules(image), c.Rules) {
				t.Fatalf("program %d of %d steps has changed", off, len(c.Ops))
			}
			if r.IntN(4) == 0 {
				a.drop(off)
				delete(live, off)
			}
			break
		}
		if i%16 == 0 {
			a.release()
		}
	}
	for off := range live {
		a.drop(off)
	}
	a.release()
	for id, want := range counted {
		if told[id] != want {
			t.Errorf("rule %d was told of %d packets, want %d", id, told[id], want)
		}
	}
	if len(a.spare) != len(a.slabs)-1 {
		t.Errorf("%d of %d slabs are free at the end", len(a.spare), len(a.slabs)-1)
	}
}

// TestProgramsShared interns equal content twice, and content that differs in one
// thing.
func TestProgramsShared(t *testing.T) {
	a := newTestPrograms(t, 1<<16, nil)
	base := func() *flowtable.Composed {
		return &flowtable.Composed{Ops: []flowtable.Op{{Code: flowtable.OpSet, Word: 1, Value: 2, Mask: 3}, {Code: flowtable.OpOutput, Arg: 4}},
			Guards: []flowtable.Guard{{Cell: 1, Want: 1}, {Cell: 2, Want: 2}, {Cell: 3, Want: 3}}, Rules: []uint32{1, 2, 3}}
	}
	first, err := a.intern(base())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*flowtable.Composed)
		same   bool
	}{
		{"nothing", func(*flowtable.Composed) {}, true},
		{"mask, which is the entry's", func(c *flowtable.Composed) { c.Mask[1] = 1 }, true},
		{"step", func(c *flowtable.Composed) { c.Ops[1].Arg++ }, false},
		{"first guard", func(c *flowtable.Composed) { c.Guards[0].Want++ }, false},
		{"third guard", func(c *flowtable.Composed) { c.Guards[2].Want++ }, false},
		{"one guard less", func(c *flowtable.Composed) { c.Guards = c.Guards[:2] }, false},
		{"connection", func(c *flowtable.Composed) { c.Ops = append(c.Ops, flowtable.Op{Code: flowtable.OpCT, Value: 5}) }, false},
		{"rule", func(c *flowtable.Composed) { c.Rules[2]++ }, false},
		{"reason", func(c *flowtable.Composed) { c.Drop = 7 }, false},
	}
	for _, tt := range tests {
		c := base()
		tt.change(c)
		off, err := a.intern(c)
		if err != nil || (off == first) != tt.same {
			t.Errorf("%s changed: got %d, %v, the first is %d", tt.name, off, err, first)
		}
	}
}
