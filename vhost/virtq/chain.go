package virtq

// A chain walks the descriptors of one chain, through its indirect table if it
// has one, and gives out the memory they name piece by piece. It has a budget
// of descriptors, so a chain that loops ends as an error.
//
// A buffer that lies in two regions which touch in guest memory comes as two
// pieces.
type chain struct {
	d     *Device
	table uintptr // where next points into: the ring's table or an indirect one
	size  uint32  // descriptors in it
	cur   desc
	last  bool   // cur is the chain's last descriptor
	write bool   // the device writes to the chain's memory
	left  uint32 // budget of descriptors; the one of an indirect table is not among them
	inner bool   // in an indirect table
}

// start begins with descriptor first, which was loaded from the ring's table.
// write says which of the two directions all descriptors must have.
func (c *chain) start(d *Device, first desc, write bool) error {
	*c = chain{d: d, table: d.desc, size: d.mask + 1, cur: first, write: write, left: max(d.mask+1, chainMin)}
	return c.enter()
}

// enter judges cur, which has just been loaded.
func (c *chain) enter() error {
	c.d.walked++
	if c.cur.flags&descIndirect != 0 {
		return c.indirect()
	}
	if c.left == 0 {
		return broken("chain has more descriptors than its limit, or loops")
	}
	c.left--
	if (c.cur.flags&descWrite != 0) != c.write {
		return broken("descriptor at %#x is for the wrong direction (flags %#x)", c.cur.addr, c.cur.flags)
	}
	c.last = c.cur.flags&descNext == 0
	return nil
}

// indirect goes on in the table that cur names (virtio 2.7.5.3).
func (c *chain) indirect() error {
	switch t := c.cur; {
	case !c.d.cfg.Indirect:
		return broken("indirect descriptor, which was not negotiated")
	case c.inner:
		return broken("indirect descriptor in an indirect table")
	case t.flags&descNext != 0:
		return broken("indirect descriptor with a next one")
	case t.len == 0 || t.len%descSize != 0 || t.len/descSize > max(c.size, chainMin):
		return broken("indirect table of %d bytes", t.len)
	default:
		p, ok := c.d.at(t.addr, uint64(t.len))
		if !ok {
			return broken("indirect table at %#x, %d bytes, is outside of memory", t.addr, t.len)
		}
		c.d.stats.Indirect++
		c.inner, c.table, c.size = true, p, t.len/descSize
		c.cur = loadDesc(p, 0)
		return c.enter()
	}
}

// advance loads the descriptor after cur.
func (c *chain) advance() error {
	next := uint32(c.cur.next)
	if next >= c.size {
		return broken("next descriptor %d of %d", next, c.size)
	}
	c.cur = loadDesc(c.table, next)
	return c.enter()
}

// piece returns the next piece of memory: its address here and its length,
// which is 0 when the chain has no more.
func (c *chain) piece() (uintptr, uint32, error) {
	for c.cur.len == 0 {
		if c.last {
			return 0, 0, nil
		}
		if err := c.advance(); err != nil {
			return 0, 0, err
		}
	}
	p, ok := c.d.at(c.cur.addr, uint64(c.cur.len))
	n := c.cur.len
	if !ok {
		p, n = c.split()
		if n == 0 {
			return 0, 0, broken("descriptor at %#x, %d bytes, is outside of memory", c.cur.addr, c.cur.len)
		}
	}
	c.cur.addr += uint64(n)
	c.cur.len -= n
	return p, n, nil
}

// split returns the part of cur that lies in the region where cur begins.
func (c *chain) split() (uintptr, uint32) {
	w, ok := c.d.mem.Find(c.cur.addr)
	if !ok {
		return 0, 0
	}
	c.d.win = w
	n := min(uint64(c.cur.len), w.Size-(c.cur.addr-w.GPA))
	p, _ := w.At(c.cur.addr, n)
	return p, uint32(n)
}

// drain walks what is left, for its errors.
func (c *chain) drain() error {
	for {
		_, n, err := c.piece()
		if n == 0 || err != nil {
			return err
		}
	}
}
