package l3

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"millrace/control/egress/l3/packet"
)

// trickle is how many packets a tick may go to peers that have not been heard of
// lately: WireGuard shakes hands for them. It keeps them until it has, in 64 KiB
// each, so others are dropped here.
const trickle = 8

// A place is where an address may be.
type place struct {
	prefix netip.Prefix
	gone   bool
}

// An absent knows which peers have not been heard of lately.
type absent struct {
	places atomic.Pointer[[]place] // longest prefix first; nil: all peers are here
	left   atomic.Int32            // of the trickle
}

// set says who is gone. It is called each tick.
func (a *absent) set(peers map[string]*peer) {
	a.left.Store(trickle)
	var places []place
	gone := false
	for _, p := range peers {
		gone = gone || !p.up
		for _, prefix := range p.Prefixes {
			places = append(places, place{prefix, !p.up})
		}
	}
	if !gone {
		a.places.Store(nil)
		return
	}
	slices.SortFunc(places, func(x, y place) int { return y.prefix.Bits() - x.prefix.Bits() })
	a.places.Store(&places)
}

// judge turns Relay into Absent for packets to those who are gone.
func (a *absent) judge(packets [][]byte, verdicts []Verdict) {
	places := a.places.Load()
	if places == nil {
		return
	}
	var last netip.Addr
	gone := false
	for i, v := range verdicts {
		if v != Relay {
			continue
		}
		if to := packet.Destination(packets[i]); to != last {
			last, gone = to, isGone(*places, to)
		}
		if gone && a.left.Add(-1) < 0 {
			verdicts[i] = Absent
		}
	}
}

func isGone(places []place, a netip.Addr) bool {
	for _, p := range places {
		if p.prefix.Contains(a) {
			return p.gone
		}
	}
	return false
}
