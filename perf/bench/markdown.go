package main

import (
	"fmt"
	"strings"
)

// markdown is the page of a group for docs/results.
func markdown(group string, done []outcome) string {
	switch group {
	case kernelGroup:
		return kernelMarkdown(done)
	case egressGroup:
		return egressMarkdown(done)
	}
	var b strings.Builder
	title := map[string]string{vhostGroup: "millrace and OVS-DPDK, side by side", flowsGroup: "The flow table: millrace and OVS-DPDK, side by side",
		connectGroup: "Connection tracking: millrace and OVS-DPDK, side by side"}[group]
	fmt.Fprintf(&b, "# %s\n\n", title)
	b.WriteString(procedure(done[0]))
	switch group {
	case flowsGroup:
		b.WriteString(flowsProcedure)
	case connectGroup:
		b.WriteString(connectProcedure)
	}
	rates, special := split(done)
	if rates != nil {
		writeRates(&b, rates)
	}
	fmt.Fprintf(&b, "\n![throughput and cycles](%s.svg)\n\n", group)
	for _, o := range special {
		writeMetrics(&b, o)
	}
	writeTried(&b, done)
	for _, o := range done {
		fmt.Fprintf(&b, "- %s: %s; %s; %s; %s", o.Case.Name, o.Date, o.Machine, o.OursName, o.PeerName)
		if o.Ring != done[0].Ring {
			fmt.Fprintf(&b, "; rings of %d", o.Ring)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\nMade by `make bench CASE=%s`.\n", group)
	writeTurns(&b, rates)
	return b.String()
}

// procedure says how it was measured.
func procedure(o outcome) string {
	return fmt.Sprintf("One core for the switch, one for the generator, which is the same for both: a vhost-user front-end with memory of huge pages "+
		"and rings of %d. Both sides take turns of %.0f s, the waiting side stopped. Medians; the ratio is the median of the pairs' ratios. Cycles are TSC "+
		"cycles per packet in turns of the poll loop that carried packets (OVS: `pmd-stats-show`). The ceiling is the generator against a forwarder "+
		"that only copies.\n\n", o.Ring, o.Seconds)
}

const flowsProcedure = "Both sides have the same rules, made from a seed in both languages (`perf/ruleset`), and match addresses and ports of the frames, so " +
	"that no shortcut by input port applies. Flows come in an order that has none. Each way that OVS's guide offers to use its caches has a turn before the " +
	"pairs; the best takes part in them. Its AVX512 implementations are on where the build has them.\n\n"

const connectProcedure = "Both sides have the same rules, made in both languages (`perf/ruleset`), and the same zones; OVS-DPDK may have 8,000,000 connections " +
	"and does not check TCP's sequence numbers, as millrace does not by default. Before each turn the generator has every client of UDP ask and every server answer, " +
	"each frame the answer to the one that came before; answers come through by a rule for established connections only. Then clients send as much as the " +
	"switch takes, in an order that has none; nearly all frames must arrive, and all connections must be there at the end, or there is no result. ct-new is " +
	"TCP: SYN, SYN and ACK, ACK, FIN and ACK by either end, last ACK; each end answers to what it has heard, to the addresses that it came from, and checks " +
	"addresses, ports, checksums and sequence numbers. No two connections of a turn are the same; tables are emptied before each. There, rates, cycles and " +
	"the ceiling are of connections, not of packets.\n\n"

// split parts cases whose point is packets a second from those whose is not. A
// case with metrics may be in both.
func split(done []outcome) (rates, special []outcome) {
	for _, o := range done {
		if !o.Case.bare {
			rates = append(rates, o)
		}
		if o.Case.metrics != nil {
			special = append(special, o)
		}
	}
	return rates, special
}

func writeRates(b *strings.Builder, done []outcome) {
	b.WriteString("| case | | millrace Mpps | OVS-DPDK Mpps | ratio | millrace cycles | OVS-DPDK cycles | ceiling Mpps | pairs |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, o := range done {
		s := o.summary()
		fmt.Fprintf(b, "| %s | %s | %.2f | %.2f | **%.2f** | %.1f | %.1f | %.2f | %d |\n", s.Case, o.Case.About, s.OursMpps, s.PeerMpps, s.Ratio, s.OursCycles, s.PeerCycles, s.Ceiling, s.Pairs)
	}
}

// writeMetrics is the table of one case: medians of its turns.
func writeMetrics(b *strings.Builder, o outcome) {
	s := o.summary()
	fmt.Fprintf(b, "## %s: %s\n\n| median of %d turns | millrace | %s |\n|---|---|---|\n", o.Case.Name, o.Case.About, len(o.Ours), o.Case.rivalName())
	for _, m := range o.Case.metrics {
		fmt.Fprintf(b, "| %s | %s | %s |\n", m.Title, m.of(s.Ours), m.of(s.Peer))
	}
	b.WriteString("\n")
}

// writeTried tells how each way to configure OVS did.
func writeTried(b *strings.Builder, done []outcome) {
	head := "## Ways to configure OVS-DPDK\n\nOne turn each, before the pairs.\n\n| case | way | Mpps |\n|---|---|---|\n"
	for _, o := range done {
		for _, t := range o.Tried {
			fmt.Fprintf(b, "%s| %s | %s | %.3f |\n", head, o.Case.Name, t.Tuning, t.Mpps)
			head = ""
		}
	}
	if head == "" {
		b.WriteString("\n")
	}
}

func writeTurns(b *strings.Builder, done []outcome) {
	b.WriteString("\n## Every turn\n\n| case | turn | millrace Mpps | OVS-DPDK Mpps | ratio |\n|---|---|---|---|---|\n")
	for _, o := range done {
		for i := range o.Ours {
			fmt.Fprintf(b, "| %s | %d | %.2f | %.2f | %.2f |\n", o.Case.Name, i+1, o.Ours[i].Mpps, o.Peer[i].Mpps, over(o.Ours[i].Mpps, o.Peer[i].Mpps))
		}
	}
}
