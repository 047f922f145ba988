package guard

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"millrace/control/egress/l3"
	"millrace/control/egress/l3/packet"
)

// A side is one of those that packets come from and go to.
type side uint8

const (
	nobody side = iota
	node
	operator
)

// A Server guards the server's end of a tunnel.
type Server struct {
	own  []netip.Addr
	host bool // there is a device, by which the host takes part

	mu      sync.Mutex
	flows   flows   // by mu
	sides   []owned // by mu; longest prefix first
	between bool    // by mu: nodes may reach each other
}

// An owned prefix is that of a peer.
type owned struct {
	prefix netip.Prefix
	side   side
	peer   string
}

// NewServer returns the guard of a server whose end of the tunnel has the addresses
// own. host says that its inner end is a device of the host.
func NewServer(own []netip.Addr, host bool) *Server {
	return &Server{own: own, host: host, flows: newFlows()}
}

// Between says whether nodes may reach each other.
func (s *Server) Between(nodes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.between = nodes
}

// Set says who has which prefixes. Flows of before are forgotten.
func (s *Server) Set(nodes, operators []l3.Peer) {
	var sides []owned
	for who, peers := range map[side][]l3.Peer{node: nodes, operator: operators} {
		for _, p := range peers {
			for _, prefix := range p.Prefixes {
				sides = append(sides, owned{prefix.Masked(), who, p.Name})
			}
		}
	}
	slices.SortStableFunc(sides, func(a, b owned) int { return b.prefix.Bits() - a.prefix.Bits() })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sides = sides
	s.flows.forget()
}

// has returns whose an address is.
func (s *Server) has(a netip.Addr) owned {
	for _, o := range s.sides {
		if o.prefix.Contains(a) {
			return o
		}
	}
	return owned{}
}

func (s *Server) begin() (end func()) {
	s.mu.Lock()
	s.flows.begin(time.Now())
	return s.mu.Unlock
}

// Inward judges packets from nodes and operators.
func (s *Server) Inward(packets [][]byte, verdicts []l3.Verdict) {
	defer s.begin()()
	for i, b := range packets {
		verdicts[i] = s.inward(b)
	}
}

func (s *Server) inward(b []byte) l3.Verdict {
	p, ok := packet.Parse(b)
	if !ok {
		return l3.Malformed
	}
	from, to := s.has(p.Src), s.has(p.Dst)
	switch {
	case slices.Contains(s.own, p.Dst) && (p.Kind == packet.EchoRequest || !s.host):
		return l3.Own
	case from.side == operator && to.side == node:
		return s.onward(&p, b)
	case from.side == node && to.side == node && s.between && from.peer != to.peer:
		return l3.Relay
	case from.side == node && to.side == operator && s.flows.back(&p, b):
		return l3.Relay
	case from.side == node && to.side == nobody && s.host && s.flows.back(&p, b):
		return l3.Deliver
	case to.side == nobody && !s.host:
		return l3.NoRoute
	case from.side == node:
		return l3.Unsolicited
	}
	return l3.Denied
}

// onward judges a packet to a node from a side that may begin flows.
func (s *Server) onward(p *packet.Info, b []byte) l3.Verdict {
	switch {
	case s.flows.forth(p, b):
	case !begins(p):
		return l3.Unsolicited
	default:
		s.flows.pass(p)
	}
	return l3.Relay
}

// Outward judges packets of the host.
func (s *Server) Outward(packets [][]byte, verdicts []l3.Verdict) {
	defer s.begin()()
	for i, b := range packets {
		p, ok := packet.Parse(b)
		switch to := s.has(p.Dst); {
		case !ok:
			verdicts[i] = l3.Malformed
		case to.side == node:
			verdicts[i] = s.onward(&p, b)
		case to.side == operator:
			verdicts[i] = l3.Denied
		default:
			verdicts[i] = l3.NoRoute
		}
	}
}
