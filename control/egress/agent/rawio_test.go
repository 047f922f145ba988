package agent

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// tcpPair returns the two ends of a connection.
func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// TestRawSocket: much goes through, whole, both ways at once, and then comes the end.
func TestRawSocket(t *testing.T) {
	near, far := tcpPair(t)
	raw := newRawSocket(near)
	want := bytes.Repeat([]byte("0123456789"), 1<<19) // more than sockets hold
	go func() { _, _ = io.Copy(far, far); _ = far.(*net.TCPConn).CloseWrite() }()
	go func() {
		if n, err := raw.Write(want); n != len(want) || err != nil {
			t.Errorf("%d of %d bytes were written: %v", n, len(want), err)
		}
		_ = near.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(raw)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d came back: %v", len(got), len(want), err)
	}
}

// TestRawSocketErrors are those of a net.Conn.
func TestRawSocketErrors(t *testing.T) {
	near, far := tcpPair(t)
	raw := newRawSocket(near)
	_ = near.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = near.SetReadDeadline(time.Time{})
	_ = far.(*net.TCPConn).SetLinger(0)
	_ = far.Close()
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	if _, err := raw.Write(make([]byte, 1)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write after that: %v", err)
	}
	if _, err := raw.writeNow(make([]byte, 1)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("one that does not wait: %v", err)
	}
	near, _ = tcpPair(t)
	raw = newRawSocket(near)
	time.AfterFunc(10*time.Millisecond, func() { _ = near.Close() })
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("when it was closed: %v", err)
	}
	if n, err := raw.writeNow(make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("nobody takes %d bytes, %v", n, err)
	}
}

// TestWriteNow takes what there is room for, and does not wait.
func TestWriteNow(t *testing.T) {
	near, far := tcpPair(t)
	raw := newRawSocket(near)
	sent, b := 0, make([]byte, 8192)
	for {
		n, err := raw.writeNow(b)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		sent += n
	}
	if got, err := io.ReadFull(far, make([]byte, sent)); got != sent || err != nil {
		t.Errorf("%d of %d bytes came: %v", got, sent, err)
	}
}

// TestRawDatagrams: an empty datagram is not the end.
func TestRawDatagrams(t *testing.T) {
	far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := net.Dial("udp", far.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	raw := newRawSocket(near)
	if _, err := far.WriteTo(nil, near.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if n, err := raw.Read(make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("an empty datagram reads as %d bytes, %v", n, err)
	}
}

// TestNoRawSocket: a connection without a socket has none.
func TestNoRawSocket(t *testing.T) {
	near, _ := net.Pipe()
	if newRawSocket(near) != nil {
		t.Error("a pipe has a socket")
	}
}
