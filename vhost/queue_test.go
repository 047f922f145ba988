package vhost

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/message"
)

// The port's queues are what workers expect of any port's.
type rxQueue interface {
	Rx(b *packet.Batch)
	Release()
	Arm() bool
	Disarm()
	WakeFD() int
	Signal()
}

type txQueue interface {
	Tx(b *packet.Batch, list []packet.Ref)
	Commit(b *packet.Batch)
	Abort()
	Signal()
}

var (
	_ rxQueue = (*RxQueue)(nil)
	_ txQueue = (*TxQueue)(nil)
)

// refsOf lists the frames of b.
func refsOf(b *packet.Batch) []packet.Ref {
	refs := make([]packet.Ref, b.N)
	for i := range refs {
		refs[i].Frame = uint16(i)
	}
	return refs
}

// fill puts n frames into b, with sequence numbers from seq on.
func fill(b *packet.Batch, n int, seq uint64) {
	b.Reset()
	f := make([]byte, frameLen)
	for i := range n {
		putFrame(f, uint16(seq), seq+uint64(i))
		b.Add(f[:packet.HeadMax])
		b.Frames[i].Len = packet.HeadMax
	}
}

// TestDown uses queues without a peer.
func TestDown(t *testing.T) {
	leaks(t)
	p, err := Open(Options{Path: socket(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b := packet.NewBatch()
	rx, tx := p.RxQueues()[0], p.TxQueue()
	rx.Rx(b)
	rx.Release()
	rx.Signal()
	rx.Disarm()
	if b.N != 0 || rx.Arm() || rx.WakeFD() != wakeNone {
		t.Error("a queue without a ring has something")
	}
	fill(b, 3, 0)
	refs := refsOf(b)
	tx.Tx(b, refs)
	tx.Commit(b)
	tx.Signal()
	for _, r := range refs {
		if r.Why != packet.ReasonTxDown {
			t.Errorf("left for %v, want %v", r.Why, packet.ReasonTxDown)
		}
	}
	if b.Sent != 0 || p.Owns(0x1000) {
		t.Errorf("%d frames sent", b.Sent)
	}
}

// A turn is held by a test that plays the worker.
type turn struct{ sync.Mutex }

// quiesce is Options.Quiesce.
func (w *turn) quiesce() {
	w.Lock()
	w.Unlock() //nolint:staticcheck // the point is to have waited
}

// idle opens a port with pairs queue pairs up, whose worker is the test.
func idle(t testing.TB, o Options, feats message.Features, pairs int) (*Port, *peer) {
	t.Helper()
	o.Path = socket(t)
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	front := newPeer(t, true)
	front.dial(o.Path)
	front.setUp(feats, pairs)
	return p, front
}

// TestMTU sends frames around the MTU, with and without a tag, to one ring and
// to several: those that are too long are left, in place.
func TestMTU(t *testing.T) {
	const mtu = 100
	for _, pairs := range []int{1, 2} {
		leaks(t)
		var w turn
		p, _ := idle(t, Options{MTU: mtu, Quiesce: w.quiesce}, modern|message.NetFMQ, pairs)
		w.Lock()
		b := packet.NewBatch()
		sizes := []struct {
			n    int
			tag  bool
			want packet.Reason
		}{
			{mtu + 14, false, 0}, {mtu + 15, false, packet.ReasonTxTooLong}, {mtu + 18, true, 0},
			{mtu + 19, true, packet.ReasonTxTooLong}, {60, false, 0}, {60, true, 0},
		}
		for _, s := range sizes {
			f := make([]byte, s.n)
			putFrame(append(f, make([]byte, frameLen)...), 0, 0)
			if s.tag {
				f[12], f[13] = 0x81, 0
			}
			b.Add(f)
		}
		refs := refsOf(b)
		p.tx.Tx(b, refs)
		p.tx.Commit(b)
		sent := 0
		for i, s := range sizes {
			if refs[i].Why != s.want {
				t.Errorf("%d pairs: frame of %d bytes, tag %v: %v, want %v", pairs, s.n, s.tag, refs[i].Why, s.want)
			}
			if s.want == 0 {
				sent++
			}
		}
		if b.Sent != sent {
			t.Errorf("%d frames sent, want %d", b.Sent, sent)
		}
		w.Unlock()
		_ = p.Close()
	}
}

// TestSetMTU changes the MTU while a peer is connected: the next frames are
// judged by it, and the peer, which has negotiated with the one before, goes on.
func TestSetMTU(t *testing.T) {
	leaks(t)
	var w turn
	p, front := idle(t, Options{MTU: 100, Quiesce: w.quiesce}, modern|message.NetFMTU, 1)
	fits := func(n int) bool {
		w.Lock()
		defer w.Unlock()
		b := packet.NewBatch()
		b.Add(make([]byte, n))
		refs := refsOf(b)
		p.tx.Tx(b, refs)
		p.tx.Commit(b)
		return refs[0].Why == 0
	}
	for _, tt := range []struct {
		mtu, n int
		want   bool
	}{{100, 114, true}, {100, 115, false}, {110, 115, true}, {110, 125, false}, {0, 126, true}, {68, 83, false}} {
		p.SetMTU(tt.mtu)
		if got := fits(tt.n); got != tt.want {
			t.Errorf("MTU %d: a frame of %d bytes fits: %v", tt.mtu, tt.n, got)
		}
	}
	p.SetMTU(0)
	front.greet(modern | message.NetFMTU) // again, with what this connection was offered
	front.sync()
	if st := p.State(); st.Connects != 1 || st.Breaks != 0 || st.Link != LinkUp {
		t.Errorf("state %+v", st)
	}
	if p.offeredFeatures().Has(message.NetFMTU) {
		t.Error("the next peer is offered an MTU that there is not")
	}
	_ = p.Close()
}

// TestLocked holds the queue with one batch: another's frames are left, and its
// Commit and Signal do not touch the lock.
func TestLocked(t *testing.T) {
	leaks(t)
	var w turn
	p, front := idle(t, Options{Quiesce: w.quiesce}, modern, 1)
	w.Lock()
	defer w.Unlock()
	one, two := packet.NewBatch(), packet.NewBatch()
	fill(one, 4, 0)
	fill(two, 2, 0)
	p.tx.Tx(one, refsOf(one))
	refs := refsOf(two)
	p.tx.Tx(two, refs)
	p.tx.Commit(two)
	p.tx.Signal()
	if refs[0].Why != packet.ReasonTxBusy || refs[1].Why != packet.ReasonTxBusy || two.Sent != 0 {
		t.Errorf("second worker: %v, %d sent", refs, two.Sent)
	}
	p.tx.Commit(one)
	if one.Sent != 4 || one.SentBytes != 4*packet.HeadMax {
		t.Errorf("%d frames, %d bytes sent", one.Sent, one.SentBytes)
	}
	p.tx.Tx(two, refsOf(two))
	p.tx.Abort()
	if n, _ := front.recvs[0].Count(); n != 4 {
		t.Errorf("%d frames arrived, want 4", n)
	}
	fill(two, 2, 0)
	p.tx.Tx(two, refsOf(two))
	p.tx.Commit(two)
	if n, _ := front.recvs[0].Count(); n != 2 {
		t.Errorf("%d frames arrived after Abort, want 2", n)
	}
}

// TestSignalLocked commits just before the session locks the queue: the worker
// gives up its signal, and the driver of the ring that did not change gets one all
// the same.
func TestSignalLocked(t *testing.T) {
	leaks(t)
	p, front := idle(t, Options{}, modern|message.NetFMQ, 2)
	sys.Drain(front.calls[0])
	b := packet.NewBatch()
	fill(b, 4, 0)
	p.tx.Tx(b, refsOf(b))
	p.tx.Commit(b)
	p.tx.acquire()
	p.tx.Signal()
	p.tx.release()
	front.tell(message.SetVringEnable, state(2, 0))
	front.sync()
	if !readable(front.calls[0]) {
		t.Error("the signal that the worker gave up is lost")
	}
}

// TestShared has two workers send to one port, while the session exchanges its
// rings. What Commit counts is what arrives.
func TestShared(t *testing.T) {
	leaks(t)
	var turns [2]turn
	quiesce := func() {
		for i := range turns {
			turns[i].quiesce()
		}
	}
	p, front := idle(t, Options{Quiesce: quiesce}, modern, 1)
	var sent, busy, down atomic.Int64
	var stop atomic.Bool
	var workers sync.WaitGroup
	end := func() {
		stop.Store(true)
		workers.Wait()
	}
	t.Cleanup(end)
	for w := range turns {
		workers.Go(func() {
			b := packet.NewBatch()
			for !stop.Load() {
				turns[w].Lock()
				fill(b, 8, 0)
				refs := refsOf(b)
				p.tx.Tx(b, refs)
				b.Sent, b.SentBytes = 0, 0
				p.tx.Commit(b)
				p.tx.Signal()
				turns[w].Unlock()
				sent.Add(int64(b.Sent))
				switch refs[0].Why {
				case packet.ReasonTxDown:
					down.Add(1)
				case packet.ReasonTxBusy:
					busy.Add(1)
				}
				runtime.Gosched()
			}
		})
	}
	arrived := 0
	for i := range 100 {
		if i%4 == 0 {
			front.must(message.SetMemTable, front.table(), message.FD(front.fd))
			front.must(message.SetVringCall, vfd(0), message.FD(front.calls[0].Int()))
		}
		n, _ := front.recvs[0].Count()
		arrived += n
	}
	end()
	n, _ := front.recvs[0].Count()
	arrived += n
	if int64(arrived) != sent.Load() || arrived == 0 || down.Load() != 0 {
		t.Errorf("%d frames arrived, %d sent; the port was down for %d batches", arrived, sent.Load(), down.Load())
	}
	if err := front.recvs[0].Err(); err != nil {
		t.Error(err)
	}
	t.Logf("%d frames, busy %d times", arrived, busy.Load())
}

// TestAllocations runs the way of a frame with one ring and with several: it
// must not allocate.
func TestAllocations(t *testing.T) {
	for _, pairs := range []int{1, 3} {
		var w turn
		p, front := idle(t, Options{MTU: 1500, Quiesce: w.quiesce}, modern|message.NetFMQ, pairs)
		w.Lock()
		b := packet.NewBatch()
		refs := make([]packet.Ref, 8)
		once := func() {
			front.send(0, 8)
			b.Reset()
			p.rx[0].Rx(b)
			for i := range refs {
				refs[i] = packet.Ref{Frame: uint16(i)}
			}
			p.tx.Tx(b, refs)
			p.rx[0].Release()
			p.tx.Commit(b)
			p.rx[0].Signal()
			p.tx.Signal()
			p.rx[0].Arm()
			p.rx[0].Disarm()
			for q := range pairs {
				front.recvs[q].Count()
			}
		}
		once()
		if n := testing.AllocsPerRun(200, once); n != 0 {
			t.Errorf("%d pairs: %v allocations a turn", pairs, n)
		}
		w.Unlock()
		_ = p.Close()
	}
}
