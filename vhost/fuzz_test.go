package vhost

import (
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/vhost/message"
)

// A script is bytes that a sequence of messages is read from. When it is over,
// all that is read is zero.
type script struct{ b []byte }

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

func (s *script) take(n int) []byte {
	n = min(n, len(s.b))
	v := s.b[:n]
	s.b = s.b[n:]
	return v
}

// payload makes the payload of a request: mostly one that makes sense, with
// values from few, so that they meet; sometimes any bytes.
func (s *script) payload(r message.Request) []byte {
	kind := s.byte()
	if kind%8 == 7 {
		return s.take(int(s.byte()))
	}
	v := int(s.byte())
	switch r {
	case message.SetFeatures:
		return message.MarshalU64(uint64(modern|message.NetFMQ) &^ (1 << (v % 64)))
	case message.SetProtocolFeatures:
		return message.MarshalU64(uint64(offeredProtocol) &^ (1 << (v % 64)))
	case message.SetMemTable:
		var t message.MemTable
		for i := range v % 4 {
			t = append(t, region(int(s.byte())+i))
		}
		return message.MarshalMemTable(t)
	case message.AddMemReg, message.RemMemReg:
		return message.MarshalMemRegion(region(v))
	case message.SetVringNum:
		return state(v%6, 1<<(v/6%17))
	case message.SetVringBase, message.GetVringBase:
		return state(v%6, v)
	case message.SetVringEnable:
		return state(v%6, v/6%2)
	case message.SetVringAddr:
		a := addrOf(v % 6)
		a.Used += uint64(s.byte()) << (v / 6 % 20)
		return message.MarshalVringAddr(a)
	case message.SetVringKick, message.SetVringCall, message.SetVringErr:
		return message.MarshalVringFD(message.VringFD{Index: uint8(v % 6), NoFD: kind%8 == 6})
	case message.NetSetMTU, message.SetStatus:
		return message.MarshalU64(uint64(v))
	}
	return nil
}

// region is one of few: the first holds all rings, others overlap or not.
func region(v int) message.MemRegion {
	switch v % 4 {
	case 0:
		return message.MemRegion{GPA: peerGPA, Size: peerMemLen, UserAddr: peerUser}
	case 1:
		return message.MemRegion{GPA: 1 << 40, Size: 0x3000, UserAddr: 1 << 41, MmapOffset: 0x1000}
	case 2:
		return message.MemRegion{GPA: peerGPA + slotSize, Size: 0x1000, UserAddr: peerUser}
	}
	return message.MemRegion{GPA: uint64(v) << 20, Size: peerMemLen + uint64(v), UserAddr: uint64(v) << 32}
}

// files opens one descriptor of each kind that the fuzzer may send.
func files(t testing.TB, front *peer) []message.FD {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(pipe[0])
		_ = unix.Close(pipe[1])
	})
	return []message.FD{message.FD(front.kicks[0].Int()), message.FD(front.fd), message.FD(null.Fd()), message.FD(pipe[0])}
}

// pair returns two connected sockets.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var cs [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		cs[i] = c.(*net.UnixConn)
	}
	return cs[0], cs[1]
}

// op encodes one step of a script.
func op(r message.Request, flags, fds byte, rest ...byte) []byte {
	return append([]byte{byte(r), flags, fds}, rest...)
}

// setUpScript is a script that brings a queue pair up.
func setUpScript() []byte {
	b := op(message.SetFeatures, 0, 0, 0, 63)
	b = append(b, op(message.SetProtocolFeatures, 0, 0, 0, 63)...)
	b = append(b, op(message.SetMemTable, 1, 1, 1, 0, 1, 0)...)
	for i := range byte(2) {
		b = append(b, op(message.SetVringNum, 1, 0, 0, 36+i)...)
		b = append(b, op(message.SetVringBase, 1, 0, 0, i)...)
		b = append(b, op(message.SetVringAddr, 1, 0, 0, i, 0)...)
		b = append(b, op(message.SetVringCall, 1, 1, 0, 0, i)...)
		b = append(b, op(message.SetVringKick, 1, 1, 0, 0, i)...)
		b = append(b, op(message.SetVringEnable, 1, 0, 0, 6+i)...)
	}
	return b
}

// FuzzSession plays a script to a session, with a worker that polls the queues:
// whatever comes, the session ends, and nothing of it is left.
//
// A step is the request, a flag byte (bit 0: need reply), the number of
// descriptors with the kind of each, and the payload.
func FuzzSession(f *testing.F) {
	up := setUpScript()
	f.Add(up)
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	f.Add(join(up, op(message.GetVringBase, 0, 0, 0, 1), op(message.SetVringKick, 1, 1, 0, 0, 1), op(message.ResetDevice, 1, 0)))
	f.Add(join(up, op(message.AddMemReg, 1, 1, 1, 0, 1), op(message.RemMemReg, 1, 0, 0, 1), op(message.SetMemTable, 1, 1, 1, 0, 1, 0)))
	f.Add(join(up, op(message.RemMemReg, 1, 0, 0, 0)))
	f.Add(join(up, op(message.SetVringCall, 0, 0, 6, 1), op(message.SetVringCall, 0, 1, 0, 0, 0), op(message.SetVringErr, 0, 1, 1, 0, 0)))
	f.Add(op(message.SetMemTable, 0, 3, 1, 2, 3, 0, 3, 0, 1, 3))
	f.Add(op(99, 1, 8, 0, 1, 2, 3, 0, 1, 2, 3, 7, 200, 1, 2, 3))
	f.Fuzz(func(t *testing.T, in []byte) {
		before := openFDs(t)
		t.Run("session", func(t *testing.T) { playScript(t, &script{in}) })
		if after := openFDs(t); after != before {
			t.Errorf("%d descriptors, there were %d", after, before)
		}
	})
}

// playScript runs one session to its end.
func playScript(t *testing.T, in *script) {
	front := newPeer(t, true)
	front.makeRings(modern, 3)
	kinds := files(t, front)
	l := newLoop(t)
	o, err := Options{Path: "fuzz", Queues: 3, MTU: 1500, Quiesce: l.quiesce}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	p := newPort(o)
	go p.guard.run(p)
	defer p.guard.end()
	l.port.Store(p)
	ours, theirs := pair(t)
	s := newSession(p, ours)
	p.running.Go(s.run)
	front.attach(theirs)
	replies := front.conn
	var reader sync.WaitGroup
	reader.Go(func() { // replies must not pile up
		for {
			if _, err := replies.Read(); err != nil {
				return
			}
		}
	})
	defer reader.Wait()
	defer theirs.Close()
	for len(in.b) > 0 {
		m := message.Message{Request: message.Request(in.byte())}
		if in.byte()&1 != 0 {
			m.Flags = message.FlagNeedReply
		}
		var fds []message.FD
		for range in.byte() % 10 {
			fds = append(fds, kinds[int(in.byte())%len(kinds)])
		}
		m.Payload = in.payload(m.Request)
		if len(fds) > message.MaxFDs || front.conn.Write(m, fds...) != nil {
			break // the session has ended
		}
		front.send(int(m.Request)%3, 2)
	}
	_ = theirs.CloseWrite()
	select {
	case <-s.done:
	case <-time.After(deadline):
		t.Fatal("session does not end")
	}
	if st := p.State(); p.mem != nil || st.Link != LinkWaiting && st.Link != LinkBroken {
		t.Errorf("state %+v", st)
	}
	for i, q := range p.rx {
		if q.WakeFD() != wakeNone {
			t.Errorf("queue %d has a ring", i)
		}
	}
}

// TestScript checks that the fuzzer's first seed reaches what it is for.
func TestScript(t *testing.T) {
	leaks(t)
	l := newLoop(t)
	p := l.open(t, Options{Path: socket(t), Queues: 3, MTU: 1500})
	front := newPeer(t, true)
	front.makeRings(modern, 1)
	front.dial(p.opts.Path)
	in := &script{setUpScript()}
	kinds := files(t, front)
	for len(in.b) > 0 {
		m := message.Message{Request: message.Request(in.byte())}
		in.byte()
		var fds []message.FD
		for range in.byte() {
			fds = append(fds, kinds[in.byte()])
		}
		m.Payload = in.payload(m.Request)
		if err := front.conn.Write(m, fds...); err != nil {
			t.Fatal(err)
		}
	}
	front.sync()
	if st := p.State(); st.Link != LinkUp {
		t.Errorf("state %+v", st)
	}
}
