package flowcache

import "millrace/flowtable"

// Cells are a flowtable.CellBank: regions of rules have theirs among them.
var _ flowtable.CellBank = (*Cells)(nil)

// Take is AllocRun.
func (c *Cells) Take(n int) (flowtable.Cell, error) { return c.AllocRun(n) }

// Value is Load.
func (c *Cells) Value(cell flowtable.Cell) uint32 { return c.Load(cell) }
