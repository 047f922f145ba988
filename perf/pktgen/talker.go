package pktgen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"

	"millrace/dataplane/sys"
	"millrace/vhost/virtq"
)

// A talker plays both ends of all connections of a Talk. One goroutine runs it.
//
// Ends keep next to nothing: sequence numbers say which connection a frame is of and
// what it answers. The client's begin with 8 times its number, the server's with that
// and some bits changed.
type talker struct {
	talk   *Talk
	ends   [2]talkEnd
	slots  []talkSlot // by number modulo window
	starts []uint32   // slots that may begin a connection
	first  uint32
	limit  uint32 // numbers end here
	left   uint64 // connections that have not ended
	now    uint64
	result Talked

	warm, end uint64 // ticks
	patience  uint64
}

// talkEnd is a port: clients, or servers.
type talkEnd struct {
	*speaker
	rx             *virtq.Receiver
	tx             *virtq.Sender
	rxKick, txKick sys.FD
	unsent         int
}

// talkSlot is a connection that is under way.
type talkSlot struct {
	number uint32
	live   bool // it was begun
	queued bool // in talker.starts
	seen   bool // server has the SYN or request
	tries  uint8
	moved  uint64 // ticks when it got on
	server Header // as the server sees it
}

const (
	clients = iota
	servers
)

// shape is what the server's sequence numbers differ in from the client's.
const shape = 0x25a5a5a8

// triesMost is how often a connection that is not to end is begun again.
const triesMost = 20

// lostShown is how many clients that were given up are named.
const lostShown = 16

func newTalker(t *Talk, g *generator) *talker {
	k := &talker{
		talk: t, slots: make([]talkSlot, t.Window), first: t.First, limit: t.First + t.Count,
		left: uint64(t.Count), patience: ticksOf(t.Patience.Seconds()),
	}
	if t.Count == 0 {
		k.limit, k.left = numbersMax, math.MaxUint64
	}
	if t.See {
		k.result.Seen = make([]Header, t.Count)
	}
	for i, p := range g.ports {
		pair := p.Pairs()[0]
		pair.Tx.AssumeInOrder()
		mac, peer := [6]byte(g.cfg.Ports[i].MAC), [6]byte(g.cfg.Ports[1-i].MAC)
		k.ends[i] = talkEnd{speaker: newSpeaker(mac, peer, t.Proto), rx: pair.Rx, tx: pair.Tx, rxKick: pair.RxRing.Kick, txKick: pair.TxRing.Kick}
	}
	for i := range k.slots {
		k.slots[i].number = t.First + uint32(i)
		k.queue(&k.slots[i])
	}
	k.begin(g.cfg.Warmup.Seconds(), g.cfg.Duration.Seconds())
	return k
}

func ticksOf(seconds float64) uint64 { return uint64(seconds * sys.TSCHz()) }

// begin says when to count, and when to end if there is no number.
func (k *talker) begin(warmup, duration float64) {
	now := sys.TSC()
	k.warm, k.end = now+ticksOf(warmup), math.MaxUint64
	if k.talk.Count == 0 {
		k.end = k.warm + ticksOf(duration)
	}
}

// talkEvery is the number of turns between two looks at what should have got on.
const talkEvery = 1024

// run talks until all have ended, the time is over or ctx ends. Connections of the warm-up are in
// the result's number, but not in its rate.
func (k *talker) run(ctx context.Context) error {
	started, counted := sys.TSC(), uint64(0)
	if k.talk.Count == 0 {
		started = k.warm
	}
	for turn := 0; k.left > 0; turn++ {
		if k.now = sys.TSC(); k.now >= k.end {
			break
		}
		if k.talk.Count == 0 && k.now < k.warm {
			counted = k.result.Connections
		}
		for i := range k.ends {
			k.listen(i)
		}
		k.start()
		for i := range k.ends {
			k.ends[i].send()
		}
		if turn%talkEvery == 0 {
			if err := cmp.Or(k.err(), ctx.Err()); err != nil {
				return err
			}
			k.overdue()
		}
	}
	k.result.Seconds = sys.TSCDuration(max(1, sys.TSC()-started)).Seconds()
	k.result.PerSecond = float64(k.result.Connections-counted) / k.result.Seconds
	return k.err()
}

// err is what a switch has done to a ring.
func (k *talker) err() error {
	var errs []error
	for i := range k.ends {
		if err := errors.Join(k.ends[i].rx.Err(), k.ends[i].tx.Err()); err != nil {
			errs = append(errs, fmt.Errorf("port %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// room is how many frames can be sent.
func (e *talkEnd) room(want int) int { return e.tx.Room(want+e.unsent) - e.unsent }

// put makes a segment the next frame. There is room.
func (k *talker) put(end int, g *segment) {
	e := &k.ends[end]
	b := e.tx.Buffer(e.unsent)
	e.say(e.tx.Frame(b), g)
	e.tx.SetLen(b, segmentBytes)
	e.unsent++
	k.result.Sent++
}

// send shows the switch what there is.
func (e *talkEnd) send() {
	if e.unsent == 0 {
		return
	}
	e.tx.Send(e.unsent)
	e.unsent = 0
	if e.tx.ShouldKick() && e.txKick.Valid() {
		_ = sys.Signal(e.txKick) // the eventfd is ours and open
	}
}

// listen answers what has come to an end: two frames at most for each.
func (k *talker) listen(end int) {
	e := &k.ends[end]
	n, most := 0, min(judgeMost, e.room(2*judgeMost)/2)
	for ; n < most; n++ {
		f, ok := e.rx.Next()
		if !ok {
			break
		}
		k.hear(end, f)
	}
	if n == 0 {
		return
	}
	k.result.Received += uint64(n)
	e.rx.Release()
	if e.rx.ShouldKick() && e.rxKick.Valid() {
		_ = sys.Signal(e.rxKick) // the eventfd is ours and open
	}
}

// hear judges and answers a frame.
func (k *talker) hear(end int, f []byte) {
	var g segment
	if !k.ends[end].hear(f, &g) {
		if len(f) < 14 || f[12] != announceType>>8 { // ours, flooded
			k.result.Wrong++
		}
		return
	}
	number := g.seq >> 3
	if end == clients {
		number = g.ack >> 3
	}
	s := &k.slots[(number-k.first)&uint32(len(k.slots)-1)]
	if !s.live || s.number != number {
		k.result.Late++
		return
	}
	right := false
	if end == clients {
		right = k.toClient(s, &g)
	} else {
		right = k.toServer(s, &g)
	}
	if !right {
		k.result.Wrong++
	}
}

// numbers are the sequence numbers with which client and server of s begin.
func (s *talkSlot) numbers() (client, server uint32) { return s.number << 3, s.number<<3 ^ shape }

// toServer is a frame of connection s at its server.
func (k *talker) toServer(s *talkSlot, g *segment) (right bool) {
	c, n := s.numbers()
	h := g.Header.back()
	if g.flags == flagSYN {
		if g.seq != c {
			return false
		}
		s.seen, s.server, s.moved = true, g.Header, k.now
		k.put(servers, &segment{h, flagSYN | flagACK, n, c + 1})
		return true
	}
	switch {
	case !s.seen || s.server != g.Header:
		return false
	case g.flags == flagACK && g.seq == c+1 && g.ack == n+1:
		if s.moved = k.now; !k.talk.End {
			k.done(s)
		}
	case g.flags == flagFIN|flagACK && g.seq == c+1 && g.ack == n+1:
		s.moved = k.now
		k.put(servers, &segment{h, flagFIN | flagACK, n + 1, c + 2})
	case g.flags == flagACK && g.seq == c+2 && g.ack == n+2 && k.talk.End:
		k.done(s)
	default:
		return false
	}
	return true
}

// toClient is a frame of connection s at its client.
func (k *talker) toClient(s *talkSlot, g *segment) (right bool) {
	c, n := s.numbers()
	h := k.talk.Client(s.number)
	if g.Header != h.back() || !s.seen {
		return false
	}
	switch {
	case g.flags == flagSYN|flagACK && g.seq == n && g.ack == c+1:
		if s.moved = k.now; k.talk.Proto == ProtoUDP {
			k.done(s)
			return true
		}
		k.put(clients, &segment{h, flagACK, c + 1, n + 1})
		if k.talk.End {
			k.put(clients, &segment{h, flagFIN | flagACK, c + 1, n + 1})
		}
	case g.flags == flagFIN|flagACK && g.seq == n+1 && g.ack == c+2:
		s.moved = k.now
		k.put(clients, &segment{h, flagACK, c + 2, n + 2})
	default:
		return false
	}
	return true
}

// back is the header of an answer.
func (h Header) back() Header { return Header{h.Dst, h.Src, h.DstPort, h.SrcPort} }

// done ends connection s.
func (k *talker) done(s *talkSlot) {
	k.result.Connections++
	if k.result.Seen != nil {
		k.result.Seen[s.number-k.first] = s.server
	}
	k.next(s)
}

// next has the slot begin another connection.
func (k *talker) next(s *talkSlot) {
	k.left--
	*s = talkSlot{number: s.number + uint32(len(k.slots)), queued: s.queued}
	k.queue(s)
}

// queue has a slot's connection be begun, once.
func (k *talker) queue(s *talkSlot) {
	if !s.queued && s.number < k.limit {
		s.queued = true
		k.starts = append(k.starts, (s.number-k.first)&uint32(len(k.slots)-1))
	}
}

// start begins connections of slots that may.
func (k *talker) start() {
	n := min(len(k.starts), k.ends[clients].room(judgeMost), judgeMost)
	for _, slot := range k.starts[:max(n, 0)] {
		s := &k.slots[slot]
		if s.queued = false; s.number >= k.limit {
			continue
		}
		s.live, s.moved = true, k.now
		k.put(clients, &segment{k.talk.Client(s.number), flagSYN, s.number << 3, 0})
	}
	k.starts = k.starts[:copy(k.starts, k.starts[max(n, 0):])]
}

// overdue looks for connections that do not get on: frames of theirs were lost.
func (k *talker) overdue() {
	for i := range k.slots {
		s := &k.slots[i]
		if !s.live || s.queued || k.now-s.moved < k.patience {
			continue
		}
		if k.talk.End || s.tries == triesMost {
			if k.result.Failed++; len(k.result.Lost) < lostShown {
				k.result.Lost = append(k.result.Lost, s.number)
			}
			k.next(s)
			continue
		}
		k.result.Repeated++
		s.tries++
		k.queue(s)
	}
}
