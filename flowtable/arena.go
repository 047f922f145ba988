package flowtable

import (
	"errors"
	"math/bits"
	"sync/atomic"
)

// ErrFull says that an arena has no room left: fewer rules or sets, or a larger
// Options.Reserve.
var ErrFull = errors.New("table memory is full")

// What memory is for.
const (
	memRules      = iota // rules with their actions
	memClassifier        // subtables and their hashes
	memSets              // sets and members
	memDatapaths         // datapaths, groups, rule sets
	memObjects           // selects, meters, flood lists, entries
	memWork              // queues of transactions and of what was retired
	memKinds
)

// memNames are the names of the kinds.
var memNames = [memKinds]string{"rules", "classifier", "sets", "datapaths", "objects", "work"}

// Classes of block sizes, in words: even sizes to smallWords, then four to each
// doubling.
const (
	smallWords = 64
	classes    = smallWords/2 + 1 + 4*27
)

// An arena is memory outside the Go heap, as words of 64 bits. Blocks of it are
// named by the index of their first word, never by a pointer, so the collector
// does not see them; zero names none. One writer allocates and frees. Readers
// use load and what was written before a block's name was published.
type arena struct {
	words []uint64 // all that is reserved
	mem   mapping
	next  uint64          // first word never given out
	free  [classes]uint32 // heads of lists of free blocks, linked by their first words
	used  [memKinds]int64 // words in use, class sizes

	spare   uint32      // chunks for queues, linked by their first words
	spares  int         // how many
	refuses func() bool // for tests: the next block is refused
}

// newArena reserves size bytes of addresses, at most 32 GiB.
func newArena(size uint64) (*arena, error) {
	mem, words, err := reserve(min(size, 8<<32) &^ 7)
	if err != nil {
		return nil, err
	}
	return &arena{words: words, mem: mem, next: 8}, nil
}

// class returns the class of blocks of n words, and how many words they have.
func class(n int) (index, size int) {
	if n <= smallWords {
		size = (n + 1) &^ 1
		return size / 2, size
	}
	shift := bits.Len(uint(n-1)) - 3 // a quarter of the doubling that n is in
	size = (n + 1<<shift - 1) >> shift << shift
	top := bits.Len(uint(size - 1))
	quarter := (size-1)>>(top-3)&3 + 1
	return smallWords/2 + 4*(top-7) + quarter, size
}

// tailWords is how much is left alone at the end, so that a reader may cut out
// more than a block has.
const tailWords = 256

// headroom returns how many words are left to queues, so that full tables can
// still be emptied.
func (a *arena) headroom(kind int) uint64 {
	if kind == memWork {
		return tailWords
	}
	return tailWords + uint64(len(a.words))/64
}

// alloc returns a block of at least n words with anything in them, or 0.
func (a *arena) alloc(kind, n int) uint32 {
	if a.refuses != nil && a.refuses() {
		return 0
	}
	c, size := class(n)
	ref := a.free[c]
	if ref != 0 {
		a.free[c] = uint32(a.words[ref])
	} else {
		if a.next+uint64(size)+a.headroom(kind) > uint64(len(a.words)) || a.mem.grow((a.next+uint64(size))*8) != nil {
			return 0
		}
		ref = uint32(a.next)
		a.next += uint64(size)
	}
	a.used[kind] += int64(size)
	return ref
}

// allocZero returns a block of n words that are zero, or 0.
func (a *arena) allocZero(kind, n int) uint32 {
	ref := a.alloc(kind, n)
	if ref != 0 {
		clear(a.words[ref : int(ref)+n])
	}
	return ref
}

// release frees a block of n words that no reader can see any more.
func (a *arena) release(kind int, ref uint32, n int) {
	c, size := class(n)
	a.words[ref] = uint64(a.free[c])
	a.free[c] = ref
	a.used[kind] -= int64(size)
}

// load reads a word that the writer may change at any time.
func (a *arena) load(ref uint32) uint64 { return atomic.LoadUint64(&a.words[ref]) }

// store changes a word that readers may read at any time.
func (a *arena) store(ref uint32, v uint64) { atomic.StoreUint64(&a.words[ref], v) }

// Usage is what one part of the tables takes.
type Usage struct {
	Name  string
	Bytes uint64
}

// usage returns bytes in use by kind, and what is committed but free.
func (a *arena) usage() []Usage {
	var out []Usage
	free := a.mem.committed
	for kind, words := range a.used {
		free -= uintptr(words) * 8
		if words != 0 {
			out = append(out, Usage{memNames[kind], uint64(words) * 8})
		}
	}
	return append(out, Usage{"free", uint64(free)})
}

// chunkWords is the size of one block of a queue.
const chunkWords = 256

// chunkRoom is how many words a chunk holds.
const chunkRoom = chunkWords - 2

// A queue is a list of words in an arena, for the writer alone: what a
// transaction did, what is to be freed. Its chunks are
// [next (0..31) and previous (32..63), count, words...].
type queue struct {
	first, last uint32
	n           int
}

// sparesKept is how many chunks are kept between transactions.
const sparesKept = 8

// promise makes sure that n words, and a few more, find room in each of four
// queues: whoever changes something asks for that first.
func (a *arena) promise(n int) bool {
	for want := sparesKept + 4*(n/chunkRoom); a.spares < want; {
		c := a.alloc(memWork, chunkWords)
		if c == 0 {
			return false
		}
		a.keep(c)
	}
	return true
}

// keep makes a chunk a spare one.
func (a *arena) keep(c uint32) {
	a.words[c] = uint64(a.spare)
	a.spare = c
	a.spares++
}

// trim frees spare chunks that are more than sparesKept.
func (a *arena) trim() {
	for a.spares > sparesKept {
		a.release(memWork, a.chunk(), chunkWords)
	}
}

// chunk returns a chunk, or 0.
func (a *arena) chunk() uint32 {
	c := a.spare
	if c == 0 {
		return a.alloc(memWork, chunkWords)
	}
	a.spare = uint32(a.words[c])
	a.spares--
	return c
}

// push adds v. If there is no room, which promise sees to, v is lost.
func (q *queue) push(a *arena, v uint64) {
	if q.last == 0 || a.words[q.last+1] == chunkRoom {
		c := a.chunk()
		if c == 0 {
			return
		}
		a.words[c], a.words[c+1] = uint64(q.last)<<32, 0
		if q.last == 0 {
			q.first = c
		} else {
			a.words[q.last] |= uint64(c)
		}
		q.last = c
	}
	n := a.words[q.last+1]
	a.words[q.last+2+uint32(n)] = v
	a.words[q.last+1] = n + 1
	q.n++
}

// pop takes out the last word. There is one.
func (q *queue) pop(a *arena) uint64 {
	c := q.last
	a.words[c+1]--
	q.n--
	v := a.words[c+2+uint32(a.words[c+1])]
	if a.words[c+1] == 0 {
		if q.last = uint32(a.words[c] >> 32); q.last == 0 {
			q.first = 0
		} else {
			a.words[q.last] &^= 0xffffffff
		}
		a.keep(c)
	}
	return v
}

// drain calls f with each word in order, and frees the queue.
func (q *queue) drain(a *arena, f func(v uint64)) {
	for c := q.first; c != 0; {
		n := a.words[c+1]
		for i := range uint32(n) {
			f(a.words[c+2+i])
		}
		next := uint32(a.words[c])
		a.keep(c)
		c = next
	}
	*q = queue{}
}
