package acceptance

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
	"millrace/vhost/message"
)

// What the bad guests of most mischief agree on. Without EVENT_IDX they are
// called for every frame.
const badFeatures = message.FVersion1 | message.NetFMrgRxbuf | message.RingFIndirectDesc | message.FProtocolFeatures

// A mischief is one thing that a bad guest does.
type mischief struct {
	name string
	do   func(b *badGuest) error

	// cut matches the reason for which the switch cuts it off. Empty: it does
	// not, and the guest can go on as a good one, unless it has hung up.
	cut string

	without message.Features // not agreed on
	hungUp  bool             // the connection is no use afterwards
	last    time.Duration    // for how long it goes on; 0 is duration
}

// TestHostileGuest has one guest do all that a guest can do wrong, again and
// again, beside two that send to each other as fast as they can, and
// broadcasts to all. They keep their rate, and lose no frame but for want of
// room; the bad one is cut off with a reason, and served when it comes again.
func TestHostileGuest(t *testing.T) {
	need(t)
	s := runDataplane(t)
	for _, name := range []string{"a", "b", "c"} {
		s.addAPI(name, listens)
	}
	worker, _ := cpus(t)
	stayOff(t)
	good := newPair(t, s, "a", "b")
	eventually(t, func() bool { return good.received.Load() > 100000 }, "the good guests have exchanged 100000 frames")
	h := &hostility{s: s, good: good, worker: worker, lowest: 1}
	for _, m := range allMischief() {
		t.Run(m.name, func(t *testing.T) { h.test(t, m) })
	}
	t.Logf("lowest rate %.0f %% of that before, longest stall %v, %d frames", 100*h.lowest, h.stall, good.received.Load())
	if h.unmeasured > 0 {
		t.Logf("others had the worker's CPU during %d kinds of mischief: their rates were not judged", h.unmeasured)
	}
	if wrong := good.verdict(); wrong != "" {
		t.Errorf("the good guests: %s", wrong)
	}
	full := uint64(0)
	for _, p := range s.stats("a", "b") {
		if n := dropped(p.GetRxDrops()); n != 0 {
			t.Errorf("port %s: frames dropped on the way in: %v", p.GetName(), p.GetRxDrops())
		}
		if n := dropped(p.GetTxDrops(), "tx_ring_full"); n != 0 {
			t.Errorf("port %s: frames dropped on the way out: %v", p.GetName(), p.GetTxDrops())
		}
		full += dropped(p.GetTxDrops())
	}
	if lost := good.lost.Load(); lost > full {
		t.Errorf("the good guests miss %d frames, of which the switch dropped %d", lost, full)
	}
}

// stayOff keeps this process, and those that it starts, off the worker's CPU
// until the test ends.
func stayOff(t *testing.T) {
	t.Helper()
	all, err := sys.AllowedCPUs()
	check(t, err)
	_, guests := cpus(t)
	check(t, sys.Place([]int{guests}))
	t.Cleanup(func() { check(t, sys.Place(all)) })
}

// A hostility goes on through all kinds of mischief.
type hostility struct {
	s      *switchRun
	good   *page
	worker int // its CPU
	hellos uint64

	lowest     float64 // rate of the good guests, as a part of that before
	stall      time.Duration
	unmeasured int // kinds of mischief during which others had the worker's CPU
}

const (
	baseline = 100 * time.Millisecond // for the rate before
	duration = 200 * time.Millisecond // of one mischief, at least
	pace     = 10 * time.Millisecond  // between two rounds
	leastOf  = 0.95                   // of the rate before
	mostGone = 100 * time.Millisecond // without a frame
)

// test does m for a while, up to three times if the good guests seem to suffer:
// it may be the machine. Where others take the worker's CPU, it surely is.
func (h *hostility) test(t *testing.T, m mischief) {
	for try := 1; ; try++ {
		quiet, during := h.measure(t, m)
		if t.Failed() {
			return
		}
		t.Logf("%d rounds: %.1f of %.1f frames per µs, stall %v, worker without its CPU %v", during.rounds, during.rate, quiet.rate, during.stall, during.delay)
		busy := quiet.busy() || during.busy()
		ratio := during.rate / quiet.rate
		fine := ratio >= leastOf && during.stall <= mostGone
		if !fine && try < 3 {
			continue
		}
		if !busy {
			h.lowest = min(h.lowest, ratio)
			h.stall = max(h.stall, during.stall)
		}
		switch {
		case fine:
		case busy:
			h.unmeasured++
		default:
			t.Errorf("the good guests had %.0f %% of their rate, and no frame for %v", 100*ratio, during.stall)
		}
		return
	}
}

// A span is a time that was measured.
type span struct {
	rate   float64       // of the good guests, in frames for each microsecond that they had the processor
	stall  time.Duration // the longest that they had it, and no frame came
	delay  time.Duration // that somebody else had the worker's CPU
	length time.Duration
	rounds int
}

// busy reports whether so much went to others that the span says nothing.
func (s span) busy() bool { return s.delay > s.length/25 }

// measure returns how the good guests fare in peace, and while m goes on.
func (h *hostility) measure(t *testing.T, m mischief) (quiet, during span) {
	t.Helper()
	idle := newBad(t, h.s.path("c"), badFeatures)
	defer idle.close()
	h.hello(t, idle)
	quiet = h.during(t, func() { time.Sleep(baseline) }) // what is measured is the peace
	idle.close()
	rounds := 0
	during = h.during(t, func() {
		for end := time.Now().Add(max(duration, m.last)); rounds == 0 || time.Now().Before(end); rounds++ {
			h.round(t, m, rounds == 0)
			time.Sleep(pace)
			if t.Failed() {
				return
			}
		}
	})
	during.rounds = rounds
	return quiet, during
}

// during measures while f runs.
func (h *hostility) during(t *testing.T, f func()) span {
	t.Helper()
	h.good.stall.Store(0)
	now := func() (time.Time, uint64, time.Duration, time.Duration) {
		return time.Now(), h.good.received.Load(), time.Duration(h.good.time.Load()), workerDelay(t, h.s.dataplane(), h.worker)
	}
	began, frames, ran, delay := now()
	f()
	ended, framesAfter, ranAfter, delayAfter := now()
	return span{
		rate:  float64(framesAfter-frames) / (float64(ranAfter-ran) / float64(time.Microsecond)),
		stall: time.Duration(h.good.stall.Load()), delay: delayAfter - delay, length: ended.Sub(began),
	}
}

// round is one connection with mischief. The first is looked at closely.
func (h *hostility) round(t *testing.T, m mischief, closely bool) {
	b := newBad(t, h.s.path("c"), badFeatures&^m.without)
	defer b.close()
	err := m.do(b)
	switch {
	case m.cut == "" && err != nil:
		t.Errorf("%v", err)
	case m.cut == "" && !m.hungUp && closely:
		h.hello(t, b)
	case m.cut != "":
		if err != nil && !errors.Is(err, errOver) {
			t.Errorf("%v", err)
		}
		if err := b.over(); err != nil {
			t.Errorf("%v", err)
		} else if closely {
			h.wasCut(t, m)
		}
	}
}

// wasCut checks that the port says why it has cut off its peer.
func (h *hostility) wasCut(t *testing.T, m mischief) {
	t.Helper()
	reason := ""
	eventually(t, func() bool {
		st := h.s.port("c").GetState()
		reason = st.GetReason()
		return st.GetLink() == api.Link_LINK_BROKEN
	}, "the port is broken (%s)", lazy(func() string { return reason }))
	if !regexp.MustCompile(m.cut).MatchString(reason) {
		t.Errorf("cut off because %q, want %q", reason, m.cut)
	}
	t.Logf("cut off: %s", reason)
}

// hello has b send a frame, and waits until the good guests have it.
func (h *hostility) hello(t *testing.T, b *badGuest) {
	t.Helper()
	h.hellos++
	eventually(t, func() bool {
		b.frame(badRing-1, h.hellos)
		b.offer(badRing - 1) // more than once, if it is lost for want of room
		time.Sleep(time.Millisecond)
		return h.good.newest.Load() >= h.hellos
	}, "a frame comes from the guest when it is good")
}

// wait lets the switch see what was done, where there is nothing to wait for.
func wait() error {
	time.Sleep(5 * time.Millisecond)
	return nil
}

// chainOf offers a chain of one descriptor.
func chainOf(addr uint64, n uint32, flags, next uint16) func(*badGuest) error {
	return func(b *badGuest) error {
		b.desc(fromGuest, 0, addr, n, flags, next)
		b.offer(0)
		return nil
	}
}

// intoBuffers makes all buffers for frames to the guest so, and returns when the switch has
// used as many as the ring has, or ended the connection. Those that the ring has had may be used
// up by then, as good ones, so they are given once more.
func intoBuffers(addr uint64, n uint32, flags, next uint16) func(*badGuest) error {
	return func(b *badGuest) error {
		for i := range uint16(badRing) {
			b.desc(toGuest, i, addr, n, flags, next)
		}
		again := false
		eventually(b.t, func() bool {
			if b.used(toGuest) != b.idx[toGuest] {
				return b.hungUp()
			}
			if again {
				return true
			}
			again = true
			b.show(toGuest, badRing)
			return false
		}, "frames to the guest go into its buffers, or it is cut off")
		return nil
	}
}

// indirect offers a chain in an indirect table of n bytes that fill has
// written.
func indirect(n uint32, flags uint16, fill func(b *badGuest, at int)) func(*badGuest) error {
	return func(b *badGuest) error {
		at := fromGuest*badSlot + badTables
		fill(b, at)
		return chainOf(badGPA+uint64(at), n, fIndirect|flags, 1)(b)
	}
}

// says sends a request that must not go well.
func says(r message.Request, payload []byte, files ...string) func(*badGuest) error {
	return func(b *badGuest) error {
		var fds []int
		for _, name := range files {
			fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		return isRefused(b.do(r, payload, fds...))
	}
}

// isRefused turns the error of a request round: to be taken is the error.
func isRefused(err error) error {
	if err == nil {
		return errors.New("the request was taken")
	}
	return nil
}

// writes sends bytes as they are.
func writes(p ...byte) func(*badGuest) error {
	return func(b *badGuest) error {
		_, err := b.sock.Write(p)
		return errors.Join(err, wait())
	}
}

// header is that of a message.
func header(r message.Request, flags, size uint32) []byte {
	h := binary.LittleEndian.AppendUint32(nil, uint32(r))
	h = binary.LittleEndian.AppendUint32(h, flags)
	return binary.LittleEndian.AppendUint32(h, size)
}

// allMischief is what the test does.
func allMischief() []mischief {
	return append(append(ringMischief(), memoryMischief()...), socketMischief()...)
}

// ringMischief is done in rings.
func ringMischief() []mischief {
	const in = badGPA + fromGuest*badSlot + badBufs
	return []mischief{
		{name: "available index jumps", cut: "ring 1: .*available index",
			do: func(b *badGuest) error { b.show(fromGuest, badRing+1); return nil }},
		{name: "available index jumps back", cut: "ring 1: .*available index",
			do: func(b *badGuest) error { b.show(fromGuest, 0xffff); return nil }},
		{name: "available index jumps in the ring to the guest", cut: "ring 0: .*available index",
			do: func(b *badGuest) error { b.show(toGuest, 300); return nil }},
		{name: "head out of range", cut: "ring 1: .*names descriptor",
			do: func(b *badGuest) error { b.offer(badRing); return nil }},
		{name: "head out of range in the ring to the guest", cut: "ring 0: .*names descriptor",
			do: func(b *badGuest) error {
				for i := range uint16(badRing) {
					b.entry(toGuest, i, 0xffff)
				}
				b.show(toGuest, badRing)
				return nil
			}},
		{name: "next out of range", cut: "next descriptor", do: chainOf(in, 100, fNext, badRing)},
		{name: "chain loops", cut: "loops", do: chainOf(in, 1, fNext, 0)},
		{name: "empty chain loops", cut: "loops", do: chainOf(in, 0, fNext, 0)},
		{name: "chain to the guest loops", cut: "loops", do: intoBuffers(badGPA+badBufs, 0, fWrite|fNext, 0)},
		{name: "wrong direction", cut: "direction", do: chainOf(in, 100, fWrite, 0)},
		{name: "wrong direction to the guest", cut: "direction", do: intoBuffers(badGPA+badBufs, badBuf, 0, 0)},
		{name: "address outside", cut: "outside of memory", do: chainOf(1, 100, 0, 0)},
		{name: "address wraps", cut: "outside of memory", do: chainOf(^uint64(0)-50, 100, 0, 0)},
		{name: "end outside", cut: "outside of memory", do: chainOf(badGPA+badSize-50, 100, 0, 0)},
		{name: "huge length", cut: "outside of memory", do: chainOf(in, 0xffffffff, 0, 0)},
		{name: "buffer to the guest outside", cut: "outside of memory", do: intoBuffers(badGPA+badSize, badBuf, fWrite, 0)},
		{name: "buffer to the guest that holds its rings", cut: "ring 0", do: intoBuffers(badGPA, badSize, fWrite, 0)},
		{name: "buffer to the guest of huge length", do: intoBuffers(badGPA+badSpare, 0xffffffff, fWrite, 0)},
		{name: "zero lengths to the guest", cut: "no room for the header", do: intoBuffers(badGPA, 0, fWrite, 0)},
		{name: "zero length", do: chainOf(in, 0, 0, 0)},
		{name: "shorter than its header", do: chainOf(in, 5, 0, 0)},
		{name: "frame too long", do: chainOf(in, 0x10000, 0, 0)},
		{name: "header that asks for offload", do: func(b *badGuest) error {
			b.frame(0, 0)
			b.mem[in-badGPA] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
			b.offer(0)
			return nil
		}},
		{name: "indirect in indirect", cut: "indirect descriptor in an indirect table",
			do: indirect(16, 0, func(b *badGuest, at int) { b.descAt(at, badGPA, 16, fIndirect, 0) })},
		{name: "indirect table loops", cut: "loops",
			do: indirect(16, 0, func(b *badGuest, at int) { b.descAt(at, in, 1, fNext, 0) })},
		{name: "next of an indirect table out of range", cut: "next descriptor",
			do: indirect(16, 0, func(b *badGuest, at int) { b.descAt(at, in, 1, fNext, 1) })},
		{name: "indirect with a next one", cut: "indirect descriptor with a next", do: indirect(16, fNext, func(*badGuest, int) {})},
		{name: "indirect table of odd length", cut: "indirect table of 17", do: indirect(17, 0, func(*badGuest, int) {})},
		{name: "empty indirect table", cut: "indirect table of 0", do: indirect(0, 0, func(*badGuest, int) {})},
		{name: "indirect table of huge length", cut: "indirect table", do: indirect(0xfffffff0, 0, func(*badGuest, int) {})},
		{name: "indirect table outside", cut: "outside of memory", do: chainOf(badGPA+badSize, 16, fIndirect, 0)},
		{name: "indirect not agreed on", cut: "not negotiated", without: message.RingFIndirectDesc, do: chainOf(in, 16, fIndirect, 0)},
		{name: "garbage in rings", cut: ".", do: garbage},
		{name: "kick storm", do: func(b *badGuest) error {
			for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
				b.kick(toGuest)
				b.kick(fromGuest)
			}
			return nil
		}},
	}
}

// garbage writes at random to rings and tables until the switch has enough.
func garbage(b *badGuest) error {
	seed := uint64(number(b.t, seedEnv, time.Now().UnixNano()))
	b.t.Logf("garbage with %s=%d", seedEnv, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for end := time.Now().Add(patience); time.Now().Before(end); {
		for range 16 {
			at := random.IntN(2)*badSlot + random.IntN(badBufs/8)*8
			binary.LittleEndian.PutUint64(b.mem[at:], random.Uint64()>>random.IntN(64))
		}
		b.kick(fromGuest)
		if err := b.do(message.SetVringEnable, ringState(fromGuest, 1)); err != nil {
			return err
		}
	}
	return errors.New("nobody minds garbage")
}

// memoryMischief is done to memory and eventfds.
func memoryMischief() []mischief {
	moved := func(desc, avail, used uint64) func(*badGuest) error {
		return func(b *badGuest) error {
			a := b.addr(fromGuest)
			a.Desc, a.Avail, a.Used = a.Desc+desc, a.Avail+avail, a.Used+used
			return says(message.SetVringAddr, message.MarshalVringAddr(a))(b)
		}
	}
	truncate := func(send bool) func(*badGuest) error {
		return func(b *badGuest) error {
			for i := range uint16(badRing) {
				b.frame(i, 0)
				b.entry(fromGuest, i, i)
			}
			if send {
				b.show(fromGuest, badRing)
			}
			return unix.Ftruncate(b.memfd, 0)
		}
	}
	return []mischief{
		{name: "descriptor table outside", cut: "outside of memory", do: moved(badSize, 0, 0)},
		{name: "available ring outside", cut: "outside of memory", do: moved(0, 1<<62, 0)},
		{name: "used ring outside", cut: "outside of memory", do: moved(0, 0, badSize-badUsed-badSlot-64)},
		{name: "used ring not aligned", cut: "align", do: moved(0, 0, 2)},
		{name: "memory truncated, frames to the guest", cut: "memory was taken away", do: truncate(false)},
		{name: "memory truncated, frames from the guest", cut: "memory was taken away", do: truncate(true)},
		{name: "memory truncated, then rings start", cut: "memory was taken away|file has 0 bytes", do: func(b *badGuest) error {
			if _, err := b.ask(message.GetVringBase, ringState(fromGuest, 0)); err != nil {
				return err
			}
			if _, err := b.ask(message.GetVringBase, ringState(toGuest, 0)); err != nil {
				return err
			}
			if err := unix.Ftruncate(b.memfd, 0); err != nil {
				return err
			}
			return says(message.SetVringKick, message.MarshalVringFD(message.VringFD{Index: fromGuest, NoFD: true}))(b)
		}},
		{name: "memory larger than its file", cut: "file has", do: func(b *badGuest) error {
			return isRefused(b.do(message.SetMemTable, b.table(2*badSize), b.memfd))
		}},
		{name: "regions overlap", cut: "overlaps", do: func(b *badGuest) error {
			r := message.MemRegion{GPA: badGPA, Size: badSize, UserAddr: badUser}
			return isRefused(b.do(message.SetMemTable, message.MarshalMemTable(message.MemTable{r, r}), b.memfd, b.memfd))
		}},
		{name: "memory of another kind", cut: "file has", do: says(message.SetMemTable, (&badGuest{}).table(4096), "/dev/null")},
		{name: "no memory", do: func(b *badGuest) error {
			if err := b.do(message.SetMemTable, message.MarshalMemTable(nil)); err != nil {
				return err
			}
			return b.do(message.SetMemTable, b.table(badSize), b.memfd)
		}},
		{name: "memory tables under load", do: func(b *badGuest) error {
			for i := range uint16(200) {
				b.frame(i%badRing, 0)
				b.offer(i % badRing)
				if err := b.do(message.SetMemTable, b.table(badSize), b.memfd); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "call eventfd full and blocking", cut: "blocked the switch", last: 2 * time.Second, do: blockCalls},
		{name: "kick is no eventfd", cut: "no eventfd", do: says(message.SetVringKick, message.MarshalVringFD(message.VringFD{Index: fromGuest}), "/dev/null")},
		{name: "call is no eventfd", cut: "no eventfd", do: says(message.SetVringCall, message.MarshalVringFD(message.VringFD{Index: fromGuest}), "/dev/null")},
	}
}

// blockCalls makes whoever calls the guest wait.
func blockCalls(b *badGuest) error {
	for _, fd := range b.calls {
		var was [8]byte
		for { // the switch writes, too
			_, _ = unix.Read(fd, was[:])
			if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1<<64-2)); err == nil {
				break
			}
		}
		if err := unix.SetNonblock(fd, false); err != nil {
			return err
		}
	}
	b.frame(0, 0)
	b.offer(0)
	return nil
}

// socketMischief is done on the socket.
func socketMischief() []mischief {
	version := uint32(1)
	vring := message.MarshalVringFD(message.VringFD{Index: fromGuest})
	return []mischief{
		{name: "payload too short", cut: "size|bytes", do: says(message.SetVringNum, []byte{1, 2, 3})},
		{name: "payload too long", cut: "size|bytes", do: says(message.SetVringNum, make([]byte, 64))},
		{name: "message of huge size", cut: ".", do: writes(header(message.SetVringNum, version, 0xffffffff)...)},
		{name: "unknown version", cut: ".", do: writes(header(message.SetVringNum, 7, 0)...)},
		{name: "garbage", cut: ".", do: writes([]byte("GET / HTTP/1.1\r\nHost: millrace\r\n\r\n")...)},
		{name: "half a message, and silence", hungUp: true, do: writes(header(message.SetVringNum, version, 8)[:7]...)},
		{name: "a header, and silence", hungUp: true, do: writes(header(message.SetVringNum, version, 8)...)},
		{name: "too many descriptors", cut: "descriptor|file", do: says(message.SetMemTable, (&badGuest{}).table(4096), "/dev/null", "/dev/null", "/dev/null")},
		{name: "descriptors where none belong", cut: "descriptor|file", do: says(message.SetVringNum, ringState(1, badRing), "/dev/null")},
		{name: "descriptor missing", cut: "descriptor|file", do: says(message.SetMemTable, (&badGuest{}).table(4096))},
		{name: "kick descriptor missing", cut: "descriptor|file", do: says(message.SetVringKick, vring)},
		{name: "ring that there is not", cut: "ring 200", do: says(message.SetVringNum, ringState(200, badRing))},
		{name: "ring size that is none", cut: "power of two", do: says(message.SetVringNum, ringState(1, 100))},
		{name: "base while the ring runs", cut: "while the ring runs", do: says(message.SetVringBase, ringState(1, 7))},
		{name: "features that were not offered", cut: "not offered", do: says(message.SetFeatures, message.MarshalU64(1<<64-1))},
		{name: "requests out of order", hungUp: true, do: func(b *badGuest) error {
			for _, r := range []message.Request{message.ResetOwner, message.ResetDevice, message.SetOwner} {
				_ = b.do(r, nil) // it may mind
			}
			return nil
		}},
		{name: "request that is unknown", do: func(b *badGuest) error { return says(message.SendRARP, message.MarshalU64(0))(b) }},
		{name: "replies that are not read", hungUp: true, do: func(b *badGuest) error {
			_ = b.sock.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			for range 10000 {
				if b.conn.Write(message.Message{Request: message.GetFeatures}) != nil {
					break
				}
			}
			return nil
		}},
		{name: "second connections", do: func(b *badGuest) error {
			path := b.sock.RemoteAddr().String()
			for range 20 {
				c, err := net.Dial("unix", path)
				if err != nil {
					continue // its turn has not come yet
				}
				defer c.Close()
			}
			return nil
		}},
		{name: "connections that come and go", hungUp: true, do: func(b *badGuest) error {
			path := b.sock.RemoteAddr().String()
			_ = b.sock.Close()
			for range 20 {
				if c, err := net.Dial("unix", path); err == nil {
					_ = c.Close()
				} else if !errors.Is(err, unix.EAGAIN) && !os.IsTimeout(err) {
					return err
				}
			}
			return nil
		}},
	}
}
