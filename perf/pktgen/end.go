package pktgen

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
	"millrace/vhost/virtq"
)

// An EndKind says how a generator reaches a port that is no vhost-user socket.
type EndKind string

// The ends.
const (
	// EndAFXDP is an AF_XDP socket on queue 0 of a device, such as the far end of a
	// veth. Its rings are not ours (github.com/asavie/xdp), so that ours are tried
	// against others. All that the queue receives comes to it.
	EndAFXDP EndKind = "afxdp"
	// EndPacket is a packet socket on a device (packet(7)): what the kernel receives
	// from a TAP port of the switch, and what it sends to it.
	EndPacket EndKind = "packet"
	// EndTAP is a TAP device that the generator makes, for a switch that takes
	// devices which are there: what is sent is received by the device.
	EndTAP EndKind = "tap"
)

// An End is a device that a port of the generator sends to and receives from.
type End struct {
	Kind   EndKind
	Device string
	Netns  string // of the device: a name below /run/netns, or a path; empty: this one
}

// ParseEnd reads KIND:DEVICE or KIND:DEVICE@NETNS. ok is false for what is
// no end, but a socket.
func ParseEnd(s string) (e End, ok bool) {
	kind, rest, found := strings.Cut(s, ":")
	if k := EndKind(kind); !found || k != EndAFXDP && k != EndPacket && k != EndTAP {
		return End{}, false
	}
	e.Kind = EndKind(kind)
	e.Device, e.Netns, _ = strings.Cut(rest, "@")
	return e, true
}

// String is the end as ParseEnd reads it.
func (e End) String() string {
	s := string(e.Kind) + ":" + e.Device
	if e.Netns != "" {
		s += "@" + e.Netns
	}
	return s
}

// A link is an end that is open. One goroutine uses it. An error of send and
// receive means that the link is lost, for now or for ever: it is closed and opened
// again.
type link interface {
	// send takes frames from the front of list, as many as there is room for.
	send(list [][]byte) (int, error)
	// receive fills list with frames that have come. They are lent until the next
	// call of either.
	receive(list [][]byte) (int, error)
	close() error
}

// open opens an end for frames of up to size bytes.
func (e End) open(size int) (l link, err error) {
	err = inNetns(e.Netns, func() error {
		switch e.Kind {
		case EndAFXDP:
			l, err = openAFXDP(e.Device, size)
		case EndPacket:
			l, err = openPacket(e.Device, size)
		case EndTAP:
			l, err = openTAP(e.Device, size)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", e, err)
	}
	return l, nil
}

// A courier carries frames between a port's rings and its end: it is the device
// behind the rings. One goroutine turns it.
type courier struct {
	end    End
	size   int // of the longest frame, in bytes
	link   link
	out    *virtq.Device // what the generator sends
	in     *virtq.Device // what it receives
	losses *atomic.Uint64
	retry  uint64 // ticks of the clock, not before which a lost link is opened
	wait   uint64 // ticks between two tries

	batch *packet.Batch
	refs  []packet.Ref
	store []byte   // bytes of leaving
	leave [][]byte // taken from out, and not sent yet
	slots [][]byte // of receive
	come  [][]byte // received, and not in the ring yet
}

// newCourier makes the devices behind a port that is not connected, and opens its
// end.
func newCourier(p *frontend.Port, e End, size int, losses *atomic.Uint64) (*courier, error) {
	if err := p.Local(localFeatures); err != nil {
		return nil, err
	}
	pair := p.Pairs()[0]
	c := &courier{
		end: e, size: size, losses: losses, wait: uint64(sys.TSCHz() / 20), batch: packet.NewBatch(), refs: make([]packet.Ref, packet.BatchMax),
		store: make([]byte, 0, packet.BatchMax*size), leave: make([][]byte, 0, packet.BatchMax), slots: make([][]byte, packet.BatchMax),
	}
	for _, d := range []struct {
		ring *frontend.Ring
		to   **virtq.Device
	}{{pair.RxRing, &c.in}, {pair.TxRing, &c.out}} {
		dev, err := virtq.NewDevice(virtq.Config{Layout: d.ring.Layout, Mem: p.Memory().Map(), Mergeable: true})
		if err != nil {
			return nil, err
		}
		dev.Start()
		*d.to = dev
	}
	return c, c.open()
}

// openWithin is how long a device may be busy: the kernel lets go of a socket that
// was closed some time afterwards, which a generator can wait for.
const openWithin = 5 * time.Second

// open opens the end for the first time.
func (c *courier) open() (err error) {
	for deadline := time.Now().Add(openWithin); ; time.Sleep(5 * time.Millisecond) {
		if c.link, err = c.end.open(c.size); err == nil || !isBusy(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// isBusy reports whether an error, of which the library passes on nothing but the text, says that somebody
// has the device.
func isBusy(err error) bool { return strings.Contains(err.Error(), unix.EBUSY.Error()) }

// turn carries what is there, both ways. The error is one of the rings, which are our
// own; a lost link is opened again.
func (c *courier) turn() error {
	if c.link == nil && !c.reopen() {
		return nil
	}
	if len(c.come) > 0 {
		return c.bringIn() // a link may send from memory that it no longer lends
	}
	if err := c.takeOut(); err != nil {
		return err
	}
	n, err := c.link.send(c.leave)
	c.leave = c.leave[n:]
	if err == nil {
		n, err = c.link.receive(c.slots)
		c.come = c.slots[:n]
	}
	if err != nil {
		c.lose()
	}
	return c.bringIn()
}

// takeOut copies what the generator has sent since, once all before is gone.
func (c *courier) takeOut() error {
	if len(c.leave) > 0 {
		return nil
	}
	b := c.batch
	b.Reset()
	if err := c.out.Dequeue(b); err != nil || b.N == 0 && b.NEarly == 0 {
		return err
	}
	c.store, c.leave = c.store[:0], c.leave[:0]
	for i := range b.N {
		from := len(c.store)
		c.store = b.AppendTo(c.store, i)
		c.leave = append(c.leave, c.store[from:len(c.store):len(c.store)])
	}
	c.out.Complete()
	return nil
}

// bringIn gives the generator what has come, as far as it has buffers.
func (c *courier) bringIn() error {
	if len(c.come) == 0 {
		return nil
	}
	b := c.batch
	b.Reset()
	for _, f := range c.come {
		head := f[:min(len(f), packet.HeadMax)]
		if rest := f[len(head):]; len(rest) > 0 {
			b.Add(head, packet.Seg{Addr: packet.Addr(rest), Len: uintptr(len(rest))})
		} else {
			b.Add(head)
		}
	}
	list := c.refs[:b.N]
	for i := range list {
		list[i] = packet.Ref{Frame: uint16(i)}
	}
	if err := c.in.Enqueue(b, list); err != nil {
		return err
	}
	c.in.Commit(b)
	done := len(list) // all but those for which there was no room
	for i, r := range list {
		if r.Why == packet.ReasonTxFull {
			done = i
			break
		}
	}
	c.come = c.come[done:]
	return nil
}

// lose gives a lost link up. Frames of it that came are lost with its memory.
func (c *courier) lose() {
	c.losses.Add(1)
	c.come = nil
	_ = c.link.close() // there is nothing to save
	c.link, c.retry = nil, sys.TSC()+c.wait
}

// reopen tries to open a lost link again, now and then.
func (c *courier) reopen() bool {
	now := sys.TSC()
	if now < c.retry {
		return false
	}
	l, err := c.end.open(c.size)
	if err != nil {
		c.retry = now + c.wait
		return false
	}
	c.link = l
	return true
}

func (c *courier) close() error {
	if c.link == nil {
		return nil
	}
	return c.link.close()
}
