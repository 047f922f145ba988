package vhost

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
	"millrace/waittest"
)

// deadline bounds every wait of the tests.
const deadline = time.Minute

// eventually waits until cond holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waittest.Until(t, what, ok)
}

// Places in the peer's memory: each ring has a slot with its three parts and
// its buffers.
const (
	peerGPA    = 0x100000
	peerUser   = 0x7f5500000000
	slotSize   = 256 << 10
	slotAvail  = 4 << 10
	slotUsed   = 8 << 10
	slotBufs   = 16 << 10
	ringSize   = 64
	bufStride  = 2048
	peerRings  = 8
	peerMemLen = peerRings * slotSize
)

// A peer is a front-end of the simplest kind: one region, every ring in its
// slot.
type peer struct {
	t     testing.TB
	conn  *message.Conn
	fd    int // of the memory
	mem   *sys.Mapping
	base  uintptr
	sends []*virtq.Sender
	recvs []*virtq.Receiver
	kicks []sys.FD
	calls []sys.FD
	errs  []sys.FD
	feats message.Features
	old   bool // the rings live since an earlier connection
	seq   uint64
	got   uint64 // sequence number that receive expects next, by the only ring
}

// newPeer makes memory and eventfds. sealed memory cannot be truncated.
func newPeer(t testing.TB, sealed bool) *peer {
	t.Helper()
	p := &peer{t: t}
	if sealed {
		f, err := sys.NewMemfd("peer", peerMemLen)
		if err != nil {
			t.Fatal(err)
		}
		p.fd = f.Int()
	} else {
		n, err := unix.MemfdCreate("peer", unix.MFD_CLOEXEC)
		if err == nil {
			err = unix.Ftruncate(n, peerMemLen)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.fd = n
	}
	m, err := sys.MapShared(p.fd, 0, peerMemLen)
	if err != nil {
		t.Fatal(err)
	}
	p.mem, p.base = m, packet.Addr(m.Bytes())
	for range peerRings {
		p.kicks = append(p.kicks, event(t))
		p.calls = append(p.calls, event(t))
		p.errs = append(p.errs, event(t))
	}
	t.Cleanup(p.free)
	return p
}

func (p *peer) free() {
	if p.mem == nil {
		return
	}
	p.hangUp()
	_ = p.mem.Close()
	p.mem = nil
	_ = unix.Close(p.fd)
	for i := range p.kicks {
		_ = p.kicks[i].Close()
		_ = p.calls[i].Close()
		_ = p.errs[i].Close()
	}
}

func event(t testing.TB) sys.FD {
	t.Helper()
	f, err := sys.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// dial connects to a listening port.
func (p *peer) dial(path string) {
	p.t.Helper()
	var c net.Conn
	eventually(p.t, "connect to "+path, func() (ok bool) {
		var err error
		c, err = net.Dial("unix", path)
		return err == nil
	})
	p.attach(c.(*net.UnixConn))
}

func (p *peer) attach(c *net.UnixConn) {
	p.conn = message.NewConn(c, message.FrontEnd)
	p.patient()
}

// patient gives the next message its time: a test may last longer.
func (p *peer) patient() { _ = p.conn.SetDeadline(time.Now().Add(deadline)) }

func (p *peer) hangUp() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// tell sends a request.
func (p *peer) tell(r message.Request, payload []byte, fds ...message.FD) {
	p.t.Helper()
	p.patient()
	if err := p.conn.Write(message.Message{Request: r, Payload: payload}, fds...); err != nil {
		p.t.Fatalf("%v: %v", r, err)
	}
}

// ask sends a request and returns the answer.
func (p *peer) ask(r message.Request, payload []byte) []byte {
	p.t.Helper()
	p.tell(r, payload)
	return p.answer(r)
}

func (p *peer) answer(r message.Request) []byte {
	p.t.Helper()
	p.patient()
	m, err := p.conn.Read()
	if err != nil {
		p.t.Fatalf("answer to %v: %v", r, err)
	}
	if m.Request != r || m.Flags != message.Version|message.FlagReply {
		p.t.Fatalf("answer to %v is %v with flags %#x", r, m.Request, m.Flags)
	}
	return m.Payload
}

// may sends a request that wants an answer, and reports whether it was accepted.
func (p *peer) may(r message.Request, payload []byte, fds ...message.FD) bool {
	p.t.Helper()
	p.patient()
	if err := p.conn.Write(message.Message{Request: r, Flags: message.FlagNeedReply, Payload: payload}, fds...); err != nil {
		p.t.Fatalf("%v: %v", r, err)
	}
	v, err := message.UnmarshalU64(p.answer(r))
	if err != nil {
		p.t.Fatal(err)
	}
	return v == 0
}

// must is may with a request that must be accepted.
func (p *peer) must(r message.Request, payload []byte, fds ...message.FD) {
	p.t.Helper()
	if !p.may(r, payload, fds...) {
		p.t.Fatalf("%v was refused", r)
	}
}

// sync returns when all requests before it were handled.
func (p *peer) sync() { p.t.Helper(); p.ask(message.GetFeatures, nil) }

func state(i, n int) []byte {
	return message.MarshalVringState(message.VringState{Index: uint32(i), Num: uint32(n)})
}

func vfd(i int) []byte { return message.MarshalVringFD(message.VringFD{Index: uint8(i)}) }

func (p *peer) table() []byte {
	return message.MarshalMemTable(message.MemTable{{GPA: peerGPA, Size: peerMemLen, UserAddr: peerUser}})
}

func addrOf(i int) message.VringAddr {
	at := uint64(peerUser + i*slotSize)
	return message.VringAddr{Index: uint32(i), Desc: at, Avail: at + slotAvail, Used: at + slotUsed}
}

// greet negotiates features.
func (p *peer) greet(feats message.Features) {
	p.t.Helper()
	p.tell(message.SetOwner, nil)
	offered, _ := message.UnmarshalU64(p.ask(message.GetFeatures, nil))
	if !message.Features(offered).Has(feats) {
		p.t.Fatalf("offered %v, want %v", message.Features(offered), feats)
	}
	p.feats = feats
	if feats.Has(message.FProtocolFeatures) {
		proto, _ := message.UnmarshalU64(p.ask(message.GetProtocolFeatures, nil))
		p.tell(message.SetProtocolFeatures, message.MarshalU64(proto))
	}
	p.tell(message.SetFeatures, message.MarshalU64(uint64(feats)))
}

const modern = message.FVersion1 | message.FProtocolFeatures | message.NetFMrgRxbuf | message.RingFEventIdx | message.RingFIndirectDesc

// setUp brings pairs queue pairs up, in the order of DPDK's virtio-user.
func (p *peer) setUp(feats message.Features, pairs int) {
	p.t.Helper()
	if !p.old {
		p.makeRings(feats, pairs)
	}
	for i := range 2 * pairs {
		p.tell(message.SetVringCall, vfd(i), message.FD(p.calls[i].Int()))
	}
	p.greet(feats)
	p.tell(message.SetMemTable, p.table(), message.FD(p.fd))
	for i := range 2 * pairs {
		p.startRing(i, 0)
	}
	if feats.Has(message.FProtocolFeatures) {
		for i := range 2 * pairs {
			p.tell(message.SetVringEnable, state(i, 1))
		}
	}
	p.sync()
}

// startRing describes ring i and kicks it.
func (p *peer) startRing(i, base int) {
	p.t.Helper()
	p.tell(message.SetVringNum, state(i, ringSize))
	p.tell(message.SetVringBase, state(i, base))
	p.tell(message.SetVringAddr, message.MarshalVringAddr(addrOf(i)))
	p.tell(message.SetVringErr, vfd(i), message.FD(p.errs[i].Int()))
	p.tell(message.SetVringKick, vfd(i), message.FD(p.kicks[i].Int()))
}

func (p *peer) layout(i int) virtq.Layout {
	at := p.base + uintptr(i*slotSize)
	return virtq.Layout{Size: ringSize, Desc: at, Avail: at + slotAvail, Used: at + slotUsed}
}

// makeRings takes the driver's end of the rings.
func (p *peer) makeRings(feats message.Features, pairs int) {
	p.t.Helper()
	header := uint32(virtq.HeaderLen)
	if feats&(message.FVersion1|message.NetFMrgRxbuf) == 0 {
		header = virtq.HeaderLenLegacy
	}
	p.sends, p.recvs = nil, nil
	for i := range 2 * pairs {
		at := uint64(i*slotSize + slotBufs)
		cfg := virtq.DriverConfig{Layout: p.layout(i), EventIdx: feats.Has(message.RingFEventIdx)}
		bufs := virtq.Buffers{
			Area:   virtq.Area{Addr: p.base + uintptr(at), GPA: peerGPA + at, Size: ringSize * bufStride},
			Stride: bufStride, Header: header,
		}
		var err error
		if i%2 == 0 {
			var r *virtq.Receiver
			r, err = virtq.NewReceiver(cfg, bufs, feats.Has(message.NetFMrgRxbuf))
			p.recvs = append(p.recvs, r)
		} else {
			var s *virtq.Sender
			s, err = virtq.NewSender(cfg, bufs)
			p.sends = append(p.sends, s)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	p.old = true
}

// frameLen is the length of the tests' frames: too long for the head alone.
const frameLen = 200

// send sends up to n frames by pair q and returns how many. Each carries a
// sequence number, and its pair as UDP port.
func (p *peer) send(q, n int) int {
	s := p.sends[q]
	n = min(n, s.Room(n))
	for i := range n {
		b := s.Buffer(i)
		f := s.Frame(b)[:frameLen]
		putFrame(f, uint16(p.seq), p.seq)
		p.seq++
		s.SetLen(b, frameLen)
	}
	s.Send(n)
	if n > 0 && s.ShouldKick() {
		_ = sys.Signal(p.kicks[2*q+1])
	}
	return n
}

// putFrame writes an IPv4/UDP frame.
func putFrame(f []byte, port uint16, seq uint64) {
	clear(f)
	copy(f, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00\x45")
	f[23] = protoUDP
	binary.BigEndian.PutUint32(f[26:], 0x0a000001)
	binary.BigEndian.PutUint32(f[30:], 0x0a000002)
	binary.BigEndian.PutUint16(f[34:], port)
	binary.BigEndian.PutUint64(f[frameLen-8:], seq)
}

// receive takes what has come by pair q, and returns the sequence numbers.
func (p *peer) receive(q int) (seqs []uint64) {
	r := p.recvs[q]
	for {
		f, ok := r.Next()
		if !ok {
			break
		}
		if len(f) != frameLen {
			p.t.Errorf("frame of %d bytes, want %d", len(f), frameLen)
			continue
		}
		seqs = append(seqs, binary.BigEndian.Uint64(f[frameLen-8:]))
	}
	if err := r.Err(); err != nil {
		p.t.Fatal(err)
	}
	r.Release()
	return seqs
}

// pump sends n frames by pair 0 and takes them back, at most some at a time, so
// that none is lost for want of room. Each must come back once, in order.
func (p *peer) pump(n int) {
	p.t.Helper()
	want := p.got + uint64(n)
	end := time.Now().Add(deadline)
	for p.got < want {
		if room := 32 - int(p.seq-p.got); p.seq < want && room > 0 {
			p.send(0, min(room, int(want-p.seq)))
		}
		p.expect(0)
		if time.Now().After(end) {
			p.t.Fatalf("%d of %d frames came back", uint64(n)-(want-p.got), n)
		}
	}
}

func (p *peer) expect(q int) {
	p.t.Helper()
	for _, seq := range p.receive(q) {
		if seq != p.got {
			p.t.Fatalf("frame %d came back, want %d", seq, p.got)
		}
		p.got++
	}
}

// A loop is a worker that sends back what a port receives, turn by turn.
type loop struct {
	turn  // held for a turn
	port  atomic.Pointer[Port]
	batch *packet.Batch
	quit  atomic.Bool
	done  chan struct{}
	refs  []packet.Ref

	dropped [packet.ReasonCount]atomic.Uint64
	faults  atomic.Uint64
}

func newLoop(t testing.TB) *loop {
	l := &loop{batch: packet.NewBatch(), done: make(chan struct{})}
	go l.run()
	t.Cleanup(l.end)
	return l
}

func (l *loop) end() {
	if !l.quit.Swap(true) {
		<-l.done
	}
}

func (l *loop) run() {
	defer close(l.done)
	debug.SetPanicOnFault(true)
	for !l.quit.Load() {
		l.oneTurn()
		runtime.Gosched()
	}
}

func (l *loop) oneTurn() {
	l.Lock()
	defer l.Unlock()
	p := l.port.Load()
	if p == nil {
		return
	}
	sending := false
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		f, ok := r.(interface{ Addr() uintptr })
		if !ok || !p.Owns(f.Addr()) {
			panic(r)
		}
		l.faults.Add(1)
		if sending {
			p.tx.Abort()
		}
		p.Break("memory was taken away while it was in use")
	}()
	b := l.batch
	for _, q := range p.RxQueues() {
		b.Reset()
		q.Rx(b)
		if b.N > 0 {
			l.refs = l.refs[:0]
			for i := range b.N {
				l.refs = append(l.refs, packet.Ref{Frame: uint16(i)})
			}
			sending = true
			p.tx.Tx(b, l.refs)
		}
		q.Release()
		if sending {
			b.Sent, b.SentBytes = 0, 0
			p.tx.Commit(b)
			sending = false
			for _, r := range l.refs {
				l.dropped[r.Why].Add(1)
			}
			p.tx.Signal()
		}
		q.Signal()
	}
}

// open opens a port that l works for.
func (l *loop) open(t testing.TB, o Options) *Port {
	t.Helper()
	o.Quiesce = l.quiesce
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	l.port.Store(p)
	return p
}

// joined opens a port at a socket of the test's own, and has a peer connect to it. The test fails if
// anything is left of them.
func joined(t testing.TB, o Options) (*loop, *Port, *peer) {
	t.Helper()
	leaks(t)
	l := newLoop(t)
	o.Path = socket(t)
	p := l.open(t, o)
	front := newPeer(t, true)
	front.dial(o.Path)
	return l, p, front
}

// socket returns a path in a directory of the test's own.
func socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vhost")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "p")
}

func waitLink(t testing.TB, p *Port, want Link) State {
	t.Helper()
	var st State
	eventually(t, fmt.Sprintf("link %s", want), func() bool {
		st = p.State()
		return st.Link == want
	})
	return st
}

// leaks counts descriptors and goroutines, and complains at the end of the test
// if there are more than at its start. It is the first thing of a test.
func leaks(t testing.TB) {
	t.Helper()
	time.AfterFunc(time.Hour, func() {}).Stop() // begins the runtime's poller, whose descriptors stay
	fds, routines := openFDs(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			return
		}
		for end := time.Now().Add(deadline); openFDs(t) > fds || runtime.NumGoroutine() > routines; {
			if time.Now().After(end) {
				t.Errorf("%d descriptors, %d goroutines; there were %d and %d", openFDs(t), runtime.NumGoroutine(), fds, routines)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func openFDs(t testing.TB) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}
