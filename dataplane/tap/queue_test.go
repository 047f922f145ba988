package tap

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/tap/taptest"
)

// sizes are lengths of frames around every limit of the code.
func sizes() []int {
	return []int{14, 60, 127, 128, 129, 1514, 4095, 4096, 9014, packet.FrameMax - tagLen, packet.FrameMax}
}

// TestRoundTrip sends frames of all sizes in both directions, and compares every
// byte: what the kernel sends is received as it is, and what is sent arrives
// though the lender wrote its memory after Tx.
func TestRoundTrip(t *testing.T) {
	taptest.Need(t)
	s := quiet(t, nil)
	s.MTU = MTUMax
	p := open(t, Options{Name: "rt", Settings: s})
	up(t, p)
	// The last bytes of FrameMax are a tag's, which the MTU does not count.
	netnsRun(t, "ip", "link", "set", "rt", "mtu", "9714")
	until(t, "the new MTU", func() bool { return p.State().Device.MTU == 9714 })
	w := wireTo(t, nil, "rt")
	b := packet.NewBatch()
	for i, n := range sizes() {
		f := frameOf(n, i)
		w.send(f)
		if got := receive(t, p.RxQueues()[0], 1)[0]; !bytes.Equal(got, f) {
			t.Errorf("%d bytes: received %d bytes, or others", n, len(got))
		}
		if why := send(p.TxQueue(), b, f); why[0] != packet.ReasonNone {
			t.Errorf("%d bytes: not sent: %v", n, why[0])
			continue
		}
		if b.Sent != 1 || b.SentBytes != uint64(n) {
			t.Errorf("%d bytes: %d frames and %d bytes are counted", n, b.Sent, b.SentBytes)
		}
		if got := w.receive(); !bytes.Equal(got, f) {
			t.Errorf("%d bytes: the kernel has %d bytes, or others", n, len(got))
		}
	}
}

// TestTagged: a tag is part of the frame, whoever it was sent by.
func TestTagged(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "tag", Settings: quiet(t, nil)})
	up(t, p)
	w := wireTo(t, nil, "tag")
	f := frameOf(1518, 1)
	copy(f[12:], []byte{0x81, 0, 0x20, 7, 0x88, 0xb5})
	w.send(f)
	if got := receive(t, p.RxQueues()[0], 1)[0]; !bytes.Equal(got, f) {
		t.Errorf("received %d bytes: %x", len(got), got[:18])
	}
}

func netnsRun(t testing.TB, args ...string) string {
	t.Helper()
	return (*taptest.Namespace)(nil).Run(t, args...)
}

// TestTooLong: a frame longer than FrameMax, which somebody's MTU allows, is
// dropped and counted, and those around it are not.
func TestTooLong(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "long", Settings: quiet(t, nil)})
	netnsRun(t, "ip", "link", "set", "long", "mtu", "20000")
	until(t, "the new MTU", func() bool { return p.State().Device.MTU == 20000 })
	w := wireTo(t, nil, "long")
	for _, n := range []int{60, packet.FrameMax + 1, 20014, packet.FrameMax} {
		w.send(frameOf(n, 1))
	}
	b := packet.NewBatch()
	var early uint32
	n := 0
	until(t, "four frames", func() bool {
		n += len(rx(p.RxQueues()[0], b))
		early += b.Early[packet.ReasonRxTooLong]
		return n+int(early) == 4
	})
	if n != 2 || early != 2 {
		t.Errorf("%d received, %d dropped as too long", n, early)
	}
}

// TestMTU: what is longer than the device's MTU is not sent, a tag aside, and
// those around it are.
func TestMTU(t *testing.T) {
	taptest.Need(t)
	s := quiet(t, nil)
	s.MTU = 1000
	p := open(t, Options{Name: "mtu", Settings: s})
	up(t, p)
	w := wireTo(t, nil, "mtu")
	tagged := frameOf(1018, 4)
	tagged[12], tagged[13] = 0x81, 0
	b := packet.NewBatch()
	why := send(p.TxQueue(), b, frameOf(1014, 1), frameOf(1015, 2), frameOf(1018, 3), tagged, frameOf(14, 5))
	want := []packet.Reason{0, packet.ReasonTxTooLong, packet.ReasonTxTooLong, 0, 0}
	if !slices.Equal(why, want) {
		t.Errorf("left for %v, want %v", why, want)
	}
	for _, n := range []int{1014, 1018, 14} {
		if got := w.receive(); len(got) != n && len(got) != n-tagLen { // the kernel may keep a tag beside the frame
			t.Errorf("the kernel has a frame of %d bytes, want %d", len(got), n)
		}
	}
	if b.Sent != 3 || b.SentBytes != 1014+1018+14 {
		t.Errorf("%d frames and %d bytes are counted", b.Sent, b.SentBytes)
	}
}

// TestDown: a device that is down takes nothing, and that is counted; one that
// went down so late that the port does not know it takes nothing either.
func TestDown(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "dn", Settings: quiet(t, nil)})
	up(t, p)
	b := packet.NewBatch()
	d := p.tx.dest.Load()
	netnsRun(t, "ip", "link", "set", "dn", "down")
	until(t, "the port to see it", func() bool { return p.State().Link == LinkWaiting })
	if r := p.State().Reason; !strings.Contains(r, "ip link set dev dn up") {
		t.Errorf("reason %q has no remedy", r)
	}
	if why := send(p.TxQueue(), b, frameOf(60, 1)); why[0] != packet.ReasonTxDown {
		t.Errorf("left for %v", why[0])
	}
	p.tx.dest.Store(d) // as if we had not heard
	if why := send(p.TxQueue(), b, frameOf(60, 1), frameOf(60, 2)); !slices.Equal(why, []packet.Reason{packet.ReasonTxDown, packet.ReasonTxDown}) || b.Sent != 0 {
		t.Errorf("left for %v, %d sent", why, b.Sent)
	}
	netnsRun(t, "ip", "link", "set", "dn", "up")
	up(t, p)
	if why := send(p.TxQueue(), b, frameOf(60, 1)); why[0] != packet.ReasonNone {
		t.Errorf("up again, left for %v", why[0])
	}
}

// TestRefused: each error of the kernel has its reason, and only those that mean
// that the device is gone have the port let go of it.
func TestRefused(t *testing.T) {
	for errno, want := range map[unix.Errno]struct {
		why  packet.Reason
		lost bool
	}{
		unix.EAGAIN:  {packet.ReasonTxFull, false},
		unix.ENOBUFS: {packet.ReasonTxFull, false},
		unix.ENOMEM:  {packet.ReasonTxFull, false},
		unix.EIO:     {packet.ReasonTxDown, false},
		unix.EBADFD:  {packet.ReasonTxDown, true},
		unix.EINVAL:  {packet.ReasonTxDown, true},
	} {
		p := bare(t)
		p.rx[0].fd.Store(7)
		if why := p.tx.refused(7, errno, false); why != want.why || (p.trouble.Load() != nil) != want.lost {
			t.Errorf("%v: left for %v, trouble %v", errno, why, p.trouble.Load())
		}
	}
}

// TestRefusedOffload: a frame that the kernel finds wrong for what it asks for says nothing of
// the device.
func TestRefusedOffload(t *testing.T) {
	p := bare(t)
	p.rx[0].fd.Store(7)
	if why := p.tx.refused(7, unix.EINVAL, true); why != packet.ReasonRxHeader || p.trouble.Load() != nil {
		t.Errorf("left for %v, trouble %v", why, p.trouble.Load())
	}
}

// bare is a port without a device, a goroutine or the kernel.
func bare(t testing.TB) *Port {
	t.Helper()
	o, err := Options{Name: "bare", Kernel: &Kernel{}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	p := &Port{opts: o, news: make(chan struct{}, 1)}
	if err := p.makeQueues(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.freeQueues() })
	return p
}

// TestIdle: a queue that was empty is not read before the lookout has seen
// frames, by whichever port's queue looks, nor before it is time; Arm sees what
// nobody has seen.
func TestIdle(t *testing.T) {
	taptest.Need(t)
	k := newKernel(t)
	s := quiet(t, nil)
	p, o := open(t, Options{Name: "idle1", Settings: s, Kernel: k}), open(t, Options{Name: "idle2", Settings: s, Kernel: k})
	q, r := p.RxQueues()[0], o.RxQueues()[0]
	w := wireTo(t, nil, "idle1")
	b := packet.NewBatch()
	rx(q, b) // once, for it is new
	rx(r, b)
	k.lookout.next.Store(math.MaxUint64)
	w.send(frameOf(60, 1))
	for range 1000 {
		if got := rx(q, b); len(got) != 0 {
			t.Fatal("an idle queue was read though nobody has looked")
		}
	}
	k.lookout.next.Store(0)
	rx(r, b) // with two queues each looks every other time
	if rx(r, b); !q.ready.Load() || r.ready.Load() {
		t.Errorf("a look has found the queue with a frame ready: %t, the one without: %t", q.ready.Load(), r.ready.Load())
	}
	k.lookout.next.Store(math.MaxUint64)
	if got := rx(q, b); len(got) != 1 {
		t.Errorf("%d frames, want 1", len(got))
	}
	w.send(frameOf(60, 2))
	if !q.Arm() || r.Arm() {
		t.Error("Arm does not tell who has frames")
	}
	if got := rx(q, b); len(got) != 1 {
		t.Errorf("after Arm %d frames, want 1", len(got))
	}
	if q.Arm() {
		t.Error("Arm sees frames that were taken")
	}
}

// TestBatches: many frames come in batches that are full, in order, and each once.
func TestBatches(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "many", Settings: quiet(t, nil)})
	w := wireTo(t, nil, "many")
	const n = 300
	for i := range n {
		w.send(frameOf(100, i))
	}
	got := receive(t, p.RxQueues()[0], n)
	for i := range got {
		if !bytes.Equal(got[i], frameOf(100, i)) {
			t.Fatalf("frame %d is another one", i)
		}
	}
	b := packet.NewBatch()
	for i := range n {
		w.send(frameOf(100, i))
	}
	if q := p.RxQueues()[0]; len(rx(q, b)) > 0 && b.N != packet.BatchMax {
		t.Errorf("a batch of %d frames, want %d", b.N, packet.BatchMax)
	}
}

// TestFewSegments: a chain of one-byte descriptors of the longest frame is sent.
func TestFewSegments(t *testing.T) {
	taptest.Need(t)
	s := quiet(t, nil)
	s.MTU = MTUMax
	p := open(t, Options{Name: "segs", Settings: s})
	up(t, p)
	w := wireTo(t, nil, "segs")
	f := onHeap(frameOf(MTUMax+14, 3))
	b := packet.NewBatch()
	b.Reset()
	var segs []packet.Seg
	for i := range f[packet.HeadMax:] {
		segs = append(segs, packet.Seg{Addr: packet.Addr(f[packet.HeadMax+i:]), Len: 1})
	}
	if !b.Add(f[:packet.HeadMax], segs...) {
		t.Fatal("no room")
	}
	list := []packet.Ref{{}}
	p.TxQueue().Tx(b, list)
	p.TxQueue().Commit(b)
	if list[0].Why != packet.ReasonNone || b.Sent != 1 {
		t.Fatalf("left for %v", list[0].Why)
	}
	if got := w.receive(); !bytes.Equal(got, f) {
		i := 0
		for i < min(len(got), len(f)) && got[i] == f[i] {
			i++
		}
		t.Errorf("of %d bytes %d arrived, the first other one is %d: %x", len(f), len(got), i, got[i:min(i+40, len(got))])
	}
	runtime.KeepAlive(f)
}

// TestLongList: a list names frames more than once, as versions of them or by many
// ways; as many as can be are sent, and the rest is counted.
func TestLongList(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "list", Settings: quiet(t, nil)})
	up(t, p)
	b := packet.NewBatch()
	tail := onHeap(make([]byte, 900))
	b.Add(frameOf(100, 1), packet.Seg{Addr: packet.Addr(tail), Len: 900})
	list := make([]packet.Ref, lettersMax+2)
	p.tx.Tx(b, list)
	p.tx.Commit(b)
	left := 0
	for _, r := range list {
		if r.Why == packet.ReasonTxFull {
			left++
		}
	}
	if rx, _ := counters(t, nil, "list"); b.Sent != lettersMax || left != 2 || rx != lettersMax {
		t.Errorf("%d sent and %d left of %d, the kernel counts %d", b.Sent, left, len(list), rx)
	}
	if why := send(p.TxQueue(), b, frameOf(60, 1)); why[0] != packet.ReasonNone {
		t.Errorf("afterwards left for %v", why[0])
	}
}

// TestWorkers has many workers send by one queue at the same time: every frame
// arrives, whole.
func TestWorkers(t *testing.T) {
	taptest.Need(t)
	for _, queues := range []int{1, 4} {
		name := fmt.Sprintf("work%d", queues)
		p := open(t, Options{Name: name, Settings: quiet(t, nil), Queues: queues})
		up(t, p)
		const workers, turns = 4, 50
		var running sync.WaitGroup
		var sent, busy atomic.Int64
		for wk := range workers {
			running.Go(func() {
				b := packet.NewBatch()
				for i := range turns {
					for _, why := range send(p.TxQueue(), b, frameOf(300, wk), frameOf(1500, i)) {
						switch why {
						case packet.ReasonNone:
							sent.Add(1)
						case packet.ReasonTxBusy:
							busy.Add(1)
						default:
							t.Errorf("left for %v", why)
						}
					}
				}
			})
		}
		running.Wait()
		if n := sent.Load() + busy.Load(); n != 2*workers*turns {
			t.Errorf("%d frames are accounted for, want %d", n, 2*workers*turns)
		}
		var rx, tx int64
		if rx, tx = counters(t, nil, name); rx != sent.Load() || tx != 0 {
			t.Errorf("%d queues: the kernel counts %d received and %d sent, we %d", queues, rx, tx, sent.Load())
		}
	}
}

// counters are the frames that the kernel has received and sent by a device, as
// `ip -s link` tells.
func counters(t testing.TB, ns *taptest.Namespace, name string) (rx, tx int64) {
	t.Helper()
	var list []struct {
		Stats64 struct {
			RX, TX struct{ Packets int64 }
		}
	}
	out := ns.Run(t, "ip", "-s", "-j", "link", "show", name)
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		t.Fatalf("ip -s -j link: %v\n%s", err, out)
	}
	return list[0].Stats64.RX.Packets, list[0].Stats64.TX.Packets
}

// TestMultiQueue: every flow comes by one queue, and with many flows all queues
// are used.
func TestMultiQueue(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "mq", Settings: quiet(t, nil), Queues: 4})
	w := wireTo(t, nil, "mq")
	b := packet.NewBatch()
	const flows, each = 64, 3
	for i := range flows * each {
		f := frameOf(60, 0)
		copy(f[12:], []byte{8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, byte(i % flows), 1, 0, 53, 0, 26, 0, 0})
		w.send(f)
	}
	by := map[byte]int{} // flow to queue
	used := map[int]bool{}
	n := 0
	until(t, "all frames", func() bool {
		for i, q := range p.RxQueues() {
			for _, f := range rx(q, b) {
				n++
				used[i] = true
				if was, ok := by[f[34]]; ok && was != i {
					t.Errorf("flow %d came by queues %d and %d", f[34], was, i)
				}
				by[f[34]] = i
			}
		}
		return n == flows*each
	})
	if len(used) != 4 {
		t.Errorf("of 4 queues %d were used", len(used))
	}
}

// TestAllocs: a turn allocates nothing, neither with frames nor without.
func TestAllocs(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "alloc", Settings: quiet(t, nil)})
	up(t, p)
	w := wireTo(t, nil, "alloc")
	b := packet.NewBatch()
	q := p.RxQueues()[0]
	list := make([]packet.Ref, 1)
	frame := frameOf(1000, 1)
	turn := func() {
		w.send(frame)
		for b.Reset(); b.N == 0; b.Reset() {
			if q.Rx(b); b.N > 0 {
				break
			}
		}
		p.tx.Tx(b, list)
		q.Release()
		b.Sent = 0
		p.tx.Commit(b)
		q.Signal()
		p.tx.Signal()
		if b.Sent != 1 {
			t.Fatal("not sent")
		}
	}
	turn()
	const turns = 1000 // many more than what the port's goroutine may allocate meanwhile
	if n := testing.AllocsPerRun(turns, turn); n != 0 {
		t.Errorf("a turn with a frame: %v allocations", n)
	}
	idle := func() {
		b.Reset()
		q.Rx(b)
		q.Arm()
		q.Disarm()
	}
	if n := testing.AllocsPerRun(turns, idle); n != 0 {
		t.Errorf("a turn without: %v allocations", n)
	}
}

// FuzzAccept: whatever the kernel says it has read, with whatever header, becomes
// a frame of the length that was read or a drop, and one that asks for an offload
// is a drop.
func FuzzAccept(f *testing.F) {
	f.Add(0, []byte{})
	f.Add(hdrLen+13, make([]byte, 12))
	f.Add(hdrLen+14, make([]byte, 12))
	f.Add(hdrLen+packet.FrameMax, []byte{2})
	f.Add(hdrLen+packet.FrameMax+1, []byte{1, 0})
	f.Add(100, []byte{0, 1})
	f.Add(100, []byte{3, 0, 9})
	f.Fuzz(func(t *testing.T, n int, header []byte) {
		if n < 0 || n > hdrLen+packet.HeadMax+tailMax { // readv's bounds
			return
		}
		q := bare(t).rx[0]
		b := packet.NewBatch()
		q.next = q.tail
		h := b.Slot(0)[packet.HeadRoom-hdrLen : packet.HeadRoom]
		copy(h, header)
		q.accept(b, n)
		if b.N+b.NEarly != 1 {
			t.Fatalf("%d frames and %d drops", b.N, b.NEarly)
		}
		size, offload := n-hdrLen, h[0]&1 != 0 || h[1] != 0
		if fine := size >= 14 && size <= packet.FrameMax && !offload; fine != (b.N == 1) {
			t.Fatalf("size %d, header %x: %d frames", size, h, b.N)
		}
		if b.N == 1 && (len(b.AppendTo(nil, 0)) != size || int(b.Frames[0].Len) != size || b.Bytes != uint64(size)) {
			t.Fatalf("size %d, frame %+v", size, b.Frames[0])
		}
	})
}

// FuzzNotes: no message of netlink, whole or cut, is read beyond its end; what is
// found is the index of each note on a link.
func FuzzNotes(f *testing.F) {
	note := func(kind uint16, index uint32, more int) []byte {
		b := make([]byte, nlHeaderLen+ifInfoLen+more)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		binary.NativeEndian.PutUint16(b[4:], kind)
		binary.NativeEndian.PutUint32(b[nlHeaderLen+4:], index)
		return b
	}
	f.Add([]byte{})
	f.Add(note(unix.RTM_NEWLINK, 5, 0))
	f.Add(append(note(unix.RTM_DELLINK, 5, 4), note(unix.RTM_NEWLINK, 7, 1)...))
	f.Add(append(note(unix.RTM_NEWADDR, 5, 0), note(unix.RTM_NEWLINK, 7, 0)[:20]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		eachLink(slices.Clip(b), func(int32) { n++ })
		if n > len(b)/(nlHeaderLen+ifInfoLen) {
			t.Fatalf("%d notes in %d bytes", n, len(b))
		}
	})
}

// TestNotes: of several notes in one message each is found.
func TestNotes(t *testing.T) {
	var b []byte
	for i, kind := range []uint16{unix.RTM_NEWLINK, unix.RTM_NEWADDR, unix.RTM_DELLINK} {
		m := make([]byte, nlHeaderLen+ifInfoLen+3)
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		binary.NativeEndian.PutUint16(m[4:], kind)
		binary.NativeEndian.PutUint32(m[nlHeaderLen+4:], uint32(i+10))
		b = append(append(b, m...), 0) // to 4 bytes
	}
	var got []int32
	eachLink(b, func(i int32) { got = append(got, i) })
	if !slices.Equal(got, []int32{10, 12}) {
		t.Errorf("found %v", got)
	}
}
