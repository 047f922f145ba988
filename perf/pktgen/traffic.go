package pktgen

import (
	"encoding/binary"
	"math/bits"
)

// A Traffic is what one port sends.
type Traffic struct {
	Rate    float64  // frames a second; 0: as many as the switch takes
	Flows   int      // told apart by UDP source port and IP source address; default 1
	Zipf    float64  // over 1: the k-th most popular flow has a share like k^-Zipf; 0: flows go round
	Shuffle bool     // flows go round in an order that has none
	Headers []Header // of each flow, in the place of our own; Flows is their number then

	// Fresh makes each frame a flow of its own, told apart by all bits of the
	// UDP source port and the low half of the IP source address. The first has
	// number First; they come round after 2^32. Flows counts as 1.
	Fresh bool
	First uint32

	// Wrap puts a frame into another, as a tunnel does: what it returns ends with the
	// frame. Sizes are those of the frames inside. For Fast only, which does not look at
	// what comes.
	Wrap func(frame []byte) []byte
}

// A Header is what the headers of a flow say, in numbers. All are UDP.
type Header struct {
	Src, Dst         uint32 // IPv4
	SrcPort, DstPort uint16
}

// A look is how the headers of a stream's frames come about.
type look uint8

const (
	ownLook   look = iota // from the number of the flow
	givenLook             // from a list, by the number of the flow
	freshLook             // from the number of the frame
)

// look is how the headers of this traffic come about.
func (t *Traffic) look() look {
	switch {
	case t.Fresh:
		return freshLook
	case t.Headers != nil:
		return givenLook
	}
	return ownLook
}

// fill returns t with its defaults.
func (t Traffic) fill() Traffic {
	if t.Flows = max(t.Flows, len(t.Headers), 1); t.Fresh {
		t.Flows = 1
	}
	return t
}

func (t *Traffic) check() error {
	switch {
	case t.Flows > flowsMax:
		return bad("%d flows, at most %d", t.Flows, flowsMax)
	case t.Zipf != 0 && (t.Zipf <= 1 || t.Zipf > 10):
		return bad("Zipf exponent %g, want over 1 and at most 10, or 0 for none", t.Zipf)
	case t.Rate < 0:
		return bad("negative rate or time")
	case t.Headers != nil && (len(t.Headers) != t.Flows || t.Fresh):
		return bad("%d headers for %d flows; new flows have none", len(t.Headers), t.Flows)
	}
	return nil
}

// traffic is what port i sends.
func (c *Config) traffic(i int) Traffic {
	if t := c.Ports[i].Traffic; t != nil {
		return t.fill()
	}
	return Traffic{Rate: c.Rate, Flows: c.Flows, Zipf: c.Zipf}.fill()
}

// A packed header is in the form that is quick to write: as the bytes lie.
type packed struct {
	addrs uint64 // source and destination
	ports uint32
	sum   uint32 // of the addresses, as an IPv4 header counts it
}

func pack(hs []Header) []packed {
	ps := make([]packed, len(hs))
	for i, h := range hs {
		ps[i] = packed{
			addrs: uint64(bits.ReverseBytes32(h.Src)) | uint64(bits.ReverseBytes32(h.Dst))<<32,
			ports: uint32(bits.ReverseBytes16(h.SrcPort)) | uint32(bits.ReverseBytes16(h.DstPort))<<16,
			sum:   h.Src>>16 + h.Src&0xffff + h.Dst>>16 + h.Dst&0xffff,
		}
	}
	return ps
}

// setGiven writes a header of a list into b, which begins as the template does.
func (t *template) setGiven(b []byte, p *packed) {
	h := b[t.ip : t.ip+24]
	binary.BigEndian.PutUint16(h[10:], fold(t.bare+p.sum))
	binary.LittleEndian.PutUint64(h[12:], p.addrs)
	binary.LittleEndian.PutUint32(h[20:], p.ports)
}

// setFresh writes the header of new flow number n into b.
func (t *template) setFresh(b []byte, n uint32) {
	n = mix(n)
	t.setLow(b, n>>16, uint16(n))
}

// mix is a permutation of all numbers in which neighbours are strangers.
func mix(n uint32) uint32 {
	n *= 0x9e3779b1
	n ^= n >> 15
	n *= 0x85ebca77
	return n ^ n>>13
}

// fold is the checksum of a header whose halves have this sum (RFC 1071).
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}
