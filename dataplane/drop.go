package dataplane

import (
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// ownDrop and more is what rules of the switch itself give as reason of a drop:
// a packet.Reason in the low bits.
const ownDrop = 1 << 24

// dropReason is the reason under which a frame is counted whose program
// outputs nothing.
func dropReason(code uint32) packet.Reason {
	switch code {
	case flowtable.DropNoRule:
		return packet.ReasonNoRule
	case flowtable.DropTTL:
		return packet.ReasonTTL
	case flowtable.DropSteps:
		return packet.ReasonSteps
	case flowtable.DropDepth:
		return packet.ReasonDepth
	case flowtable.DropNoOutput:
		return packet.ReasonNotOutput
	case flowtable.DropNoPort:
		return packet.ReasonOutportZero
	case flowtable.DropNoEntry:
		return packet.ReasonNoEntry
	case flowtable.DropOps:
		return packet.ReasonOps
	case flowtable.DropNoBucket:
		return packet.ReasonNoBucket
	case flowtable.DropNoReply:
		return packet.ReasonNoReply
	case flowtable.DropReplyRate:
		return packet.ReasonReplyRate
	}
	switch why := packet.Reason(code); why {
	case packet.ReasonVLANIngress, packet.ReasonVLANEgress, packet.ReasonSourceMAC, packet.ReasonReservedMAC, packet.ReasonSamePort, packet.ReasonPortSecurity,
		packet.ReasonCTFull, packet.ReasonCTLimit, packet.ReasonCTClash, packet.ReasonCTFragment:
		if code == ownDrop|uint32(why) {
			return why
		}
	}
	return packet.ReasonRule
}
