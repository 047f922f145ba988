package flowtable

import (
	"math/bits"
	"sync/atomic"
)

// A region is what a change concerns: a rule set, a datapath (which rule sets
// its tables have), a select group, or one of these.
const (
	regionEntries = 1 // the entries of all ports
	regionUnknown = 2 // all datapaths that there are not
)

// changeWords is how many words of the key a change names at most.
const changeWords = 4

// A change concerns packets that have these bits where they come to a region;
// if n is 0, all of them.
type change struct {
	region uint32
	n      uint8
	words  [changeWords]uint8
	value  [changeWords]uint64
	mask   [changeWords]uint64
}

// ChangesMax is how many changes of a transaction are noted one by one. A larger
// transaction concerns all packets that come to the regions that it touches.
const ChangesMax = 128

// pending is what a transaction will have changed.
type pending struct {
	list  []change
	all   map[uint32]struct{} // regions, if there are more than ChangesMax changes
	sets  map[uint32]struct{} // sets of which all regions are in there
	kills map[uint32]struct{} // regions of which no path can stay as it is
}

// reset forgets everything but the kills: what a transaction that was aborted
// did to lists of rule sets stays.
func (p *pending) reset() { *p = pending{list: p.list[:0], kills: p.kills} }

// touch notes a change.
func (t *Tables) touch(c change) {
	p := &t.pending
	if p.all == nil {
		if len(p.list) < ChangesMax {
			p.list = append(p.list, c)
			return
		}
		p.all, p.sets = make(map[uint32]struct{}), make(map[uint32]struct{})
		for i := range p.list {
			p.all[p.list[i].region] = struct{}{}
		}
		p.list = p.list[:0]
	}
	p.all[c.region] = struct{}{}
}

// touchAll notes that paths through a region are no longer what they were.
func (t *Tables) touchAll(region uint32) {
	if t.pending.kills == nil {
		t.pending.kills = make(map[uint32]struct{})
	}
	t.pending.kills[region] = struct{}{}
}

// touchRule notes that a rule comes or goes.
func (t *Tables) touchRule(rule uint32) {
	w := t.mem.words
	st := uint32(w[rule+ruleSubtable])
	c := change{region: uint32(w[t.cold(st)+coldRuleset])}
	at, all := t.allMasks(st), uint32(w[st+subtableAll])
	for i := uint32(0); all != 0; all &= all - 1 {
		word := bits.TrailingZeros32(all)
		if word >= KeyWords || c.n == changeWords {
			break
		}
		c.words[c.n], c.value[c.n], c.mask[c.n] = uint8(word), w[rule+ruleValues+i], w[at+i]
		c.n++
		i++
	}
	t.touch(c)
}

// touchMember notes that a member of a set comes or goes.
func (t *Tables) touchMember(set uint32, m Member) {
	p := &t.pending
	if _, ok := p.sets[set]; ok {
		return
	}
	for use := uint32(t.mem.words[set+setFirst]); use != 0; use = uint32(t.mem.words[use+useNext]) {
		key := t.mem.words[use+useRuleset]
		f := unpack(key >> 32)
		c := change{region: uint32(key)}
		switch {
		case f.Word >= KeyWords:
		case f.Width == 128:
			c.n = 2
			c.words, c.value, c.mask = [4]uint8{f.Word, f.Word + 1}, [4]uint64{m.High, m.Low}, [4]uint64{m.MaskHigh, m.MaskLow}
		default:
			c.n = 1
			c.words[0], c.value[0], c.mask[0] = f.Word, m.Low<<f.Shift, m.MaskLow<<f.Shift
		}
		t.touch(c)
	}
	if p.all != nil {
		p.sets[set] = struct{}{}
	}
}

// concerns reports whether the change may be about packets that agree with key
// in the bits of mask; bits of written may differ where it matters.
func (c *change) concerns(key, mask, written *Key) bool {
	for i := range c.n {
		w := c.words[i]
		if (key[w]^c.value[i])&c.mask[i]&mask[w]&^written[w] != 0 {
			return false
		}
	}
	return true
}

// fixes reports whether the change says what all bits of spread are, and what.
func (c *change) fixes(spread *Key) (key Key, ok bool) {
	var mask Key
	for i := range c.n {
		key[c.words[i]], mask[c.words[i]] = c.value[i], c.mask[i]
	}
	for w := range spread {
		if spread[w]&^mask[w] != 0 {
			return Key{}, false
		}
	}
	return key, true
}

// Bounds of the log of changes.
const (
	logSize  = 1 << 12
	logScan  = 256 // how far back a program is checked against it
	logWords = 12  // words of a record
)

// A changeLog is a ring of the latest changes. A record is: its number plus one,
// version, region and n, words, and values and masks by turns. The number is
// zero while the record is written, so that a reader knows when it has read
// half of two.
type changeLog struct {
	head  atomic.Uint64 // number of the next record
	words [logSize * logWords]uint64
}

// newChangeLog returns an empty log.
func newChangeLog() *changeLog { return &changeLog{} }

// add writes a record of what changes with version.
func (l *changeLog) add(c *change, version uint64) {
	n := l.head.Load()
	r := l.words[n%logSize*logWords:][:logWords]
	atomic.StoreUint64(&r[0], 0)
	atomic.StoreUint64(&r[1], version)
	atomic.StoreUint64(&r[2], uint64(c.region)|uint64(c.n)<<32)
	atomic.StoreUint64(&r[3], uint64(c.words[0])|uint64(c.words[1])<<8|uint64(c.words[2])<<16|uint64(c.words[3])<<24)
	for i := range changeWords {
		atomic.StoreUint64(&r[4+2*i], c.value[i])
		atomic.StoreUint64(&r[5+2*i], c.mask[i])
	}
	atomic.StoreUint64(&r[0], n+1)
	l.head.Store(n + 1)
}

// read fills c with record n, and returns its version; ok is false if it is no
// longer there.
func (l *changeLog) read(n uint64, c *change) (version uint64, ok bool) {
	r := l.words[n%logSize*logWords:][:logWords]
	if atomic.LoadUint64(&r[0]) != n+1 {
		return 0, false
	}
	version = atomic.LoadUint64(&r[1])
	v := atomic.LoadUint64(&r[2])
	c.region, c.n = uint32(v), min(uint8(v>>32), changeWords)
	v = atomic.LoadUint64(&r[3])
	for i := range changeWords {
		c.words[i] = min(uint8(v>>(8*i)), KeyWords-1)
		c.value[i], c.mask[i] = atomic.LoadUint64(&r[4+2*i]), atomic.LoadUint64(&r[5+2*i])
	}
	return version, atomic.LoadUint64(&r[0]) == n+1
}
