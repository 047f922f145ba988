//go:build !amd64 || race

package flowtable

// put stores a word of a counter, which others read.
func (c *Counters) put(at uint32, v uint64) { c.mem.store(at, v) }
