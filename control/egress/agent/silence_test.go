package agent

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vanish has our end of a connection go without a word to the other (TCP_REPAIR,
// tcp(7)).
func vanish(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// gone reports whether the kernel has given a connection up.
func gone(t *testing.T, c net.Conn) bool {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var serr error
	if err := raw.Control(func(fd uintptr) { info, serr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return info.State == unix.BPF_TCP_CLOSE
}

// TestKnock: links that connect at the same time all wait until the server knows
// which connections are dead, whoever of them tells it.
func TestKnock(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("to close a connection without a word takes root")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ad := &address{addrPort: netip.MustParseAddrPort(l.Addr().String())}
	var ends []net.Conn
	for range 5 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 77, 0, 1)}} // whose ports nobody else takes meanwhile
		near, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := newServerConn(near.(*net.TCPConn))
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		ends = append(ends, far)
		vanish(t, c.TCPConn)
		c.vanished.Store(true)
		ad.lose(c)
		ad.lose(c)
	}
	if len(ad.lost) != len(ends) {
		t.Errorf("%d connections are lost, want %d", len(ad.lost), len(ends))
	}
	for _, c := range ends {
		if gone(t, c) {
			t.Fatal("the server knows without being told: the test shows nothing")
		}
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			ad.knock(t.Context())
			for i, c := range ends {
				if !gone(t, c) {
					t.Errorf("the server does not know that connection %d is dead", i)
				}
			}
		})
	}
	all.Wait()
	if ad.hasLost() {
		t.Error("nobody noticed that the server knows")
	}
}

// TestKnockInVain: a knock that nobody answers is tried again for a time, and the
// agent is not ready before. One that cannot be is not.
func TestKnockInVain(t *testing.T) {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	for _, tt := range []struct {
		err   error
		tries int
	}{
		{nil, 1}, {syscall.ECONNREFUSED, 1}, {syscall.EADDRNOTAVAIL, 1},
		{syscall.EADDRINUSE, knockTries}, {os.ErrDeadlineExceeded, knockTries},
	} {
		ad := &address{lost: []lostConn{{from: from}}}
		tries := 0
		for ; ad.hasLost() && tries < 100; tries++ {
			if ad.lost[0].next.After(time.Now().Add(knockAgain)) {
				t.Errorf("%v: the next try is at %v", tt.err, ad.lost[0].next)
			}
			err := tt.err
			if err != nil {
				err = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}
			}
			ad.knocked(from, err)
		}
		if tries != tt.tries {
			t.Errorf("%v: forgotten after %d tries, want %d", tt.err, tries, tt.tries)
		}
	}
}
