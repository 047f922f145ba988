package main

import (
	"fmt"
	"strings"
)

const egressProcedure = "A control plane and a node in network namespaces, a veth between them. Our agent and the stock one (`proxy-agent`) have a real `proxy-server` each, built " +
	"from its public source, with mutual TLS, and HTTP CONNECT on a Unix socket in front; clients and targets are the same for both. OpenVPN carries packets between the two " +
	"namespaces; the client dials the target's address in the tunnel; each way to carry packets that it offers has a turn, and the best takes part in the pairs. Both sides take " +
	"turns, the waiting side stopped. Medians; the ratio is the median of the pairs' ratios. All programs, clients and targets share the machine's cores.\n\n" +
	"The far link is made in user space (the kernel needs no netem for it): each packet of 1,500 bytes or less is held back, or lost, each way alike.\n\n" +
	"egress-pod is of the port only: TCP/IP stacks in the generator's process are a pod on vhost-user and the port's end, and either switch is between them.\n\n"

// egressMarkdown is the page of tunnels.
func egressMarkdown(done []outcome) string {
	var b strings.Builder
	b.WriteString("# Tunnels: millrace beside the stock agent and OpenVPN\n\n")
	b.WriteString(egressProcedure)
	rates, special := split(done)
	writeBeside(&b, rates)
	fmt.Fprintf(&b, "\n![rates over those of the rival](%s.svg)\n\n", egressGroup)
	for _, o := range special {
		writeMetrics(&b, o)
	}
	for _, o := range done {
		for _, t := range o.Tried {
			fmt.Fprintf(&b, "- %s, %s with %s: %.2f %s in one turn\n", o.Case.Name, o.Case.rivalName(), t.Tuning, t.Mpps, o.Case.rates())
		}
	}
	writeBesideTurns(&b, egressGroup, done, rates)
	return b.String()
}
