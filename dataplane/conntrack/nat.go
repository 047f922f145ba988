package conntrack

import (
	"errors"
	"fmt"
	"math/bits"
)

// A Range is the addresses, and maybe the ports, that one end of a connection may
// be given. With both addresses zero it keeps its address, and gets another port
// only if the connection would clash with another one.
type Range struct {
	Set              bool
	Min, Max         Addr   // of the family of the packet
	PortMin, PortMax uint16 // for ICMP identifiers; both zero: any
}

// A NAT is a translation that new connections get.
type NAT struct {
	Src, Dst Range
	// Persistent chooses the address by the client alone, the same one after
	// a restart too; otherwise by client and server, by a secret of the table.
	Persistent bool
	// Random does not try to keep the port, and begins to look for one anywhere;
	// otherwise the client's port is kept if it is free, and the search begins
	// where a hash of the connection says.
	Random bool
}

// ErrNAT says that a translation's range ends before it begins.
var ErrNAT = errors.New("range of addresses or ports ends before it begins")

// Check returns an error if n is no translation. Commit relies on it.
func (n *NAT) Check() error {
	for _, r := range [...]*Range{&n.Src, &n.Dst} {
		if r.Set && (less(r.Max, r.Min) || r.PortMax < r.PortMin) {
			return fmt.Errorf("translate to %x..%x, ports %d..%d: %w", r.Min, r.Max, r.PortMin, r.PortMax, ErrNAT)
		}
	}
	return nil
}

// mild reports whether a connection is only translated if it would clash with another.
func (n *NAT) mild() bool { return n.Src == Range{Set: true} && !n.Dst.Set && !n.Random }

// Bounds of the search for a free port. Those who have used up nearly all
// ports of an address fail now and then before the last one is found.
const (
	addressTries = 4
	portTries    = 128 // in a row
	portRetries  = 32  // elsewhere
)

// persistentSeed is the seed of hashes that survive a restart.
var persistentSeed = seed{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3, 0x589965cc75374cc3}

// in reports whether an address is within the range, ends included.
func (r *Range) in(a Addr) bool {
	return !less(a, r.Min) && !less(r.Max, a)
}

// less compares addresses.
func less(a, b Addr) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// keepsAddress tells a range that only changes ports.
func (r *Range) keepsAddress() bool { return r.Min == Addr{} && r.Max == Addr{} }

// pick returns the n-th choice of an address for what hashes to h, or false if
// there are not so many. a is the address now.
func (r *Range) pick(a Addr, h, n uint64) (Addr, bool) {
	if r.keepsAddress() {
		return a, n == 0
	}
	last, borrow := bits.Sub64(r.Max[1], r.Min[1], 0)
	if r.Max[0]-r.Min[0]-borrow != 0 || last == ^uint64(0) {
		return r.plus(h + n), true // 2^64 or more
	}
	if n > last {
		return a, false
	}
	at, _ := bits.Mul64(h, last+1)
	return r.plus((at + n) % (last + 1)), true
}

// plus returns the address n after the first. The range has more than n.
func (r *Range) plus(n uint64) Addr {
	low, carry := bits.Add64(r.Min[1], n, 0)
	return Addr{r.Min[0] + carry, low}
}

// hasPort reports whether a port is within the range.
func (r *Range) hasPort(port uint16) bool {
	return r.PortMin == 0 && r.PortMax == 0 || r.PortMin <= port && port <= r.PortMax
}

// ported reports whether a tuple's ports, or its identifier, can be chosen.
func (t *Tuple) ported() bool {
	return t.Proto == ProtoTCP || t.Proto == ProtoUDP || t.Proto == ProtoSCTP || t.icmp()
}

// sourcePorts returns the first port and how many may stand for the source port
// of a tuple. Without a range of its own it stays privileged if it is, as in Linux.
func (r *Range) sourcePorts(t *Tuple) (low, n uint32) {
	switch {
	case r.PortMin != 0 || r.PortMax != 0:
		return uint32(r.PortMin), uint32(r.PortMax) - uint32(r.PortMin) + 1
	case t.icmp():
		return 0, 1 << 16
	case t.SrcPort < 512:
		return 1, 511
	case t.SrcPort < 1024:
		return 600, 424
	}
	return 1024, 1<<16 - 1024
}

// place chooses the reply's key of record i and puts the record into the index.
func (w *Worker) place(i uint32, o Tuple, zone uint16, n *NAT) insertion {
	if n == nil || !n.Src.Set && !n.Dst.Set {
		r := &w.t.records[i]
		inverse := o.Inverse()
		r.reply = inverse.key(zone)
		return w.t.insert(i)
	}
	h := w.t.index.seed.hash(&w.t.records[i].original)
	for a := range uint64(addressTries) {
		t := o
		if !n.aim(&t, h, a, &w.t.index.seed) {
			break
		}
		if got := w.placeAt(i, &o, t, zone, n, h); got != taken {
			return got
		}
	}
	return noPort
}

// aim gives t the addresses of the a-th choice, and the destination a port. It
// reports false if there is no such choice.
func (n *NAT) aim(t *Tuple, h, a uint64, secret *seed) bool {
	k := t.key(0)
	k[4] = 0
	client := secret
	if n.Persistent {
		client, k[2], k[3] = &persistentSeed, 0, 0
	}
	at := client.hash(&k)
	some := false
	if n.Dst.Set {
		d, more := n.Dst.pick(t.Dst, bits.RotateLeft64(at, 32), a)
		t.Dst, some = d, more
		if t.ported() && !t.icmp() && !n.Dst.hasPort(t.DstPort) {
			t.DstPort = n.Dst.PortMin + uint16((h>>16&0xffff*(uint64(n.Dst.PortMax)-uint64(n.Dst.PortMin)+1))>>16)
		}
	}
	if n.Src.Set {
		s, more := n.Src.pick(t.Src, at, a)
		if a == 0 && !n.Src.keepsAddress() && n.Src.in(t.Src) {
			s = t.Src
		}
		t.Src, some = s, some || more
	}
	return some
}

// placeAt looks for a port with which the addresses of t are free.
func (w *Worker) placeAt(i uint32, o *Tuple, t Tuple, zone uint16, n *NAT, h uint64) insertion {
	port, r := &t.SrcPort, &n.Src
	if !r.Set {
		port, r = &t.DstPort, &n.Dst
	}
	fixed := !t.ported() || !n.Src.Set && t.icmp() // a destination's port is none of ICMP's
	keep := r.hasPort(*port) && !n.Random
	if keep || fixed {
		if got := w.try(i, o, &t, zone); got != taken {
			return got
		}
	}
	low, size := r.sourcePorts(&t)
	switch {
	case fixed, !n.Src.Set && r.PortMin == 0 && r.PortMax == 0:
		return taken
	}
	from := uint32(h >> 32)
	if n.Random {
		from = uint32(w.random.Uint64())
	}
	for k := range min(size, portTries+portRetries) {
		if k == portTries {
			from = uint32(w.random.Uint64())
		}
		*port = uint16(low + (from%size+k)%size)
		if got := w.try(i, o, &t, zone); got != taken {
			return got
		}
	}
	return taken
}

// try puts record i, whose original direction is o and becomes t, into the
// index, unless another one has t's reply.
func (w *Worker) try(i uint32, o, t *Tuple, zone uint16) insertion {
	r := &w.t.records[i]
	inverse := t.Inverse()
	r.reply = inverse.key(zone)
	if other, _ := w.t.find(&r.reply, w.t.index.seed.hash(&r.reply)); other != 0 && r.reply != r.original {
		return taken
	}
	s := status(r.state.Load()) &^ (srcNAT | dstNAT)
	if t.Src != o.Src || t.SrcPort != o.SrcPort {
		s |= srcNAT
	}
	if t.Dst != o.Dst || t.DstPort != o.DstPort {
		s |= dstNAT
	}
	r.state.Store(uint64(s))
	return w.t.insert(i)
}
