package l3

import (
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"millrace/control/egress/l3/packet"
)

const (
	batchSize = conn.IdealBatchSize
	batches   = 32 // on their way to peers; those who bring more wait
	answers   = 64 // echoes and errors of ours on their way; more are dropped
)

// A batch is packets on their way to peers.
type batch struct {
	bufs  [][]byte // batchSize of slot bytes
	sizes []int
	n     int // packets
	next  int // the first that was not taken yet
}

// A scratch is what a call of write works with.
type scratch struct {
	views    [batchSize][]byte
	verdicts [batchSize]Verdict
}

// A hub is what WireGuard takes for the network device. Write is called by a
// goroutine for each peer, Read by one, pump is another; no other goroutine has a
// batch that one of them has.
type hub struct {
	cfg       *Config
	echo      func(p *packet.Info, seq uint16) // called with replies to our echoes
	free      chan *batch
	full      chan *batch
	answers   chan []byte
	current   *batch // Read's
	scratches sync.Pool
	counts    [verdicts]atomic.Uint64
	absent    absent
	in, out   atomic.Uint64 // packets from peers, and of the inner end, that went through
	inBytes   atomic.Uint64
	outBytes  atomic.Uint64
	opened    atomic.Uint64 // packets from peers
	broken    atomic.Uint64 // reads and writes of the inner end that failed
	events    chan tun.Event
	closed    chan struct{}
	close     func() error
}

func newHub(cfg *Config) *hub {
	h := &hub{cfg: cfg, free: make(chan *batch, batches), full: make(chan *batch, batches), answers: make(chan []byte, answers),
		events: make(chan tun.Event), closed: make(chan struct{})}
	slot := max(2048, cfg.MTU+128)
	for range batches {
		b := &batch{sizes: make([]int, batchSize)}
		memory := make([]byte, batchSize*slot)
		for i := range batchSize {
			b.bufs = append(b.bufs, memory[i*slot:(i+1)*slot:(i+1)*slot])
		}
		h.free <- b
	}
	h.scratches.New = func() any { return new(scratch) }
	h.close = sync.OnceValue(func() error {
		close(h.closed)
		close(h.events)
		if cfg.Inner != nil {
			return cfg.Inner.Close()
		}
		return nil
	})
	return h
}

// Write takes packets that peers have sent.
func (h *hub) Write(bufs [][]byte, offset int) (int, error) {
	for some := range slices.Chunk(bufs, batchSize) {
		h.write(some, offset)
	}
	return len(bufs), nil
}

func (h *hub) write(bufs [][]byte, offset int) {
	s := h.scratches.Get().(*scratch)
	defer h.scratches.Put(s)
	views, verdicts := s.views[:len(bufs)], s.verdicts[:len(bufs)]
	for i, b := range bufs {
		views[i] = b[offset:]
	}
	h.opened.Add(uint64(len(bufs)))
	h.cfg.Filter.Inward(views, verdicts)
	h.absent.judge(views, verdicts)
	for i, v := range verdicts {
		if v == Relay && len(views[i]) > h.cfg.MTU {
			verdicts[i] = TooBig
		}
	}
	h.count(verdicts) // before anybody hears of one
	kept, passed, bytes := bufs[:0], 0, 0
	var relayed *batch
	for i, v := range verdicts {
		switch v {
		case Deliver:
			kept, passed, bytes = append(kept, bufs[i]), passed+1, bytes+len(views[i])
		case Relay:
			relayed, passed, bytes = h.relay(relayed, views[i]), passed+1, bytes+len(views[i])
		case TooBig:
			h.tooBig(views[i])
		case Own:
			h.own(views[i])
		}
	}
	h.in.Add(uint64(passed))
	h.inBytes.Add(uint64(bytes))
	if relayed != nil {
		h.send(relayed)
	}
	if len(kept) == 0 {
		return
	}
	if _, err := h.cfg.Inner.Write(kept, offset); err != nil {
		h.broken.Add(1)
	}
}

// count adds verdicts to the counters: one addition for equal ones in a row.
func (h *hub) count(verdicts []Verdict) {
	for i, j := 0, 0; i < len(verdicts); i = j {
		for j = i + 1; j < len(verdicts) && verdicts[j] == verdicts[i]; j++ {
		}
		h.counts[verdicts[i]].Add(uint64(j - i))
	}
}

// relay adds a packet to a batch, or to a new one if that is nil. It waits for
// one; the batch is nil if the hub is closed before.
func (h *hub) relay(b *batch, p []byte) *batch {
	if b == nil {
		if b = h.take(); b == nil {
			return nil
		}
	}
	b.sizes[b.n] = copy(b.bufs[b.n], p)
	b.n++
	return b
}

func (h *hub) take() *batch {
	select {
	case b := <-h.free:
		b.n, b.next = 0, 0
		return b
	case <-h.closed:
		return nil
	}
}

func (h *hub) send(b *batch) {
	select {
	case h.full <- b:
	case <-h.closed:
	}
}

// own takes a packet for an address of ours.
func (h *hub) own(b []byte) {
	p, ok := packet.Parse(b)
	switch {
	case !ok || p.First:
	case p.Kind == packet.EchoReply:
		h.echo(&p, p.Sequence(b))
	case p.Kind == packet.EchoRequest:
		b = slices.Clone(b)
		p.Answer(b)
		h.answer(b)
	}
}

// tooBig tells the sender of a packet what fits.
func (h *hub) tooBig(b []byte) {
	p, _ := packet.Parse(b)
	for _, own := range h.cfg.Own {
		if e := p.TooBig(b, own, h.cfg.MTU); e != nil {
			h.answer(e)
			return
		}
	}
}

// answer sends a packet of ours, unless too many are waiting.
func (h *hub) answer(b []byte) {
	select {
	case h.answers <- b:
	default:
	}
}

// Read gives packets for peers.
func (h *hub) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	if h.current == nil {
		select {
		case <-h.closed:
			return 0, os.ErrClosed
		case p := <-h.answers:
			sizes[0] = copy(bufs[0][offset:], p)
			return 1, nil
		case h.current = <-h.full:
		}
	}
	b := h.current
	for n < len(bufs) && b.next < b.n {
		sizes[n] = copy(bufs[n][offset:], b.bufs[b.next][:b.sizes[b.next]])
		b.next++
		n++
	}
	if b.next == b.n {
		h.current = nil
		h.free <- b // there is room for all batches
	}
	return n, nil
}

// pump reads packets of the inner end, until that is closed.
func (h *hub) pump() {
	s := new(scratch)
	for {
		b := h.take()
		if b == nil {
			return
		}
		n, err := h.cfg.Inner.Read(b.bufs, b.sizes, 0)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			h.broken.Add(1)
		}
		if err != nil && n == 0 {
			time.Sleep(time.Millisecond) // it may fail again
		}
		h.outward(b, n, s)
	}
}

// outward sends those of the first n packets of b that the filter lets through.
func (h *hub) outward(b *batch, n int, s *scratch) {
	views, verdicts := s.views[:n], s.verdicts[:n]
	for i := range n {
		views[i] = b.bufs[i][:b.sizes[i]]
	}
	h.cfg.Filter.Outward(views, verdicts)
	h.absent.judge(views, verdicts)
	bytes := 0
	for i, v := range verdicts {
		if v != Relay {
			continue
		}
		bytes += b.sizes[i]
		b.bufs[b.n], b.bufs[i] = b.bufs[i], b.bufs[b.n]
		b.sizes[b.n], b.sizes[i] = b.sizes[i], b.sizes[b.n]
		b.n++
	}
	h.count(verdicts)
	h.out.Add(uint64(b.n))
	h.outBytes.Add(uint64(bytes))
	if b.n == 0 {
		h.free <- b
		return
	}
	h.send(b)
}

// The rest of tun.Device.

func (h *hub) File() *os.File           { return nil }
func (h *hub) MTU() (int, error)        { return h.cfg.MTU, nil }
func (h *hub) Name() (string, error)    { return "l3", nil }
func (h *hub) Events() <-chan tun.Event { return h.events }
func (h *hub) BatchSize() int           { return batchSize }
func (h *hub) Close() error             { return h.close() }
