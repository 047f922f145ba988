package conntrack

import (
	"errors"
	"fmt"
)

// tickShift makes a tick, 2^26 ns or 67 ms, of nanoseconds: the unit of deadlines.
const tickShift = 26

// tickOf returns the tick of a time in nanoseconds.
func tickOf(now uint64) uint32 { return uint32(now >> tickShift) }

// ticks returns seconds as ticks, rounded up.
func ticks(seconds uint32) uint32 {
	return uint32((uint64(seconds)*1e9 + 1<<tickShift - 1) >> tickShift)
}

// secondsOf returns ticks as seconds, rounded down.
func secondsOf(ticks uint32) uint32 { return uint32(uint64(ticks) << tickShift / 1e9) }

// A Timeout names one of the times of a Policy.
type Timeout uint8

// The timeouts. Those of TCP and SCTP are in the order of their states.
const (
	_ Timeout = iota
	TCPSynSent
	TCPSynRecv
	TCPEstablished
	TCPFinWait
	TCPCloseWait
	TCPLastAck
	TCPTimeWait
	TCPClose
	TCPSynSent2
	TCPUnacknowledged // established, and nothing came back
	UDPFirst          // no packet in the other direction, or not for long
	UDPStream         // packets in both directions
	ICMPQuery
	ICMPv6Query
	SCTPClosed
	SCTPCookieWait
	SCTPCookieEchoed
	SCTPEstablished
	SCTPShutdownSent
	SCTPShutdownReceived
	SCTPShutdownAckSent
	SCTPHeartbeatSent
	OtherFirst // other protocols
	OtherReplied
	Timeouts // how many there are
)

// A Policy are timeouts in seconds.
type Policy [Timeouts]uint32

// DefaultPolicy returns the timeouts of Linux (6.2 and later).
func DefaultPolicy() Policy {
	return Policy{
		TCPSynSent: 120, TCPSynRecv: 60, TCPEstablished: 5 * 24 * 3600, TCPFinWait: 120, TCPCloseWait: 60,
		TCPLastAck: 30, TCPTimeWait: 120, TCPClose: 10, TCPSynSent2: 120, TCPUnacknowledged: 300,
		UDPFirst: 30, UDPStream: 120, ICMPQuery: 30, ICMPv6Query: 30,
		SCTPClosed: 10, SCTPCookieWait: 3, SCTPCookieEchoed: 3, SCTPEstablished: 210, SCTPShutdownSent: 3,
		SCTPShutdownReceived: 3, SCTPShutdownAckSent: 3, SCTPHeartbeatSent: 30,
		OtherFirst: 600, OtherReplied: 600,
	}
}

// timeoutMax is the longest timeout, in seconds: a quarter of what ticks can tell apart.
const timeoutMax = 1 << 25

// Errors of policies.
var (
	ErrNoPolicy = errors.New("no such timeout policy: make it with SetPolicy")
	ErrTimeout  = errors.New("timeout out of range: want 1 second to 1 year")
)

// SetPolicy makes or changes timeout policy id; 0 is the default of all zones.
// Connections take to it with their next packet.
func (t *Table) SetPolicy(id uint8, p Policy) error {
	var inTicks [Timeouts]uint32
	for k := Timeout(1); k < Timeouts; k++ {
		if p[k] == 0 || p[k] > timeoutMax {
			return fmt.Errorf("set timeout %d of policy %d to %d seconds: %w", k, id, p[k], ErrTimeout)
		}
		inTicks[k] = ticks(p[k])
	}
	t.policies[id].Store(&inTicks)
	return nil
}

// A deadline is a tick (1..31) and whether the connection stays when room is short
// (0), so that a search for one to evict looks at deadlines only. Ticks wrap.
const staysBit = 1

// stays reports whether a connection of key k is not evicted: it is assured, and goes on. One that is
// about to end may go, as in Linux (nf_conntrack_l4proto.can_early_drop).
func (s status) stays(k *key) bool { return s&assured != 0 && !s.closes(k.proto()) }

// closes reports whether a connection of TCP or SCTP is about to end, or has.
func (s status) closes(proto uint8) bool {
	switch state := s & protoState; proto {
	case ProtoTCP:
		return state >= tcpFinWait && state <= tcpClose
	case ProtoSCTP:
		return state >= sctpShutdownSent && state <= sctpShutdownAckSent
	}
	return false
}

// until returns the deadline of a connection in status s that has just had a packet.
func (t *Table) until(now uint32, s status, k *key) uint32 {
	p := t.policies[s.policy()].Load()
	d := (now + p[kindOf(s, k)]) << 1
	if s.stays(k) {
		d |= staysBit
	}
	return max(d, 2)
}

// over reports whether a deadline has passed.
func over(d, now uint32) bool { return int32(now<<1-d&^staysBit) >= 0 }

// kindOf returns which timeout a connection in status s has.
func kindOf(s status, k *key) Timeout {
	switch k.proto() {
	case ProtoTCP:
		if s&(protoState|seenReply) == status(tcpEstablished) {
			return TCPUnacknowledged
		}
		return TCPSynSent - tcpSynSent + Timeout(s&protoState)
	case ProtoUDP:
		if s&assured != 0 {
			return UDPStream
		}
		return UDPFirst
	case ProtoSCTP:
		return SCTPClosed - sctpClosed + Timeout(s&protoState)
	case ProtoICMP:
		if k[4]&1 == 0 {
			return ICMPQuery
		}
	case ProtoICMPv6:
		if k[4]&1 != 0 {
			return ICMPv6Query
		}
	}
	if s&seenReply != 0 {
		return OtherReplied
	}
	return OtherFirst
}
