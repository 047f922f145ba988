package l3

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// tick is how often a Tunnel looks after its peers and setup.
const tick = 500 * time.Millisecond

// A Tunnel is an end that runs.
type Tunnel struct {
	cfg     Config
	hub     *hub
	bind    *bind
	refused refused
	dev     *device.Device
	echoes  chan echo

	mu      sync.Mutex
	setup   Setup            // by mu
	trouble string           // by mu: why the last Load was not taken up
	peers   map[string]*peer // by mu; by name
}

// New opens an end. It serves until Run ends, and must be run.
func New(cfg Config) (*Tunnel, error) {
	t := &Tunnel{cfg: cfg, bind: &bind{Bind: conn.NewStdNetBind()}, peers: map[string]*peer{}, echoes: make(chan echo, 64)}
	setup, err := cfg.Load()
	if err != nil {
		return nil, err
	}
	t.hub = newHub(&t.cfg)
	t.hub.echo = t.echoed
	t.dev = device.NewDevice(t.hub, t.bind, t.refused.logger(cfg.Log))
	if err := t.start(setup); err != nil {
		t.dev.Close()
		return nil, err
	}
	if cfg.Inner != nil {
		go t.hub.pump()
	}
	return t, nil
}

func (t *Tunnel) start(setup Setup) error {
	var r request
	r.set("listen_port", t.cfg.Port)
	if err := t.dev.IpcSet(r.String()); err != nil {
		return fmt.Errorf("set up WireGuard: %w", err)
	}
	if err := t.take(setup); err != nil {
		return err
	}
	if err := t.dev.Up(); err != nil {
		return fmt.Errorf("listen at UDP port %d: %w", t.cfg.Port, err)
	}
	return nil
}

// Run looks after peers until ctx ends, and closes the tunnel then.
func (t *Tunnel) Run(ctx context.Context) {
	clock := time.NewTicker(tick)
	defer clock.Stop()
	defer t.dev.Close()
	for {
		t.look(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
			t.reload()
		}
	}
}

// reload takes up a setup that has changed. One that is wrong changes nothing,
// and is told of once.
func (t *Tunnel) reload() {
	setup, err := t.cfg.Load()
	if err == nil {
		err = t.take(setup)
	}
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case trouble == t.trouble:
		return
	case err != nil:
		t.cfg.Log.Error("the setup cannot be read anew; the one of before stays", zap.Error(err))
	default:
		t.cfg.Log.Info("the setup can be read again")
	}
	t.trouble = trouble
}

// take makes setup that of the tunnel.
func (t *Tunnel) take(setup Setup) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	samePeers := slices.EqualFunc(setup.Peers, t.setup.Peers, Peer.same)
	if samePeers && setup.PrivateKey == t.setup.PrivateKey {
		return nil
	}
	if err := setup.Check(); err != nil {
		return err
	}
	if t.cfg.Use != nil && !samePeers {
		if err := t.cfg.Use(setup.Peers); err != nil {
			return err
		}
	}
	var r request
	if setup.PrivateKey != t.setup.PrivateKey {
		r.key("private_key", setup.PrivateKey)
		t.cfg.Log.Info("private key is taken up", zap.Stringer("public", setup.PrivateKey.Public()))
	}
	t.replace(&r, setup.Peers)
	if err := t.dev.IpcSet(r.String()); err != nil {
		return fmt.Errorf("set up WireGuard: %w", err)
	}
	t.setup = setup
	return nil
}

// replace has WireGuard forget what is not among peers, and learn what is. The
// caller holds mu.
func (t *Tunnel) replace(r *request, peers []Peer) {
	wanted := map[Key]bool{}
	for _, p := range peers {
		for _, k := range p.Keys {
			wanted[k] = true
		}
	}
	for _, old := range t.setup.Peers {
		for _, k := range old.Keys {
			if !wanted[k] {
				r.remove(k)
			}
		}
	}
	before := t.peers
	t.peers = map[string]*peer{}
	for _, p := range peers {
		now := before[p.Name]
		if now == nil {
			now = newPeer(p)
			t.cfg.Log.Info("peer is known", zap.String("peer", p.Name), zap.Stringer("key", p.Keys[0]), zap.Stringers("prefixes", p.Prefixes))
		}
		now.become(p)
		t.peers[p.Name] = now
		r.peer(p, now.owner)
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if t.peers[name] == nil {
			t.cfg.Log.Info("peer is forgotten", zap.String("peer", name))
		}
	}
}

// look sees what has become of peers.
func (t *Tunnel) look(now time.Time) {
	all, err := sessions(t.dev)
	if err != nil {
		t.cfg.Log.Error("peers cannot be looked after", zap.Error(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hear()
	for _, p := range t.peers {
		if p.look(all, now) {
			t.move(p)
		}
		if up := p.isUp(now); up != p.up {
			p.up = up
			t.tell(p)
		}
		if p.Probe.IsValid() {
			t.probe(p, now)
		}
	}
	t.hub.absent.set(t.peers)
}

// move gives a peer's addresses to the key that it uses now.
func (t *Tunnel) move(p *peer) {
	var r request
	r.peer(p.Peer, p.owner)
	if err := t.dev.IpcSet(r.String()); err != nil {
		t.cfg.Log.Error("peer's addresses cannot be moved to another key", zap.String("peer", p.Name), zap.Error(err))
		return
	}
	t.cfg.Log.Info("peer uses another key", zap.String("peer", p.Name), zap.Stringer("key", p.Keys[p.owner]))
}

func (t *Tunnel) tell(p *peer) {
	if p.up {
		t.cfg.Log.Info("peer is here", zap.String("peer", p.Name), zap.String("endpoint", p.endpoint))
		return
	}
	t.cfg.Log.Warn("peer is gone", zap.String("peer", p.Name), zap.String("endpoint", p.endpoint))
}
