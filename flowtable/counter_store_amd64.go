//go:build !race

package flowtable

// put stores a word of a counter, which others read. It is a plain store on
// purpose: an aligned word is never seen half written, the processor keeps the order of
// stores, and an atomic one would cost 5 ns; a walk counts two for each table.
func (c *Counters) put(at uint32, v uint64) { c.mem.words[at] = v }
