package flowcache

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/flowtable"
)

// What a program does, for the cases that need no look at its steps.
const (
	ProgramDrop   = iota + 1 // nothing; Arg is the reason
	ProgramOutput            // to port Arg, the frame as it is
	ProgramOps               // see Ops
	ProgramPatch             // changes that are made ready, see Cache.Patch; then to port Arg
)

// PatchWords is how many words a Patch takes: what a line has left behind the header.
const PatchWords = 6

// A Patch is changes of a frame made ready, in the form of whoever makes it.
type Patch = [PatchWords]uint64

// A Patcher makes changes of frames ready. What it says depends on its arguments only.
type Patcher interface {
	// Compile makes a Patch of ops. It reports false if that cannot be.
	Compile(ops []flowtable.Op, to *Patch) bool
	// Ops appends ops that do what p does.
	Ops(p *Patch, ops []flowtable.Op) []flowtable.Op
}

// A Program is the header of a composed program in a worker's arena. A hit needs
// its first line only, and the second if there is a patch:
//
//	 0  packets   8  bytes   16  four guards   48  generation, counts
//	56  code, class, flags, connections   60  arg   64  digest   72  references   76  link
//
// Behind it follow the patch (48 bytes), guards beyond the fourth and connections
// (8 bytes each), steps (24 bytes each), handles of rules (4 bytes each), the tag
// (8 bytes). What is a patch, or an output only, has no steps. Programs of equal
// content are one program: many flows that one set of rules decides share it
// and its line stays hot.
type Program struct {
	Packets, Bytes uint64                        // counted by whoever carries it out
	guards         [guardsInLine]flowtable.Guard // what is not used is cell 0, which is 0 for ever
	gen            uint16                        // entries that hold another are dead
	guardCount     uint16                        // all guards
	opCount        uint16
	ruleCount      uint16
	Code           uint8 // ProgramDrop, ...
	class          uint8 // size class
	flags          uint8 // linked, ...
	connCount      uint8
	Arg            uint32 // port; else the reason if it delivers nothing
	digest         uint64 // of the image
	refs           uint32 // entries that lead here
	next           uint32 // next program of the chain, or next free one
}

// guardsInLine is how many guards a hit checks without a second line.
const guardsInLine = 4

// Flags of a program.
const (
	linked = 1 << iota // it is in the index of contents
	killed             // its entries are dead
	limbo              // it had no reference once since the last release
	inUse              // it is a program; without, a free place
)

// opWords is how many words an Op takes.
const opWords = 3

// headerWords is how many words a header takes.
const headerWords = lineBytes/8 + 2

// Bounds of the arena.
const (
	slabLines    = 256 // lines of a slab: the longest program
	chainMax     = 8   // programs of one chain that are compared
	noSlab       = ^uint32(0)
	tooLongWords = slabLines * lineBytes / 8
)

// ErrProgramRoom says that the arena has no room for a program, ErrProgramLong
// that no arena has.
var (
	ErrProgramRoom = errors.New("no room for a program: give the flow cache more memory")
	ErrProgramLong = fmt.Errorf("program longer than %d bytes", 8*tooLongWords)
)

// programs is an arena of programs: slabs of slabLines lines, each of which
// holds programs of one size class. It belongs to one worker.
type programs struct {
	mem     mapping
	secrets *Secrets
	classes []uint16 // lines of a program of each class
	partial [][]uint32
	slabs   []slab
	spare   []uint32 // slabs of no class
	heads   []uint32 // chains of programs with the same low bits of digest
	headMem mapping
	tallies []tally // by offset / linesMin
	tallied mapping
	image   []uint64 // the image that is being made
	retired func(tag uint64, rules []uint32, packets, bytes uint64)
	conns   func(value uint64, arg uint32, packets, bytes uint64) // of an OpCT; may be nil
	ahead   func(values *[BatchMax]uint64, n int)                 // of OpCTs that conns will be told; may be nil
	due     [BatchMax / 2]uint32                                  // programs that will be told of
	values  [BatchMax]uint64                                      // of their OpCTs
	patcher Patcher                                               // may be nil
	steps   []flowtable.Op                                        // of the image: all but OpCT
	patch   Patch                                                 // of the image
	scratch []flowtable.Op                                        // lent by Ops
	live    int                                                   // programs
	reached int                                                   // slabs from the first on, of which some program was
	lines   int                                                   // lines that they take
	killed  int                                                   // programs that were killed and still have entries
	limbo   []uint32                                              // programs that may have no reference
}

// newPrograms maps an arena of about size bytes. retired is told what a
// program has counted before it goes.
func newPrograms(size int, secrets *Secrets, retired func(uint64, []uint32, uint64, uint64)) (*programs, error) {
	n := max(size/(slabLines*lineBytes), 1) + 1 // slab 0 has only line 0: "no program"
	heads := 64
	for heads < n*slabLines/4 {
		heads *= 2
	}
	a := &programs{secrets: secrets, retired: retired, slabs: make([]slab, n), image: make([]uint64, 0, tooLongWords)}
	var err error
	if a.mem, err = newMapping(n * slabLines * lineBytes); err != nil {
		return nil, fmt.Errorf("make a program arena: %w", err)
	}
	if a.headMem, err = newMapping(4 * heads); err != nil {
		return nil, errors.Join(fmt.Errorf("make a program arena: %w", err), a.mem.close())
	}
	a.heads = overlay[uint32](&a.headMem, heads)
	tallies := n * slabLines / linesMin
	if a.tallied, err = newMapping(tallyBytes * tallies); err != nil {
		return nil, errors.Join(fmt.Errorf("make a program arena: %w", err), a.mem.close(), a.headMem.close())
	}
	a.tallies = overlay[tally](&a.tallied, tallies)
	for lines := uint16(1); lines <= slabLines; lines = max(lines+1, lines*5/4) {
		// The class takes what the places of a slab leave over.
		fit := slabLines / lines
		if size := slabLines / fit; len(a.classes) == 0 || size != a.classes[len(a.classes)-1] {
			a.classes = append(a.classes, size)
		}
	}
	if last := a.classes[len(a.classes)-1]; last != slabLines {
		a.classes = append(a.classes, slabLines)
	}
	a.partial = make([][]uint32, len(a.classes))
	a.spare = make([]uint32, 0, n)
	for i := n - 1; i > 0; i-- {
		a.spare = append(a.spare, uint32(i))
	}
	return a, nil
}

// close gives the memory back.
func (a *programs) close() error {
	return errors.Join(a.mem.close(), a.headMem.close(), a.tallied.close())
}

// intern returns a program of c's content with one more reference. It may be
// one that others use.
func (a *programs) intern(c *flowtable.Composed) (uint32, error) {
	if err := a.compose(c); err != nil {
		return 0, err
	}
	return a.place()
}

// compose makes the image of c in a.image.
func (a *programs) compose(c *flowtable.Composed) error {
	var h Program
	a.steps = a.steps[:0]
	for i := range c.Ops {
		if c.Ops[i].Code != flowtable.OpCT {
			a.steps = append(a.steps, c.Ops[i])
		}
	}
	conns := len(c.Ops) - len(a.steps)
	h.Code, h.Arg = a.simple(c.Drop)
	if h.Code == ProgramOps {
		h.opCount = uint16(len(a.steps))
	}
	h.guardCount, h.ruleCount, h.connCount = uint16(len(c.Guards)), uint16(len(c.Rules)), uint8(conns)
	words := h.words()
	if words > tooLongWords || conns > math.MaxUint8 {
		return ErrProgramLong
	}
	rest := c.Guards[copy(h.guards[:], c.Guards):]
	a.image = a.image[:words]
	wordsAs[Program](a.image, 0, 1)[0] = h
	a.image[words-2], a.image[words-1] = 0, c.Tag // half of the word before may have no rule
	if h.Code == ProgramPatch {
		copy(a.image[headerWords:], a.patch[:])
	}
	copy(h.moreGuards(a.image), rest)
	copyConns(h.conns(a.image), c.Ops)
	copy(h.ops(a.image), a.steps)
	copy(h.rules(a.image), c.Rules)
	return nil
}

// A connection of a program is the Value of its OpCT, with the Arg in bits that are free there.
const (
	countShift = 29
	countBits  = 3 << countShift
)

// counted returns the Value and Arg of a connection of a program.
func counted(conn uint64) (value uint64, arg uint32) {
	return conn &^ countBits, uint32(conn >> countShift & 3)
}

// copyConns copies the connections that ops count for.
func copyConns(conns []uint64, ops []flowtable.Op) {
	n := 0
	for i := range ops {
		if op := &ops[i]; op.Code == flowtable.OpCT {
			conns[n] = op.Value | uint64(op.Arg)<<countShift
			n++
		}
	}
}

// simple returns the code and argument of what a.steps do. drop is why they output
// nothing.
func (a *programs) simple(drop uint32) (code uint8, arg uint32) {
	n := len(a.steps) - 1
	switch {
	case n < 0:
		return ProgramDrop, drop
	case a.steps[n].Code != flowtable.OpOutput:
	case n == 0:
		return ProgramOutput, a.steps[n].Arg
	case a.patcher != nil && a.patcher.Compile(a.steps[:n], &a.patch):
		return ProgramPatch, a.steps[n].Arg
	}
	return ProgramOps, drop
}

// Places of the parts behind the header, in words.

func (h *Program) guardsAt() int {
	if h.Code == ProgramPatch {
		return headerWords + PatchWords
	}
	return headerWords
}
func (h *Program) connsAt() int { return h.guardsAt() + max(int(h.guardCount)-guardsInLine, 0) }
func (h *Program) opsAt() int   { return h.connsAt() + int(h.connCount) }
func (h *Program) rulesAt() int { return h.opsAt() + int(h.opCount)*opWords }

// words returns how many words h and what is behind it take.
func (h *Program) words() int { return h.rulesAt() + (int(h.ruleCount)+1)/2 + 1 }

// ops, conns, moreGuards and rules return the parts of the image that h heads.

func (h *Program) ops(image []uint64) []flowtable.Op {
	return wordsAs[flowtable.Op](image, h.opsAt(), int(h.opCount))
}

func (h *Program) conns(image []uint64) []uint64 { return image[h.connsAt():h.opsAt()] }

func (h *Program) moreGuards(image []uint64) []flowtable.Guard {
	return wordsAs[flowtable.Guard](image, h.guardsAt(), max(int(h.guardCount)-guardsInLine, 0))
}

func (h *Program) rules(image []uint64) []uint32 {
	return wordsAs[uint32](image, h.rulesAt(), int(h.ruleCount))
}

// allOps returns the ops of a program, without those that count for connections. They
// are lent until the next call.
func (a *programs) allOps(off uint32) []flowtable.Op {
	h := a.at(off)
	ops := a.scratch[:0]
	switch h.Code {
	case ProgramOps:
		return h.ops(a.words(off, h.words()))
	case ProgramPatch:
		ops = a.patcher.Ops(a.patchAt(off), ops)
		fallthrough
	case ProgramOutput:
		ops = append(ops, flowtable.Op{Code: flowtable.OpOutput, Arg: h.Arg})
	}
	a.scratch = ops
	return ops
}

// place returns a program with the image's content, an old one if there is.
func (a *programs) place() (uint32, error) {
	digest := a.secrets.digest(a.image)
	if off := a.find(digest); off != 0 {
		a.at(off).refs++
		return off, nil
	}
	off := a.alloc(len(a.image))
	if off == 0 {
		return 0, ErrProgramRoom
	}
	h := a.at(off)
	gen, class := h.gen, h.class
	copy(a.words(off, len(a.image)), a.image)
	h.gen, h.class, h.refs, h.digest, h.flags = gen+1, class, 1, digest, inUse
	a.link(off)
	return off, nil
}

// find returns the program with the image's content, or 0.
func (a *programs) find(digest uint64) uint32 {
	off := a.heads[digest&uint64(len(a.heads)-1)]
	for range chainMax {
		if off == 0 {
			return 0
		}
		h := a.at(off)
		if h.digest == digest && a.same(off) {
			return off
		}
		off = h.next
	}
	return 0
}

// same reports whether program off has the image's content.
func (a *programs) same(off uint32) bool {
	h, image := a.at(off), &wordsAs[Program](a.image, 0, 1)[0]
	return h.opCount == image.opCount && h.guardCount == image.guardCount && h.ruleCount == image.ruleCount && h.connCount == image.connCount &&
		h.guards == image.guards && h.Code == image.Code && h.Arg == image.Arg &&
		slices.Equal(a.words(off, len(a.image))[headerWords:], a.image[headerWords:])
}

// link puts a program before its chain, so that it is found. A chain that is
// long already stays as it is: then a later equal program is one of its own.
func (a *programs) link(off uint32) {
	h := a.at(off)
	head := &a.heads[h.digest&uint64(len(a.heads)-1)]
	length := 0
	for at := *head; at != 0 && length < chainMax; at = a.at(at).next {
		length++
	}
	if length < chainMax {
		h.flags |= linked
		h.next, *head = *head, off
	}
}

// unlink takes a program out of its chain.
func (a *programs) unlink(off uint32) {
	h := a.at(off)
	if h.flags&linked == 0 {
		return
	}
	at := &a.heads[h.digest&uint64(len(a.heads)-1)]
	for *at != off {
		at = &a.at(*at).next
	}
	*at = h.next
	h.flags &^= linked
}

// drop takes one reference from a program. Without any it stays until release:
// results of lookups may still name it, and it is found again if it is wanted.
func (a *programs) drop(off uint32) {
	h := a.at(off)
	if h.refs == 0 {
		panic(fmt.Sprintf("flowtable: program %d has no reference to drop", off))
	}
	h.refs--
	if h.refs == 0 && h.flags&limbo == 0 {
		h.flags |= limbo
		a.limbo = append(a.limbo, off)
	}
}

// release frees the programs that have no reference. Their counters go to the
// rules first.
func (a *programs) release() {
	for _, off := range a.limbo {
		h := a.at(off)
		h.flags &^= limbo
		if h.refs == 0 {
			a.tell(off)
			a.free(off)
		}
	}
	a.limbo = a.limbo[:0]
}

// free gives a program's place back.
func (a *programs) free(off uint32) {
	h := a.at(off)
	a.unlink(off)
	if h.flags&killed != 0 {
		a.killed--
	}
	h.gen++
	h.flags, h.Packets, h.Bytes = 0, 0, 0
	if t := &a.tallies[off/linesMin]; t.packets != 0 {
		*t = tally{}
	}
	at := off / slabLines
	s := &a.slabs[at]
	h.next, s.free = s.free, off
	s.used--
	a.live--
	a.lines -= int(a.classes[s.class])
	a.settle(at)
}

// kill makes all entries of a program dead, which are taken out as they are
// met. The program's memory stays until the last is.
func (a *programs) kill(off uint32) {
	h := a.at(off)
	if h.flags&killed != 0 || h.refs == 0 {
		return
	}
	a.unlink(off)
	h.gen++
	h.flags |= killed
	a.killed++
}

// guardsHold reports whether the guards beyond the fourth hold.
func (a *programs) guardsHold(off uint32, cells *Cells) bool {
	h := a.at(off)
	for _, g := range h.moreGuards(a.words(off, h.words())) {
		if cells.Load(g.Cell) != g.Want {
			return false
		}
	}
	return true
}

// nextFrom returns the first program in use at or behind off, or 0 if there is
// none in the next budget slabs; on is where to look on, 0 at the end.
func (a *programs) nextFrom(off uint32, budget int) (program, on uint32) {
	for at := off / slabLines; int(at) < len(a.slabs); at++ {
		if budget--; budget < 0 {
			return 0, at * slabLines
		}
		s := &a.slabs[at]
		if s.used == 0 {
			continue
		}
		size := uint32(a.classes[s.class])
		i := uint32(0)
		if off > at*slabLines {
			i = (off - at*slabLines + size - 1) / size
		}
		for ; i < uint32(s.fresh); i++ {
			if place := at*slabLines + i*size; a.at(place).flags&inUse != 0 {
				return place, place + size
			}
		}
	}
	return 0, 0
}
