package pktgen

// A pace says when frames are due: at a constant rate since it began, by the
// time stamp counter. Frames that were due too long ago are missed: a sender
// that was held up does not make up for it with a burst that overruns the
// receiver.
type pace struct {
	perTick float64 // frames; 0 is no limit
	start   uint64  // ticks
	gone    uint64  // frames sent or missed
	behind  uint64  // most frames to catch up with
	missed  uint64
}

// newPace returns a pace of rate frames a second. hz is the rate of the time
// stamp counter. Up to two milliseconds are caught up with.
func newPace(rate, hz float64) pace {
	return pace{perTick: rate / hz, behind: max(64, uint64(rate*0.002))}
}

// due returns how many frames are due at now, at most want.
func (p *pace) due(now uint64, want int) int {
	if p.perTick == 0 {
		return want
	}
	due := uint64(float64(now-p.start)*p.perTick) - p.gone
	if due > p.behind {
		p.missed += due - p.behind
		p.gone += due - p.behind
		due = p.behind
	}
	return int(min(due, uint64(want)))
}

// sent takes note of n frames.
func (p *pace) sent(n int) { p.gone += uint64(n) }

// end counts what is due at now as missed: nothing is sent any more.
func (p *pace) end(now uint64) {
	if p.perTick == 0 {
		return
	}
	due := uint64(float64(now-p.start) * p.perTick)
	p.missed += due - min(due, p.gone)
	p.gone = max(p.gone, due)
}

// begin starts the pace at now.
func (p *pace) begin(now uint64) { p.start, p.gone, p.missed = now, 0, 0 }
