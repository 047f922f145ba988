package dataplane

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"

	"millrace/dataplane/fdb"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// Sizes of the guard cells. Paths have most of them; what is not used is not
// memory.
const (
	pathsMax     = 4096
	cellsPerPath = 1024
	fdbRegions   = 1024 // bridges that share no cells
	fdbCellBits  = 10   // cells of a region
	fdbCells     = 1 << fdbCellBits
	cellsFDB     = 64 // the first of all regions
	cellsPaths   = cellsFDB + fdbRegions*fdbCells
	cellsMax     = cellsPaths + (pathsMax+1)*(cellsPerPath+2) // what follows is for connections
)

// A bank is the guard cells of the switch. Cells of forwarding databases are
// chosen by a hash of the address, so that an address that comes, goes or moves
// makes stale what was decided by it and little else; bridges beyond the number
// of regions share theirs, which costs a walk now and then. The rest are for
// the paths of the tables, which come for them while workers walk.
type bank struct {
	*flowcache.Cells
	secret uint64 // of the hash of addresses

	mu   sync.Mutex     // guards next
	next flowtable.Cell // first that no path has
}

// newBank makes the cells of a switch, of which some are for connections.
func newBank(connections int) (*bank, error) {
	cells, err := flowcache.NewCells(cellsMax + connections)
	if err != nil {
		return nil, err
	}
	return &bank{Cells: cells, secret: rand.Uint64() | 1, next: cellsPaths}, nil
}

// Take gives out n cells of those for paths.
func (b *bank) Take(n int) (flowtable.Cell, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if int(b.next)+n > cellsMax {
		return 0, fmt.Errorf("take %d guard cells: %w", n, flowcache.ErrNoCells)
	}
	c := b.next
	b.next += flowtable.Cell(n)
	return c, nil
}

// inUse is how many cells paths have.
func (b *bank) inUse() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return uint64(b.next - cellsPaths)
}

// fdbCell is the cell of an address in a forwarding database.
func (b *bank) fdbCell(number uint32, k fdb.Key) flowtable.Cell {
	high, low := bits.Mul64(uint64(k), b.secret)
	return region(number) + flowtable.Cell((high^low)>>(64-fdbCellBits))
}

// region is the first cell of a forwarding database.
func region(number uint32) flowtable.Cell {
	return cellsFDB + flowtable.Cell(number%fdbRegions)*fdbCells
}

// moveFDB makes everything stale that was decided by a forwarding database.
func (b *bank) moveFDB(number uint32) {
	for i := range flowtable.Cell(fdbCells) {
		b.Move(region(number) + i)
	}
}
