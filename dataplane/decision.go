package dataplane

import (
	"encoding/binary"
	"math/bits"

	"millrace/dataplane/fdb"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable/flowcache"
)

// A decision is what a learning bridge has done with a frame like this one: both
// addresses known, no tag on either side, one port to send to. It holds for the
// second in which it was made, so that the source's entry stays fresh, and while
// its program's guards hold. It spares the frames behind the first the lookup
// and the program.
//
// What goes by it is counted in it, and told to the program and to the
// destination's entry when it ends or somebody asks. Until then the program stays.
//
// Decisions lie in a small table without chains: two that collide take turns.
type decision struct {
	in        *workerPort
	addresses uint64 // first 8 bytes of the frame
	rest      uint64 // the next 8, under macTypeMask
	out       *workerPort
	program   flowcache.Handle
	bytes     uint64 // counted and not told
	packets   uint32 // counted and not told
	moves     uint32 // of guard cells, when the program's guards were last seen to hold
	second    uint32
	vlan      uint16
	_         uint16
}

// decisionBits is the size of the table: 512 decisions, 32 KB.
const decisionBits = 9

type decisions [1 << decisionBits]decision

// at is where a decision about a frame that begins so would be.
func (d *decisions) at(a0, rest uint64) *decision {
	h := (a0*0xff51afd7ed558ccd + rest) * 0x9e3779b97f4a7c15 // collisions cost time only: no seed
	return &d[h>>(64-decisionBits)]
}

// macTypeMask covers, of a frame's second 8 bytes, the rest of the source
// address and the EtherType.
const macTypeMask = 0x0000ffff_ffffffff

// decideAll sends the frames of the batch that are decided about, up to the first
// that is not, and returns the set of those from there on: a port gets a source's
// frames in the order in which they came, broadcasts among them.
func (w *worker) decideAll(p *workerPort) (rest uint64) {
	b, now := w.batch, w.now
	moves, outputs := uint32(w.engine.cells.Changes()), uint64(0)
	all := min(b.N, packet.BatchMax)
	for i := range all {
		s := (*[packet.HeadRoom + 16]byte)(b.Slot(i)[:])
		a0 := binary.LittleEndian.Uint64(s[packet.HeadRoom:])
		a1 := binary.LittleEndian.Uint64(s[packet.HeadRoom+8:]) & macTypeMask
		d := w.decided.at(a0, a1)
		if d.addresses != a0 || d.rest != a1 || d.in != p || d.second != now || d.moves != moves && !w.confirm(d, moves) {
			rest = ^uint64(0) << i
			break
		}
		o := d.out
		n := o.n
		if !o.plain {
			size := uint64(b.Frames[i].Len)
			if o.isTunnel && !w.wrapQuick(p, o, i) || !o.isTunnel && !w.departQuick(p, o, i) {
				rest = ^uint64(0) << i
				break
			}
			outputs++
			d.packets++
			d.bytes += size
			continue
		}
		if n >= len(o.own) {
			rest = ^uint64(0) << i
			break
		}
		if n == 0 {
			w.fl.out = append(w.fl.out, o)
		}
		o.own[n] = packet.Ref{Frame: uint16(i)}
		o.n = n + 1
		outputs++
		d.packets++
		d.bytes += uint64(b.Frames[i].Len)
	}
	p.outputs += outputs
	return rest & (^uint64(0) >> (packet.BatchMax - all))
}

// decidePopped is decideAll for frames that have come out of tunnel p.
func (w *worker) decidePopped(p *workerPort, set uint64) (rest uint64) {
	outputs := uint64(0)
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		d := w.decisionOf(p, w.addresses(i))
		if d == nil || !d.out.plain || d.out.n >= len(d.out.own) {
			break
		}
		w.list(d.out, i)
		outputs++
		d.packets++
		d.bytes += uint64(w.batch.Frames[i].Len)
	}
	p.outputs += outputs
	return set
}

// confirm reports whether a decision still holds although guard cells have
// moved.
func (w *worker) confirm(d *decision, moves uint32) bool {
	if !w.flow.cache.Holds(d.program) {
		return false
	}
	d.moves = moves
	return true
}

// addresses are the first 16 bytes of a frame, as decisions have them; zero if they are not there.
func (w *worker) addresses(slot int) (a [2]uint64) {
	s, off := w.batch.Slot(slot), int(w.batch.Frames[slot].Off)
	if off <= packet.SlotSize-16 {
		a[0] = binary.LittleEndian.Uint64(s[off:])
		a[1] = binary.LittleEndian.Uint64(s[off+8:]) & macTypeMask
	}
	return a
}

// decide remembers what became of a frame with addresses a, if it is what a decision can say.
func (w *worker) decide(p *workerPort, a [2]uint64, off uint32, t *transit) {
	if t.fdbSlot < 0 || t.only == nil || p.dev == nil && !p.isTunnel || p.level != parse.L2 || uint16(a[1]>>32) == etherVLAN>>8|etherVLAN&0xff<<8 {
		return
	}
	d := w.decided.at(a[0], a[1])
	if d.in == p && d.addresses == a[0] && d.rest == a[1] && d.out == t.only && d.second == w.now && uint32(d.program) == off {
		return // it holds, and could not be made use of
	}
	w.end(d)
	*d = decision{in: p, addresses: a[0], rest: a[1], out: t.only, program: w.flow.cache.Retain(off), vlan: t.vlan, second: w.now, moves: ^uint32(w.engine.cells.Changes())}
}

// tell tells the program and the destination's entry what went by a decision.
func (w *worker) tell(d *decision) {
	if d.packets == 0 {
		return
	}
	h := w.flow.cache.Program(uint32(d.program))
	h.Packets += uint64(d.packets)
	h.Bytes += d.bytes
	mine := d.in.bridge.mine
	if _, slot, ok := d.in.bridge.table.Lookup(fdb.MakeKey(d.addresses, d.vlan)); ok {
		mine.Hit(slot, uint64(d.packets))
	}
	d.packets, d.bytes = 0, 0
}

// end ends a decision.
func (w *worker) end(d *decision) {
	if d.in == nil {
		return
	}
	w.tell(d)
	w.flow.cache.LetGo(d.program)
	*d = decision{}
}

// tellDecisions tells what went by all decisions.
func (w *worker) tellDecisions() {
	for i := range w.decided {
		w.tell(&w.decided[i])
	}
}

// endDecisions ends all decisions.
func (w *worker) endDecisions() {
	for i := range w.decided {
		w.end(&w.decided[i])
	}
}

// sweepDecisions ends the next one if its second is over.
func (w *worker) sweepDecisions() {
	w.sweep = (w.sweep + 1) % uint32(len(w.decided))
	if d := &w.decided[w.sweep]; d.second != w.now {
		w.end(d)
	}
}
