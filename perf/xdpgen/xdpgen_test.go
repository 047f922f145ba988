package xdpgen

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/netnstest"
)

// TestFlood sends over a veth and counts at its other end: not more than was sent, and
// nothing once it has ended.
func TestFlood(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	pair(t)
	sink, err := NewSink(index(t, "xb"))
	if err != nil {
		t.Skipf("needs XDP on veths: %v", err)
	}
	defer func() { check(t, sink.Close()) }()
	frame := make([]byte, 60)
	sender, err := NewSender(index(t, "xa"), frame)
	check(t, err)
	ended := make(chan error, 1)
	go func() { ended <- sender.Run() }()
	netnstest.Wait(t, func() string {
		if n, err := sink.Count(); err != nil || n < 1000 {
			return "1,000 frames"
		}
		return ""
	})
	check(t, sender.End())
	check(t, <-ended)
	sent, err := sender.Sent()
	check(t, err)
	came, err := sink.Count()
	check(t, err)
	if others := uint64(100); came > sent+others { // neighbour discovery of the kernel
		t.Errorf("%d frames came of %d", came, sent)
	}
	check(t, sender.Close())
}

// pair makes a veth, xa and xb.
func pair(t *testing.T) {
	t.Helper()
	netnstest.Need(t)
	netnstest.IP(t, "link add xa type veth peer name xb")
	netnstest.IP(t, "link set xa up")
	netnstest.IP(t, "link set xb up")
	netnstest.Running(t, "xa", "xb")
}

func index(t *testing.T, device string) int {
	t.Helper()
	d, err := net.InterfaceByName(device)
	check(t, err)
	return d.Index
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestEcho sends a frame of IPv4 to an echo, and gets it back with addresses turned round.
func TestEcho(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	pair(t)
	echo, err := NewEcho(index(t, "xb"))
	if err != nil {
		t.Skipf("needs XDP on veths: %v", err)
	}
	defer func() { check(t, echo.Close()) }()
	pass, err := NewSink(index(t, "xa")) // it has an XDP program, which counts and drops: so many came back
	check(t, err)
	defer func() { check(t, pass.Close()) }()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	check(t, err)
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: index(t, "xa")}
	frame := make([]byte, 60)
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45})
	const frames = 50
	for range frames {
		check(t, unix.Sendto(fd, frame, 0, to))
	}
	netnstest.Wait(t, func() string {
		if n, err := pass.Count(); err != nil || n < frames {
			return fmt.Sprintf("%d frames came back (%v)", n, err)
		}
		return ""
	})
	if got, want := turned(t, echo, frame), []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00, 0x45}; !bytes.Equal(got[:15], want) {
		t.Errorf("sent back as % x", got[:15])
	}
}

// turned is what the echo's program makes of a frame.
func turned(t *testing.T, e *Echo, frame []byte) []byte {
	t.Helper()
	copy(frame[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	verdict, out, err := e.prog.Test(frame)
	check(t, err)
	if verdict != xdpTx || !bytes.Equal(out[26:34], []byte{10, 0, 0, 2, 10, 0, 0, 1}) {
		t.Errorf("verdict %d, addresses % x", verdict, out[26:34])
	}
	if verdict, _, err := e.prog.Test(append([]byte{13: 6}, frame[14:]...)); err != nil || verdict != xdpPass {
		t.Errorf("of another protocol: verdict %d, %v", verdict, err)
	}
	return out
}
