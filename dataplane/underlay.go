package dataplane

import (
	"net/netip"

	"millrace/dataplane/tunnel"
)

// An Underlay knows how hosts are reached: what the kernel knows of routes and
// neighbours. Its methods may be called by any goroutine and do not wait.
type Underlay interface {
	// Follow has it look after the ways to these hosts, and no others, and after
	// addresses, also if there are no hosts; nil ends both. It calls
	// changed, from a goroutine of its own, when one of them or an address is
	// different.
	Follow(hosts []Host, changed func())

	// Way is how a host is reached, as far as is known now.
	Way(Host) Way

	// Addresses are those that the host has on the network device of an index.
	Addresses(index int) []netip.Addr

	// Netns is the inode number of the network namespace that it looks at.
	Netns() uint64
}

// A Host is the other end of a tunnel, and the address of this one, if that is
// to be one of several.
type Host struct{ Remote, Local netip.Addr }

// A Way is how a host is reached.
type Way struct {
	Device int // index of the network device; 0: there is no way
	Name   string
	Path   tunnel.Path
	Reason string // why there is no way, or it cannot be gone yet; in words
}

// An outlet is how frames leave by a tunnel port. It never changes.
type outlet struct {
	header *tunnel.Header
	via    uint32 // port of the underlay
	direct bool   // they leave by it; otherwise they come in by it, as if the host had sent them
}

// An ending says which frames for the host are for the ends of tunnels. It never
// changes.
type ending struct {
	arriving  bool // they are looked for where they come in by the port, not where they go out
	addresses []tunnel.Address
	kinds     []endKind
	wilds     uint8 // bit i: there are places of wild i
	places    []place
}

// An endKind is a UDP port and what comes by it.
type endKind struct {
	port uint16
	kind tunnel.Kind
}

// A place is one tunnel port. What its wild leaves open is zero.
type place struct {
	src, dst tunnel.Address
	key      uint32
	port     uint16
	wild     uint8
	number   uint32 // of the tunnel port; 0: the place is empty
}

// Parts of a place that may be open. Their sum is in which order places are
// looked for, as in Open vSwitch.
const (
	anyLocal  = 1
	anyRemote = 2
	anyKey    = 4
	wilds     = 8
)

// hash is where a place is looked for first.
func (p *place) hash() uint64 {
	h := p.src.Low ^ p.src.High*0x9e3779b97f4a7c15 ^ p.dst.Low<<1 ^ p.dst.High*0xc2b2ae3d27d4eb4f
	h = (h ^ h>>31) * 0xbf58476d1ce4e5b9
	h ^= uint64(p.key)<<18 | uint64(p.port)<<2 | uint64(p.wild)
	h *= 0x94d049bb133111eb
	return h ^ h>>29
}

// same reports whether two places are the same but for their number.
func (p *place) same(o *place) bool {
	return p.src == o.src && p.dst == o.dst && p.key == o.key && p.port == o.port && p.wild == o.wild
}

// placeOf is where frames of a tunnel are looked for.
func placeOf(c *tunnel.Config, number uint32) place {
	p := place{key: c.In.ID, port: c.Port, number: number}
	if c.Remote.IsValid() {
		p.src = tunnel.AddressOf(c.Remote)
	} else {
		p.wild |= anyRemote
	}
	if c.Local.IsValid() {
		p.dst = tunnel.AddressOf(c.Local)
	} else {
		p.wild |= anyLocal
	}
	if c.In.Flow {
		p.wild |= anyKey
	}
	return p
}

// fill makes the table of places, half full at most.
func (e *ending) fill(list []place) {
	size := 4
	for size < 2*len(list) {
		size *= 2
	}
	e.places = make([]place, size)
	for _, p := range list {
		at := p.hash()
		for e.places[at&uint64(size-1)].number != 0 {
			at++
		}
		e.places[at&uint64(size-1)] = p
		e.wilds |= 1 << p.wild
	}
}

// find returns the number of the tunnel port that a frame is for, or 0.
func (e *ending) find(o *tunnel.Outer) uint32 {
	for wild := range uint8(wilds) {
		if e.wilds>>wild&1 == 0 {
			continue
		}
		want := place{src: o.Src, dst: o.Dst, key: o.Key(), port: o.Port, wild: wild}
		if wild&anyLocal != 0 {
			want.dst = tunnel.Address{}
		}
		if wild&anyRemote != 0 {
			want.src = tunnel.Address{}
		}
		if wild&anyKey != 0 {
			want.key = 0
		}
		for at := want.hash(); ; at++ {
			p := &e.places[at&uint64(len(e.places)-1)]
			if p.number == 0 {
				break
			}
			if p.same(&want) {
				return p.number
			}
		}
	}
	return 0
}

// takes reports whether a frame is for the end of a tunnel, by address and UDP
// port, and reads where it goes into o.
func (e *ending) takes(o *tunnel.Outer, head []byte) (kind tunnel.Kind, fragment, ok bool) {
	if fragment, ok = o.To(head); !ok {
		return "", false, false
	}
	for _, k := range e.kinds {
		if k.port != o.Port {
			continue
		}
		for _, a := range e.addresses {
			if a == o.Dst {
				return k.kind, fragment, true
			}
		}
	}
	return "", false, false
}
