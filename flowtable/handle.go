package flowtable

import "sync/atomic"

// A handle is the place of a rule in arrays of counters: an index (0..23) and
// how often the index was given out before (24..31), so that what is counted for
// a rule that went is not counted for the next one.
const (
	handleBits = 24
	handlesMax = 1 << handleBits
)

// handlesFor returns how many handles tables of so many rules have. Zero is
// as many as there can be. Handle 0 is none.
func handlesFor(rulesMax int) int {
	if rulesMax <= 0 || rulesMax > handlesMax-tailWords {
		return handlesMax
	}
	return rulesMax + tailWords
}

// newHandle takes a handle, or returns 0 if all are in use.
func (t *Tables) newHandle() uint32 {
	h := t.handles
	i := t.freeTop
	if i != 0 {
		t.freeTop = uint32(h.words[i])
		return i | uint32(h.words[i]>>32)<<handleBits
	}
	if h.next >= uint64(min(len(h.words), handlesMax)) || h.mem.grow((h.next+1)*8) != nil {
		return 0
	}
	i = uint32(h.next)
	h.next++
	h.words[i] = 0
	return i
}

// freeHandle gives a handle back.
func (t *Tables) freeHandle(handle uint32) {
	i, gen := handle&(handlesMax-1), (handle>>handleBits+1)&0xff
	t.handles.words[i] = uint64(gen)<<32 | uint64(t.freeTop)
	t.freeTop = i
}

// Counters are one worker's counts of packets and bytes of rules, by handle.
// One goroutine adds; others may read meanwhile.
type Counters struct {
	mem *arena // two words a handle: generation (56..63) and packets; bytes
}

// NewCounters returns counters that are all zero, for as many rules as tables
// with Options.RulesMax have.
func NewCounters(rulesMax int) (*Counters, error) {
	mem, err := newArena(uint64(handlesFor(rulesMax)) * 16)
	if err != nil {
		return nil, err
	}
	return &Counters{mem: mem}, nil
}

// AddTo adds all that was counted to sum, for rules whose handle sum does not know
// a later owner of.
func (c *Counters) AddTo(sum *Counters) {
	end := atomic.LoadUint64(&c.mem.next)
	for i := uint64(16); i+2 <= end; i += 2 { // handles begin at 8
		v, bytes := c.mem.load(uint32(i)), c.mem.load(uint32(i)+1)
		if packets := v & (1<<56 - 1); packets|bytes != 0 {
			sum.Add(uint32(i/2)|uint32(v>>56)<<handleBits, packets, bytes)
		}
	}
}

// Bytes returns how much memory the counters take.
func (c *Counters) Bytes() uint64 { return atomic.LoadUint64(&c.mem.next) * 8 }

// Close frees the counters.
func (c *Counters) Close() error { return c.mem.mem.release() }

// counterAt returns where the counters of a handle are.
func counterAt(handle uint32) uint64 { return uint64(handle&(handlesMax-1)) * 2 }

// Add counts packets and bytes for a rule. What is late, for a rule whose
// handle another has by now, is dropped.
func (c *Counters) Add(handle uint32, packets, bytes uint64) {
	i := counterAt(handle)
	if i+2 > uint64(len(c.mem.words)) || c.mem.mem.grow((i+2)*8) != nil {
		return
	}
	gen, at := handle>>handleBits, uint32(i)
	old := c.mem.words[at]
	switch age := uint8(gen - uint32(old>>56)); {
	case age == 0:
		packets += old & (1<<56 - 1)
		bytes += c.mem.words[at+1]
	case age >= 128:
		return
	}
	c.put(at+1, bytes)
	c.put(at, packets&(1<<56-1)|uint64(gen)<<56)
	if end := i + 2; end > atomic.LoadUint64(&c.mem.next) {
		atomic.StoreUint64(&c.mem.next, end)
	}
}

// Get returns what was counted for a rule.
func (c *Counters) Get(handle uint32) (packets, bytes uint64) {
	i := counterAt(handle)
	if i+2 > atomic.LoadUint64(&c.mem.next) {
		return 0, 0
	}
	v := c.mem.load(uint32(i))
	if uint32(v>>56) != handle>>handleBits {
		return 0, 0
	}
	return v & (1<<56 - 1), c.mem.load(uint32(i) + 1)
}
