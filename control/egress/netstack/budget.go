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

	shareMin  = 16 << 10 // both directions of one connection
	shareMax  = 2 * bufferMax
	shareRate = 256 // a connection gets one part in so many of what is left
	// When less than that is left a connection gets one part in scarceRate.
	scarce     = 64 << 20
	scarceRate = 2304
)

// A budget is memory that connections share. With 512 MiB the first gets 2 MiB,
// the 500th 290 KiB, those after the 530th 28 KiB and less, and 4,100 can be open: as many
// as there are requests at most, so that the bounds of those, which give each server
// its part, are what a server meets.
type budget struct {
	mu   sync.Mutex
	left int64
}

// share returns what one more connection is to have. It is not taken yet: a dial that nobody
// answers takes nothing from those that are open. The error has the words by which a
// server's clients are told that they may try later.
func (b *budget) share() (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shareLocked()
}

func (b *budget) shareLocked() (int64, error) {
	rate := int64(shareRate)
	if b.left < scarce {
		rate = scarceRate
	}
	n := min(max(b.left/rate, shareMin), shareMax)
	if n > b.left {
		return 0, fmt.Errorf("%w: the port's connections have all memory that they may have, and the next can be when one has ended", syscall.EMFILE)
	}
	return n, nil
}

// take takes what one more connection is to have, or most if that is less now.
func (b *budget) take(most int64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.shareLocked()
	if n = min(n, most); err == nil {
		b.left -= n
	}
	return n, err
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}
