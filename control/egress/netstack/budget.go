package netstack

import (
	"fmt"
	"sync"
	"syscall"
)

// Buffers of connections, in bytes. What is bound here is one direction of one.
const (
	bufferMin   = 4 << 10
	bufferFirst = 512 << 10 // of connections that others have opened
	bufferMax   = 4 << 20

	shareMin  = 64 << 10 // both directions of one connection
	shareMax  = 2 * bufferMax
	shareRate = 256 // a connection gets one part in so many of what is left
)

// A budget is memory that connections share. With 512 MiB the first gets 2 MiB,
// the 500th 290 KiB, and 1,500 or so can be open.
type budget struct {
	mu   sync.Mutex
	left int64
}

// take returns the share of one more connection. The error has the words by which
// a server's clients are told that they may try later.
func (b *budget) take() (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(max(b.left/shareRate, shareMin), shareMax)
	if n > b.left {
		return 0, fmt.Errorf("%w: the port's connections have all memory that they may have", syscall.EMFILE)
	}
	b.left -= n
	return n, nil
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}
