package flowtable

// Packets of many connections take the same steps: rules look at what connection tracking
// says, at a network or a port, and hardly ever at all that makes a connection. So a walker
// remembers walks in stages. A stage goes from the entry of a port, or from an answer of
// connection tracking, to the next question or to the end. What happens in it follows from the
// bits of the context that were looked at, so a packet that agrees in those does not look
// anything up: what the stage wrote is written again, and the next question is asked.
//
// Stages are a tree: those that may follow one are a list. All is forgotten with the next
// transaction, whatever it was about, so a stage is never of another version than the walk.
//
// Only plain walks are remembered: one copy of the packet, nothing learned or looked up
// elsewhere, at most one output, which is the last thing. Others go on as they would without.
type stages struct {
	changes uint64 // of the tables, when the first was noted
	list    []stage
	masked  []Masked
	rules   []uint32
	edges   []uint64
	roots   [rootSlots]uint16
	skipped uint32   // stages that were not noted, for there were others
	ended   []uint16 // with packets that are not counted yet

	// Of the walk that is under way.
	at           uint16  // stage behind which it is, if what comes is to be noted; 0: it is not
	last         uint16  // stage that was noted as its end
	path         *path   // of a walk that was found as a whole
	from         Context // when the stage in hand began
	asked, fresh Context // bits that it has looked at before it wrote them, and has written
	rule0, edge0 int     // where its rules and steps begin
	visited0     int
}

// Bounds of what is remembered.
const (
	stagesMax = 256
	maskedMax = 16 * stagesMax
	stepsMost = 8 * stagesMax // rules, and steps
	branchMax = 8             // stages that follow one
	branchTry = 64            // stages that are not noted for want of room before others go
	rootSlots = 64
)

// A stage is what a walk did.
type stage struct {
	next, child  uint16 // in the list that it is in; first of those that follow
	parent       uint16 // that it follows
	branches     uint8
	kind         uint8
	resume       bool // behind the question the packet goes on in table, else by the actions in rest
	plain        bool // retraces can go through it
	hidden       bool // they cannot tell whether it comes next
	table        uint8
	looks, sets  [2]uint16 // what it looked at, and what it wrote: places in masked, from and to
	rules, edges [2]uint16
	visited      uint16
	through      uint16 // tables visited in it and those before
	arg          uint32 // in port, out port, or the reason of a drop
	dp           uint32
	rest         []uint64
	path         *path
	ask          Connect

	packets, bytes uint64 // that retraces brought to this end, and that its rules have not counted yet
}

// Kinds of stage, by their ends.
const (
	stageRoot   = iota + 1 // where walks of a port begin
	stageAsk               // a question to connection tracking
	stageOutput            // one output
	stageDrop              // none
)

// plainActions are those of walks that are remembered.
const plainActions = 1<<ActNext | 1<<ActSet | 1<<ActMove | 1<<ActExchange | 1<<ActCT | 1<<ActDrop | 1<<ActOutput | 1<<ActDecTTL | 1<<ActCTClear

// newStages returns an empty tree with room for all that it may have.
func newStages() stages {
	return stages{list: make([]stage, 1, stagesMax), masked: make([]Masked, 0, maskedMax), rules: make([]uint32, 0, stepsMost), edges: make([]uint64, 0, stepsMost),
		ended: make([]uint16, 0, stagesMax)}
}

// forget forgets all stages.
func (m *stages) forget() {
	clear(m.list) // they hold paths
	m.list, m.masked, m.rules, m.edges = m.list[:1], m.masked[:0], m.rules[:0], m.edges[:0]
	m.roots = [rootSlots]uint16{}
}

// recalls reports whether the walk that has begun, when the tables had made so many changes,
// may go by stages: not if its version may be another than theirs.
func (w *Walker) recalls(changes uint64) bool {
	m := &w.stages
	m.at, m.last, m.path = 0, 0, nil
	if w.trace != nil || changes&1 != 0 || w.t.changes.Load() != changes {
		return false
	}
	if m.changes != changes {
		m.forget()
		m.changes = changes
	}
	return true
}

// root returns where walks of a port begin, or 0.
func (m *stages) root(port uint32) uint16 {
	if at := m.roots[port%rootSlots]; at != 0 && m.list[at].arg == port {
		return at
	}
	return 0
}

// noteRoot notes where walks of the port begin: the packet has just come in, and is about to
// be looked up in table. entry is what the tables have of the port: the words that it wrote
// are the same for all packets, those of a tunnel that a packet came by are not.
func (w *Walker) noteRoot(table uint8, entry []uint64) {
	m := &w.stages
	if len(m.list) == stagesMax || len(m.masked)+ContextWords > maskedMax {
		m.forget()
	}
	s := stage{kind: stageRoot, resume: true, table: table, arg: w.inPort, dp: w.dp}
	s.sets[0] = uint16(len(m.masked))
	note := func(i uint8) { m.masked = append(m.masked, Masked{i, w.ctx[i], ^uint64(0)}) }
	note(WordDatapath)
	note(WordPorts)
	for i := 2; i < len(entry); i += 2 {
		note(uint8(entry[i] & (ContextWords - 1)))
	}
	s.sets[1] = uint16(len(m.masked))
	m.list = append(m.list, s)
	m.roots[w.inPort%rootSlots] = uint16(len(m.list) - 1)
	w.behind(uint16(len(m.list) - 1))
}

// behind says that the walk is behind a stage, and that what comes is to be noted.
func (w *Walker) behind(at uint16) {
	m := &w.stages
	m.at, m.from, m.asked, m.fresh = at, w.ctx, Context{}, Context{}
	m.rule0, m.edge0, m.visited0 = len(w.out.Rules), len(w.edges), w.visited
}

// behindAsk says that the question that was noted last is answered.
func (w *Walker) behindAsk() {
	if w.stages.at != 0 {
		w.behind(w.stages.at)
	}
}

// follow goes on behind a stage, as long as stages are known, then by the tables.
func (w *Walker) follow(at uint16) {
	m := &w.stages
	for {
		next := m.find(at, &w.ctx)
		if next == 0 {
			w.behind(at)
			w.goOn(&m.list[at])
			return
		}
		s := &m.list[next]
		w.redo(s)
		switch s.kind {
		case stageOutput:
			w.flush()
			w.emit(Op{Code: OpOutput, Arg: s.arg})
			w.outputs, m.path, m.last = 1, s.path, next
			return
		case stageDrop:
			w.last, m.path, m.last = s.arg, s.path, next
			return
		}
		w.ask = s.ask
		if !w.answered() {
			return
		}
		if !s.resume {
			w.disconnect()
		}
		at = next
	}
}

// goOn goes on by the tables behind a stage.
func (w *Walker) goOn(s *stage) {
	if s.resume {
		w.table(s.table)
		return
	}
	w.list(s.rest)
}

// find returns the stage behind another that a packet with this context goes through, or 0.
func (m *stages) find(at uint16, ctx *Context) uint16 {
next:
	for i := m.list[at].child; i != 0; {
		s := &m.list[i]
		for _, look := range m.masked[s.looks[0]:s.looks[1]] {
			if ctx[look.Word%ContextWords]&look.Mask != look.Value {
				i = s.next
				continue next
			}
		}
		return i
	}
	return 0
}

// redo does what a stage did before its end.
func (w *Walker) redo(s *stage) {
	m, o := &w.stages, &w.out
	for _, look := range m.masked[s.looks[0]:s.looks[1]] {
		if look.Word < KeyWords {
			o.Mask[look.Word] |= look.Mask &^ w.touched[look.Word]
		}
	}
	for _, set := range m.masked[s.sets[0]:s.sets[1]] {
		i := set.Word % ContextWords
		w.ctx[i] = w.ctx[i]&^set.Mask | set.Value
		if i < KeyWords {
			w.touched[i] |= set.Mask
		}
	}
	o.Rules = append(o.Rules, m.rules[s.rules[0]:s.rules[1]]...)
	w.edges = append(w.edges, m.edges[s.edges[0]:s.edges[1]]...)
	w.visited += int(s.visited)
}

// note notes the stage in hand, which ends as s says. It returns where, or 0.
func (w *Walker) note(s stage) uint16 {
	m, o := &w.stages, &w.out
	rules, edges := o.Rules[m.rule0:], w.edges[m.edge0:]
	if !m.room(m.at, len(rules), len(edges)) {
		return 0
	}
	s.looks[0] = uint16(len(m.masked))
	for i, bits := range &m.asked {
		if bits != 0 {
			m.masked = append(m.masked, Masked{uint8(i), m.from[i] & bits, bits})
		}
	}
	s.looks[1], s.sets[0] = uint16(len(m.masked)), uint16(len(m.masked))
	for i, bits := range &m.fresh {
		if bits != 0 {
			m.masked = append(m.masked, Masked{uint8(i), w.ctx[i] & bits, bits})
		}
	}
	s.sets[1] = uint16(len(m.masked))
	s.rules[0], s.edges[0] = uint16(len(m.rules)), uint16(len(m.edges))
	m.rules, m.edges = append(m.rules, rules...), append(m.edges, edges...)
	s.rules[1], s.edges[1] = uint16(len(m.rules)), uint16(len(m.edges))
	s.visited = uint16(w.visited - m.visited0)
	m.classify(&s)
	before := &m.list[m.at]
	s.parent, s.through = m.at, before.through+s.visited
	s.next = before.child
	m.list = append(m.list, s)
	before.child = uint16(len(m.list) - 1)
	before.branches++
	return before.child
}

// room makes room for one more stage behind another, with so many rules and steps. It
// reports false if there is none. Where packets go many ways, few of them are known.
func (m *stages) room(at uint16, rules, edges int) bool {
	if s := &m.list[at]; s.branches == branchMax {
		if m.skipped++; m.skipped%branchTry != 0 {
			return false
		}
		s.child, s.branches = 0, 0
	}
	if len(m.list) == stagesMax || len(m.masked)+2*ContextWords > maskedMax || len(m.rules)+rules > stepsMost || len(m.edges)+edges > stepsMost {
		m.forget()
		return false
	}
	return true
}

// noteAsk notes that the walk is about to ask connection tracking, behind which it goes on by
// the actions in rest.
func (w *Walker) noteAsk(s *step, rest []uint64) {
	m := &w.stages
	if m.at == 0 {
		return
	}
	resume := s.arg&CTResume != 0
	if w.depth > 0 || resume && len(rest) > 0 || asksOriginal(s.nested) {
		m.at = 0
		return
	}
	m.at = w.note(stage{kind: stageAsk, ask: w.ask, table: s.table, resume: resume, rest: rest})
}

// asksOriginal reports whether the translation of a question depends on addresses that
// are not looked at as a field.
func asksOriginal(words []uint64) bool {
	var s step
	for len(words) > 0 {
		words = words[decodeStep(&s, words):]
		if s.code == ActNAT && s.table&NATOriginal != 0 {
			return true
		}
	}
	return false
}

// noteEnd notes the end of the walk. What never asks is not worth a note: it is cached for
// many packets.
func (w *Walker) noteEnd() {
	m := &w.stages
	if m.at == 0 || w.failed || m.list[m.at].kind == stageRoot {
		return
	}
	s := stage{kind: stageDrop, arg: w.last}
	if w.outputs == 1 {
		s.kind, s.arg = stageOutput, w.out.Ops[len(w.out.Ops)-1].Arg
	}
	m.last = w.note(s)
}
