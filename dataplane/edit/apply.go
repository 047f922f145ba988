package edit

import (
	"encoding/binary"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// Lengths in bytes.
const (
	addrsLen = 12 // Ethernet addresses
	etherLen = 14
	tagLen   = 4
)

// An editor has one frame in hand.
type editor struct {
	b    *packet.Batch
	i    int
	head []byte
	at   parse.Layout // of the frame as it came, moved by tags; empty if nobody asks
	tags int          // that the key knew of or that were put on, at the start of the frame
	none bool         // the key says that there is none: the last one that it knew was taken off
}

// Apply carries out ops on frame i of b. Ops that do not change the frame are
// left to the caller, which cuts programs at OpSave, OpRestore and outputs.
func Apply(b *packet.Batch, i int, ops []flowtable.Op) {
	var d Editor
	d.Do(b, i, ops, ops)
}

// An Editor carries out the ops of a program on a frame, some at a time: between them the
// frame may be output, and may move to another slot. The zero value is for a frame
// as it came. A copy of an Editor is for a copy of the frame.
type Editor struct {
	at    parse.Layout
	tags  int
	none  bool
	begun bool
}

// Begun reports whether the frame may have been changed.
func (d *Editor) Begun() bool { return d.begun }

// Do carries out ops, which are some of program's, on frame i of b.
func (d *Editor) Do(b *packet.Batch, i int, ops, program []flowtable.Op) {
	head := b.Head(i)
	if len(head) < etherLen {
		return
	}
	if !d.begun {
		d.begin(head, b.Frames[i].Len, program)
	}
	var e editor
	e.b, e.i, e.head, e.at, e.tags, e.none = b, i, head, d.at, d.tags, d.none
	e.do(ops)
	d.at, d.tags, d.none = e.at, e.tags, e.none
}

// begin looks at the frame as it came.
func (d *Editor) begin(head []byte, length uint32, program []flowtable.Op) {
	d.begun = true
	if behind(program) {
		d.at.Find(head, length)
	}
	if len(head) >= etherLen+tagLen && parse.IsTag(binary.BigEndian.Uint16(head[addrsLen:])) {
		d.tags = 1
	}
}

// do carries out ops.
func (e *editor) do(ops []flowtable.Op) {
	for o := range ops {
		switch op := &ops[o]; op.Code {
		case flowtable.OpSet:
			e.set(op.Word, op.Value, op.Mask)
		case flowtable.OpPushVLAN:
			e.push(uint16(op.Arg))
		case flowtable.OpPopVLAN:
			e.pop()
		case flowtable.OpDecTTL:
			e.decrement()
		case flowtable.OpInner:
			e.inner(op.Word, op.Value, op.Mask)
		}
	}
}

// behind reports whether ops change anything behind the Ethernet type.
func behind(ops []flowtable.Op) bool {
	for i := range ops {
		switch op := &ops[i]; op.Code {
		case flowtable.OpSet:
			if op.Word > flowtable.WordSrc || op.Word == flowtable.WordSrc && uint8(op.Mask) != 0 {
				return true
			}
		case flowtable.OpDecTTL, flowtable.OpInner:
			return true
		}
	}
	return false
}

// push puts an empty tag of Ethernet type tpid before the others. A frame whose
// head room is used up stays as it is.
func (e *editor) push(tpid uint16) {
	if e.b.Frames[e.i].Off < tagLen {
		return
	}
	e.head = e.b.Grow(e.i, tagLen)
	copy(e.head[:addrsLen], e.head[tagLen:])
	binary.BigEndian.PutUint32(e.head[addrsLen:], uint32(tpid)<<16)
	e.at.Shift(tagLen)
	e.tags++
	e.none = false
}

// pop takes off the first tag. What is in the next one the key does not say, so it
// cannot be set.
func (e *editor) pop() {
	e.none = true
	if e.tags == 0 {
		return
	}
	copy(e.head[tagLen:], e.head[:addrsLen])
	e.head = e.b.Shrink(e.i, tagLen)
	e.at.Shift(-tagLen)
	e.tags--
}

// decrement takes one off the TTL, unless it is zero.
func (e *editor) decrement() {
	if ttl, ok := e.ttl(); ok && ttl != 0 {
		e.setTTL(ttl-1, 0xff)
	}
}
