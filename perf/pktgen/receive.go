package pktgen

import (
	"encoding/binary"
	"hash/maphash"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"

	"millrace/dataplane/sys"
	"millrace/vhost/virtq"
)

// A sink is the receiving side of a port: all its receive queues. One goroutine
// turns it.
type sink struct {
	port   int
	queues []rxQueue
	verify bool
	odd    func([]byte) // Fast: shown timed frames

	expect [256]*expected // by stream
	macs   map[[6]byte]bool
	pcap   map[uint64]bool // hashes of the frames that are replayed
	seed   maphash.Seed

	every  int // frames between two whose time is taken
	skip   int
	nsTick float64 // nanoseconds per unit of tag.time
	now    uint32
	hist   *hdrhistogram.Histogram

	watch  *Watch // may be nil
	oldest uint32 // tag.time of the turn's first frame of ours, and of its last
	newest uint32
	fresh  bool   // no frame of ours has come in this turn
	during uint64 // frames that came while some were sent

	frames, bytes                    uint64
	corrupted, unattributed          uint64 // unattributed: corrupted in its tag too
	misdelivered, unknown, announced uint64
}

type rxQueue struct {
	rx   *virtq.Receiver
	kick sys.FD
}

// expected is what a stream's frames look like at a port.
type expected struct {
	templates []template
	byLen     []uint8 // index of the template for a length, plus one
	flows     uint32
	track     *tracker // nil in Fast
}

// newHistogram counts from a nanosecond to a minute.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, 60e9, 3)
}

func newExpected(ts []template, flows int, verify bool) *expected {
	e := &expected{templates: ts, flows: uint32(flows)}
	if verify {
		e.track = newTracker(flows)
	}
	for i, t := range ts {
		for len(e.byLen) <= len(t.frame) {
			e.byLen = append(e.byLen, 0)
		}
		e.byLen[len(t.frame)] = uint8(i + 1)
	}
	return e
}

// turn takes all that has come, and returns how many frames that were.
func (s *sink) turn(now uint64) int {
	s.now, s.fresh = uint32(now>>timeShift), true
	got := 0
	for i := range s.queues {
		q := &s.queues[i]
		n := 0
		if s.verify {
			n = s.judgeAll(q.rx)
		} else {
			var bytes uint64
			n, bytes = q.rx.CountOdd(s.odd)
			s.bytes += bytes
		}
		if n > 0 && q.rx.ShouldKick() && q.kick.Valid() {
			_ = sys.Signal(q.kick) // the eventfd is ours and open
		}
		got += n
	}
	s.frames += uint64(got)
	if s.watch != nil && got > 0 {
		s.tell(got)
	}
	return got
}

// tell has the watch see what came in a turn, unless it was none of ours.
func (s *sink) tell(n int) {
	if s.verify && s.fresh {
		return
	}
	now := sys.TSC()
	made := func(t uint32) uint64 { // as exact as t is, so that frames of one time have one
		return (now>>timeShift - uint64(uint32(now>>timeShift)-t)) << timeShift
	}
	s.watch.see(s.port, n, now, made(s.oldest), made(s.newest))
}

// judgeMost is how many frames are looked at before their buffers go back, and
// judgeRounds how often before the turn ends: a receive ring that stays full
// makes the switch drop.
const (
	judgeMost   = 64
	judgeRounds = 16
)

// judgeAll judges what has come, and returns how many frames that were.
func (s *sink) judgeAll(rx *virtq.Receiver) int {
	all := 0
	for range judgeRounds {
		n := 0
		for ; n < judgeMost; n++ {
			f, ok := rx.Next()
			if !ok {
				break
			}
			s.bytes += uint64(len(f))
			s.judge(f)
		}
		rx.Release()
		if all += n; n < judgeMost {
			break
		}
	}
	return all
}

// judge compares a frame with what was sent.
func (s *sink) judge(f []byte) {
	if s.pcap != nil {
		if !s.pcap[maphash.Bytes(s.seed, f)] {
			s.other(f)
		}
		return
	}
	t, e := s.find(f)
	if e == nil {
		return
	}
	flow := t.flow & (flowsMax - 1)
	e.track.see(flow, t.seq)
	if k := e.template(len(f)); k == nil || !k.same(f, flow, t.seq) {
		s.corrupted++
		return
	}
	if s.every == 0 {
		return
	}
	if s.skip++; s.skip >= s.every {
		s.skip = 0
		s.time(t)
	}
}

// tagAt returns where the tag of a frame would be.
func tagAt(f []byte) (int, bool) {
	off := 42
	if len(f) >= off && f[12] == 0x81 && f[13] == 0 {
		off = 46
	}
	return off, len(f) >= off+tagLen
}

// find returns the tag of a frame and what its stream looks like here. If there
// is none it counts why.
func (s *sink) find(f []byte) (tag, *expected) {
	if off, ok := tagAt(f); ok {
		if t, ok := readTag(f[off:]); ok {
			e := s.expect[t.flow>>24]
			if s.note(t.time); e == nil {
				s.misdelivered++
				return t, nil
			}
			if t.flow&(flowsMax-1) < e.flows {
				return t, e
			}
		}
	}
	s.other(f)
	return tag{}, nil
}

// note takes the time at which a frame was made, for the watch.
func (s *sink) note(time uint32) {
	if s.fresh {
		s.fresh, s.oldest = false, time
	}
	s.newest = time
}

// other counts a frame that has no tag of ours: ours and damaged, an
// announcement, or somebody else's.
func (s *sink) other(f []byte) {
	if len(f) < 14 {
		s.unknown++
		return
	}
	kind := binary.BigEndian.Uint16(f[12:])
	if kind == 0x8100 && len(f) >= 18 {
		kind = binary.BigEndian.Uint16(f[16:])
	}
	switch {
	case kind == announceType:
		s.announced++
	case s.macs[[6]byte(f[6:12])] || s.pcap != nil || hasOurPort(f):
		s.corrupted++
		s.unattributed++
	default:
		s.unknown++
	}
}

// hasOurPort reports whether a frame goes to the UDP port that only we use.
func hasOurPort(f []byte) bool {
	for _, off := range [2]int{36, 40} {
		if len(f) >= off+2 && binary.BigEndian.Uint16(f[off:]) == udpPort {
			return true
		}
	}
	return false
}

func (e *expected) template(n int) *template {
	if n >= len(e.byLen) || e.byLen[n] == 0 {
		return nil
	}
	return &e.templates[e.byLen[n]-1]
}

// time records how old a frame is.
func (s *sink) time(t tag) {
	ns := math.Max(1, float64(s.now-t.time)*s.nsTick)
	_ = s.hist.RecordValue(int64(ns)) // fails over a minute; the counter wraps before
}

// timeOdd takes the time of a frame that Fast has marked.
func (s *sink) timeOdd(f []byte) {
	if off, ok := tagAt(f); ok {
		if t, ok := readTag(f[off:]); ok && s.expect[t.flow>>24] != nil {
			s.time(t)
		}
	}
}

// begin forgets what came so far. Frames of a stream go on from seqs.
func (s *sink) begin(streams []*stream) {
	s.frames, s.bytes, s.corrupted, s.unattributed = 0, 0, 0, 0
	s.misdelivered, s.unknown, s.announced, s.skip = 0, 0, 0, 0
	s.hist.Reset()
	for _, st := range streams {
		if e := s.expect[st.id]; e != nil && e.track != nil {
			e.track.restart(st.seqs)
		}
	}
}
