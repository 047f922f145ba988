package agent

import (
	"sync"
	"sync/atomic"
	"time"
)

// A budget bounds the bytes of many queues together.
type budget struct{ left atomic.Int64 }

func newBudget(bytes int64) *budget {
	b := new(budget)
	b.left.Store(bytes)
	return b
}

// take reports whether n bytes were left, and are the caller's now.
func (b *budget) take(n int) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

func (b *budget) give(n int) { b.left.Add(int64(n)) }

// A chunk is one packet's bytes. Those of an uncharged one are not the budget's.
type chunk struct {
	bytes   []byte
	charged bool
}

// chunkCost is what a chunk takes besides its bytes: its place in the queue, which grows by
// copying, and what the allocator makes of a small one. Packets of a byte each would take
// fifty times as much as their bytes otherwise.
const chunkCost = 64

// cost is what a chunk takes of a queue's limit and of the budget.
func cost(b []byte) int { return len(b) + chunkCost }

// A queue holds what waits for a target. One goroutine puts, one takes.
//
// An empty queue takes a chunk of any size, of whatever the budget has left:
// so there is always progress, and the bound on all queues is the budget and one
// chunk each.
type queue struct {
	budget *budget

	mu     sync.Mutex
	change sync.Cond
	chunks []chunk
	size   int
	taken  bool // a chunk is being carried to the target
	ended  bool // no more will be put: what is left is taken
	broken bool // what is left is of no use
}

func newQueue(b *budget) *queue {
	q := &queue{budget: b}
	q.change.L = &q.mu
	return q
}

// offerLocked puts a chunk unless that makes the queue longer than limit bytes,
// or the budget is used up. A broken or ended queue takes all, and forgets it.
func (q *queue) offerLocked(b []byte, limit int) bool {
	if q.ended || q.broken {
		return true
	}
	c := chunk{bytes: b}
	if len(q.chunks) > 0 {
		if q.size+cost(b) > limit || !q.budget.take(cost(b)) {
			return false
		}
		c.charged = true
	}
	q.chunks = append(q.chunks, c)
	q.size += cost(b)
	q.change.Broadcast()
	return true
}

// put waits until there is room for the chunk.
func (q *queue) put(b []byte, limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.offerLocked(b, limit) {
		q.change.Wait()
	}
}

// putWithin is put, but it fails when there is no room and nothing is taken for most.
func (q *queue) putWithin(b []byte, limit int, most time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for start, size := time.Now(), q.size; !q.offerLocked(b, limit); {
		if q.size != size {
			start, size = time.Now(), q.size
		}
		if time.Since(start) >= most {
			return false
		}
		wake := time.AfterFunc(most/8, q.change.Broadcast)
		q.change.Wait()
		wake.Stop()
	}
	return true
}

// take waits for a chunk. ok is false if there will be none.
func (q *queue) take() (b []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = false
	for len(q.chunks) == 0 && !q.ended && !q.broken {
		q.change.Wait()
	}
	if len(q.chunks) == 0 {
		return nil, false
	}
	c := q.chunks[0]
	q.taken = true
	q.chunks = q.chunks[1:]
	q.free(c)
	q.change.Broadcast()
	return c.bytes, true
}

// idle reports whether nothing waits, and nothing is being carried.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.chunks) == 0 && !q.taken && !q.ended && !q.broken
}

// free is called with mu held.
func (q *queue) free(c chunk) {
	q.size -= cost(c.bytes)
	if c.charged {
		q.budget.give(cost(c.bytes))
	}
}

// end says that no more will be put.
func (q *queue) end() { q.finish() }

// finish says that no more will be put, and reports whether something is left that is
// yet to be carried, or is being carried.
func (q *queue) finish() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.change.Broadcast()
	return !q.broken && (len(q.chunks) > 0 || q.taken)
}

// breakOff forgets what is in the queue, and all that will be put.
func (q *queue) breakOff() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.chunks {
		q.free(c)
	}
	q.chunks, q.broken = nil, true
	q.change.Broadcast()
}
