package flowtable

import "math/bits"

// A retrace is a walk by stages alone, for a packet that the cache has nothing for and that
// nothing will be kept of: what it depends on, by what path it goes, what of the frame
// is written is not noted. So it costs a fraction. Who takes it asks connection tracking itself:
//
//	Retrace --Next--> RetraceAsk --Answer--Next--> ... --Next--> RetraceOutput or RetraceDrop
//
// It goes through stages that walks have noted and that write no frame and translate nothing.
// Where none is known, it is RetraceUnknown, and the packet is walked from its
// beginning. Then connection tracking is not to be asked again what it has answered.
type retrace struct {
	ctx     Context
	written uint64 // words of it that are not of a narrow key, and may not be zero
	at      uint16 // stage that it is behind
	stage   *stage // that it is in
	n       int    // stages that it came through
}

// A Retraced says what a retrace has come to.
type Retraced uint8

// What a retrace comes to.
const (
	RetraceUnknown Retraced = iota // no stage that is known, or none that can be retraced
	RetraceAsk                     // the question RetraceAsks
	RetraceOutput                  // the frame goes out as it is by the port RetraceArg
	RetraceDrop                    // it is dropped for the reason RetraceArg
)

// retraceStages is how many stages a retrace comes through at most.
const retraceStages = 16

// Retraces reports whether some packets that come in by a port may be retraced: some are asked about.
func (w *Walker) Retraces(port uint32) bool {
	m := &w.stages
	at := m.root(port)
	return at != 0 && m.list[at].child != 0 && m.changes == w.t.changes.Load()
}

// Retrace begins a retrace of a packet with this key, narrow or whole, that came by no tunnel.
// It reports false if nothing is known of its port.
func (w *Walker) Retrace(key []uint64) bool {
	m, r := &w.stages, &w.retrace
	if changes := w.t.changes.Load(); changes&1 != 0 || m.changes != changes {
		return false
	}
	at := m.root(uint32(key[WordIn] >> 32))
	if at == 0 {
		return false
	}
	for rest := r.written; rest != 0; rest &= rest - 1 {
		r.ctx[bits.TrailingZeros64(rest)%ContextWords] = 0
	}
	if r.written = 0; len(key) > NarrowWords {
		r.written = (1<<KeyWords - 1) &^ (1<<NarrowWords - 1)
	}
	for i := range min(len(key), KeyWords) {
		r.ctx[i] = key[i] // word by word: so they are read again
	}
	r.ctx[WordL4] &^= 0xffff // of whoever has the key
	r.at, r.n = at, 0
	r.write(m, &m.list[at])
	return true
}

// write writes what a stage has written.
func (r *retrace) write(m *stages, s *stage) {
	for _, set := range m.masked[s.sets[0]:s.sets[1]] {
		i := set.Word % ContextWords
		r.ctx[i] = r.ctx[i]&^set.Mask | set.Value
		r.written |= 1 << i
	}
}

// Next goes through the next stage.
func (w *Walker) Next() Retraced {
	m, r := &w.stages, &w.retrace
	s := r.find(m)
	if s == nil || !s.plain || r.n == retraceStages {
		return RetraceUnknown
	}
	r.write(m, s)
	r.n++
	r.stage = s
	switch s.kind {
	case stageAsk:
		return RetraceAsk
	case stageOutput:
		return RetraceOutput
	}
	return RetraceDrop
}

// find returns the stage that comes next, or nil if that is not known.
func (r *retrace) find(m *stages) *stage {
next:
	for i := m.list[r.at].child; i != 0; {
		s := &m.list[i]
		if s.hidden {
			return nil
		}
		for _, look := range m.masked[s.looks[0]:s.looks[1]] {
			if r.ctx[look.Word%ContextWords]&look.Mask != look.Value {
				i = s.next
				continue next
			}
		}
		r.at = i
		return s
	}
	return nil
}

// RetraceAsks is the question that a retrace has come to. If it asks for a translation of new
// connections, then only for another source port, of one that would clash with another: see Mild.
func (w *Walker) RetraceAsks() *Connect { return &w.retrace.stage.ask }

// RetraceArg is the port, or the reason of a drop.
func (w *Walker) RetraceArg() uint32 { return w.retrace.stage.arg }

// CountRetrace counts a frame of so many bytes for the rules that its retrace went by: they hear of it
// from TellRetraces. It returns how many tables the frame came through.
func (w *Walker) CountRetrace(bytes uint64) (visited int) {
	m, at := &w.stages, w.retrace.at
	s := &m.list[at]
	if s.packets == 0 {
		m.ended = append(m.ended, at)
	}
	s.packets++
	s.bytes += bytes
	return int(s.through)
}

// TellRetraces tells rules of the frames that CountRetrace has counted. It is due before the next walk, which
// may forget the stages, and before Quiet.
func (w *Walker) TellRetraces(c *Counters) {
	m := &w.stages
	for _, end := range m.ended {
		packets, bytes := m.list[end].packets, m.list[end].bytes
		m.list[end].packets, m.list[end].bytes = 0, 0
		for at := end; at != 0; at = m.list[at].parent {
			s := &m.list[at]
			for _, h := range m.rules[s.rules[0]:s.rules[1]] {
				c.Add(h, packets, bytes)
			}
		}
	}
	m.ended = m.ended[:0]
}

// Answer gives the packet what connection tracking says of it. It is not translated.
func (w *Walker) Answer(state, mark uint32, label [2]uint64) {
	r := &w.retrace
	if !r.stage.resume {
		clear(r.ctx[WordCT:])
		return
	}
	r.written |= 7 << WordCT
	r.ctx[WordCT] = uint64(state)<<32 | uint64(mark)
	r.ctx[WordLabel], r.ctx[WordLabelLow] = label[0], label[1]
}

// classify says whether a stage that was just noted can be retraced: no bit of the frame is written, and
// nobody translated but to avoid a clash. It is hidden if it looks at what retraces do not know: the
// connection's original addresses.
func (m *stages) classify(s *stage) {
	for _, look := range m.masked[s.looks[0]:s.looks[1]] {
		s.hidden = s.hidden || look.Word >= WordCTL4
	}
	s.plain = s.ask.Flags&CTForce == 0 && (!s.ask.Src.Set || s.ask.Mild()) && !s.ask.Dst.Set
	for _, set := range m.masked[s.sets[0]:s.sets[1]] {
		s.plain = s.plain && set.Word >= KeyWords
	}
}
