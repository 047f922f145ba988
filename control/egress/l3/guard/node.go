package guard

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"millrace/control/egress/l3"
	"millrace/control/egress/l3/packet"
	"millrace/control/egress/policy"
)

// A Node guards the node's end of a tunnel.
type Node struct {
	own     []netip.Addr
	outward []netip.Prefix
	policy  func() *policy.Policy

	mu    sync.Mutex
	flows flows          // by mu
	by    *policy.Policy // by mu: that flows began under
}

// NewNode returns the guard of a node whose end of the tunnel has the addresses
// own. Pods may begin flows to the prefixes outward. policy is asked for each batch:
// what a policy of before let through is judged anew.
func NewNode(own []netip.Addr, outward []netip.Prefix, policy func() *policy.Policy) *Node {
	return &Node{own: own, outward: outward, policy: policy, flows: newFlows()}
}

// begin locks the guard for a batch.
func (n *Node) begin() (end func()) {
	n.mu.Lock()
	if p := n.policy(); p != n.by {
		n.by = p
		n.flows.forget()
	}
	n.flows.begin(time.Now())
	return n.mu.Unlock
}

// Inward judges packets from operators.
func (n *Node) Inward(packets [][]byte, verdicts []l3.Verdict) {
	defer n.begin()()
	for i, b := range packets {
		verdicts[i] = n.inward(b)
	}
}

func (n *Node) inward(b []byte) l3.Verdict {
	p, ok := packet.Parse(b)
	switch {
	case !ok:
		return l3.Malformed
	case slices.Contains(n.own, p.Dst):
		return l3.Own
	case n.flows.forth(&p, b), n.flows.back(&p, b):
		return l3.Deliver
	case !begins(&p):
		return l3.Unsolicited
	case !n.allows(&p):
		return l3.Denied
	}
	n.flows.pass(&p)
	return l3.Deliver
}

// allows reports whether the policy lets p begin a flow.
func (n *Node) allows(p *packet.Info) bool {
	var class policy.Class
	var err error
	if p.Kind == packet.Ports {
		class, err = n.by.Judge(p.Dst, p.DstPort)
	} else {
		class, err = n.by.JudgeAll(p.Dst)
	}
	return err == nil && class.ByPort()
}

// Outward judges packets to operators.
func (n *Node) Outward(packets [][]byte, verdicts []l3.Verdict) {
	defer n.begin()()
	for i, b := range packets {
		verdicts[i] = n.leaving(b)
	}
}

func (n *Node) leaving(b []byte) l3.Verdict {
	p, ok := packet.Parse(b)
	switch {
	case !ok:
		return l3.Malformed
	case n.flows.back(&p, b), n.flows.forth(&p, b):
		return l3.Relay
	case begins(&p) && slices.ContainsFunc(n.outward, func(o netip.Prefix) bool { return o.Contains(p.Dst) }):
		n.flows.pass(&p)
		return l3.Relay
	}
	return l3.Unsolicited
}
