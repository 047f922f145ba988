package guard

import (
	"time"

	"millrace/control/egress/l3/packet"
)

// A key is a flow as its first packet names it, or the fragments of a packet.
type key struct {
	src, dst         [16]byte
	srcPort, dstPort uint16 // of an echo both are its identifier
	id               uint32 // of fragments
	proto            uint8
	kind             packet.Kind // Ports, EchoRequest, Fragment or Other
}

// begins reports whether a packet of p's kind can begin a flow.
func begins(p *packet.Info) bool {
	return p.Kind == packet.Ports || p.Kind == packet.EchoRequest || p.Kind == packet.Other
}

// keyOf is the flow that p, which is no error, is a packet of, by who began it.
func keyOf(p *packet.Info) key {
	k := key{src: p.Src.As16(), dst: p.Dst.As16(), srcPort: p.SrcPort, dstPort: p.DstPort, proto: p.Proto, kind: p.Kind}
	switch p.Kind {
	case packet.EchoRequest, packet.EchoReply:
		k.srcPort, k.dstPort, k.kind = p.Echo, p.Echo, packet.EchoRequest
	case packet.Fragment:
		k.id = p.ID
	}
	return k
}

// fragmentsOf is the key of the fragments of a packet whose first one p is.
func fragmentsOf(p *packet.Info) key {
	return key{src: p.Src.As16(), dst: p.Dst.As16(), id: p.ID, proto: p.Proto, kind: packet.Fragment}
}

// reversed is the flow of which k's packets are replies.
func (k key) reversed() key {
	k.src, k.dst, k.srcPort, k.dstPort = k.dst, k.src, k.dstPort, k.srcPort
	return k
}

// A memory remembers keys for some time after they were last seen: between life and
// twice as long. It is two sets: every life, or when it is full, the young set
// becomes the old one, and what was old is forgotten. So it costs no clock and no
// order for each packet, and never holds more than twice limit.
type memory struct {
	young, old map[key]struct{}
	life       time.Duration
	limit      int
	turned     time.Time
}

func newMemory(life time.Duration, limit int) memory {
	return memory{young: map[key]struct{}{}, old: map[key]struct{}{}, life: life, limit: limit}
}

// turn forgets what is due at now.
func (m *memory) turn(now time.Time) {
	if now.Sub(m.turned) < m.life {
		return
	}
	if now.Sub(m.turned) >= 2*m.life {
		clear(m.young)
	}
	m.swap(now)
}

func (m *memory) swap(now time.Time) {
	m.young, m.old, m.turned = m.old, m.young, now
	clear(m.young)
}

// has reports whether a key is remembered, and remembers it for longer.
func (m *memory) has(k key, now time.Time) bool {
	if _, ok := m.young[k]; ok {
		return true
	}
	if _, ok := m.old[k]; !ok {
		return false
	}
	m.put(k, now)
	return true
}

func (m *memory) put(k key, now time.Time) {
	if len(m.young) >= m.limit {
		m.swap(now)
	}
	m.young[k] = struct{}{}
}

// How long flows are remembered, and how many.
const (
	tcpLife   = 2 * time.Hour
	otherLife = 3 * time.Minute
	flowLimit = 32 << 10
)

// flows are the flows of a guard.
type flows struct {
	tcp, other memory
	now        time.Time // of the batch
	last       key       // that was found last in this batch: packets come in trains
}

func newFlows() flows {
	return flows{tcp: newMemory(tcpLife, flowLimit), other: newMemory(otherLife, flowLimit)}
}

// begin is called before each batch.
func (f *flows) begin(now time.Time) {
	f.now, f.last = now, key{}
	f.tcp.turn(now)
	f.other.turn(now)
}

func (f *flows) forget() { *f = newFlows() }

func (f *flows) of(k key) *memory {
	if k.kind == packet.Ports && k.proto == packet.TCP {
		return &f.tcp
	}
	return &f.other
}

func (f *flows) has(k key) bool {
	if k == f.last {
		return true
	}
	if !f.of(k).has(k, f.now) {
		return false
	}
	f.last = k
	return true
}

// pass remembers a flow that p, which passes, is a packet of.
func (f *flows) pass(p *packet.Info) {
	k := keyOf(p)
	f.of(k).put(k, f.now)
	f.firstPassed(p)
}

// firstPassed has later fragments pass as the first one did.
func (f *flows) firstPassed(p *packet.Info) {
	if p.First {
		f.other.put(fragmentsOf(p), f.now)
	}
}

// forth reports whether p is of a flow that its sender's side began.
func (f *flows) forth(p *packet.Info, b []byte) bool {
	switch p.Kind {
	case packet.Error: // about what came back
		q, ok := p.Quoted(b)
		return ok && q.Src == p.Dst && f.has(keyOf(&q).reversed())
	case packet.EchoReply, packet.Control:
		return false
	}
	if !f.has(keyOf(p)) {
		return false
	}
	f.firstPassed(p)
	return true
}

// back reports whether p is of a flow that the other side began.
func (f *flows) back(p *packet.Info, b []byte) bool {
	switch p.Kind {
	case packet.Error: // from p.Src or a router on the way, about what went there
		q, ok := p.Quoted(b)
		return ok && q.Src == p.Dst && f.has(keyOf(&q))
	case packet.EchoRequest, packet.Control:
		return false
	case packet.Fragment:
		return f.has(keyOf(p))
	}
	if !f.has(keyOf(p).reversed()) {
		return false
	}
	f.firstPassed(p)
	return true
}
