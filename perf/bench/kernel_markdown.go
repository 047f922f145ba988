package main

import (
	"fmt"
	"strings"
)

const kernelProcedure = "One worker of millrace, one poll-mode thread of OVS, on the same core. Both sides take turns on devices of their own that are made " +
	"alike, the waiting side stopped. Medians; the ratio is the median of the pairs' ratios.\n\n" +
	"- afxdp: the host's ends of two veths. At the other ends an XDP program sends as many frames as the device's queue takes (live frames of `BPF_PROG_RUN`, on " +
	"the other core), and one counts and drops what comes, so that nothing but the switch is short of time. Either switch has its best mode: native, copying, need-wakeup. " +
	"What the far end of the second veth does with a frame runs in the switch's system call, on both sides.\n" +
	"- tap: TCP of iperf3 between two network namespaces; both cores for all, the switch's thread on one. Congestion control is cubic. OVS's TAP ports are its main thread's. " +
	"OVS cuts super-frames in the kernel unless `userspace-tso-enable` is set, which its manual calls experimental: both are measured. Linux's bridge with veths is what " +
	"a kernel does that moves no frame to another process.\n" +
	"- qemu: iperf3 in two guests. The processors of guests are emulated where the machine has no KVM: then they take most of the time.\n" +
	"- geneve: a vhost-user port and Geneve (key, no checksum) over AF_XDP on a veth. The veth's far end sends each frame back, addresses turned round, by XDP, so one core puts " +
	"it into outer headers and takes it out of them. geneve-loop: the uplink is a vhost-user port of the generator, which sends plain frames into one port and frames in outer " +
	"headers into the other, both at once; a frame of either is a packet.\n\n"

// kernelMarkdown is the page of ports to the kernel.
func kernelMarkdown(done []outcome) string {
	var b strings.Builder
	b.WriteString("# Ports to the kernel: millrace beside others\n\n")
	b.WriteString(kernelProcedure)
	writeBeside(&b, done)
	for _, o := range done {
		writeMetrics(&b, o)
	}
	writeTriedRates(&b, done)
	writeBesideTurns(&b, kernelGroup, done, done)
	return b.String()
}

// writeBeside tells of cases whose result is a rate.
func writeBeside(b *strings.Builder, rates []outcome) {
	b.WriteString("| case | | beside | unit | millrace | other | ratio | pairs |\n|---|---|---|---|---|---|---|---|\n")
	for _, o := range rates {
		s := o.summary()
		fmt.Fprintf(b, "| %s | %s | %s | %s | %.2f | %.2f | **%.2f** | %d |\n", s.Case, o.Case.About, o.Case.rivalName(), o.Case.rates(), s.OursMpps, s.PeerMpps, s.Ratio, s.Pairs)
	}
	b.WriteString("\n")
}

// writeBesideTurns tells how the cases of a group were measured, and all rates.
func writeBesideTurns(b *strings.Builder, group string, done, rates []outcome) {
	for _, o := range done {
		fmt.Fprintf(b, "- %s: turns of %.0f s; %s; %s; %s; %s\n", o.Case.Name, o.Seconds, o.Date, o.Machine, o.OursName, o.PeerName)
	}
	fmt.Fprintf(b, "\nMade by `make bench CASE=%s`.\n\n## Every turn\n\n| case | turn | millrace | other | ratio |\n|---|---|---|---|---|\n", group)
	for _, o := range rates {
		for i := range o.Ours {
			fmt.Fprintf(b, "| %s | %d | %.2f | %.2f | %.2f |\n", o.Case.Name, i+1, o.Ours[i].Mpps, o.Peer[i].Mpps, over(o.Ours[i].Mpps, o.Peer[i].Mpps))
		}
	}
}

// writeTriedRates tells how each way to configure OVS did.
func writeTriedRates(b *strings.Builder, done []outcome) {
	for _, o := range done {
		for _, t := range o.Tried {
			fmt.Fprintf(b, "- %s, OVS with %s: %.2f %s in one turn\n", o.Case.Name, t.Tuning, t.Mpps, o.Case.rates())
		}
	}
}
