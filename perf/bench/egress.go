package main

import (
	"errors"
	"fmt"
	"time"
)

// Keys of values of cases with tunnels.
const (
	keyP50       = "p50_ms"
	keyP99       = "p99_ms"
	keyCalm      = "calm_p99_ms"
	keyAnswered  = "answered"
	keyAgentCPU  = "agent_cpu_s_per_gbit"
	keyArrived   = "arrived_mib"
	keyUsable    = "usable_s"
	keyExchanges = "exchanges"
	keyNodeCPU   = "node_cpu_us"
	keyOtherCPU  = "other_cpu_us"
)

// What the far link does.
const (
	farDelay = 25 * time.Millisecond // each way
	farLoss  = 0.005                 // share of packets, each way
	farMTU   = 1500
)

// Lengths of turns, in seconds. All cases together take less than twelve minutes.
const (
	egressTurn  = 2
	openVPNTurn = 1
)

// egressCases are tunnels from a node out to its control plane: our agent and the
// stock one, each behind a real proxy-server with HTTP CONNECT in front of it, and
// OpenVPN. The control plane's client is the same.
func egressCases() []scenario {
	rate := []metric{{Key: keyAgentCPU, Title: "processor time of the node's program, s for each Gbit", Format: "%.3f"}}
	times := []metric{{Key: keyP50, Title: "median, ms", Format: "%.2f"}, {Key: keyP99, Title: "99 of 100, ms", Format: "%.2f", readme: true},
		{Key: keyNodeCPU, Title: "processor time of the node's program, us each", Format: "%.0f"},
		{Key: keyOtherCPU, Title: "processor time of the control plane's program, us each", Format: "%.0f"}}
	probes := []metric{
		{Key: keyAnswered, Title: "share of probes answered", Format: "%.3f", readme: true},
		{Key: keyP99, Title: "99 of 100 probes, ms", Format: "%.1f", readme: true},
		{Key: keyCalm, Title: "the same while nobody stalls, ms", Format: "%.1f"},
	}
	cases := []scenario{
		{Name: "egress-down", About: "one connection, from the target to the client", turn: turnFlows(1, false), metrics: rate},
		{Name: "egress-up", About: "one connection, from the client to the target", turn: turnFlows(1, true), metrics: rate},
		{Name: "egress-rr", About: "16 connections, a KiB there and back, again and again", unit: "thousand/s", turn: turnExchanges, metrics: times},
		{Name: "egress-new", About: "64 at a time: a new connection, a KiB there and back", unit: "thousand/s", turn: turnNewConnections, metrics: times},
		{Name: "egress-stall-client", About: "probes (a new connection, a KiB there and back) while a client does not read", bare: true, turn: turnStall(stallClient), metrics: probes},
		{Name: "egress-stall-target", About: "the same while a target does not read", bare: true, turn: turnStall(stallTarget), metrics: probes},
		{Name: "egress-far", About: fmt.Sprintf("8 connections to the client, %v round trip, %.1f %% of packets lost each way", 2*farDelay, 100*farLoss), far: true, turn: turnFlows(8, false), metrics: rate},
		{Name: "egress-close", About: "a client writes 8 MiB and closes; the target reads slowly", bare: true, turn: turnClose, metrics: []metric{{Key: keyArrived, Title: "MiB that arrive", Format: "%.2f", readme: true}}},
		{Name: "egress-outage", About: "the link is out for 45 s", bare: true, once: true, turn: turnOutage, metrics: []metric{{Key: keyUsable, Title: "s after its return until a request is answered; 30: it was not", Format: "%.1f", worst: true, readme: true}}},
	}
	for _, c := range cases {
		if c.bare || c.Name == "egress-new" {
			continue
		}
		c.Name, c.About, c.rival, c.peer, c.tunings = c.Name+"-openvpn", c.About+", against OpenVPN", startOpenVPN, "OpenVPN", openVPNTunings()
		cases = append(cases, c)
	}
	for i := range cases {
		c := &cases[i]
		c.seconds = egressTurn
		if c.rival != nil {
			c.seconds = openVPNTurn
		}
		c.Group, c.Flows, c.Sizes, c.ceiling, c.ours = egressGroup, 1, small(), noCeiling, startOurAgent
		c.plug = &plug{prepare: func() (func(), error) { return func() {}, nil }}
		if c.rival == nil {
			c.rival, c.peer = startStockAgent, "stock agent"
		}
		if c.unit == "" {
			c.unit = "Gbit/s"
		}
	}
	return append(cases, podCase())
}

// The programs of sigs.k8s.io/apiserver-network-proxy, which cannot be required:
// whoever wants these cases builds them.
const (
	stockServerEnv = "KONN_PROXY_SERVER"
	stockAgentEnv  = "KONN_PROXY_AGENT"
)

var errNoStock = fmt.Errorf("%w a built proxy-server and proxy-agent, their paths in %s and %s: "+
	"from github.com/kubernetes-sigs/apiserver-network-proxy by CGO_ENABLED=0 go build -mod=vendor ./cmd/server ./cmd/agent", errAbsent, stockServerEnv, stockAgentEnv)

// errAbsent is the error of a case whose rival is not on this machine.
var errAbsent = errors.New("needs")
