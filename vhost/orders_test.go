package vhost

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/vhost/frontend"
	"millrace/vhost/message"
)

// TestOrders brings two queue pairs up by messages in the orders of several
// front-ends, and in some that none has.
func TestOrders(t *testing.T) {
	const feats = modern | message.NetFMQ
	region := message.MarshalMemRegion(message.MemRegion{GPA: peerGPA, Size: peerMemLen, UserAddr: peerUser})
	size := func(p *peer, i int) { p.tell(message.SetVringNum, state(i, ringSize)) }
	base := func(p *peer, i int) { p.tell(message.SetVringBase, state(i, 0)) }
	addr := func(p *peer, i int) { p.tell(message.SetVringAddr, message.MarshalVringAddr(addrOf(i))) }
	kick := func(p *peer, i int) { p.tell(message.SetVringKick, vfd(i), message.FD(p.kicks[i].Int())) }
	call := func(p *peer, i int) { p.tell(message.SetVringCall, vfd(i), message.FD(p.calls[i].Int())) }
	enable := func(p *peer, i int) { p.tell(message.SetVringEnable, state(i, 1)) }
	each := func(p *peer, from, to int, steps ...func(*peer, int)) {
		for i := from; i < to; i++ {
			for _, step := range steps {
				step(p, i)
			}
		}
	}
	for _, tt := range []struct {
		name string
		do   func(p *peer)
	}{
		{"virtio-user", func(p *peer) {
			each(p, 0, 4, call)
			p.greet(feats)
			p.must(message.SetMemTable, p.table(), message.FD(p.fd))
			each(p, 0, 4, size, base, addr, kick)
			each(p, 0, 4, enable)
			p.must(message.SetStatus, message.MarshalU64(15))
		}},
		{"virtio-user, back after its back-end was lost", func(p *peer) {
			each(p, 0, 4, func(p *peer, i int) { p.tell(message.SetVringEnable, state(i, 0)) })
			each(p, 0, 4, func(p *peer, i int) { p.ask(message.GetVringBase, state(i, 0)) })
			each(p, 0, 4, call)
			p.greet(feats)
			p.must(message.SetMemTable, p.table(), message.FD(p.fd))
			each(p, 0, 4, size, base, addr, kick)
			each(p, 0, 4, enable)
		}},
		{"qemu", func(p *peer) {
			p.greet(feats)
			p.ask(message.GetQueueNum, nil)
			p.ask(message.GetMaxMemSlots, nil)
			each(p, 0, 4, call)
			for pair := range 2 {
				p.tell(message.SetFeatures, message.MarshalU64(uint64(feats)))
				if pair == 0 {
					p.must(message.AddMemReg, region, message.FD(p.fd))
				}
				each(p, 2*pair, 2*pair+2, size, base, addr, kick)
				each(p, 2*pair, 2*pair+2, enable)
				each(p, 2*pair, 2*pair+2, call)
			}
		}},
		{"enabled first", func(p *peer) {
			p.greet(feats)
			each(p, 0, 4, enable, kick, call, addr, base, size)
			p.must(message.AddMemReg, region, message.FD(p.fd))
		}},
		{"features last", func(p *peer) {
			each(p, 0, 4, enable, size, base, addr, kick)
			p.must2(message.SetMemTable, p.table(), message.FD(p.fd))
			p.greet(feats)
		}},
		{"without descriptors", func(p *peer) {
			p.greet(feats)
			p.must(message.SetMemTable, p.table(), message.FD(p.fd))
			none := func(r message.Request) func(*peer, int) {
				return func(p *peer, i int) {
					p.tell(r, message.MarshalVringFD(message.VringFD{Index: uint8(i), NoFD: true}))
				}
			}
			each(p, 0, 4, size, base, addr, none(message.SetVringKick), none(message.SetVringCall), none(message.SetVringErr), enable)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaks(t)
			l := newLoop(t)
			p := l.open(t, Options{Path: socket(t)})
			front := newPeer(t, true)
			front.makeRings(feats, 2)
			front.dial(p.opts.Path)
			tt.do(front)
			front.sync()
			if st := p.State(); st.Link != LinkUp || st.Queues != 2 {
				t.Fatalf("state %+v", st)
			}
			want := front.send(0, 20) + front.send(1, 20)
			eventually(t, "frames back", func() bool {
				want -= len(front.receive(0)) + len(front.receive(1))
				return want == 0
			})
		})
	}
}

// must2 is must before REPLY_ACK is negotiated: there is no answer.
func (p *peer) must2(r message.Request, payload []byte, fds ...message.FD) {
	p.t.Helper()
	if err := p.conn.Write(message.Message{Request: r, Flags: message.FlagNeedReply, Payload: payload}, fds...); err != nil {
		p.t.Fatal(err)
	}
}

// TestFrontend carries frames between a port and our own front end, in both
// roles, with memory in several regions, and loses the connection from either
// side: each frame arrives once.
func TestFrontend(t *testing.T) {
	for _, tt := range []struct {
		role   Role
		queues int
		drop   string
	}{{Listen, 1, "front"}, {Connect, 1, "front"}, {Listen, 2, "port"}, {Connect, 2, "port"}} {
		t.Run(fmt.Sprintf("role %d, %d pairs, %s goes", tt.role, tt.queues, tt.drop), func(t *testing.T) {
			leaks(t)
			l := newLoop(t)
			path := socket(t)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			front, err := frontend.Open(frontend.Config{
				Path: path, Listen: tt.role == Connect, Queues: tt.queues, Regions: 2, RxBuffer: 2000, TxFrame: 2000, Interrupt: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer front.Kill()
			p := l.open(t, Options{Path: path, Role: tt.role})
			var seq uint64
			for range 4 {
				if err := front.Connect(ctx); err != nil {
					t.Fatal(err)
				}
				waitLink(t, p, LinkUp)
				for range 20 {
					seq = echo(t, front, seq)
				}
				if tt.drop == "front" {
					front.Drop()
					continue
				}
				_ = p.Close()
				p = l.open(t, Options{Path: path, Role: tt.role})
			}
		})
	}
}

// echo sends ten frames by the first pair and waits until all are back.
func echo(t *testing.T, front *frontend.Port, seq uint64) uint64 {
	t.Helper()
	tx := front.Pairs()[0].Tx
	n := min(10, tx.Room(10))
	for i := range n {
		b := tx.Buffer(i)
		putFrame(tx.Frame(b)[:frameLen], uint16(seq), seq+uint64(i))
		tx.SetLen(b, frameLen)
	}
	tx.Send(n)
	missing := map[uint64]bool{}
	for i := range n {
		missing[seq+uint64(i)] = true
	}
	for end := time.Now().Add(deadline); len(missing) > 0; {
		for _, pair := range front.Pairs() {
			for f, ok := pair.Rx.Next(); ok; f, ok = pair.Rx.Next() {
				got := uint64(f[frameLen-1]) | uint64(f[frameLen-2])<<8
				if !missing[got] {
					t.Fatalf("frame %d came twice or never went", got)
				}
				delete(missing, got)
			}
			pair.Rx.Release()
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d frames are missing", len(missing), n)
		}
	}
	return seq + uint64(n)
}
