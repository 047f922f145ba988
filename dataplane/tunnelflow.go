package dataplane

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"millrace/dataplane/packet"
	"millrace/dataplane/tunnel"
	"millrace/flowtable"
)

// Tunnels whose ends each frame names (remote_ip=flow, local_ip=flow).
//
// Who sent a frame, and to which of our addresses, is too long for its key. A worker gives
// each pair of addresses a number, which is in the key; the walk has the addresses
// (flowtable.WordTunSrc). Programs are kept for each pair, whatever they look at.
//
// Where a frame goes is what its program has set. The outer headers for that are in a table that
// control makes; of hosts that are not in it a worker tells control, once a second.

// An endPair is the source and destination of outer headers.
type endPair struct{ src, dst tunnel.Address }

// hash is where a pair is looked for first.
func (p *endPair) hash() uint64 {
	x := place{src: p.src, dst: p.dst}
	return x.hash()
}

// endPairOf is the pair that the words of a context have.
func endPairOf(w *[4]uint64) endPair {
	return endPair{tunnel.FromWords(w[0], w[1]), tunnel.FromWords(w[2], w[3])}
}

// words are p in the words of a context.
func (p *endPair) words() (w [4]uint64) {
	w[0], w[1] = p.src.Words()
	w[2], w[3] = p.dst.Words()
	return w
}

// Where the number of a pair is in a key: in bits of WordL4 that no frame sets.
const (
	pairShift = 4
	pairBits  = ownBits &^ lengthBits
	pairsMax  = pairBits >> pairShift
)

// pairs are those that a worker has seen, by number; 0 is none.
type pairs struct {
	list  []endPair // made when there is the first
	slots []uint16  // numbers by hash, a quarter full at most
	full  bool      // there was no number left: all are forgotten before the next batch
}

// number is the number of a pair, or 0 if there is none left.
func (t *pairs) number(p endPair) uint16 {
	if t.list == nil {
		t.list, t.slots = make([]endPair, 1, pairsMax+1), make([]uint16, 4*(pairsMax+1))
	}
	at := p.hash()
	for ; ; at++ {
		n := t.slots[at&uint64(len(t.slots)-1)]
		if n == 0 {
			break
		}
		if t.list[n] == p {
			return n
		}
	}
	if len(t.list) > pairsMax {
		t.full = true
		return 0
	}
	t.slots[at&uint64(len(t.slots)-1)] = uint16(len(t.list))
	t.list = append(t.list, p)
	return uint16(len(t.list) - 1)
}

// words are the words of the pair of a number.
func (t *pairs) words(n uint16) (w [4]uint64) {
	if n == 0 || int(n) >= len(t.list) {
		return w
	}
	return t.list[n].words()
}

// forgetPairs forgets all pairs and what was kept by their numbers, if they were too many.
func (w *worker) forgetPairs() {
	if !w.pairs.full {
		return
	}
	w.pairs.full, w.pairs.list = false, w.pairs.list[:1]
	clear(w.pairs.slots)
	for _, p := range w.order {
		if p.named {
			steps := p.steps
			w.unplan(p)
			p.steps = steps
		}
	}
}

// outlets are how frames leave by a tunnel port whose ends they name, by pair; a source that is
// not named is zero. They never change.
type outlets struct {
	slots []outletSlot
	n     int
}

type outletSlot struct {
	endPair endPair
	out     *outlet // nil: the slot is empty
}

// newOutlets makes the table of some outlets, half full at most.
func newOutlets(by map[endPair]*outlet) *outlets {
	size := 4
	for size < 2*len(by) {
		size *= 2
	}
	t := &outlets{make([]outletSlot, size), len(by)}
	for p, out := range by {
		at := p.hash()
		for t.slots[at&uint64(size-1)].out != nil {
			at++
		}
		t.slots[at&uint64(size-1)] = outletSlot{p, out}
	}
	return t
}

// find returns the outlet of a pair, or nil.
func (t *outlets) find(p endPair) *outlet {
	if t == nil {
		return nil
	}
	for at := p.hash(); ; at++ {
		s := &t.slots[at&uint64(len(t.slots)-1)]
		if s.out == nil || s.endPair == p {
			return s.out
		}
	}
}

// outletOf is how a frame leaves by tunnel port o, or nil if there is no way now.
func (w *worker) outletOf(t *transit, o *workerPort) *outlet {
	if !o.named {
		return o.out
	}
	p := endPairOf(&t.to)
	if !o.namesLocal {
		p.src = tunnel.Address{}
	}
	if !o.namesRemote {
		p.dst = tunnel.Address{}
	} else if p.dst == (tunnel.Address{}) {
		return nil // its program does not say where to
	}
	out := o.outs.find(p)
	if out == nil {
		w.want(o, p)
	}
	return out
}

// A want is a pair that a tunnel port has no outlet for.
type want struct {
	port    uint32
	endPair endPair
}

// wantsMax is how many wants workers keep for control, and how many of them each remembers
// to have told.
const (
	wantsMax = 256
	toldMax  = 64
)

// wants are those of all workers.
type wants struct {
	mu   sync.Mutex
	list []want
	stir func() // has control look
}

// told is what a worker has told control in a second.
type told struct {
	want   want
	second uint32
}

// want tells control of a pair, unless that was done in this second or others are at it.
func (w *worker) want(o *workerPort, p endPair) {
	x := told{want{o.number, p}, w.now + 1}
	at := &w.wanted[p.hash()%toldMax]
	all := &w.engine.wants
	if *at == x || w.trace != nil || !all.mu.TryLock() {
		return
	}
	defer all.mu.Unlock()
	if len(all.list) == wantsMax {
		return
	}
	*at = x
	all.list = append(all.list, x.want)
	all.stir()
}

// take returns the wants so far.
func (t *wants) take() []want {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.list
	t.list = nil
	return list
}

// hostsMax is how many hosts a port may be told of by its frames. Of more, the oldest are
// forgotten: frames for them tell again.
const hostsMax = 4096

// A namedEnds is the control side of a tunnel port whose frames name its ends.
type namedEnds struct {
	pairs []endPair // that frames have named, the oldest first
	ways  map[endPair]Way
	outs  *outlets
}

// hosts are those that matter for a tunnel port.
func (t *tunnelEnd) hosts() []Host {
	if !t.config.Named() {
		return []Host{t.host()}
	}
	var list []Host
	for _, p := range t.named.pairs {
		list = append(list, t.hostOf(p))
	}
	return list
}

// hostOf is the other end that a pair stands for.
func (t *tunnelEnd) hostOf(p endPair) Host {
	h := t.host()
	if t.config.RemoteFlow {
		h.Remote = p.dst.Addr()
	}
	if t.config.LocalFlow && p.src != (tunnel.Address{}) {
		h.Local = p.src.Addr()
	}
	return h
}

// sound reports whether both ends can be those of a tunnel.
func (h Host) sound() bool {
	return h.Remote.IsValid() && h.Remote != h.Local && (!h.Local.IsValid() || h.Local.Is4() == h.Remote.Is4())
}

// takeWants takes note of ends that frames have named, and reports whether there are new
// ones. The caller holds mu.
func (s *Switch) takeWants() (more bool) {
	for _, x := range s.engine.wants.take() {
		for _, p := range s.ports {
			if p.number != x.port || p.tunnel == nil || !p.tunnel.config.Named() {
				continue
			}
			t := &p.tunnel.named
			if !p.tunnel.hostOf(x.endPair).sound() || slices.Contains(t.pairs, x.endPair) {
				continue
			}
			if len(t.pairs) == hostsMax {
				t.pairs = t.pairs[1:]
			}
			t.pairs = append(t.pairs, x.endPair)
			more = true
		}
	}
	return more
}

// routeNamed is routeTunnel for a port whose frames name its ends.
func (s *Switch) routeNamed(p *port, devices map[int]*port) bool {
	t := p.tunnel
	ways, by := map[endPair]Way{}, map[endPair]*outlet{}
	for _, x := range t.named.pairs {
		h := t.hostOf(x)
		way := s.opts.Underlay.Way(h)
		via := devices[way.Device]
		if way.Reason != "" || via == nil {
			continue
		}
		direct := !IsHost(via.spec.Type)
		ways[x] = way
		if old := t.named.outs.find(x); old != nil && t.named.ways[x] == way && old.via == via.number && old.direct == direct {
			by[x] = old
			continue
		}
		c := t.config
		c.Remote = h.Remote
		by[x] = &outlet{tunnel.NewHeader(c, way.Path), via.number, direct}
	}
	same := t.named.outs != nil && maps.Equal(ways, t.named.ways) && t.named.outs.n == len(by)
	for x, out := range by {
		same = same && t.named.outs.find(x) == out
	}
	if same {
		return false
	}
	t.named.ways, t.named.outs = ways, newOutlets(by)
	return true
}

// namedState describes a tunnel port whose frames name its ends.
func (t *tunnelEnd) namedState() DeviceState {
	return DeviceState{Link: LinkUp, Since: t.since, How: fmt.Sprintf("flows name the other end: %d of %d that they have named are reached", len(t.named.ways), len(t.named.pairs))}
}

// setEnds notes what an op sets of the addresses of a tunnel, and reports whether it does.
func (t *transit) setEnds(op *flowtable.Op) bool {
	if op.Word < flowtable.WordTunSrc || op.Word > flowtable.WordTunDst+1 {
		return false
	}
	to := &t.to[op.Word-flowtable.WordTunSrc]
	*to = *to&^op.Mask | op.Value&op.Mask
	return true
}

// cameBy is the number of the pair by which a received frame came.
func (w *worker) cameBy(p *workerPort, i int) uint16 {
	if p.named {
		return w.cames[i&(packet.BatchMax-1)]
	}
	return 0
}

// numberOf is the number of the pair of a frame that comes out of tunnel port q. ok is false if
// there is none left.
func (w *worker) numberOf(q *workerPort, o *tunnel.Outer) (n uint16, ok bool) {
	if !q.named {
		return 0, true
	}
	n = w.pairs.number(endPair{o.Src, o.Dst})
	return n, n != 0
}
