package flowtable

import "slices"

// Rules of a subtable that have the same key are a chain, linked by ruleNext:
// the highest priority first, and of equal ones the lowest id. A lookup goes
// along it until a rule holds.
//
// Rules of a table may differ in their predicates only, so a chain can have
// thousands of rules. A long one has a root before its first rule, and towers, as a
// skip list has: a quarter of the rules have a tower, a quarter of these one of
// two levels, and so on. Level i of a tower names the next rule with more than i
// levels; the root's tower has all levels. So the writer finds a place in few
// steps. Lookups do not look at towers; they go by the root's ranges, if it has
// any (see ranges.go).
//
// Heights are drawn from the seed: no order of ids and priorities makes a chain
// slow. Root and towers only save time; a chain for which there is no memory
// does without.
//
// What ranges find are chains of the same kind, of links. A node is a rule or a
// link.
const (
	nodeID    = ruleID
	linkRule  = ruleAdded // of a link: its rule
	linkKey   = ruleGone  // and what it is found by
	nodeNext  = ruleNext  // next node (0..31), tower (32..63)
	nodeShape = ruleShape // of the rule; 0: it is a root
	linkWords = nodeShape + 1
)

// Words of a root.
const (
	rootCount  = nodeID     // nodes
	rootRanges = linkRule   // ranges by which lookups go, or 0
	rootKey    = linkKey    // of links
	rootHandle = ruleHandle // set of the rules (32..63)
	rootRetry  = ruleCookie // number of nodes from which on ranges are tried again
	rootValues = ruleValues // of the rules
)

// Lengths of chains.
const (
	towerMax  = 12 // levels: enough for 4^towerMax nodes
	longChain = 8  // from so many nodes on a chain has a root
	fewNodes  = 4  // with so many it loses it
)

// A chain is where a node is, or belongs.
type chain struct {
	x      index // what finds the chain
	tag    uint32
	head   uint32 // root or first node, or 0
	links  bool   // nodes are links
	values uint32 // that rules have
}

// A rank is the place of a node in the order of its chain.
type rank struct {
	priority uint16
	id       uint64
	tie      uint64 // rule block: at most one rule of an id is there in any version
}

// rankOf returns the rank of a node.
func (t *Tables) rankOf(c *chain, node uint32) rank {
	w := t.mem.words
	r := rank{uint16(w[node+nodeShape]), w[node+nodeID], uint64(node)}
	if c.links {
		r.tie = w[node+linkRule]
	}
	return r
}

// precedes reports whether a node comes before r.
func (t *Tables) precedes(c *chain, node uint32, r *rank) bool {
	o := t.rankOf(c, node)
	if o.priority != r.priority {
		return o.priority > r.priority
	}
	if o.id != r.id {
		return o.id < r.id
	}
	return o.tie < r.tie
}

// next returns the node after one.
func (t *Tables) next(node uint32) uint32 { return uint32(t.mem.words[node+nodeNext]) }

// tower returns the tower of a node, or 0.
func (t *Tables) tower(node uint32) uint32 { return uint32(t.mem.words[node+nodeNext] >> 32) }

// setNext links a node, and gives it a tower.
func (t *Tables) setNext(node, next, tower uint32) {
	t.mem.store(node+nodeNext, uint64(next)|uint64(tower)<<32)
}

// isRoot reports whether a node is a root.
func (t *Tables) isRoot(node uint32) bool { return t.mem.words[node+nodeShape] == 0 }

// chainOf returns the chain of a prepared rule.
func (t *Tables) chainOf(st, rule uint32) chain {
	w := t.mem.words
	c := chain{x: index(st + subtableRules), values: uint32(w[st+subtableAll] >> 32 & 0xff)}
	_, c.tag = t.ruleTags(st, w[rule+ruleValues:rule+ruleValues+c.values], uint32(w[rule+ruleHandle]>>32))
	p := c.x.search(t.mem, c.tag)
	for c.head = p.next(t.mem); c.head != 0 && !t.sameKey(c.head, rule, c.values); {
		c.head = p.next(t.mem)
	}
	return c
}

// sameKey reports whether two rules of a subtable are of one chain.
func (t *Tables) sameKey(a, b uint32, values uint32) bool {
	w := t.mem.words
	return w[a+ruleHandle]>>32 == w[b+ruleHandle]>>32 &&
		slices.Equal(w[a+ruleValues:a+ruleValues+values], w[b+ruleValues:b+ruleValues+values])
}

// linkNode puts a node into its chain. It fails only for want of memory, and
// then has changed nothing.
func (t *Tables) linkNode(c *chain, node uint32) bool {
	if c.head == 0 {
		t.setNext(node, 0, 0)
		c.head = node
		return c.x.insert(t, memClassifier, c.tag, node)
	}
	r := t.rankOf(c, node)
	if t.isRoot(c.head) {
		var above place
		prev := t.seek(c, &r, &above)
		t.setNext(node, t.next(prev), t.raise(node, &above))
		t.setNext(prev, node, t.tower(prev))
		t.mem.words[c.head+rootCount]++
		return true
	}
	prev, n := t.walkTo(c, &r)
	if prev == 0 {
		t.setNext(node, c.head, 0)
		c.x.replace(t.mem, c.tag, c.head, node)
		c.head = node
	} else {
		t.setNext(node, t.next(prev), 0)
		t.setNext(prev, node, 0)
	}
	if n+1 >= longChain {
		t.addRoot(c)
	}
	return true
}

// unlinkNode takes a node out of its chain. Readers may stand on it.
func (t *Tables) unlinkNode(c *chain, node uint32) {
	r, next := t.rankOf(c, node), t.next(node)
	if t.isRoot(c.head) {
		var above place
		prev := t.seek(c, &r, &above)
		t.lower(t.tower(node), &above)
		t.setNext(prev, next, t.tower(prev))
		t.setNext(node, next, 0)
		if t.mem.words[c.head+rootCount]--; t.mem.words[c.head+rootCount] <= fewNodes {
			t.dropRoot(c)
		}
		return
	}
	switch prev, _ := t.walkTo(c, &r); {
	case prev != 0:
		t.setNext(prev, next, 0)
	case next != 0:
		c.x.replace(t.mem, c.tag, node, next)
	default:
		c.x.remove(t.mem, c.tag, node)
	}
}

// walkTo finds the node before r in a chain without root, or 0, and how many
// nodes there are, or at least longChain.
func (t *Tables) walkTo(c *chain, r *rank) (prev uint32, n int) {
	for at := c.head; at != 0; at = t.next(at) {
		n++
		if t.precedes(c, at, r) {
			prev = at
		} else if n >= longChain {
			break
		}
	}
	return prev, n
}

// A place is, for each level, the last tower before a rank.
type place [towerMax]uint32

// seek finds the node before r in a chain with a root.
func (t *Tables) seek(c *chain, r *rank, above *place) (prev uint32) {
	w := t.mem.words
	prev = c.head
	tower := t.tower(prev)
	for l := towerMax - 1; l >= 0; l-- {
		for {
			next := uint32(w[tower+1+uint32(l)])
			if next == 0 || !t.precedes(c, next, r) {
				break
			}
			prev, tower = next, t.tower(next)
		}
		above[l] = tower
	}
	for next := t.next(prev); next != 0 && t.precedes(c, next, r); next = t.next(next) {
		prev = next
	}
	return prev
}

// A tower is [levels, node of each level...].

// newTower returns a tower of n levels that lead nowhere, or 0.
func (t *Tables) newTower(n int) uint32 {
	b := t.mem.allocZero(memClassifier, 1+n)
	if b != 0 {
		t.mem.words[b] = uint64(n)
	}
	return b
}

// freeTower frees a tower, which only the writer reads.
func (t *Tables) freeTower(b uint32) {
	if b != 0 {
		t.mem.release(memClassifier, b, 1+int(t.mem.words[b]))
	}
}

// drawLevels draws the height of a tower; 0 is none.
func (t *Tables) drawLevels() int {
	t.drawn++
	n := 0
	h := t.seed.start + t.drawn*0x9e3779b97f4a7c15 // SplitMix64: all bits of the count reach the low ones
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	for h ^= h >> 31; n < towerMax && h&3 == 0; h >>= 2 {
		n++
	}
	return n
}

// raise draws a tower for a node behind those of above, and returns it: 0 for
// most.
func (t *Tables) raise(node uint32, above *place) uint32 {
	n := t.drawLevels()
	if n == 0 {
		return 0
	}
	b := t.newTower(n)
	if b == 0 {
		return 0
	}
	w := t.mem.words
	for l, before := range above[:n] {
		at := before + 1 + uint32(l)
		w[b+1+uint32(l)], w[at] = w[at], uint64(node)
	}
	return b
}

// lower takes a tower away that is behind those of above.
func (t *Tables) lower(tower uint32, above *place) {
	if tower == 0 {
		return
	}
	w := t.mem.words
	for l := range uint32(w[tower]) {
		w[above[l]+1+l] = w[tower+1+l]
	}
	t.freeTower(tower)
}

// addRoot puts a root before a chain.
func (t *Tables) addRoot(c *chain) {
	root, tower := t.mem.allocZero(memClassifier, t.rootSize(c)), t.newTower(towerMax)
	if root == 0 || tower == 0 {
		if root != 0 {
			t.mem.release(memClassifier, root, t.rootSize(c))
		}
		t.freeTower(tower)
		return
	}
	w := t.mem.words
	if c.links {
		w[root+rootKey] = w[c.head+linkKey]
	} else {
		w[root+rootHandle] = w[c.head+ruleHandle] &^ 0xffffffff
		copy(w[root+rootValues:root+rootValues+c.values], w[c.head+ruleValues:c.head+ruleValues+c.values])
	}
	t.setNext(root, c.head, tower)
	var above place
	for l := range above {
		above[l] = tower
	}
	for node := c.head; node != 0; node = t.next(node) {
		w[root+rootCount]++
		if b := t.raise(node, &above); b != 0 {
			t.setNext(node, t.next(node), b)
			for l := range w[b] {
				above[l] = b
			}
		}
	}
	c.x.replace(t.mem, c.tag, c.head, root)
	c.head = root
}

// rootSize returns the size of a root.
func (t *Tables) rootSize(c *chain) int { return int(rootValues + c.values) }

// dropRoot takes the root away from a chain with few nodes.
func (t *Tables) dropRoot(c *chain) {
	root := c.head
	c.head = t.next(root)
	for node := c.head; node != 0; node = t.next(node) {
		t.freeTower(t.tower(node))
		t.setNext(node, t.next(node), 0)
	}
	t.dropRanges(root)
	t.freeTower(t.tower(root))
	t.setNext(root, c.head, 0)
	c.x.replace(t.mem, c.tag, root, c.head)
	t.retire(memClassifier, root, t.rootSize(c))
}
