package dataplane

import (
	"encoding/binary"
	"math/bits"

	"millrace/dataplane/edit"
	"millrace/dataplane/fdb"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// A transit is a frame on its way through one program.
//
// A program may send a frame several times, changed in between. Lists of what
// goes to ports name slots of the batch, so a slot that is on a list, or that an
// OpRestore comes back to, must stay as it is: whoever wants to change it makes a
// copy of the private bytes first and goes on with that (worker.own). A frame that
// leaves once is changed where it lies.
type transit struct {
	in     *workerPort
	slot   int       // of the frame as it is now
	shared bool      // somebody else counts on the slot
	lost   bool      // there was no slot for a copy: it goes nowhere
	rx     int       // received frame that it is a version of
	hops   int       // patch ports passed
	last   bool      // the output in hand is the last thing that its program does
	pushed bool      // it has outer headers of ours
	tun    uint64    // what is known of its tunnel, or set for one; as in flowtable.WordTunnel
	came   uint16    // number of the pair of addresses by which it came, if its port is named
	to     [4]uint64 // addresses that are set for a tunnel; as in flowtable.WordTunSrc and the next

	edit edit.Editor
	outs uint64        // outputs, also those that failed at once
	fail uint64        // those
	why  packet.Reason // why there was none, if not for the program's own reason

	// What a learning bridge needs for the account of hits and for a decision.
	learned bool        // it put the source into its database, for vlan
	vlan    uint16      //
	fdbSlot int32       // of the destination's entry; -1: none
	changes uint32      // of the table, when the entry was there
	only    *workerPort // the one output; nil if there were others, or changes
}

// saved is what OpRestore comes back to.
type saved struct {
	slot         int
	shared, lost bool
	outs         uint64
	tun          uint64
	to           [4]uint64
	edit         edit.Editor
}

// Bounds of frames that pass patch ports.
const (
	patchMax  = 8  // patch ports in a row
	passedMax = 64 // times that a frame with all its copies passes one: k pairs between two bridges make (k-1)^8 copies otherwise
)

// perform carries out ops. drop is the reason if they output nothing.
func (w *worker) perform(t *transit, ops []flowtable.Op, drop uint32) {
	w.runs++
	id, save := w.runs, w.saves[t.hops][:0]
	for i := 0; i < len(ops); i++ {
		switch op := &ops[i]; op.Code {
		case flowtable.OpOutput:
			t.last = i == len(ops)-1
			w.output(t, op.Arg, id)
			t.last = false
		case flowtable.OpSet, flowtable.OpPushVLAN, flowtable.OpPopVLAN, flowtable.OpDecTTL, flowtable.OpInner:
			n := edits(ops[i:])
			w.change(t, ops[i:i+n], ops)
			i += n - 1
		case flowtable.OpFlood:
			w.flood(t, op, id)
		case flowtable.OpLearn:
			w.learnOp(t, op)
		case flowtable.OpSave:
			save = append(save, saved{t.slot, t.shared, t.lost, t.outs, t.tun, t.to, t.edit})
			t.shared = true
		case flowtable.OpRestore:
			if n := len(save) - 1; n >= 0 {
				s := &save[n]
				t.shared = s.shared || t.outs != s.outs // it may be on a list by now
				t.slot, t.lost, t.tun, t.to, t.edit = s.slot, s.lost, s.tun, s.to, s.edit
				save = save[:n]
			}
		case flowtable.OpMeter:
			if !w.conforms(op.Arg, w.batch.Frames[t.slot].Len) {
				t.why = packet.ReasonMeter
				i += beyond(ops[i:]) - 1
			}
		case flowtable.OpReply:
			if !w.reply(t, op) {
				i += beyond(ops[i:]) - 1
			}
		}
	}
	w.saves[t.hops] = save[:0]
	w.settle(t, drop)
}

// settle counts what became of the frame.
func (w *worker) settle(t *transit, drop uint32) {
	if t.outs != 0 {
		t.in.outputs += t.outs - t.fail
		t.in.copies += t.outs - 1
		return
	}
	if t.why == packet.ReasonNone {
		t.why = dropReason(drop)
	}
	t.in.rxDrops[t.why]++
	if w.trace != nil {
		w.trace.drop(t)
	}
}

// edits returns how many of the first ops change the frame, or do nothing to it.
func edits(ops []flowtable.Op) int {
	for i := range ops {
		switch ops[i].Code {
		case flowtable.OpSet, flowtable.OpPushVLAN, flowtable.OpPopVLAN, flowtable.OpDecTTL, flowtable.OpInner, flowtable.OpCT:
		default:
			return i
		}
	}
	return len(ops)
}

// beyond returns how far ahead of ops the OpRestore of the innermost OpSave
// before them is, or their end.
func beyond(ops []flowtable.Op) int {
	depth := 0
	for i := range ops {
		switch ops[i].Code {
		case flowtable.OpSave:
			depth++
		case flowtable.OpRestore:
			if depth == 0 {
				return i
			}
			depth--
		}
	}
	return len(ops)
}

// own makes sure that nobody else counts on the frame's slot.
func (w *worker) own(t *transit) bool {
	t.only = nil
	if !t.shared {
		return true
	}
	slot, ok := w.batch.Copy(t.slot)
	if !ok {
		t.lost = true
		return false
	}
	t.slot, t.shared = slot, false
	return true
}

// change carries out some ops that change the frame, of a program.
func (w *worker) change(t *transit, ops, program []flowtable.Op) {
	outer := 0
	for i := range ops {
		switch op := &ops[i]; {
		case op.Code != flowtable.OpSet:
		case op.Word == flowtable.WordTunnel:
			t.tun = t.tun&^op.Mask | op.Value&op.Mask
			outer++
		case t.setEnds(op):
			outer++
		}
	}
	if outer == len(ops) {
		return // the frame itself stays as it is
	}
	if w.own(t) {
		t.edit.Do(w.batch, t.slot, ops, program)
	}
}

// output gives the frame to a port.
func (w *worker) output(t *transit, number uint32, run uint64) {
	o := w.target(number)
	if o == nil {
		w.lose(t, packet.ReasonNoPort)
		return
	}
	if t.outs == 0 && !t.edit.Begun() && (o.dev != nil || o.quick()) {
		t.only = o
	} else {
		t.only = nil
	}
	if t.learned && w.trace == nil {
		w.hit(t)
	}
	w.give(t, o, run)
}

// target returns the port of a number, or nil.
func (w *worker) target(number uint32) *workerPort {
	if w.trace != nil {
		return w.trace.portOf(number)
	}
	return w.port(number)
}

// hit counts a hit of the entry by which a learning bridge knows the
// destination.
func (w *worker) hit(t *transit) {
	wb := t.in.bridge
	t.changes = wb.table.Changes()
	_, slot, ok := wb.mine.Lookup(fdb.MakeKey(binary.LittleEndian.Uint64(w.batch.Slot(t.slot)[w.batch.Frames[t.slot].Off:]), t.vlan))
	if ok {
		t.fdbSlot = slot
	}
}

// lose counts an output that went nowhere.
func (w *worker) lose(t *transit, why packet.Reason) {
	t.outs++
	t.fail++
	t.in.rxDrops[why]++
}

// give gives the frame to o: to its device, or into the bridge behind a patch
// port.
func (w *worker) give(t *transit, o *workerPort, run uint64) {
	switch {
	case t.lost:
		w.lose(t, packet.ReasonCopies)
	case o.tx == nil:
		t.outs++
		if o.isTunnel {
			w.encapsulate(t, o)
		} else {
			t.only = nil
			w.cross(t, o)
		}
		t.shared = true
	case o.ends != nil && !o.ends.arriving && w.depart(t, o):
		t.outs++
		t.shared = true
	case !w.put(o, t.slot, t.rx, run):
		w.lose(t, packet.ReasonCopies)
	default:
		t.outs++
		t.shared = true
	}
}

// put puts a slot on o's list, and reports whether there was room. A frame that
// has passed patch ports and comes to o a second time has come by a loop: it is
// dropped there. Programs may send it to one port as often as they like.
func (w *worker) put(o *workerPort, slot, rx int, run uint64) bool {
	if w.passed > 0 && o.n > 0 && o.lastRx == rx && o.last != run && o.last > w.firstRun {
		o.offered++
		o.txDrops[packet.ReasonPatchLoop]++
		if w.trace != nil {
			w.trace.output(o, slot, packet.ReasonPatchLoop)
		}
		return true
	}
	if w.trace != nil {
		w.trace.output(o, slot, packet.ReasonNone)
	}
	if o.n == len(o.own) && !o.grow() {
		return false
	}
	if o.n == 0 {
		w.fl.out = append(w.fl.out, o)
	}
	o.own[o.n] = packet.Ref{Frame: uint16(slot)}
	o.n++
	o.last, o.lastRx = run, rx
	return true
}

// cross has the frame come in by the other end of patch port o.
func (w *worker) cross(t *transit, o *workerPort) {
	o.offered++
	peer := o.peer
	if peer == nil {
		o.txDrops[packet.ReasonTxDown]++
		if w.trace != nil {
			w.trace.output(o, t.slot, packet.ReasonTxDown)
		}
		return
	}
	n := uint64(w.batch.Frames[t.slot].Len)
	o.txFrames++
	o.txBytes += n
	peer.rxFrames++
	peer.rxBytes += n
	if w.passed++; t.hops == patchMax || w.passed > passedMax {
		peer.rxDrops[packet.ReasonPatchLoop]++
		if w.trace != nil {
			w.trace.output(peer, t.slot, packet.ReasonPatchLoop)
		}
		return
	}
	w.again(peer, transit{slot: t.slot, shared: true, rx: t.rx, hops: t.hops + 1, fdbSlot: -1})
}

// flood gives the frame to all ports of a flood list but the one that it came
// by.
func (w *worker) flood(t *transit, op *flowtable.Op, run uint64) {
	t.only, t.fdbSlot = nil, -1
	ports := w.flow.walker.Flood(flowtable.FloodID(op.Arg))
	before := t.outs
	if op.Value&toldVLAN != 0 {
		w.floodVLAN(t, ports, uint16(op.Value), run)
	} else {
		for _, n := range ports {
			if o := w.target(uint32(n)); o != nil && o != t.in {
				w.give(t, o, run)
			}
		}
	}
	if t.outs == before && t.why == packet.ReasonNone {
		t.why = packet.ReasonNoBridgePort
	}
}

// floodVLAN floods a frame of a VLAN of a learning bridge: to each port that
// carries the VLAN, with a tag or without. There are two versions of the frame
// at most.
func (w *worker) floodVLAN(t *transit, ports []uint64, vid uint16, run uint64) {
	isTagged := w.untagPriority(t, vid)
	came, other := *t, *t
	made := false
	for _, n := range ports {
		o := w.target(uint32(n))
		if o == nil || o == t.in {
			continue
		}
		tag, ok := o.vlan.emit(vid)
		if !ok {
			continue
		}
		v := &came
		if tag != isTagged {
			if v = &other; !made {
				made, v.shared = true, true
				if w.own(v) {
					w.retag(v.slot, tag, vid)
				}
			}
		}
		v.outs, v.fail = t.outs, t.fail
		w.give(v, o, run)
		t.outs, t.fail = v.outs, v.fail
	}
	t.shared = true
}

// untagPriority reports whether the frame has a tag, of the VLAN in which it is. A tag
// of no VLAN, which has a priority only, becomes one of the VLAN, or goes if there is
// none.
func (w *worker) untagPriority(t *transit, vid uint16) (isTagged bool) {
	h := w.batch.Head(t.slot)
	if len(h) < packet.FrameMin+tagLen || binary.BigEndian.Uint16(h[macsLen:]) != etherVLAN {
		return false
	}
	if vid != 0 && binary.BigEndian.Uint16(h[packet.FrameMin:])&vidMask == vid {
		return true
	}
	if w.own(t) {
		w.retag(t.slot, vid != 0, vid)
	}
	return vid != 0
}

// retag gives the frame in a slot the tag of a VLAN, or takes away the one that
// it has. Priority stays if there was a tag.
func (w *worker) retag(slot int, tag bool, vid uint16) {
	b := w.batch
	h := b.Head(slot)
	has := len(h) >= packet.FrameMin+tagLen && binary.BigEndian.Uint16(h[macsLen:]) == etherVLAN
	switch {
	case !tag && has:
		copy(h[tagLen:], h[:macsLen])
		b.Shrink(slot, tagLen)
	case tag && !has:
		if b.Frames[slot].Off < tagLen {
			return
		}
		h = b.Grow(slot, tagLen)
		copy(h, h[tagLen:tagLen+macsLen])
		binary.BigEndian.PutUint16(h[macsLen:], etherVLAN)
		binary.BigEndian.PutUint16(h[packet.FrameMin:], vid)
	case tag:
		tci := binary.BigEndian.Uint16(h[packet.FrameMin:])
		binary.BigEndian.PutUint16(h[packet.FrameMin:], tci&pcpMask|vid)
	}
}

// stationKey is the key of an address as walks have it: the address in the order
// of fields, and above it the VLAN.
func stationKey(address uint64) fdb.Key {
	return fdb.MakeKey(bits.ReverseBytes64(address<<16), uint16(address>>48))
}

// learnOp carries out an OpLearn.
func (w *worker) learnOp(t *transit, op *flowtable.Op) {
	wb := w.bridgeNumbered(op.Arg)
	if wb == nil || w.trace != nil {
		return
	}
	w.learn(wb, uint32(op.Value), stationKey(op.Mask))
	if t.in.level == parse.L2 {
		t.learned, t.vlan = true, uint16(op.Mask>>48)
	}
}

// learnMax is how many addresses are learned from one batch: to learn one costs
// as much as to forward fifty frames, and a flood of new ones must not starve
// the others. What is not learned now is learned by a later frame.
const learnMax = 8

// learn notes that an address is behind a port.
func (w *worker) learn(wb *workerBridge, port uint32, key fdb.Key) {
	if wb.mine.Touch(key, port, w.now) == fdb.NeedLearn && w.learned < learnMax {
		w.learned++
		wb.mine.Learn(key, port, w.now)
	}
}

// bridgeNumbered returns the worker's side of a bridge, or nil.
func (w *worker) bridgeNumbered(number uint32) *workerBridge {
	if int(number) < len(w.fdbs) {
		return w.fdbs[number]
	}
	return nil
}
