package virtq

import (
	"encoding/binary"

	"millrace/dataplane/packet"
	"millrace/vhost/guestmem"
)

// A reference does what a Device does, one byte at a time and with no thought
// for speed. It works on copies: file is the memory that regions describe,
// table and avail are the ring's.
//
// It shares no code with Device, and only these decisions: avail.idx is read
// when fewer chains are known than wanted; a chain that a frame is written to
// is followed no further than the frame goes; a header is written before the
// next frame's chain is read.
type reference struct {
	cfg     Config
	regions []guestmem.Region
	file    []byte
	table   []byte
	avail   []byte
	next    uint16
	seen    uint16 // avail.idx as the device knows it
}

// find returns where in the file the byte at gpa is.
func (r *reference) find(gpa uint64) (int, bool) {
	for _, g := range r.regions {
		if gpa >= g.GPA && gpa < g.GPA+g.Size {
			return int(g.Offset + gpa - g.GPA), true
		}
	}
	return 0, false
}

// limit is the longest chain.
func (r *reference) limit() int { return max(int(r.cfg.Size), 1024) }

// A step is what a walk finds: the place of a byte, or an end.
type step int

const (
	stepByte step = iota
	stepEnd
	stepBad
)

// walk returns a function that gives the chain's bytes, as places in the file,
// one by one.
func (r *reference) walk(head int, write bool) func() (int, step) {
	table := make([]byte, len(r.table))
	copy(table, r.table)
	inner, seen := false, 0
	at := head
	var addr uint64
	var left uint32
	var flags uint16
	loaded := false
	load := func() bool { // reads descriptor at, and the table behind it
		for {
			if 16*at+16 > len(table) {
				return false
			}
			d := table[16*at:]
			addr, left, flags = binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:]), binary.LittleEndian.Uint16(d[12:])
			if flags&4 == 0 {
				seen++
				return (flags&2 != 0) == write && seen <= r.limit()
			}
			if inner || !r.cfg.Indirect || flags&1 != 0 || left == 0 || left%16 != 0 || int(left/16) > r.limit() {
				return false
			}
			if table = r.span(addr, left); table == nil {
				return false
			}
			inner, at = true, 0
		}
	}
	return func() (int, step) {
		for {
			if !loaded {
				if !load() {
					return 0, stepBad
				}
				loaded = true
			}
			if left > 0 {
				place, ok := r.find(addr)
				if !ok {
					return 0, stepBad
				}
				addr++
				left--
				return place, stepByte
			}
			if flags&1 == 0 {
				return 0, stepEnd
			}
			next := 16*at + 14
			at = int(binary.LittleEndian.Uint16(table[next:]))
			loaded = false
		}
	}
}

// span copies n bytes from gpa, which lie in one region.
func (r *reference) span(gpa uint64, n uint32) []byte {
	for _, g := range r.regions {
		if gpa >= g.GPA && gpa < g.GPA+g.Size && uint64(n) <= g.GPA+g.Size-gpa {
			off := g.Offset + gpa - g.GPA
			return append([]byte(nil), r.file[off:off+uint64(n)]...)
		}
	}
	return nil
}

// head returns the chain in the avail entry at index i.
func (r *reference) head(i uint16) (int, bool) {
	h := int(binary.LittleEndian.Uint16(r.avail[4+2*(int(i)%int(r.cfg.Size)):]))
	return h, h < int(r.cfg.Size)
}

// ready returns how many chains there are, want being enough.
func (r *reference) ready(want int) (int, bool) {
	n := r.seen - r.next
	if int(n) < want {
		n = binary.LittleEndian.Uint16(r.avail[2:]) - r.next
	}
	return int(n), int(n) <= int(r.cfg.Size)
}

func (r *reference) header() int {
	if r.cfg.Legacy {
		return 10
	}
	return 12
}

// dequeue returns the frames of the chains there are, and how many were dropped
// for each reason. ok is false if the ring is broken.
func (r *reference) dequeue() (frames [][]byte, early [packet.ReasonCount]uint32, ok bool) {
	n, ok := r.ready(packet.BatchMax)
	if !ok {
		return nil, early, false
	}
	for i := range min(n, packet.BatchMax) {
		head, ok := r.head(r.next + uint16(i))
		if !ok {
			return nil, early, false
		}
		var b []byte
		walk := r.walk(head, false)
		place, s := walk()
		for ; s == stepByte; place, s = walk() {
			b = append(b, r.file[place])
		}
		switch hdr := r.header(); {
		case s == stepBad:
			return nil, early, false
		case len(b) > hdr+9728:
			early[packet.ReasonRxTooLong]++
		case len(b) < hdr+14:
			early[packet.ReasonRxTooShort]++
		case b[0]&1 != 0 || b[1] != 0:
			early[packet.ReasonRxHeader]++
		default:
			frames = append(frames, b[hdr:])
		}
	}
	r.next += uint16(min(n, packet.BatchMax))
	return frames, early, true
}

// usedWant is a used element as it shall be.
type usedWant struct {
	head int
	n    int
}

// more returns how many chains there are once all known are taken.
func (r *reference) more(taken, left int) (int, bool) {
	n, ok := r.ready(1 << 16)
	return n - taken, ok && n >= taken+left
}

// enqueue writes frames into the chains there are, and returns the used
// elements and what became of each frame. ok is false if the ring is broken.
func (r *reference) enqueue(frames [][]byte) (used []usedWant, why []packet.Reason, ok bool) {
	left, ok := r.ready(len(frames))
	if !ok {
		return nil, nil, false
	}
	type write struct {
		place int
		b     byte
	}
	var late []write
	why = make([]packet.Reason, len(frames))
	for i, f := range frames {
		hdr := r.header()
		var places []int
		var chains []usedWant
		reason := packet.ReasonNone
		for len(places) < hdr+len(f) && reason == packet.ReasonNone {
			if len(chains) == left && (left == 0 || r.cfg.Mergeable) {
				if left, ok = r.more(len(used), left); !ok {
					return nil, nil, false
				}
			}
			switch {
			case len(chains) == left && (left == 0 || r.cfg.Mergeable):
				reason = packet.ReasonTxFull
				continue
			case len(chains) == 1 && !r.cfg.Mergeable:
				reason = packet.ReasonTxTooLong
				continue
			}
			head, ok := r.head(r.next + uint16(len(used)+len(chains)))
			if !ok {
				return nil, nil, false
			}
			walk, had := r.walk(head, true), len(places)
			for len(places) < hdr+len(f) {
				place, s := walk()
				if s == stepBad {
					return nil, nil, false
				}
				if s == stepEnd {
					break
				}
				places = append(places, place)
			}
			got := len(places) - had
			if got == 0 || had == 0 && got < hdr {
				return nil, nil, false
			}
			chains = append(chains, usedWant{head, got})
		}
		if reason == packet.ReasonTxFull {
			for j := i; j < len(why); j++ {
				why[j] = reason
			}
			break
		}
		if why[i] = reason; reason != packet.ReasonNone {
			continue
		}
		h := make([]byte, 12)
		binary.LittleEndian.PutUint16(h[10:], uint16(len(chains)))
		for k, place := range places {
			if k < hdr {
				r.file[place] = h[k]
			} else {
				late = append(late, write{place, f[k-hdr]})
			}
		}
		used = append(used, chains...)
		left -= len(chains)
	}
	for _, w := range late {
		r.file[w.place] = w.b
	}
	r.next += uint16(len(used))
	return used, why, true
}
