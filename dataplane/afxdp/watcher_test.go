package afxdp

import (
	"encoding/binary"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMovedIsHeardLate: that a device was moved may be heard after the port has seen that it
// is gone. What is heard of another device, or of one before, says nothing.
func TestMovedIsHeardLate(t *testing.T) {
	w := &Watcher{subs: map[*watch]struct{}{}}
	s := &watch{w: w, name: "pa", news: make(chan struct{}, 1)}
	w.subs[s] = struct{}{}
	goes := func(index int) *syscall.NetlinkMessage {
		m := &syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_DELLINK}, Data: make([]byte, unix.SizeofIfInfomsg)}
		binary.NativeEndian.PutUint32(m.Data[4:], uint32(index))
		for _, v := range []uint16{8, iflaNewNetNSID, 0, 0} {
			m.Data = binary.NativeEndian.AppendUint16(m.Data, v)
		}
		return m
	}
	s.follow(5)
	s.follow(0)
	w.hear(goes(6))
	if s.hasMoved() || len(s.news) > 0 {
		t.Error("another device went, and this one has")
	}
	w.hear(goes(5))
	if !s.hasMoved() || len(s.news) == 0 {
		t.Error("the port is not told that its device was moved")
	}
	s.follow(7)
	w.hear(goes(5))
	if s.hasMoved() {
		t.Error("the device before this one went, and this one has")
	}
}
