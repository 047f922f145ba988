package flowcache

import (
	"cmp"
	"fmt"
	"slices"

	"millrace/flowtable"
)

// A Plan is the order in which the keys of a port, or of a class of ports,
// are looked up: which masks, and whether the exact mask is first or last.
type Plan struct {
	// Still is for the worker to set: what misses is not expected to be installed, so the
	// memory of installs is not asked for ahead.
	Still bool

	id     uint16
	closed bool
	exact  [2]uint16 // mask ids, narrow and wide
	counts [kinds]int
	narrow probes
	wide   probes
}

// probes is a plan's list of masks for one kind of key, those with most hits
// first. Hits and depth are of this second.
type probes struct {
	n          int
	exactFirst bool
	direct     bool // the first mask finds so much that its entries are read without a look at tags
	exactHits  uint32
	missed     uint32
	pause      uint32 // epochs until exact entries may be tried again
	depth      uint32 // sum of the places in the list at which wildcard entries were hit
	list       [MasksMax]probe
}

// A probe is one mask of a plan.
type probe struct {
	mask    uint16
	hits    uint32
	entries uint32
}

// wide as an index.
func index(wide bool) int {
	if wide {
		return 1
	}
	return 0
}

// probes returns the list for one kind of key.
func (p *Plan) probes(wide bool) *probes {
	if wide {
		return &p.wide
	}
	return &p.narrow
}

// find returns the probe of a mask, or nil.
func (l *probes) find(mask uint16) *probe {
	for i := range l.list[:l.n] {
		if l.list[i].mask == mask {
			return &l.list[i]
		}
	}
	return nil
}

// NewPlan makes a plan. exact is the relevant mask: every bit that any walk
// from these ports could look at.
func (c *Cache) NewPlan(exact *flowtable.Key) (*Plan, error) {
	p := &Plan{}
	for id := 1; id < len(c.plans); id++ {
		if c.plans[id] == nil {
			p.id = uint16(id)
			break
		}
	}
	if p.id == 0 {
		if len(c.plans) > 1<<16-1 {
			return nil, fmt.Errorf("make a plan: %d are in use", len(c.plans)-1)
		}
		p.id = uint16(len(c.plans))
		c.plans = append(c.plans, nil)
	}
	if err := c.SetExact(p, exact); err != nil {
		return nil, err
	}
	c.plans[p.id] = p
	return p, nil
}

// SetExact gives a plan another relevant mask. Its exact entries are not found
// any more, and go when Upkeep meets them.
func (c *Cache) SetExact(p *Plan, exact *flowtable.Key) error {
	var ids [2]uint16
	for i := range ids {
		id, err := c.newMask(exact, i == 1)
		if err != nil {
			if i == 1 {
				c.letGo(ids[0])
			}
			return fmt.Errorf("set the exact mask of plan %d: %w", p.id, err)
		}
		ids[i] = id
	}
	if p.exact != [2]uint16{} {
		c.retire(p.exact[0])
		c.retire(p.exact[1])
	}
	p.exact = ids
	return nil
}

// ClosePlan ends a plan. None of its entries is found any more. They go when
// Upkeep meets them; the plan's number is used again after that.
func (c *Cache) ClosePlan(p *Plan) {
	if p.closed {
		return
	}
	p.closed = true
	c.retire(p.exact[0])
	c.retire(p.exact[1])
	for _, l := range [2]*probes{&p.narrow, &p.wide} {
		for i := range l.list[:l.n] {
			c.retire(l.list[i].mask)
		}
		l.n = 0
	}
	c.forget(p)
}

// forget lets go of a closed plan that has no entries.
func (c *Cache) forget(p *Plan) {
	if p.closed && p.counts == [kinds]int{} && c.plans[p.id] == p {
		c.plans[p.id] = nil
	}
}

// newMask makes a mask with one user. Masks are never shared by plans: with a
// plan that is closed, all that its masks led to must be out of reach.
func (c *Cache) newMask(m *flowtable.Key, wide bool) (uint16, error) {
	bits := planBits(m, wide)
	var id int
	switch n := len(c.freeMasks); {
	case n > 0:
		id = int(c.freeMasks[n-1])
		c.freeMasks = c.freeMasks[:n-1]
	case len(c.masks) < masksTotal:
		id = len(c.masks)
		c.masks = append(c.masks, maskInfo{})
	default:
		return 0, fmt.Errorf("%d masks are in use", masksTotal-1)
	}
	seed := c.secrets[flowtable.KeyWords] ^ fold(uint64(id)^c.secrets[0], c.secrets[flowtable.KeyWords+1])
	c.masks[id] = maskInfo{bits: bits, seed: seed, users: 1}
	return uint16(id), nil
}

// inPortBits are those of WordIn that name the port: each mask has them, so an
// entry is one port's, or one class's.
const inPortBits = 0xffffffff << 32

// letGo takes a user from a mask.
func (c *Cache) letGo(id uint16) {
	m := &c.masks[id]
	if m.users--; m.users == 0 {
		c.freeMasks = append(c.freeMasks, id)
	}
}

// retire takes a mask from its plan: entries that still have it are dead.
func (c *Cache) retire(id uint16) {
	c.masks[id].retired = true
	c.letGo(id)
}

// rank puts the masks with most hits first, decides whether the exact mask
// comes before them, and begins to count anew.
//
// An exact probe that comes first costs every packet one probe, and saves those
// that it finds the way through the list. So it stays first while it finds
// enough. If the list is long and hits come late in it, it is tried: then late
// hits are promoted to exact entries.
func (l *probes) rank() {
	list := l.list[:l.n]
	slices.SortStableFunc(list, func(a, b probe) int { return cmp.Compare(b.hits, a.hits) })
	wild, first := uint64(0), uint64(0)
	if l.n > 0 {
		first = uint64(list[0].hits)
	}
	for i := range list {
		wild += uint64(list[i].hits)
		list[i].hits = 0
	}
	if seen := wild + uint64(l.missed); seen > 0 {
		l.direct = first*4 >= seen*3
	}
	exact, depth := uint64(l.exactHits), uint64(l.depth)
	l.exactHits, l.depth, l.missed = 0, 0, 0
	all, whole := exact+wild, uint64(l.n+1)
	switch {
	case all == 0:
		l.exactFirst = l.exactFirst || l.n == 0
	case l.exactFirst:
		saved := max(depth/max(wild, 1), whole/2)
		if l.exactFirst = exact*saved >= all; !l.exactFirst {
			l.pause = exactPause
		}
	case exact*whole > all || l.n == 0:
		l.exactFirst = true
	case l.pause > 0:
		l.pause--
	default:
		l.exactFirst = depth >= promoteDepth*wild
	}
}

// exactPause is for how many epochs a list whose exact entries did not pay is
// left without a further try.
const exactPause = 16

// maskInfo is a mask of a plan, exact or wildcard.
type maskInfo struct {
	bits    flowtable.Key
	seed    uint64 // of the hash
	users   int    // entries, and the plan
	retired bool   // the plan has it no more: its entries are dead
}
