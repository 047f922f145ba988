package pktgen

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"millrace/dataplane/sys"
)

// Protocols of a Talk.
const (
	ProtoTCP = 6
	ProtoUDP = 17
)

// A Talk is connections that clients at port 0 have with servers at port 1. The
// generator plays both ends: each frame is the answer to the one that came before,
// to the addresses that it came from. So a switch that translates addresses has to
// do it right both ways, or nobody hears the answer.
//
//	UDP:       request, answer
//	TCP:       SYN, SYN and ACK, ACK
//	TCP, End:  the same; then FIN and ACK by the client, by the server, and the last ACK
type Talk struct {
	Proto  uint8
	Client func(n uint32) Header // how client n begins; numbers are less than 2^29
	First  uint32                // number of the first client
	Count  uint32                // connections; 0: until Config.Duration is over
	End    bool                  // TCP: connections are closed again
	See    bool                  // Talked.Seen is wanted, with a Count

	Window   int           // connections under way, a power of two; default a quarter of the ring
	Patience time.Duration // until one that does not get on begins again or, if End or for the 20th time, is given up; default 500 ms
}

// Talked is what came of a Talk. Rates are of the time after warm-up.
type Talked struct {
	Connections uint64  `json:"connections"` // that came to their end
	Failed      uint64  `json:"failed"`      // given up
	Repeated    uint64  `json:"repeated"`    // begun again
	Wrong       uint64  `json:"wrong"`       // frames that are no answer, or have wrong addresses, ports or checksums
	Late        uint64  `json:"late"`        // frames of connections that had come to their end
	Sent        uint64  `json:"sent"`        // frames, both ends
	Received    uint64  `json:"received"`
	Seconds     float64 `json:"seconds"`
	PerSecond   float64 `json:"per_second"` // connections that came to their end

	Lost []uint32 `json:"lost,omitempty"` // numbers of the first clients that were given up
	Seen []Header `json:"-"`              // by number of the client without First: what the server has seen of it
}

// numbersMax is how many clients have numbers of their own.
const numbersMax = 1 << 29

func (t *Talk) fill(ring int) {
	if t.Window == 0 {
		t.Window = max(1, ring/4)
	}
	if t.Patience == 0 {
		t.Patience = 500 * time.Millisecond
	}
}

func (t *Talk) check(c *Config) error {
	switch {
	case len(c.Ports) != 2 || c.Ports[0].VLAN != 0 || c.Ports[1].VLAN != 0:
		return bad("a talk is between two ports without VLAN")
	case t.Proto != ProtoTCP && t.Proto != ProtoUDP:
		return bad("protocol %d, want TCP or UDP", t.Proto)
	case t.Client == nil:
		return bad("no clients")
	case t.End && t.Proto != ProtoTCP:
		return bad("only TCP has an end")
	case t.See && t.Count == 0:
		return bad("servers that see clients without number")
	case uint64(t.First)+uint64(t.Count) > numbersMax:
		return bad("%d clients from %d on, want numbers up to %d", t.Count, t.First, numbersMax)
	case t.Window < 1 || bits.OnesCount(uint(t.Window)) != 1 || 2*t.Window > int(c.RingSize):
		return bad("%d connections under way with rings of %d, want a power of two, up to half of them", t.Window, c.RingSize)
	}
	return nil
}

// Converse has the ports of cfg talk. Of cfg count Ports, RingSize, Huge, CPUs (one),
// PeerCPU, Connect, Duration and Warmup; both ports send.
func Converse(ctx context.Context, cfg Config, t Talk) (*Talked, error) {
	return converse(ctx, cfg, t, nil)
}

func converse(ctx context.Context, cfg Config, t Talk, tune func(*forwarder)) (*Talked, error) {
	cfg.Direction, cfg.Mode, cfg.Sizes = Bidi, Fast, []Share{{segmentBytes, 1}}
	g := &generator{cfg: cfg.withDefaults()}
	t.fill(int(g.cfg.RingSize))
	if err := errors.Join(g.cfg.check(), t.check(&g.cfg)); err != nil {
		return nil, err
	}
	r, err := g.converse(ctx, t, tune)
	if err != nil {
		err = fmt.Errorf("pktgen: %w", err)
	}
	return r, errors.Join(err, g.close())
}

func (g *generator) converse(ctx context.Context, t Talk, tune func(*forwarder)) (*Talked, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	if err := g.connect(ctx, tune); err != nil {
		return nil, err
	}
	if err := g.announce(); err != nil {
		return nil, err
	}
	k := newTalker(&t, g)
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread's affinity dies with it
		err := sys.Pin(g.cfg.CPUs[0])
		if err == nil {
			err = k.run(ctx)
		}
		ended <- err
	}()
	err := <-ended
	return &k.result, err
}
