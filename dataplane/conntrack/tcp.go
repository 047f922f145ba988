package conntrack

// States of TCP, as Linux has them. They are those of the connection as a
// bystander sees it, not of an end.
const (
	tcpNone = iota
	tcpSynSent
	tcpSynRecv
	tcpEstablished
	tcpFinWait   // one FIN
	tcpCloseWait // acknowledged
	tcpLastAck   // FINs in both directions
	tcpTimeWait
	tcpClose    // RST
	tcpSynSent2 // SYNs in both directions
	tcpInvalid  // the packet does not belong to the connection
	tcpIgnore   // it may, and changes nothing
)

// Flags of TCP, as in the flow table's key.
const (
	FlagFIN = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
	FlagURG
)

// TCPFlags are the flags that decide what a packet does to a connection. A
// program that passed by a TCP connection is for one combination of them.
const TCPFlags = FlagFIN | FlagSYN | FlagRST | FlagACK

// What a packet is, by its flags.
const (
	segSYN = iota
	segSYNACK
	segFIN
	segACK
	segRST
	segNone
	segKinds
)

// segment returns what a packet with these flags is.
func segment(flags uint16) int {
	switch {
	case flags&FlagRST != 0:
		return segRST
	case flags&(FlagSYN|FlagACK) == FlagSYN|FlagACK:
		return segSYNACK
	case flags&FlagSYN != 0:
		return segSYN
	case flags&FlagFIN != 0:
		return segFIN
	case flags&FlagACK != 0:
		return segACK
	}
	return segNone
}

// sane reports whether flags may stand together: no SYN with FIN or RST, no FIN
// with RST, and ACK with FIN, as in Linux.
func sane(flags uint16) bool {
	switch flags & (FlagSYN | FlagFIN | FlagRST) {
	case FlagSYN, FlagRST:
		return flags&FlagURG == 0 || flags&(FlagSYN|FlagACK) == FlagSYN
	case FlagFIN, 0:
		return flags&FlagACK != 0
	}
	return false
}

// tcpNext says for each direction and kind of packet what becomes of each state,
// in their order above: a letter is a state (S syn sent, R syn received, E
// established, F fin wait, C close wait, L last ack, T time wait, X close, 2 syn
// sent 2), - an invalid packet, . one that is ignored. The transitions are those
// of Linux's nf_conntrack.
var tcpNext = [2][segKinds]string{
	{segSYN: "SS.....SS2", segSYNACK: "--R------R", segFIN: "--FFLLLTX-", segACK: "E-EECCTTX-", segRST: "-XXXXXXXXX", segNone: "----------"},
	{segSYN: "-2-----S-2", segSYNACK: "-R.......R", segFIN: "--FFLLLTX-", segACK: "-.RECCTTX.", segRST: "-XXXXXXXXX", segNone: "----------"},
}

// tcpLetters are the letters of tcpNext, in the order of the states.
const tcpLetters = "0SREFCLTX2-."

// tcpTable is tcpNext as numbers.
var tcpTable = func() (t [2][segKinds][tcpInvalid]uint8) {
	for dir := range tcpNext {
		for seg, row := range tcpNext[dir] {
			for state := range row {
				for n := range tcpLetters {
					if tcpLetters[n] == row[state] {
						t[dir][seg][state] = uint8(n)
					}
				}
			}
		}
	}
	return t
}()

// An outcome is what a packet means for its connection.
type outcome uint8

const (
	accepted outcome = iota
	ignored          // accepted, and the time goes on
	invalid
	reopened // the connection is over, and the packet begins another
	ended    // accepted as the last
)

// tcpStep returns what a packet in direction dir makes of status s.
func tcpStep(s status, dir int, flags uint16) (status, outcome) {
	if !sane(flags) {
		return s, invalid
	}
	seg, state := segment(flags), uint8(s&protoState)
	next := tcpTable[dir][seg][state%tcpInvalid]
	switch {
	case next == tcpInvalid:
		return s, invalid
	case next == tcpIgnore && dir == 1:
		return s | seenReply, ignored
	case next == tcpIgnore:
		return s, ignored
	case next == tcpSynSent && state >= tcpTimeWait:
		return s, reopened // RFC 9293 3.6.1; the table would have it go on with what was
	case seg == segRST && s&seenReply == 0:
		return s.in(next), ended // refused: nothing is left of it
	}
	if state == tcpSynRecv && dir == 1 && seg == segACK && s&crossed != 0 {
		next = tcpEstablished // each side has acknowledged the other's SYN
	}
	n := s.in(next)
	if next == tcpSynSent2 {
		n |= crossed
	}
	if next == tcpEstablished && s&seenReply != 0 && (state == tcpSynRecv || state == tcpEstablished) {
		n |= assured
	}
	if dir == 1 {
		n |= seenReply
	}
	return n, accepted
}

// tcpBegin returns the status with which a packet begins a connection. Loose
// says that it may begin in the middle. It reports whether it can.
func tcpBegin(flags uint16, loose bool) (status, bool) {
	if !sane(flags) {
		return 0, false
	}
	switch tcpTable[0][segment(flags)][tcpNone] {
	case tcpSynSent:
		return status(tcpSynSent), true
	case tcpEstablished:
		return status(tcpEstablished) | liberal, loose
	}
	return 0, false
}
