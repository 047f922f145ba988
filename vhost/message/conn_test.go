package message

import (
	"bytes"
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of these tests.
const patience = time.Minute

// pair returns two connected stream sockets, closed when the test ends.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return unixConn(t, fds[0]), unixConn(t, fds[1])
}

func unixConn(t testing.TB, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// ends returns a front end and a back end that are connected.
func ends(t testing.TB) (front, back *Conn) {
	t.Helper()
	a, b := pair(t)
	return NewConn(a, FrontEnd), NewConn(b, BackEnd)
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// checkLeaks fails the test if it ends with other descriptors open than now.
// Call it before pair: its cleanup then runs last.
func checkLeaks(t *testing.T) {
	t.Helper()
	pair(t) // wakes the runtime's poller, whose descriptors stay
	before := openFiles(t)
	t.Cleanup(func() {
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors open at the end, %d at the start", after, before)
		}
	})
}

// someFiles opens n descriptors, closed when the test ends.
func someFiles(t testing.TB, n int) []FD {
	t.Helper()
	fds := make([]FD, n)
	for i := range fds {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		fds[i] = FD(f.Fd())
	}
	return fds
}

// request returns a whole request as the wire has it.
func request(r Request, payload []byte) []byte {
	return append(MarshalHeader(Header{r, Version, uint32(len(payload))}), payload...)
}

// reply is request for the other direction.
func reply(r Request, payload []byte) []byte {
	return append(MarshalHeader(Header{r, Version | FlagReply, uint32(len(payload))}), payload...)
}

// twoRegions is a good SET_MEM_TABLE.
func twoRegions() []byte {
	return MarshalMemTable(MemTable{{GPA: 0, Size: 4096}, {GPA: 4096, Size: 4096}})
}

// TestConversation sends requests with and without descriptors and their
// replies, and checks that each arrives as it was sent, with the open file that
// was sent and not merely some descriptor.
func TestConversation(t *testing.T) {
	checkLeaks(t)
	tests := []struct {
		name    string
		request Request
		flags   Flags
		payload []byte
		fds     int
		reply   []byte
		replyFD int
	}{
		{name: "no payload", request: GetFeatures, reply: MarshalU64(uint64(FVersion1))},
		{name: "acknowledged", request: SetOwner, flags: FlagNeedReply, reply: MarshalU64(0)},
		{name: "kick", request: SetVringKick, payload: MarshalVringFD(VringFD{Index: 1}), fds: 1},
		{name: "polled ring", request: SetVringKick, payload: MarshalVringFD(VringFD{NoFD: true})},
		{name: "memory", request: SetMemTable, payload: twoRegions(), fds: 2},
		{name: "log", request: SetLogBase, payload: MarshalU64(0), fds: 1},
		{name: "region removed the old way", request: RemMemReg, payload: MarshalMemRegion(MemRegion{Size: 1}), fds: 1},
		{name: "descriptor in a reply", request: GetInflightFD, payload: make([]byte, 24), reply: append([]byte{0, 0x10}, make([]byte, 22)...), replyFD: 1},
		{name: "longest payload", request: 99, payload: make([]byte, MaxPayload), reply: make([]byte, MaxPayload)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			front, back := ends(t)
			if err := front.Write(Message{Request: tt.request, Flags: tt.flags, Payload: tt.payload}, pipes(t, tt.fds)...); err != nil {
				t.Fatal(err)
			}
			m, err := back.Read()
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			checkMessage(t, m, tt.request, Version|tt.flags, tt.payload, tt.fds)
			if tt.reply == nil {
				return
			}
			if err := back.Write(m.Reply(tt.reply), pipes(t, tt.replyFD)...); err != nil {
				t.Fatal(err)
			}
			r, err := front.Read()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			checkMessage(t, r, tt.request, Version|FlagReply, tt.reply, tt.replyFD)
		})
	}
}

// pipes returns n descriptors from which their own number in the list can be
// read.
func pipes(t *testing.T, n int) []FD {
	t.Helper()
	fds := make([]FD, n)
	for i := range fds {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte{byte(i)})
		w.Close()
		t.Cleanup(func() { r.Close() })
		fds[i] = FD(r.Fd())
	}
	return fds
}

// checkMessage holds m against what was sent with pipes, and takes its files.
func checkMessage(t *testing.T, m Message, r Request, flags Flags, payload []byte, fds int) {
	t.Helper()
	if m.Request != r || m.Flags != flags || !bytes.Equal(m.Payload, payload) || m.Files() != fds {
		t.Fatalf("got %v, flags %#x, %d bytes, %d descriptors, want %v, %#x, %d bytes, %d descriptors",
			m.Request, m.Flags, len(m.Payload), m.Files(), r, flags, len(payload), fds)
	}
	for i := range fds {
		fd := m.TakeFile(i)
		var b [1]byte
		if n, err := syscall.Read(int(fd), b[:]); n != 1 || int(b[0]) != i {
			t.Errorf("descriptor %d reads %d, %d, %v: another file or order", i, b[0], n, err)
		}
		if !closesOnExec(fd) {
			t.Errorf("descriptor %d is not closed on exec", i)
		}
		if again := m.TakeFile(i); again != NoFD {
			t.Errorf("descriptor %d taken twice, got %d", i, again)
		}
		if err := fd.Close(); err != nil {
			t.Errorf("close descriptor %d: %v", i, err)
		}
	}
}

func closesOnExec(fd FD) bool {
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
	return errno == 0 && flags&syscall.FD_CLOEXEC != 0
}

// TestReadPieces writes two messages a few bytes at a time, descriptors with the
// first byte of the first, and checks that reads put them together without
// taking a byte of the next.
func TestReadPieces(t *testing.T) {
	checkLeaks(t)
	for _, size := range []int{1, 5, HeaderSize - 1, HeaderSize, HeaderSize + 1, 1000} {
		a, b := pair(t)
		back := NewConn(b, BackEnd)
		wire := append(request(SetMemTable, twoRegions()), request(SetVringKick, MarshalVringFD(VringFD{NoFD: true}))...)
		written := make(chan error, 1)
		oob := control(someFiles(t, 2))
		go func() { written <- writePieces(a, wire, oob, size) }()

		first, err := back.Read()
		if err != nil {
			t.Fatalf("pieces of %d: %v", size, err)
		}
		if first.Request != SetMemTable || first.Files() != 2 || !bytes.Equal(first.Payload, twoRegions()) {
			t.Errorf("pieces of %d: got %v with %d descriptors, % x", size, first.Request, first.Files(), first.Payload)
		}
		first.Close()
		second, err := back.Read()
		if err != nil || second.Request != SetVringKick || second.Files() != 0 {
			t.Errorf("pieces of %d: second got %v, %d descriptors, %v", size, second.Request, second.Files(), err)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
}

// writePieces writes b to c, size bytes a call, with oob at the first.
func writePieces(c *net.UnixConn, b, oob []byte, size int) error {
	for len(b) > 0 {
		n := min(size, len(b))
		if _, _, err := c.WriteMsgUnix(b[:n], oob, nil); err != nil {
			return err
		}
		b, oob = b[n:], nil
	}
	return nil
}

// TestReadRefuses feeds a reader what no honest peer sends, and checks the kind
// of error, that it lasts, and that no descriptor stays open.
func TestReadRefuses(t *testing.T) {
	kick := MarshalVringFD(VringFD{Index: 1})
	mute := MarshalVringFD(VringFD{Index: 1, NoFD: true})
	tests := []struct {
		name string
		wire []byte
		fds  int
		side Side
		want error
	}{
		{"nothing", nil, 0, BackEnd, ErrPeerClosed},
		{"end in the header", request(GetFeatures, nil)[:5], 0, BackEnd, ErrTruncated},
		{"end in the header, with descriptors", request(SetMemTable, nil)[:1], 3, BackEnd, ErrTruncated},
		{"end after the header", request(SetFeatures, MarshalU64(1))[:HeaderSize], 0, BackEnd, ErrTruncated},
		{"end in the payload", request(SetVringKick, kick)[:HeaderSize+7], 1, BackEnd, ErrTruncated},
		{"version 0", MarshalHeader(Header{GetFeatures, 0, 0}), 2, BackEnd, ErrVersion},
		{"oversize", MarshalHeader(Header{GetFeatures, Version, MaxPayload + 1}), 8, BackEnd, ErrOversize},
		{"reply to a back end", reply(GetInflightFD, nil), 1, BackEnd, ErrDirection},
		{"request to a front end", request(SetVringCall, kick), 1, FrontEnd, ErrDirection},
		{"descriptor with a request that has none", request(GetFeatures, nil), 1, BackEnd, ErrFDCount},
		{"descriptor with an unknown request", request(99, nil), 1, BackEnd, ErrFDCount},
		{"descriptor with an acknowledgement", reply(SetVringKick, MarshalU64(0)), 1, FrontEnd, ErrFDCount},
		{"two descriptors in a reply", reply(GetInflightFD, nil), 2, FrontEnd, ErrFDCount},
		{"kick without its descriptor", request(SetVringKick, kick), 0, BackEnd, ErrFDCount},
		{"kick with two descriptors", request(SetVringKick, kick), 2, BackEnd, ErrFDCount},
		{"mute call with a descriptor", request(SetVringCall, mute), 1, BackEnd, ErrFDCount},
		{"kick of a ring beyond 255", request(SetVringKick, MarshalU64(1<<32)), 1, BackEnd, ErrValue},
		{"kick without a payload", request(SetVringKick, nil), 1, BackEnd, ErrSize},
		{"memory without descriptors", request(SetMemTable, twoRegions()), 0, BackEnd, ErrFDCount},
		{"memory with a descriptor too few", request(SetMemTable, twoRegions()), 1, BackEnd, ErrFDCount},
		{"memory with a descriptor too many", request(SetMemTable, twoRegions()), 3, BackEnd, ErrFDCount},
		{"memory of nine regions", request(SetMemTable, MarshalMemTable(make(MemTable, 9))), 8, BackEnd, ErrValue},
		{"memory cut off", request(SetMemTable, []byte{1, 0}), 1, BackEnd, ErrSize},
		{"region without its descriptor", request(AddMemReg, MarshalMemRegion(MemRegion{Size: 1})), 0, BackEnd, ErrFDCount},
		{"more descriptors than any message", request(SetMemTable, twoRegions()), 9, BackEnd, ErrFDCount},
		{"as many descriptors as the kernel sends", request(SetMemTable, twoRegions()), 253, BackEnd, ErrFDCount},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			a, b := pair(t)
			c := NewConn(b, tt.side)
			if len(tt.wire) > 0 {
				if _, _, err := a.WriteMsgUnix(tt.wire, control(someFiles(t, tt.fds)), nil); err != nil {
					t.Fatal(err)
				}
			}
			a.Close()
			for range 2 {
				if m, err := c.Read(); !errors.Is(err, tt.want) {
					t.Fatalf("got %+v, %v, want %v", m, err, tt.want)
				}
			}
		})
	}
}

// TestReadLateDescriptors sends descriptors with another byte than a message's
// first: they belong to nothing, and must not stay open.
func TestReadLateDescriptors(t *testing.T) {
	for _, at := range []int{1, HeaderSize - 1, HeaderSize, HeaderSize + 3} {
		checkLeaks(t)
		a, b := pair(t)
		back := NewConn(b, BackEnd)
		wire := request(SetVringKick, MarshalVringFD(VringFD{}))
		read := make(chan error, 1)
		go func() {
			m, err := back.Read()
			m.Close()
			read <- err
		}()
		if _, err := a.Write(wire[:at]); err != nil {
			t.Fatal(err)
		}
		waitQueued(t, b, 0, 0)
		if _, _, err := a.WriteMsgUnix(wire[at:], control(someFiles(t, 1)), nil); err != nil {
			t.Fatal(err)
		}
		if err := <-read; !errors.Is(err, ErrFDCount) {
			t.Errorf("descriptor with byte %d: got %v, want ErrFDCount", at, err)
		}
	}
}

// waitQueued waits until c has that many bytes to read; it counts up to 64.
func waitQueued(t *testing.T, c *net.UnixConn, least, most int) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		if n := queued(t, c); least <= n && n <= most {
			return
		}
	}
	t.Fatalf("the queue never has %d to %d bytes", least, most)
}

// queued is how many bytes c has to read, up to 64.
func queued(t *testing.T, c *net.UnixConn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	raw.Control(func(fd uintptr) {
		var b [64]byte
		n, _, _ = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return max(n, 0)
}

// TestReadDeadline checks that a deadline between messages can be outlived, and
// that one inside a message cannot: the rest would be taken for a header.
func TestReadDeadline(t *testing.T) {
	checkLeaks(t)
	a, b := pair(t)
	back := NewConn(b, BackEnd)
	read := func(within time.Duration) error {
		back.SetReadDeadline(time.Now().Add(within))
		m, err := back.Read()
		m.Close()
		return err
	}
	if err := read(10 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("idle: got %v, want deadline exceeded", err)
	}
	a.Write(request(GetFeatures, nil))
	if err := read(patience); err != nil {
		t.Fatalf("after an idle deadline: %v", err)
	}
	wire := request(SetVringKick, MarshalVringFD(VringFD{}))
	if _, _, err := a.WriteMsgUnix(wire[:6], control(someFiles(t, 1)), nil); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); queued(t, b) > 0 && time.Now().Before(end); { // the deadline may be over before the read begins
		if err := read(10 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("half a header: got %v, want deadline exceeded", err)
		}
	}
	a.Write(append(wire[6:], request(GetFeatures, nil)...))
	if err := read(patience); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after half a header: got %v, want the same error again", err)
	}
}

// TestPeerGone checks that an end with our reply unread, which the kernel
// reports as a reset, is a closed peer for both directions.
func TestPeerGone(t *testing.T) {
	checkLeaks(t)
	front, back := ends(t)
	if err := back.Write(Message{Request: GetFeatures, Payload: MarshalU64(0)}); err != nil {
		t.Fatal(err)
	}
	front.Close()
	if _, err := back.Read(); !errors.Is(err, ErrPeerClosed) {
		t.Errorf("read: got %v, want ErrPeerClosed", err)
	}
	if err := back.Write(Message{Request: GetFeatures}); !errors.Is(err, ErrPeerClosed) {
		t.Errorf("write: got %v, want ErrPeerClosed", err)
	}
	back.Close()
	if _, err := back.Read(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of our own closed socket: got %v, want net.ErrClosed", err)
	}
}

// nearlyFull gives c the smallest buffer and puts a message in, so that there is
// no room for the longest message whole, but for part of it.
func nearlyFull(t *testing.T, c *Conn) {
	t.Helper()
	if err := c.sock.SetWriteBuffer(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(Message{Request: GetFeatures}); err != nil {
		t.Fatal(err)
	}
}

// TestWriteShort makes the kernel take messages in pieces, by a small buffer and
// a reader that starts late, and checks that all arrive whole, each with its
// descriptor.
func TestWriteShort(t *testing.T) {
	checkLeaks(t)
	const messages = 64
	front, back := ends(t)
	nearlyFull(t, front)
	fds := someFiles(t, 1)
	written := make(chan error, 1)
	go func() {
		for i := range messages {
			payload := bytes.Repeat([]byte{byte(i)}, MaxPayload)
			if err := front.Write(Message{Request: SetLogFD, Payload: payload}, fds...); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	waitQueued(t, back.sock, HeaderSize+1, 64)
	if m, err := back.Read(); err != nil || m.Request != GetFeatures || m.Files() != 0 {
		t.Fatalf("first: got %v, %d descriptors, %v", m.Request, m.Files(), err)
	}
	for i := range messages {
		m, err := back.Read()
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if want := bytes.Repeat([]byte{byte(i)}, MaxPayload); !bytes.Equal(m.Payload, want) || m.Files() != 1 {
			t.Fatalf("message %d: %d descriptors, payload begins % x", i, m.Files(), m.Payload[:8])
		}
		m.Close()
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

// TestWriteRefuses checks what Write does not put on the wire, and that the
// connection works afterwards.
func TestWriteRefuses(t *testing.T) {
	checkLeaks(t)
	front, back := ends(t)
	if err := front.Write(Message{Request: SetConfig, Payload: make([]byte, MaxPayload+1)}); !errors.Is(err, ErrOversize) {
		t.Errorf("long payload: got %v, want ErrOversize", err)
	}
	if err := front.Write(Message{Request: SetMemTable}, make([]FD, MaxFDs+1)...); !errors.Is(err, ErrFDCount) {
		t.Errorf("nine descriptors: got %v, want ErrFDCount", err)
	}
	if err := front.Write(Message{Request: SetLogFD}, NoFD); !errors.Is(err, syscall.EBADF) {
		t.Errorf("no descriptor: got %v, want EBADF", err)
	}
	if err := front.Write(Message{Request: GetFeatures, Flags: FlagReply | 2}); err != nil {
		t.Fatal(err)
	}
	if m, err := back.Read(); err != nil || m.Request != GetFeatures {
		t.Errorf("after refusals: got %v, %v", m.Request, err)
	}
}

// TestWriteBroken lets a deadline cut a message. Nothing may follow half a one.
func TestWriteBroken(t *testing.T) {
	checkLeaks(t)
	front, _ := ends(t)
	nearlyFull(t, front)
	var err error
	for end := time.Now().Add(patience); front.writeErr == nil && time.Now().Before(end); { // the deadline may be over before the write begins
		front.SetDeadline(time.Now().Add(20 * time.Millisecond))
		if err = front.Write(Message{Request: SetConfig, Payload: make([]byte, MaxPayload)}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %v, want deadline exceeded", err)
		}
	}
	front.SetWriteDeadline(time.Now().Add(patience))
	if again := front.Write(Message{Request: GetFeatures}); again != err {
		t.Errorf("after half a message: got %v, want the same error", again)
	}
}

// TestMessageFiles checks who owns what: what is taken is not closed, what is
// left is, and copies of a message share.
func TestMessageFiles(t *testing.T) {
	checkLeaks(t)
	front, back := ends(t)
	if err := front.Write(Message{Request: SetMemTable, Payload: twoRegions()}, someFiles(t, 2)...); err != nil {
		t.Fatal(err)
	}
	m, err := back.Read()
	if err != nil {
		t.Fatal(err)
	}
	other := m
	taken := m.TakeFile(0)
	left := m.files[1]
	for _, i := range []int{-1, 0, 2} {
		if fd := other.TakeFile(i); fd != NoFD {
			t.Errorf("descriptor %d of a copy: got %d, want none", i, fd)
		}
	}
	other.Close()
	m.Close()
	if closesOnExec(left) {
		t.Errorf("descriptor %d that nobody took is still open", left)
	}
	if err := taken.Close(); err != nil {
		t.Errorf("the taken descriptor: %v", err)
	}
}

// TestAck checks the two answers of REPLY_ACK, whose flags DPDK compares whole.
func TestAck(t *testing.T) {
	m := Message{Request: SetMemTable, Flags: Version | FlagNeedReply}
	if !m.NeedReply() || m.Ack(true).NeedReply() {
		t.Error("a request needs a reply, a reply does not")
	}
	for ok, want := range map[bool]uint64{true: 0, false: 1} {
		r := m.Ack(ok)
		got, err := UnmarshalU64(r.Payload)
		if err != nil || got != want || r.Flags != 5 || r.Request != SetMemTable {
			t.Errorf("ack %v: got %v, flags %#x, %d, %v", ok, r.Request, r.Flags, got, err)
		}
	}
}

// TestRights checks control messages that carry no descriptors, which a socket
// set up by others may deliver, and ones that the kernel never makes.
func TestRights(t *testing.T) {
	credentials := syscall.UnixCredentials(&syscall.Ucred{Pid: 1})
	tests := []struct {
		name string
		oob  []byte
		want []FD
		bad  bool
	}{
		{name: "nothing"},
		{name: "credentials", oob: credentials},
		{name: "credentials and descriptors", oob: append(bytes.Clone(credentials), control([]FD{7, 8})...), want: []FD{7, 8}},
		{name: "longer than its buffer", oob: control([]FD{7, 8})[:20], bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := rights(tt.oob)
			if !slices.Equal(got, tt.want) || (err != nil) != tt.bad {
				t.Errorf("got %v, %v, want %v, error %v", got, err, tt.want, tt.bad)
			}
		})
	}
}
