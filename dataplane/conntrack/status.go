package conntrack

import "strings"

// State is ct_state, with the bits that OVS and OVN give them. An untracked
// packet has 0.
type State uint8

// Bits of State.
const (
	StateNew         State = 1 << iota // the connection has seen no packet in the other direction
	StateEstablished                   // it has
	StateRelated                       // an ICMP error about a connection
	StateReply                         // in the direction against its first packet
	StateInvalid                       // belongs to no connection, and cannot begin one
	StateTracked                       // went through conntrack
	StateSrcNAT                        // its source was changed
	StateDstNAT                        // its destination was changed
)

var stateNames = [...]string{"new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"}

// String shows the bits that are set, as OVN writes them.
func (s State) String() string {
	var names []string
	for i, name := range stateNames {
		if s>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// A status is the word of a record that its packets change, by compare and
// swap. The low four bits are the protocol's state.
type status uint64

// Bits of a status.
const (
	protoState status = 15

	assured   status = 1 << (4 + iota - 1) // it is not evicted
	seenReply                              // both directions were seen
	srcNAT                                 // the original direction's source is translated
	dstNAT                                 // its destination is
	dying                                  // its time is over, and nobody may have noticed a packet of late
	dead                                   // it is not found any more
	liberal                                // picked up in the middle: its window is not known
	labelled                               // its label is being written
	sack0                                  // the original direction may be acknowledged selectively
	sack1                                  // and the reply direction
	scaled0                                // the original direction offered window scaling
	scaled1                                // and the reply direction
	acked0                                 // maxAck of the original direction is set
	acked1                                 // and of the reply direction
	crossed                                // the SYNs of TCP have crossed: both sides opened at once
	watched                                // a program may have been made of what was said of it

	labelShift        = 24 // version of the label, 8 bits
	labelMask  status = 0xff << labelShift

	scaleShift = 32 // window scale of the original direction, 4 bits, then the other's

	policyShift = 48 // timeout policy, 8 bits
)

// classBits are what a composed program was made for: when they change, the
// connection's cell moves, if it is watched.
const classBits = protoState | seenReply | dying | dead

// windowBits are what belongs to TCP's windows.
const windowBits = sack0 | sack1 | scaled0 | scaled1 | acked0 | acked1 | 0xff<<scaleShift

// of returns the bit of a pair that is for direction dir.
func (s status) of(bit status, dir int) bool { return s&(bit<<dir) != 0 }

// policy returns the timeout policy.
func (s status) policy() uint8 { return uint8(s >> policyShift) }

// in returns s with another state of the protocol.
func (s status) in(state uint8) status { return s&^protoState | status(state) }

// stateOf is what a connection in status s is to packets in a direction.
func (s status) stateOf(dir int) State {
	switch {
	case dir == 1:
		return StateTracked | StateEstablished | StateReply
	case s&seenReply != 0:
		return StateTracked | StateEstablished
	}
	return StateTracked | StateNew
}
