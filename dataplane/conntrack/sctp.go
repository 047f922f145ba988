package conntrack

// States of SCTP associations, as Linux has them.
const (
	sctpNone = iota
	sctpClosed
	sctpCookieWait
	sctpCookieEchoed
	sctpEstablished
	sctpShutdownSent
	sctpShutdownReceived
	sctpShutdownAckSent
	sctpHeartbeatSent
	sctpInvalid
)

// Types of chunks (RFC 9260 3.2).
const (
	chunkInit             = 1
	chunkInitAck          = 2
	chunkHeartbeat        = 4
	chunkHeartbeatAck     = 5
	chunkAbort            = 6
	chunkShutdown         = 7
	chunkShutdownAck      = 8
	chunkError            = 9
	chunkCookieEcho       = 10
	chunkCookieAck        = 11
	chunkShutdownComplete = 14
	chunkTypes            = 16
)

// sctpNext says for each direction and type of chunk what becomes of each
// state, as tcpNext does: C closed, W cookie wait, K cookie echoed, E
// established, S shutdown sent, R received, A acknowledged, H heartbeat sent.
// Other chunks change nothing. The transitions are those of Linux.
var sctpNext = [2][chunkTypes]string{
	{
		chunkInit: "CCWKECCAW", chunkInitAck: "CCWKESRAC", chunkAbort: "CCCCCCCCC", chunkShutdown: "CCWKSSRAC",
		chunkShutdownAck: "ACWKEAAAA", chunkError: "CCWKESRAC", chunkCookieEcho: "CCKKESRAC", chunkCookieAck: "CCWEESRAC",
		chunkShutdownComplete: "CCWKESRCC", chunkHeartbeat: "HCWKESRAH", chunkHeartbeatAck: "CCWKESRAH",
	},
	{
		chunkInit: "-CWKESRA-", chunkInitAck: "-WWKESRA-", chunkAbort: "-CCCCCCC-", chunkShutdown: "-CWKRSRA-",
		chunkShutdownAck: "-CWKEAAA-", chunkError: "-CWCESRA-", chunkCookieEcho: "-CKKESRA-", chunkCookieAck: "-CWEESRA-",
		chunkShutdownComplete: "-CWKESRC-", chunkHeartbeat: "-CWKESRAH", chunkHeartbeatAck: "-CWKESRAE",
	},
}

// sctpLetters are the letters of sctpNext, in the order of the states.
const sctpLetters = "0CWKESRAH-"

// sctpMove returns what a chunk in direction dir makes of a state.
func sctpMove(state uint8, dir int, chunk uint8) uint8 {
	if chunk >= chunkTypes || sctpNext[dir][chunk] == "" {
		return state
	}
	letter := sctpNext[dir][chunk][state%sctpInvalid]
	for n := range sctpLetters {
		if sctpLetters[n] == letter {
			return uint8(n)
		}
	}
	return sctpInvalid
}

// ordered reports whether the chunks may stand together (RFC 9260 6.10): INIT,
// INIT ACK and SHUTDOWN COMPLETE alone, cookies first.
func (p *Packet) ordered() bool {
	for i, c := range p.Chunks[:p.ChunkCount] {
		switch c.Type {
		case chunkInit, chunkInitAck, chunkShutdownComplete:
			if p.ChunkCount != 1 {
				return false
			}
		case chunkCookieEcho, chunkCookieAck:
			if i != 0 {
				return false
			}
		}
	}
	return p.ChunkCount > 0
}

// sctpBegin returns the status with which a packet begins an association, and
// the tags that each side must use, zero if that is not known yet. It reports
// whether it can begin one.
func sctpBegin(p *Packet) (s status, tags [2]uint32, ok bool) {
	if !p.ordered() {
		return 0, tags, false
	}
	state := uint8(sctpNone)
	for _, c := range p.Chunks[:p.ChunkCount] {
		switch c.Type {
		case chunkAbort, chunkShutdownComplete, chunkCookieAck:
			return 0, tags, false
		case chunkInit:
			if p.Tag != 0 {
				return 0, tags, false
			}
			tags[1] = p.InitTag
		case chunkHeartbeat:
			tags[0] = p.Tag
		default:
			tags[1] = p.Tag
		}
		if state = sctpMove(state, 0, c.Type); state == sctpNone || state == sctpInvalid {
			return 0, tags, false
		}
	}
	return status(state), tags, true
}

// tagged reports whether a packet has the verification tag that it must have
// (RFC 9260 8.5). tags are those that each side must use.
func (p *Packet) tagged(dir int, tags [2]uint32) bool {
	switch c := p.Chunks[0]; c.Type {
	case chunkInit:
		return p.Tag == 0
	case chunkAbort, chunkShutdownComplete:
		if c.Flags&1 != 0 { // T: reflected
			return p.Tag == tags[1-dir]
		}
	case chunkShutdownAck:
		if p.ChunkCount == 1 {
			return true // out of the blue ones are answered, not dropped; they bring nothing else
		}
	case chunkHeartbeat, chunkHeartbeatAck:
		if tags[dir] == 0 {
			return true
		}
	}
	return p.Tag == tags[dir]
}

// sctpStep returns what a packet in direction dir makes of status s, and of the
// tags.
func sctpStep(s status, dir int, p *Packet, tags *[2]uint32) (status, outcome) {
	if !p.ordered() || !p.tagged(dir, *tags) {
		return s, invalid
	}
	n := s
	for _, c := range p.Chunks[:p.ChunkCount] {
		old := uint8(n & protoState)
		next := sctpMove(old, dir, c.Type)
		if next == sctpInvalid {
			return s, invalid
		}
		switch c.Type {
		case chunkInit, chunkInitAck:
			tags[1-dir] = p.InitTag
		case chunkHeartbeat, chunkHeartbeatAck:
			if tags[dir] == 0 {
				tags[dir] = p.Tag
			}
		}
		if old == sctpCookieEchoed && next == sctpEstablished && dir == 1 {
			n |= assured
		}
		n = n.in(next)
	}
	if dir == 1 {
		n |= seenReply
	}
	return n, accepted
}
