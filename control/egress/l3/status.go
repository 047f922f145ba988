package l3

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A Status is what a tunnel shows of itself. Times without a unit are nanoseconds.
type Status struct {
	Key     string            `json:"key"` // public
	Port    uint16            `json:"port"`
	MTU     int               `json:"mtu"`
	Ready   bool              `json:"ready"`
	Trouble string            `json:"trouble,omitempty"` // why not, or why a changed setup was not taken up
	Peers   []PeerStatus      `json:"peers"`
	Packets Packets           `json:"packets"`
	Dropped map[string]uint64 `json:"dropped"` // by reason
	Kinds   map[string]uint64 `json:"datagrams"`
}

// Packets are those inside, that went through.
type Packets struct {
	In       uint64 `json:"in"` // from peers, delivered or relayed
	InBytes  uint64 `json:"in_bytes"`
	Out      uint64 `json:"out"` // of the inner end
	OutBytes uint64 `json:"out_bytes"`
}

// A PeerStatus is one peer.
type PeerStatus struct {
	Name      string         `json:"name"`
	Key       string         `json:"key"`
	Up        bool           `json:"up"`
	Endpoint  string         `json:"endpoint,omitempty"`
	Prefixes  []netip.Prefix `json:"prefixes"`
	Handshake time.Duration  `json:"handshake_age_ns,omitempty"` // zero: never
	Seen      time.Duration  `json:"seen_age_ns,omitempty"`      // zero: never
	RTT       time.Duration  `json:"rtt_ns,omitempty"`
	Heals     int            `json:"heals"` // handshakes because nothing was heard
	Sent      uint64         `json:"sent"`  // bytes, outside
	Received  uint64         `json:"received"`
}

// Status is that of now. An end that dials is ready when one of those that it
// dials has answered lately; one that does not is ready when it runs.
func (t *Tunnel) Status() Status {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Status{Key: t.setup.PrivateKey.Public().String(), Port: uint16(t.bind.port.Load()), MTU: t.cfg.MTU, Trouble: t.trouble}
	dials := false
	for _, name := range slices.Sorted(maps.Keys(t.peers)) {
		p := t.peers[name]
		up := p.isUp(now)
		dials, s.Ready = dials || p.Endpoint != "", s.Ready || up && p.Endpoint != ""
		s.Peers = append(s.Peers, PeerStatus{p.Name, p.Keys[p.owner].String(), up, p.endpoint, p.Prefixes, age(p.handshake, now), age(p.seen, now), p.rtt, p.heals, p.sent, p.received})
	}
	if !dials {
		s.Ready = true
	}
	if !s.Ready && s.Trouble == "" {
		s.Trouble = "no server has answered in the last 10 s"
	}
	t.counters(&s)
	return s
}

func age(t, now time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(now.Sub(t), 1)
}

func (t *Tunnel) counters(s *Status) {
	h := t.hub
	s.Packets = Packets{h.in.Load(), h.inBytes.Load(), h.out.Load(), h.outBytes.Load()}
	s.Dropped = map[string]uint64{
		"datagram":  t.bind.counts[0].Load(),
		"handshake": t.refused[badHandshake].Load(),
		"source":    t.refused[badSource].Load(),
		"version":   t.refused[badVersion].Load(),
		"device":    h.broken.Load(),
	}
	for v := Malformed; v < verdicts; v++ {
		s.Dropped[v.String()] = h.counts[v].Load()
	}
	s.Kinds = map[string]uint64{"keepalive": t.refused[keepalive].Load(), "opened": h.opened.Load()}
	for kind, name := range datagramNames[1:] {
		s.Kinds[name] = t.bind.counts[kind+1].Load()
	}
}
