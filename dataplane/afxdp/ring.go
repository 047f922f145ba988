package afxdp

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// errBroken is the error of a ring whose other end writes nonsense.
var errBroken = errors.New("ring is broken")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errBroken, fmt.Sprintf(format, args...))
}

// A ring is one that we share with the kernel (struct xdp_ring). It holds up to
// size entries, a power of two. Positions count up for ever, modulo 2^32.
type ring struct {
	producer, consumer *atomic.Uint32
	flags              *atomic.Uint32
	entries            uintptr // address of entry 0
	mask               uint32
}

// needWakeup reports whether the kernel asks to be called.
func (r *ring) needWakeup() bool { return r.flags.Load()&flagNeedWakeup != 0 }

// size is the number of entries.
func (r *ring) size() uint32 { return r.mask + 1 }

// A giver is a ring that we fill: the fill ring and the transmit ring. Entries
// are written from next on; the kernel sees those before shown.
type giver struct {
	ring
	shown uint32 // what producer is
	next  uint32 // next entry to write
	seen  uint32 // consumer, as last read
}

// newGiver takes up a ring where it is.
func newGiver(r ring) giver {
	at := r.producer.Load()
	return giver{ring: r, shown: at, next: at, seen: r.consumer.Load()}
}

// room returns how many entries can be written, and looks again what the kernel
// has consumed if there are fewer than want.
func (g *giver) room(want uint32) (uint32, error) {
	if free := g.size() - (g.next - g.seen); free >= want {
		return free, nil
	}
	g.seen = g.consumer.Load()
	used := g.next - g.seen
	if used > g.size() {
		return 0, broken("kernel has consumed up to %d of a ring filled from %d to %d", g.seen, g.next-g.size(), g.next)
	}
	return g.size() - used, nil
}

// show lets the kernel have what was written.
func (g *giver) show() {
	if g.next != g.shown {
		g.shown = g.next
		g.producer.Store(g.next)
	}
}

// idle reports whether the kernel has consumed all that it was shown. Any
// goroutine may ask.
func (g *giver) idle() bool { return g.consumer.Load() == g.producer.Load() }

// A taker is a ring that the kernel fills: the receive ring and the completion
// ring. Entries are read from next on.
type taker struct {
	ring
	next uint32 // next entry to read; what consumer is, but while entries are read
	seen uint32 // producer, as last read
}

func newTaker(r ring) taker {
	return taker{ring: r, next: r.consumer.Load(), seen: r.producer.Load()}
}

// ready returns how many entries there are to read, and looks again if there
// are fewer than want.
func (t *taker) ready(want uint32) (uint32, error) {
	if n := t.seen - t.next; n >= want {
		return n, nil
	}
	t.seen = t.producer.Load()
	n := t.seen - t.next
	if n > t.size() {
		return 0, broken("kernel has filled a ring of %d up to %d, read up to %d", t.size(), t.seen, t.next)
	}
	return n, nil
}

// done lets the kernel have the entries before next.
func (t *taker) done() { t.consumer.Store(t.next) }
