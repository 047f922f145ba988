package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"millrace/control/egress/netstack"
	"millrace/perf/pktgen"
)

// podCase is TCP between a pod on vhost-user and a port of type egress: both are what
// that port is, a TCP/IP stack that is the peer of a vhost-user port. OVS, which has no
// such ports, has the two on its vhost-user ports. Both of its ways to poll have a
// turn, see qemuCases.
func podCase() scenario {
	p := &podStacks{all: map[string][]*netstack.Stack{}}
	return scenario{
		Name: "egress-pod", About: "one connection from a pod on vhost-user to an egress port's stack, super-frames", Group: egressGroup, Bridge: true, poll: "adaptive", unit: "Gbit/s",
		Sizes: small(), Flows: 1, seconds: egressTurn, ceiling: noCeiling, turn: p.turn, done: p.close,
		config: map[string]string{"userspace-tso-enable": "true"},
		tunings: []tuning{
			{Name: "pmd-maxsleep 0", config: map[string]string{"pmd-maxsleep": "0"}},
			{Name: "pmd-maxsleep 500", config: map[string]string{"pmd-maxsleep": "500"}},
		},
		metrics: []metric{{Key: keyAgentCPU, Title: "processor time of the switch, s for each Gbit", Format: "%.3f"}},
	}
}

// podStacks are the stacks of both sides, which are made for their side's first turn.
type podStacks struct {
	all map[string][]*netstack.Stack // by the name of the side's first port
}

// podServes is where the first stack of a side sends all that a client takes.
var podServes = netip.MustParseAddrPort(address(0) + ":80")

// podWait is how long a switch may take to attach a pod.
const podWait = 20 * time.Second

func (p *podStacks) turn(ctx context.Context, s settings, _ scenario, who side, _ int) (sample, error) {
	stacks, err := p.attach(ctx, who.ports())
	if err != nil {
		return sample{}, fmt.Errorf("%w %s", err, who.explain(ctx))
	}
	ctx, cancel := context.WithTimeout(ctx, podWait)
	defer cancel()
	c, err := stacks[1].DialContext(ctx, "tcp", podServes.String())
	if err != nil {
		return sample{}, fmt.Errorf("from stack to stack: %w %s", err, who.explain(ctx))
	}
	defer c.Close() //nolint:errcheck // nothing is lost
	var moved atomic.Int64
	go takeAll(c, &moved)
	return rate(who.pid(), s.turn()/3, s.turn(), &moved)
}

// attach returns the two stacks of a side, and makes them if there are none.
func (p *podStacks) attach(ctx context.Context, ports []pktgen.Port) ([]*netstack.Stack, error) {
	name := ports[0].Name
	for i := len(p.all[name]); i < len(ports); i++ {
		st, err := startPod(ports[i].Path, i)
		if err != nil {
			return nil, err
		}
		p.all[name] = append(p.all[name], st)
	}
	for _, st := range p.all[name] {
		for end := time.Now().Add(podWait); !st.Up(); time.Sleep(10 * time.Millisecond) {
			if err := ctx.Err(); err != nil || time.Now().After(end) {
				return nil, errors.Join(err, fmt.Errorf("a pod is not attached after %v: %w", podWait, errNotReady))
			}
		}
	}
	return p.all[name], nil
}

// startPod is the stack of port i. The first one serves until it is closed.
func startPod(socket string, i int) (*netstack.Stack, error) {
	st, err := netstack.New(netstack.Config{
		Socket: socket, Listen: true, MAC: [6]byte(farMAC(i)), Addresses: []netip.Prefix{netip.MustParsePrefix(address(i) + "/24")},
	})
	if err != nil || i > 0 {
		return st, err
	}
	l, err := st.Listen(podServes)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { sendAll(c); _ = c.Close() }()
		}
	}()
	return st, nil
}

func (p *podStacks) close() {
	for _, stacks := range p.all {
		for _, st := range stacks {
			_ = st.Close()
		}
	}
	clear(p.all)
}
