package pktgen

import (
	"millrace/dataplane/sys"
	"millrace/vhost/virtq"
)

// A stream is what one port sends. Its flows are numbered from 0 and spread
// over the port's queues.
type stream struct {
	id    int
	from  int
	to    []int
	specs []Share
	seqs  []uint32 // by flow: next number; written by the lane that has the flow
	lanes []*lane
}

// sent is the number of frames that the stream has sent.
func (s *stream) sent() (frames, bytes, missed uint64) {
	for _, l := range s.lanes {
		frames += l.sent
		bytes += l.bytes
		missed += l.pace.missed
	}
	return frames, bytes, missed
}

// A lane is one transmit queue of a stream's port. One goroutine turns it.
//
// Each buffer has a frame of its own, of one size and, if there are enough
// buffers, of one flow. So Fast has nothing to write, and Verify writes a tag.
type lane struct {
	stream *stream
	tx     *virtq.Sender
	kick   sys.FD
	batch  int
	spare  int // buffers that are never sent, see Config.Spare

	templates []template
	slots     []slot   // by buffer
	flows     []uint32 // that this lane sends
	cursor    int      // next of flows (or of replay), if they go round
	rotate    bool     // more flows than buffers: each frame gets its flow when it is sent
	look      look
	replay    [][]byte // frames to send instead
	verify    bool
	size      int // of every frame; 0 if there are several

	every uint64 // Fast: one frame in so many is timed, 0 for none
	timed uint64 // number of the next such frame
	marks []mark // timed frames whose buffers did not come round yet

	pace  pace
	limit uint64 // frames to send
	sent  uint64
	bytes uint64
}

type slot struct {
	flow uint32
	tpl  int
}

// A mark is a buffer whose frame has an odd length, and the number of the frame
// with which it comes round again.
type mark struct {
	buffer int
	due    uint64
}

// prepare writes frames to all buffers of the lane.
func (l *lane) prepare(ring int) {
	if l.replay != nil {
		return
	}
	l.slots = make([]slot, ring)
	l.rotate = len(l.flows) > ring || l.look == freshLook
	order := spread(l.stream.specs, ring)
	for b := range l.slots {
		s := slot{flow: l.flows[b%len(l.flows)], tpl: order[b]}
		l.slots[b] = s
		t := &l.templates[s.tpl]
		f := l.tx.Frame(b)
		copy(f, t.frame)
		t.dress(f, s.flow, 0)
		tag{flow: l.flow(s.flow)}.put(f[t.tag:])
		l.tx.SetLen(b, len(t.frame))
	}
	if len(l.templates) == 1 {
		l.size = len(l.templates[0].frame)
	}
}

// spread deals n slots to the shares, as evenly as it goes: the share that is
// furthest behind its part is next.
func spread(shares []Share, n int) []int {
	total := 0
	for _, s := range shares {
		total += s.Weight
	}
	debt := make([]int, len(shares))
	order := make([]int, n)
	for i := range order {
		best := 0
		for k, s := range shares {
			if debt[k] += s.Weight; debt[k] > debt[best] {
				best = k
			}
		}
		debt[best] -= total
		order[i] = best
	}
	return order
}

// flow is flow f as the tag has it.
func (l *lane) flow(f uint32) uint32 { return uint32(l.stream.id)<<24 | f }

// begin starts the lane's counts anew.
func (l *lane) begin(limit uint64) {
	l.limit, l.sent, l.bytes, l.timed = limit, 0, 0, 0
	for i := range l.marks {
		l.marks[i].due = 0
	}
}

// turn sends what is due and has room, and returns how many frames that were.
func (l *lane) turn(now uint64) int {
	want := int(min(uint64(l.batch), l.limit-l.sent))
	if want = l.pace.due(now, want); want == 0 {
		return 0
	}
	n := min(want, l.tx.Room(want+l.spare)-l.spare)
	if n <= 0 {
		return 0
	}
	l.fill(n, uint32(now>>timeShift))
	l.tx.Send(n)
	if l.tx.ShouldKick() && l.kick.Valid() {
		_ = sys.Signal(l.kick) // the eventfd is ours and open
	}
	l.sent += uint64(n)
	l.pace.sent(n)
	return n
}

// fill makes the next n buffers' frames what they shall be, and counts bytes.
func (l *lane) fill(n int, now uint32) {
	switch {
	case l.replay != nil:
		l.fillReplay(n)
		return
	case l.verify:
		l.fillVerify(n, now)
	case l.look == freshLook:
		l.fillFresh(n)
	case l.rotate && l.look == givenLook:
		l.fillGiven(n)
	case l.rotate:
		l.fillFlows(n)
	}
	if l.every != 0 {
		l.mark(n, now)
	}
	if l.size != 0 {
		l.bytes += uint64(n * l.size)
		return
	}
	for i := range n {
		l.bytes += uint64(l.tx.Len(l.tx.Buffer(i)))
	}
}

// nextFlow goes round the lane's flows.
func (l *lane) nextFlow() uint32 {
	f := l.flows[l.cursor]
	if l.cursor++; l.cursor == len(l.flows) {
		l.cursor = 0
	}
	return f
}

func (l *lane) fillVerify(n int, now uint32) {
	for i := range n {
		b := l.tx.Buffer(i)
		s := &l.slots[b]
		t := &l.templates[s.tpl]
		f := l.tx.Frame(b)
		seq := &l.stream.seqs[s.flow]
		if l.rotate {
			s.flow = l.nextFlow()
			seq = &l.stream.seqs[s.flow]
			t.dress(f, s.flow, *seq)
		}
		tag{l.flow(s.flow), *seq, now}.put(f[t.tag:])
		*seq++
	}
}

func (l *lane) fillFlows(n int) {
	for i := range n {
		b := l.tx.Buffer(i)
		l.templates[l.slots[b].tpl].setFlow(l.tx.Frame(b), l.nextFlow())
	}
}

func (l *lane) fillGiven(n int) {
	for i := range n {
		b := l.tx.Buffer(i)
		t := &l.templates[l.slots[b].tpl]
		t.setGiven(l.tx.Frame(b), &t.given[l.nextFlow()])
	}
}

func (l *lane) fillFresh(n int) {
	number := l.stream.seqs[0]
	for i := range n {
		b := l.tx.Buffer(i)
		t := &l.templates[l.slots[b].tpl]
		t.setFresh(l.tx.Frame(b), t.first+number+uint32(i))
	}
	l.stream.seqs[0] += uint32(n)
}

func (l *lane) fillReplay(n int) {
	for i := range n {
		b := l.tx.Buffer(i)
		r := l.replay[l.cursor]
		if l.cursor++; l.cursor == len(l.replay) {
			l.cursor = 0
		}
		copy(l.tx.Frame(b), r)
		l.tx.SetLen(b, len(r))
		l.bytes += uint64(len(r))
	}
}

// mark times a frame of the batch, if it is time to, by giving it an odd
// length, and takes the mark off buffers that come round.
func (l *lane) mark(n int, now uint32) {
	if len(l.marks) > 0 && l.marks[0].due < l.sent+uint64(n) {
		l.unmark(n)
	}
	if l.timed >= l.sent+uint64(n) || len(l.marks) == cap(l.marks) {
		return
	}
	i := 0
	if l.timed > l.sent {
		i = int(l.timed - l.sent)
	}
	b := l.tx.Buffer(i)
	t := &l.templates[l.slots[b].tpl]
	tag{flow: l.flow(l.slots[b].flow), time: now}.put(l.tx.Frame(b)[t.tag:])
	size := len(t.frame) + 1
	if size > 1514 && size < 1519 {
		size -= 2 // not over what a standard MTU takes
	}
	l.tx.SetLen(b, size)
	l.marks = append(l.marks, mark{b, l.sent + uint64(i) + uint64(len(l.slots))})
	l.timed += l.every
}

// unmark gives buffers in the batch their right length again.
func (l *lane) unmark(n int) {
	for i := range n {
		b := l.tx.Buffer(i)
		for k := range l.marks {
			if l.marks[k].buffer == b {
				l.tx.SetLen(b, len(l.templates[l.slots[b].tpl].frame))
				l.marks = append(l.marks[:k], l.marks[k+1:]...)
				break
			}
		}
	}
}
