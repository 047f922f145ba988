package main

import (
	"fmt"
	"os"
	"strings"
)

// The marks between which a README has the results of the flow table.
const (
	readmeBegin = "<!-- results of the flow table: go run ./perf/bench -readme README.md -->\n"
	readmeEnd   = "<!-- end of results -->\n"
)

// writeReadme puts the results of the flow table in dir between the marks of a
// README.
func writeReadme(path, dir string) error {
	done, err := readResults(dir, flowsGroup)
	if err != nil {
		return err
	}
	if len(done) == 0 {
		return fmt.Errorf("no results in %s: make bench CASE=flows", dir)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begun := strings.Cut(string(old), readmeBegin)
	_, after, ended := strings.Cut(rest, readmeEnd)
	if !begun || !ended {
		return fmt.Errorf("%s has no place for the results: want lines %q and %q", path, strings.TrimSpace(readmeBegin), strings.TrimSpace(readmeEnd))
	}
	return os.WriteFile(path, []byte(before+readmeBegin+readmeSection(done)+readmeEnd+after), 0o644)
}

// readmeSection is the results in short.
func readmeSection(done []outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The flow table, the same way, OVS-DPDK with the better of its caches (%s; [every turn, and how](docs/results/flows.md)):\n\n", done[0].Date)
	rates, special := split(done)
	b.WriteString("| case | millrace Mpps | OVS-DPDK Mpps | ratio | millrace cycles/packet | OVS-DPDK cycles/packet | generator's ceiling |\n|---|---|---|---|---|---|---|\n")
	for _, o := range rates {
		s := o.summary()
		fmt.Fprintf(&b, "| %s | %s | %s | **%.1f** | %.0f | %.0f | %.1f |\n", o.Case.About, short(s.OursMpps), short(s.PeerMpps), s.Ratio, s.OursCycles, s.PeerCycles, s.Ceiling)
	}
	b.WriteString("\n| what | millrace | OVS-DPDK |\n|---|---|---|\n")
	for _, o := range special {
		s := o.summary()
		for _, m := range o.Case.metrics {
			if m.readme {
				fmt.Fprintf(&b, "| %s: %s | %s | %s |\n", o.Case.About, m.Title, m.of(s.Ours), m.of(s.Peer))
			}
		}
	}
	b.WriteString("\n![throughput and cycles per packet](docs/results/flows.svg)\n\n")
	return b.String()
}
