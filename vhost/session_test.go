package vhost

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/guestmem"
	"millrace/vhost/message"
)

// TestMisbehaviour sends what no front-end should, to a port that runs or not
// yet: the peer is cut off, for the right reason, and may come again.
func TestMisbehaviour(t *testing.T) {
	write := func(p *peer, raw ...byte) {
		// Straight to the socket, by a message of our own making.
		p.tell(message.Request(binary.LittleEndian.Uint32(raw)), raw[4:])
	}
	ringAddr := func(change func(*message.VringAddr)) []byte {
		a := addrOf(0)
		change(&a)
		return message.MarshalVringAddr(a)
	}
	restart := func(p *peer, addr []byte) {
		p.ask(message.GetVringBase, state(0, 0))
		p.tell(message.SetVringAddr, addr)
		p.tell(message.SetVringKick, vfd(0), message.FD(p.kicks[0].Int()))
	}
	tests := []struct {
		name string
		up   bool // rings run before
		do   func(p *peer)
		want string
	}{
		{"unknown request", false, func(p *peer) { write(p, 99, 0, 0, 0) }, "request 99: refused: not supported"},
		{"request not offered", false, func(p *peer) { p.tell(message.SendRARP, message.MarshalU64(1)) }, "RARP was not offered"},
		{"short payload", false, func(p *peer) { p.tell(message.SetFeatures, []byte{1}) }, "wrong payload size"},
		{"feature not offered", false, func(p *peer) { p.tell(message.SetFeatures, message.MarshalU64(uint64(message.FRingPacked))) }, "RING_PACKED were not offered"},
		{"protocol feature not offered", false, func(p *peer) {
			p.tell(message.SetProtocolFeatures, message.MarshalU64(uint64(message.ProtocolFInflightShmFD)))
		}, "INFLIGHT_SHMFD were not offered"},
		{"ring size 3", false, func(p *peer) { p.tell(message.SetVringNum, state(0, 3)) }, "not a power of two"},
		{"ring size 0", false, func(p *peer) { p.tell(message.SetVringNum, state(0, 0)) }, "not a power of two"},
		{"ring size 65536", false, func(p *peer) { p.tell(message.SetVringNum, state(0, 65536)) }, "not a power of two"},
		{"ring beyond the queues", false, func(p *peer) { p.tell(message.SetVringNum, state(4, 64)) }, "port has 2 queue pairs"},
		{"ring 2^31", false, func(p *peer) { p.tell(message.SetVringNum, state(1<<31, 64)) }, "port has 2 queue pairs"},
		{"kick beyond the queues", false, func(p *peer) { p.tell(message.SetVringKick, vfd(200), message.FD(p.kicks[0].Int())) }, "port has 2 queue pairs"},
		{"base over 65535", false, func(p *peer) { p.tell(message.SetVringBase, state(0, 65536)) }, "is over 65535"},
		{"base of a ring that runs", true, func(p *peer) { p.tell(message.SetVringBase, state(0, 1)) }, "while the ring runs"},
		{"enable 2", false, func(p *peer) { p.tell(message.SetVringEnable, state(0, 2)) }, "must be 0 or 1"},
		{"kick without a descriptor", false, func(p *peer) { p.tell(message.SetVringKick, vfd(0)) }, "wrong number of descriptors"},
		{"kick is a memfd", false, func(p *peer) { p.tell(message.SetVringKick, vfd(0), message.FD(p.fd)) }, "no eventfd"},
		{"call is a memfd", true, func(p *peer) { p.tell(message.SetVringCall, vfd(0), message.FD(p.fd)) }, "no eventfd"},
		{"memory is an eventfd", false, func(p *peer) { p.tell(message.SetMemTable, p.table(), message.FD(p.kicks[0].Int())) }, "bad memory region"},
		{"memory is too short", false, func(p *peer) {
			p.tell(message.SetMemTable, message.MarshalMemTable(message.MemTable{{Size: peerMemLen + 1}}), message.FD(p.fd))
		}, "bad memory region"},
		{"regions overlap", false, func(p *peer) {
			r := message.MemRegion{GPA: 0x1000, Size: 0x2000}
			p.tell(message.SetMemTable, message.MarshalMemTable(message.MemTable{r, r}), message.FD(p.fd), message.FD(p.fd))
		}, "overlaps"},
		{"descriptor table outside", true, func(p *peer) { restart(p, ringAddr(func(a *message.VringAddr) { a.Desc = 64 })) }, "ring 0: descriptor table at 0x40, 1024 bytes, is outside"},
		{"used ring ends outside", true, func(p *peer) {
			restart(p, ringAddr(func(a *message.VringAddr) { a.Used = peerUser + peerMemLen - 512 }))
		}, "ring 0: used ring at"},
		{"avail ring wraps", true, func(p *peer) { restart(p, ringAddr(func(a *message.VringAddr) { a.Avail = 1<<64 - 2 })) }, "ring 0: available ring at"},
		{"used ring not aligned", true, func(p *peer) { restart(p, ringAddr(func(a *message.VringAddr) { a.Used += 2 })) }, "not aligned"},
		{"memory goes, rings stay", true, func(p *peer) {
			p.tell(message.RemMemReg, message.MarshalMemRegion(message.MemRegion{GPA: peerGPA, Size: peerMemLen, UserAddr: peerUser}))
			p.tell(message.AddMemReg, message.MarshalMemRegion(message.MemRegion{GPA: peerGPA, Size: peerMemLen, UserAddr: 0x1000}), message.FD(p.fd))
		}, "is outside of memory"},
		{"available index jumps", true, func(p *peer) { p.poke(1, slotAvail+2, 1000) }, "ring 1: broken virtqueue: available index"},
		{"available entry is no descriptor", true, func(p *peer) {
			p.poke(1, slotAvail+4, ringSize)
			p.sends[0].Send(1)
		}, "ring 1: broken virtqueue: available entry"},
		{"receive ring jumps", true, func(p *peer) {
			p.poke(0, slotAvail+2, 5000)
			for range 3 { // the ring may be good for one batch
				p.send(0, 40)
			}
		}, "ring 0: broken virtqueue"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, p, bad := joined(t, Options{Queues: 2})
			if tt.up {
				bad.setUp(modern, 1)
			}
			tt.do(bad)
			st := waitLink(t, p, LinkBroken)
			if !strings.Contains(st.Reason, tt.want) || st.Breaks != 1 || st.LastBreak != st.Reason {
				t.Errorf("state %+v, want reason with %q", st, tt.want)
			}
			if _, err := bad.conn.Read(); err == nil {
				t.Error("connection is alive")
			}
			if tt.up && !readable(bad.errs[0]) {
				t.Error("error eventfd was not signalled")
			}
			good := newPeer(t, true)
			good.dial(p.opts.Path)
			good.setUp(modern, 1)
			good.pump(20)
		})
	}
}

// poke writes a 16-bit value into ring i's slot.
func (p *peer) poke(i, off int, v uint16) {
	binary.LittleEndian.PutUint16(p.mem.Bytes()[i*slotSize+off:], v)
}

// readable reports whether an eventfd has been signalled.
func readable(f sys.FD) bool {
	fds := []unix.PollFd{{Fd: int32(f.Int()), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, 0)
	return n == 1
}

// TestCutShort ends the connection in the middle of a message.
func TestCutShort(t *testing.T) {
	_, p, front := joined(t, Options{})
	front.setUp(modern, 1)
	front.hangUp()
	waitLink(t, p, LinkWaiting)
	c, err := dial(p.opts.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{1, 0, 0, 0, 1, 0}); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	eventually(t, "second connection over", func() bool {
		st := p.State()
		return st.Connects == 2 && st.Link == LinkWaiting && st.Breaks == 0
	})
	front.dial(p.opts.Path)
	front.setUp(modern, 1)
	front.pump(20)
}

// TestAnswers asks with need_reply.
func TestAnswers(t *testing.T) {
	_, _, front := joined(t, Options{MTU: 1500})
	front.setUp(modern, 1)
	for _, tt := range []struct {
		name    string
		request message.Request
		payload []byte
		want    bool
	}{
		{"mtu fits", message.NetSetMTU, message.MarshalU64(1500), true},
		{"mtu too large", message.NetSetMTU, message.MarshalU64(1501), false},
		{"not supported", message.SendRARP, message.MarshalU64(0), false},
		{"region not mapped", message.RemMemReg, message.MarshalMemRegion(message.MemRegion{Size: 0x1000}), true},
		{"status", message.SetStatus, message.MarshalU64(15), true},
	} {
		if got := front.may(tt.request, tt.payload); got != tt.want {
			t.Errorf("%s: accepted %v, want %v", tt.name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		request message.Request
		want    uint64
	}{
		{message.GetStatus, 15},
		{message.GetQueueNum, DefaultQueues},
		{message.GetMaxMemSlots, guestmem.RegionsMax},
	} {
		if got, _ := message.UnmarshalU64(front.ask(tt.request, nil)); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.request, got, tt.want)
		}
	}
	front.pump(20)
}

// TestMemoryChange replaces, adds and removes memory under traffic. No frame is
// lost or doubled.
func TestMemoryChange(t *testing.T) {
	_, p, front := joined(t, Options{})
	front.setUp(modern, 1)
	extra := message.MemRegion{GPA: 1 << 40, Size: 0x10000, UserAddr: 1 << 41}
	other := message.MemRegion{GPA: 1 << 40, Size: 0x20000, UserAddr: 1 << 41}
	for range 100 {
		front.pump(10)
		front.send(0, 10)
		front.must(message.SetMemTable, front.table(), message.FD(front.fd))
		front.send(0, 10)
		for range 2 { // as QEMU 7.2 with two queue pairs
			front.must(message.AddMemReg, message.MarshalMemRegion(extra), message.FD(front.fd))
		}
		if front.may(message.AddMemReg, message.MarshalMemRegion(other), message.FD(front.fd)) {
			t.Fatal("a region was taken that overlaps another one")
		}
		if n := p.State().Regions; n != 2 {
			t.Fatalf("%d regions, want 2", n)
		}
		front.send(0, 10)
		for range 2 {
			front.must(message.RemMemReg, message.MarshalMemRegion(extra))
		}
		front.pump(0)
		eventually(t, "frames back", func() bool {
			front.expect(0)
			return front.got == front.seq
		})
	}
	if p.State().Connects != 1 {
		t.Errorf("state %+v", p.State())
	}
}

// TestVringBase stops rings, asks for their place, and starts them there, with
// traffic; now and then with the place wrong, as virtio-user has it.
func TestVringBase(t *testing.T) {
	l, p, front := joined(t, Options{})
	front.setUp(modern, 1)
	// While the receive ring is stopped the worker has nowhere to send to, and while the session exchanges
	// rings it may find them locked.
	lost := func() uint64 { return l.dropped[packet.ReasonTxDown].Load() + l.dropped[packet.ReasonTxBusy].Load() }
	for i := range 60 {
		before := lost()
		left := front.send(0, 20)
		for ring := range 2 {
			st, err := message.UnmarshalVringState(front.ask(message.GetVringBase, state(ring, 0)))
			if err != nil || st.Index != uint32(ring) {
				t.Fatalf("answer %+v, %v", st, err)
			}
			if got := p.State().Link; got != LinkSetup {
				t.Fatalf("link %s with ring %d stopped", got, ring)
			}
			base := int(st.Num)
			if i%3 == 0 {
				base = 0
			}
			front.startRing(ring, base)
		}
		front.sync()
		eventually(t, "frames back", func() bool {
			for _, seq := range front.receive(0) {
				if seq < front.got || seq >= front.seq {
					t.Fatalf("frame %d came, want %d", seq, front.got)
				}
				front.got = seq + 1
				left--
			}
			return left == int(lost()-before)
		})
		front.got = front.seq
		front.pump(5)
	}
}

// TestReset resets the device by both requests and sets it up again.
func TestReset(t *testing.T) {
	_, p, front := joined(t, Options{})
	for _, reset := range []func(){
		func() { front.tell(message.ResetDevice, nil) },
		func() { front.tell(message.ResetOwner, nil) },
		func() { front.tell(message.SetStatus, message.MarshalU64(0)) },
	} {
		front.old = false // a driver that starts from the beginning
		front.setUp(modern, 1)
		front.pump(30)
		reset()
		front.sync()
		if st := p.State(); st.Link != LinkSetup || st.Queues != 0 {
			t.Errorf("state %+v after a reset", st)
		}
		front.seq, front.got = 0, 0
	}
}

// TestQueuePairs enables and disables queue pairs: frames of a flow come by one
// ring, all rings that are enabled are used, and all frames arrive.
func TestQueuePairs(t *testing.T) {
	_, p, front := joined(t, Options{})
	front.setUp(modern|message.NetFMQ, 4)
	for _, on := range []int{4, 1, 3, 2, 4} {
		for q := range 4 {
			for i := range 2 {
				n := 0
				if q < on {
					n = 1
				}
				front.tell(message.SetVringEnable, state(2*q+i, n))
			}
		}
		front.sync()
		if got := p.State().Queues; got != on {
			t.Fatalf("%d queue pairs, want %d", got, on)
		}
		used := map[int]int{}
		flow := map[uint16]int{}
		for round := range 30 {
			front.seq = 0 // the same flows again
			sent := front.send(round%on, 24)
			got := 0
			eventually(t, "frames back", func() bool {
				for q := range 4 {
					for _, seq := range front.receive(q) {
						got++
						used[q]++
						if was, ok := flow[uint16(seq)]; ok && was != q {
							t.Fatalf("flow %d by queue %d and %d", seq, was, q)
						}
						flow[uint16(seq)] = q
					}
				}
				return got == sent
			})
		}
		if len(used) != on {
			t.Errorf("with %d queues, frames came by %v", on, used)
		}
	}
}

// TestTruncated has the peer take its memory away under traffic, and before
// rings start.
func TestTruncated(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(p *Port, front *peer, l *loop)
	}{
		{"under traffic", func(p *Port, front *peer, l *loop) {
			front.setUp(modern, 1)
			front.pump(10)
			_ = unix.Ftruncate(front.fd, 0)
		}},
		{"before start", func(p *Port, front *peer, l *loop) {
			front.makeRings(modern, 1)
			front.greet(modern)
			front.tell(message.SetMemTable, front.table(), message.FD(front.fd))
			front.sync()
			_ = unix.Ftruncate(front.fd, 0)
			front.startRing(0, 0)
			front.tell(message.SetVringEnable, state(0, 1))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaks(t)
			l := newLoop(t)
			p := l.open(t, Options{Path: socket(t)})
			bad := newPeer(t, false)
			bad.dial(p.opts.Path)
			tt.do(p, bad, l)
			if st := waitLink(t, p, LinkBroken); !strings.Contains(st.Reason, "memory was taken away") {
				t.Errorf("state %+v", st)
			}
			good := newPeer(t, true)
			good.dial(p.opts.Path)
			good.setUp(modern, 1)
			good.pump(20)
		})
	}
}
