package message

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// FuzzRead sends any bytes with any number of descriptors, in pieces of any
// size, to either end. Reading ends with an error, never a panic or a hang;
// messages that come out keep the package's promises; and no descriptor is left.
//
// The descriptors are the writing end of a pipe: when all are closed, its
// reading end is at its end, and not before.
func FuzzRead(f *testing.F) {
	kick := request(SetVringKick, MarshalVringFD(VringFD{}))
	f.Add(request(GetFeatures, nil), uint8(0), uint8(0), false)
	f.Add(append(kick, kick...), uint8(1), uint8(1), false)
	f.Add(request(SetMemTable, twoRegions()), uint8(2), uint8(7), false)
	f.Add(request(SetMemTable, twoRegions()), uint8(9), uint8(0), false)
	f.Add(request(GetConfig, make([]byte, 20)), uint8(0), uint8(12), false)
	f.Add(reply(GetInflightFD, append([]byte{1}, make([]byte, 23)...)), uint8(1), uint8(0), true)
	f.Add(MarshalHeader(Header{SetConfig, Version, MaxPayload}), uint8(0), uint8(0), false)
	f.Fuzz(func(t *testing.T, wire []byte, fds, size uint8, front bool) {
		if len(wire) == 0 || len(wire) > 1024 {
			return // more than the socket holds in single bytes would block the writer
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		readAll(t, wire, w, int(fds)%16, int(size)%64+1+len(wire)/64, front)
		w.Close()
		var b [1]byte
		if err := syscall.SetNonblock(int(r.Fd()), true); err != nil {
			t.Fatal(err)
		}
		if n, err := syscall.Read(int(r.Fd()), b[:]); n != 0 || err != nil {
			t.Errorf("a descriptor is still open: read of its pipe got %d, %v, want the end", n, err)
		}
	})
}

// readAll sends wire with copies of w, and reads messages until an error.
func readAll(t *testing.T, wire []byte, w *os.File, copies, size int, front bool) {
	a, b := pair(t)
	defer a.Close()
	defer b.Close()
	fds := make([]FD, copies)
	for i := range fds {
		fds[i] = FD(w.Fd())
	}
	if err := writePieces(a, wire, control(fds), size); err != nil {
		t.Fatal(err)
	}
	a.Close()
	c := NewConn(b, BackEnd)
	if front {
		c.side = FrontEnd
	}
	for {
		m, err := c.Read()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read hangs: %v", err)
			}
			return
		}
		if len(m.Payload) > MaxPayload || m.Files() > MaxFDs || front != (m.Flags&FlagReply != 0) {
			t.Errorf("got %v, flags %#x, %d bytes, %d descriptors", m.Request, m.Flags, len(m.Payload), m.Files())
		}
		if m.Request == SetMemTable && !front {
			if table, err := UnmarshalMemTable(m.Payload); err == nil && len(table) != m.Files() {
				t.Errorf("%d regions with %d descriptors", len(table), m.Files())
			}
		}
		m.Close()
	}
}
