package xdpgen

import (
	"net"
	"testing"

	"millrace/dataplane/netnstest"
)

// TestFlood sends over a veth and counts at its other end: not more than was sent, and
// nothing once it has ended.
func TestFlood(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t)
	netnstest.IP(t, "link add xa type veth peer name xb")
	netnstest.IP(t, "link set xa up")
	netnstest.IP(t, "link set xb up")
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
