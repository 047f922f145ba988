package cni

import (
	"millrace/control/cni/attach"
)

// rateConf is how much a pod may send and receive, in bits a second, and bursts in bits, as
// the bandwidth plugin has it: ingress is what the pod receives.
type rateConf struct {
	IngressRate  int64 `json:"ingressRate"`
	IngressBurst int64 `json:"ingressBurst"`
	EgressRate   int64 `json:"egressRate"`
	EgressBurst  int64 `json:"egressBurst"`
}

// Bounds of rates, in bits a second, and of bursts in bits. Within a node TCP has few frames
// under way, loses all of them when there are no more tokens, and sends again after 200 ms
// (RFC 6298 says more, Linux does less): a burst of a quarter of a second has it come near the rate.
const (
	rateMin  = 1000
	rateMax  = 1e12
	burstMax = 8 * (1<<32 - 1) // what runtimes give where nobody says another: CRI-O this, containerd an eighth

	burstShare = 4
	burstLeast = 1 << 19 // 64 KiB: a super-frame
	burstMost  = 1 << 29 // 64 MiB
)

// checkLimits reads how much the pod may send and receive, and as whom it may send. What the
// runtime says of rates comes before what the network does.
func (c *call) checkLimits(at *attach.Attachment) (err error) {
	rates, where := c.rateConf, ""
	if c.Runtime != nil && c.Runtime.Bandwidth != nil {
		rates, where = *c.Runtime.Bandwidth, "runtimeConfig.bandwidth."
		rates.IngressRate, rates.EgressRate = min(rates.IngressRate, rateMax), min(rates.EgressRate, rateMax) // kubelet takes annotations up to 10^15
	}
	if at.Receive, err = rate(where+"ingress", rates.IngressRate, rates.IngressBurst); err != nil {
		return err
	}
	if at.Send, err = rate(where+"egress", rates.EgressRate, rates.EgressBurst); err != nil {
		return err
	}
	switch text := string(c.PortSecurity); text {
	case "", "null", "false":
	case "true":
		at.Security = attach.SecureAddresses
	case `"mac"`:
		at.Security = attach.SecureMAC
	default:
		return invalid("portSecurity", "%.40s is neither true (address of the interface, and those of the IPAM plugin) nor \"mac\"", text)
	}
	return nil
}

// rate is a rate with its burst, or nil if there is none.
func rate(key string, bits, burst int64) (*attach.Rate, error) {
	switch {
	case bits == 0 && burst == 0:
		return nil, nil
	case bits < rateMin || bits > rateMax:
		return nil, invalid(key+"Rate", "%d is not in %d..%.0f bits a second", bits, rateMin, rateMax)
	case burst < 0 || burst > burstMax:
		return nil, invalid(key+"Burst", "%d is not in 0..%d bits", burst, int64(burstMax))
	case burst == 0:
		burst = min(max(bits/burstShare, burstLeast), burstMost)
	}
	return &attach.Rate{Bits: bits, Burst: burst}, nil
}
