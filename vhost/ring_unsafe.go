package vhost

import (
	"sync/atomic"

	"millrace/dataplane/packet"
	"millrace/vhost/virtq"
)

// usedIndex reads used.idx, the upper half of the used ring's first word.
//
// SAFETY: l was checked: the used ring is in mapped memory and aligned to four
// bytes. The memory may be gone; the caller is guarded.
func usedIndex(l virtq.Layout) uint16 {
	return uint16((*atomic.Uint32)(packet.At(l.Used)).Load() >> 16)
}
