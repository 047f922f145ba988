package flowcache

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	"millrace/flowtable"
)

// ErrNoCells says that all guard cells, or all runs of the length that was
// asked for, are taken.
var ErrNoCells = errors.New("no guard cells left: give the flow table more cells")

// Cells are the guard cells: 32-bit words in mapped memory that all workers
// read and whose owners move. A program holds the values that its cells had
// before its walk began; a cell that has moved makes it stale.
//
// Order matters to whoever moves cells: first what the cell stands for is
// changed, then the cell is moved. The other way round, a walk in between
// would compose the old answer with the new value, and nothing would ever
// contradict it.
//
// Cell 0 is never given out and never moves: it stands for "no guard".
//
// Alloc, AllocRun, Free and FreeRun are for one goroutine at a time. Move, Load
// and Changes are for any.
type Cells struct {
	mem    mapping
	values []uint32 // moved and read atomically
	taken  []uint64 // a bit for each cell, of the allocating goroutine
	bits   mapping
	hint   int           // word of taken where the next search begins
	used   int           // cells given out
	moves  atomic.Uint64 // counts moves
}

// NewCells makes n cells, rounded up to a multiple of 64.
func NewCells(n int) (*Cells, error) {
	n = (max(n, 64) + 63) &^ 63
	c := &Cells{}
	var err error
	if c.mem, err = newSparse(4 * n); err != nil {
		return nil, fmt.Errorf("make %d guard cells: %w", n, err)
	}
	if c.bits, err = newMapping(n / 8); err != nil {
		return nil, errors.Join(fmt.Errorf("make %d guard cells: %w", n, err), c.mem.close())
	}
	c.values = overlay[uint32](&c.mem, n)
	c.taken = overlay[uint64](&c.bits, n/64)
	c.taken[0] = 1
	return c, nil
}

// Close gives the memory back. No worker may use the cells any more.
func (c *Cells) Close() error {
	c.values, c.taken = nil, nil
	return errors.Join(c.mem.close(), c.bits.close())
}

// Len returns how many cells there are, with cell 0; Used how many are given out.
func (c *Cells) Len() int { return len(c.values) }

// Used returns how many cells are given out.
func (c *Cells) Used() int { return c.used }

// Load returns the value of a cell.
func (c *Cells) Load(cell flowtable.Cell) uint32 { return atomic.LoadUint32(&c.values[cell]) }

// Changes returns how often any cell has moved. A walk notes it before it
// begins; see Cache.Install.
func (c *Cells) Changes() uint64 { return c.moves.Load() }

// Move gives a cell a value that it has not had for 2^32 moves, and so makes
// every program stale that has it as guard.
func (c *Cells) Move(cell flowtable.Cell) {
	if cell == 0 {
		panic("flowtable: guard cell 0 moved")
	}
	atomic.AddUint32(&c.values[cell], 1)
	c.moves.Add(1)
}

// Words lends n cells from first on to an owner that moves them by itself, by
// atomic adds, and in the order that is said above. Changes does not count these
// moves, so a walk reads such a cell before it reads what the cell stands for.
func (c *Cells) Words(first flowtable.Cell, n int) []uint32 {
	return c.values[first : int(first)+n : int(first)+n]
}

// Alloc gives out a cell. Its value is whatever it was when it was freed.
func (c *Cells) Alloc() (flowtable.Cell, error) {
	for i := range c.taken {
		w := (c.hint + i) % len(c.taken)
		if free := ^c.taken[w]; free != 0 {
			c.hint = w
			bit := bits.TrailingZeros64(free)
			c.taken[w] |= 1 << bit
			c.used++
			return flowtable.Cell(w*64 + bit), nil
		}
	}
	return 0, ErrNoCells
}

// AllocRun gives out n cells in a row and returns the first. It looks at every
// cell if it must: it is for what is made rarely, such as the regions of a table.
func (c *Cells) AllocRun(n int) (flowtable.Cell, error) {
	if n <= 0 {
		return 0, fmt.Errorf("run of %d guard cells: need at least one", n)
	}
	run := 0
	for i := range len(c.values) {
		if c.isTaken(i) {
			run = 0
			continue
		}
		if run++; run == n {
			first := i + 1 - n
			for j := first; j <= i; j++ {
				c.taken[j/64] |= 1 << (j % 64)
			}
			c.used += n
			return flowtable.Cell(first), nil
		}
	}
	return 0, fmt.Errorf("run of %d: %w", n, ErrNoCells)
}

// isTaken reports whether cell i is given out.
func (c *Cells) isTaken(i int) bool { return c.taken[i/64]>>(i%64)&1 != 0 }

// Free takes a cell back. It moves, so that no program that still has it as
// guard takes its next owner's word for its former one's.
func (c *Cells) Free(cell flowtable.Cell) { c.FreeRun(cell, 1) }

// FreeRun takes n cells back that begin with first.
func (c *Cells) FreeRun(first flowtable.Cell, n int) {
	for i := int(first); i < int(first)+n; i++ {
		if i == 0 || !c.isTaken(i) {
			panic(fmt.Sprintf("flowtable: guard cell %d freed twice or never given out", i))
		}
		c.Move(flowtable.Cell(i))
		c.taken[i/64] &^= 1 << (i % 64)
	}
	c.used -= n
}
