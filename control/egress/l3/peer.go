package l3

import (
	"cmp"
	"context"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/device"

	"millrace/control/egress/l3/packet"
)

// When a peer with a probe is asked, and shaken hands with.
const (
	probeEvery = time.Second
	silence    = 3 * time.Second // after which something is wrong
	healEvery  = 2 * time.Second
	lookupTime = 2 * time.Second
)

// A peer is what a Tunnel knows of one. All is by Tunnel.mu.
type peer struct {
	Peer
	owner          int       // key that has the addresses
	up             bool      // as was told last
	endpoint       string    // where it was heard last
	handshake      time.Time // the last one
	seen           time.Time // when something came from it last
	sent, received uint64    // bytes, of all its keys

	echo     uint16 // identifier of our echoes
	seq      uint16 // of the last one
	asked    [16]time.Time
	answered time.Time // when the last answer came
	rtt      time.Duration
	healed   time.Time // when hands were shaken last
	heals    int
	healing  bool
}

func newPeer(p Peer) *peer {
	return &peer{Peer: p, echo: uint16(rand.Uint32())}
}

// become takes up a changed setup.
func (p *peer) become(q Peer) {
	if p.owner >= len(q.Keys) || p.owner >= len(p.Keys) || p.Keys[p.owner] != q.Keys[p.owner] {
		p.owner = 0
	}
	p.Peer = q
}

// look takes what WireGuard knows of the peer, and reports whether another key of
// its has come into use.
func (p *peer) look(all map[Key]session, now time.Time) (moved bool) {
	var sent, received uint64
	latest := p.owner
	for i, k := range p.Keys {
		s := all[k]
		sent, received = sent+s.sent, received+s.received
		if s.handshake.After(all[p.Keys[latest]].handshake) {
			latest = i
		}
	}
	if received != p.received {
		p.seen = now
	}
	p.sent, p.received = sent, received
	moved, p.owner = latest != p.owner, latest
	p.handshake, p.endpoint = all[p.Keys[latest]].handshake, all[p.Keys[latest]].endpoint
	return moved
}

// isUp reports whether the peer has been heard of lately.
func (p *peer) isUp(now time.Time) bool {
	last := p.seen
	if p.Probe.IsValid() {
		last = p.answered
	}
	return !p.handshake.IsZero() && !last.IsZero() && now.Sub(last) < p.Patience
}

// probe asks a peer for a sign of life when it is time, and shakes hands anew when
// none has come. The caller holds mu.
func (t *Tunnel) probe(p *peer, now time.Time) {
	for _, own := range t.cfg.Own {
		if own.Is4() == p.Probe.Is4() && now.Sub(p.asked[p.seq%uint16(len(p.asked))]) > probeEvery-tick/2 {
			p.seq++
			p.asked[p.seq%uint16(len(p.asked))] = now
			t.hub.answer(packet.Echo(own, p.Probe, p.echo, p.seq))
			break
		}
	}
	if p.Endpoint == "" || p.healing || now.Sub(p.seen) < silence || now.Sub(p.healed) < healEvery-tick/2 {
		return
	}
	p.healing, p.healed = true, now
	p.heals++
	go t.heal(p, p.Endpoint, p.heals)
}

// An echo is an answer to a probe.
type echo struct {
	from    netip.Addr
	id, seq uint16
	at      time.Time
}

// echoed keeps an answer for the next look. WireGuard may wait for its caller while
// mu is held, so it takes no lock.
func (t *Tunnel) echoed(p *packet.Info, seq uint16) {
	select {
	case t.echoes <- echo{p.Src, p.Echo, seq, time.Now()}:
	default: // more come than can be honest
	}
}

// hear takes the answers that have come. The caller holds mu.
func (t *Tunnel) hear() {
	for {
		select {
		case e := <-t.echoes:
			for _, p := range t.peers {
				if p.Probe == e.from && p.echo == e.id && p.seq-e.seq < uint16(len(p.asked)) {
					p.answered, p.rtt = e.at, e.at.Sub(p.asked[e.seq%uint16(len(p.asked))])
				}
			}
		default:
			return
		}
	}
}

// heal shakes hands with a peer at its endpoint, which is looked up anew: the
// n-th time at the n-th of its addresses.
func (t *Tunnel) heal(p *peer, endpoint string, n int) {
	address, err := t.resolve(endpoint, n)
	t.mu.Lock()
	defer t.mu.Unlock()
	p.healing = false
	if t.peers[p.Name] != p {
		return // it is forgotten
	}
	if err != nil {
		t.cfg.Log.Warn("peer's address is not known", zap.String("peer", p.Name), zap.String("endpoint", endpoint), zap.Error(err))
		return
	}
	for _, k := range p.Keys {
		var r request
		r.set("public_key", hex.EncodeToString(k[:]))
		r.set("update_only", true)
		r.set("endpoint", address)
		if err := t.dev.IpcSet(r.String()); err != nil {
			t.cfg.Log.Warn("peer's address is not taken", zap.String("peer", p.Name), zap.Stringer("address", address), zap.Error(err))
			return
		}
		if w := t.dev.LookupPeer(device.NoisePublicKey(k)); w != nil {
			w.ExpireCurrentKeypairs()            // or WireGuard finds that 5 s must pass
			_ = w.SendHandshakeInitiation(false) // it may be without a network: the next time then
		}
	}
}

// resolve returns the n-th address of HOST:PORT.
func (t *Tunnel) resolve(endpoint string, n int) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(endpoint); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
	}
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.LookupPort("udp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	addrs, err := cmp.Or(t.cfg.Resolver, net.DefaultResolver).LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[n%len(addrs)].Unmap(), uint16(port)), nil
}
