package flowcache

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"millrace/flowtable"
)

// newTestCells makes cells that are closed with the test.
func newTestCells(t *testing.T, n int) *Cells {
	t.Helper()
	c, err := NewCells(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestCellsAlloc gives out and takes back cells at random, and keeps a list of
// who has what.
func TestCellsAlloc(t *testing.T) {
	c := newTestCells(t, 200)
	r := rand.New(rand.NewPCG(1, 2))
	owner := map[flowtable.Cell]int{0: -1}
	runs := map[int][2]int{}
	for i := 1; i < 5000; i++ {
		if r.IntN(2) == 0 {
			for id, run := range runs {
				before := c.Load(flowtable.Cell(run[0]))
				c.FreeRun(flowtable.Cell(run[0]), run[1])
				if c.Load(flowtable.Cell(run[0])) == before {
					t.Fatalf("cell %d has the same value after it was freed", run[0])
				}
				for j := range run[1] {
					delete(owner, flowtable.Cell(run[0]+j))
				}
				delete(runs, id)
				break
			}
			continue
		}
		n := 1 + r.IntN(9)
		first, err := c.AllocRun(n)
		if n == 1 && r.IntN(2) == 0 {
			first, err = c.Alloc()
		}
		if errors.Is(err, ErrNoCells) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			// Both calls gave one out; the one of AllocRun is never freed.
			owner[first] = i
		}
		for j := range n {
			cell := first + flowtable.Cell(j)
			if who, taken := owner[cell]; taken && who != i {
				t.Fatalf("cell %d was given to %d and to %d", cell, who, i)
			}
			owner[cell] = i
		}
		runs[i] = [2]int{int(first), n}
	}
}

// TestCellsFull takes all cells, and gets the freed one again.
func TestCellsFull(t *testing.T) {
	c := newTestCells(t, 64)
	for range c.Len() - 1 {
		cell, err := c.Alloc()
		if err != nil || cell == 0 {
			t.Fatalf("got cell %d, %v", cell, err)
		}
	}
	if _, err := c.Alloc(); !errors.Is(err, ErrNoCells) {
		t.Errorf("full: got %v, want %v", err, ErrNoCells)
	}
	if _, err := c.AllocRun(1); !errors.Is(err, ErrNoCells) {
		t.Errorf("run of a full array: got %v, want %v", err, ErrNoCells)
	}
	if got := c.Used(); got != c.Len()-1 {
		t.Errorf("got %d used, want %d", got, c.Len()-1)
	}
	c.Free(17)
	if cell, err := c.Alloc(); err != nil || cell != 17 {
		t.Errorf("got cell %d, %v, want 17", cell, err)
	}
}

// TestCellsMisuse checks that broken bookkeeping of the owner is not swallowed.
func TestCellsMisuse(t *testing.T) {
	tests := []struct {
		name string
		do   func(*Cells)
	}{
		{"move cell 0", func(c *Cells) { c.Move(0) }},
		{"free cell 0", func(c *Cells) { c.Free(0) }},
		{"free what was not given out", func(c *Cells) { c.Free(9) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCells(t, 64)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			tt.do(c)
		})
	}
}

// TestCellsConcurrent moves cells from one goroutine while others look keys up:
// for the race detector, and every move must be seen in the end.
func TestCellsConcurrent(t *testing.T) {
	c, cells := newTestCache(t, CacheOptions{Exact: 64, Wild: 64, ProgramBytes: 1 << 16, Masks: 2}, nil)
	p := newTestPlan(t, c)
	cell, err := cells.Alloc()
	if err != nil {
		t.Fatal(err)
	}
	key := wideKey(benchKey(1))
	comp := flowtable.Composed{Mask: flowtable.Key{flowtable.WordIP4: ^uint64(0)}, Guards: []flowtable.Guard{{Cell: cell, Want: cells.Load(cell)}}}
	if _, r := c.Install(p, &key, false, &comp, cells.Changes()); r != Installed {
		t.Fatal(r)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			cells.Move(cell)
		}
	})
	keys := [BatchMax]NarrowKey{benchKey(1)}
	var out [BatchMax]uint32
	stale := false
	for range 1000 {
		c.Lookup(&keys, 1, p, &out)
		now := out[0]&Stale != 0
		if out[0] == 0 || stale && !now {
			t.Fatalf("result %#x after stale was %v", out[0], stale)
		}
		stale = now
	}
	wg.Wait()
	if c.Lookup(&keys, 1, p, &out); out[0]&Stale == 0 {
		t.Error("the program is not stale after its cell moved")
	}
}
