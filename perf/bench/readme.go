package main

import (
	"fmt"
	"os"
	"strings"
)

// The marks between which a README has the results of forwarding, of the flow table,
// of connection tracking, and of tunnels out of a node.
const (
	forwardBegin = "<!-- results of forwarding: go run ./perf/bench -readme README.md -->\n"
	readmeBegin  = "<!-- results of the flow table: go run ./perf/bench -readme README.md -->\n"
	connectBegin = "<!-- results of connection tracking: go run ./perf/bench -readme README.md -->\n"
	egressBegin  = "<!-- results of egress: go run ./perf/bench -readme README.md -->\n"
	readmeEnd    = "<!-- end of results -->\n"
)

// A readmePart is a part of the README with the results of a group.
type readmePart struct{ group, begin, title, picture string }

var readmeParts = []readmePart{
	{vhostGroup, forwardBegin, "Forwarding", "throughput and cycles per packet"},
	{flowsGroup, readmeBegin, "The flow table, the same way, OVS-DPDK with the better of its caches", "throughput and cycles per packet"},
	{connectGroup, connectBegin, "Connection tracking, the same way, OVS-DPDK with the better of its caches", "throughput and cycles per packet"},
	{egressGroup, egressBegin, "Tunnels out of a node, beside konnectivity's stock agent and OpenVPN, each behind its own server; median rates", "rates over those of the rival"},
}

// writeReadme puts the results in dir between the marks of a README: of each group
// that there are some of.
func writeReadme(path, dir string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, found := string(b), false
	for _, p := range readmeParts {
		done, err := readResults(dir, p.group)
		if err != nil {
			return err
		}
		if len(done) == 0 {
			continue
		}
		found = true
		if text, err = p.put(text, path, done); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no results in %s: make bench CASE=flows", dir)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// put puts the results of p into a README.
func (p readmePart) put(text, path string, done []outcome) (string, error) {
	before, rest, begun := strings.Cut(text, p.begin)
	_, after, ended := strings.Cut(rest, readmeEnd)
	if !begun || !ended {
		return "", fmt.Errorf("%s has no place for the results: want lines %q and %q", path, strings.TrimSpace(p.begin), strings.TrimSpace(readmeEnd))
	}
	return before + p.begin + p.section(done) + readmeEnd + after, nil
}

// section is the results in short.
func (p readmePart) section(done []outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s; [every turn, and how](docs/results/%s.md)):\n\n", p.title, done[0].Date, p.group)
	rates, special := split(done)
	p.rates(&b, rates)
	p.others(&b, special)
	fmt.Fprintf(&b, "\n![%s](docs/results/%s.svg)\n\n", p.picture, p.group)
	return b.String()
}

// rates is the table of cases that have a rate.
func (p readmePart) rates(b *strings.Builder, rates []outcome) {
	if p.group == egressGroup {
		writeBeside(b, rates)
		return
	}
	b.WriteString("| case | millrace Mpps | OVS-DPDK Mpps | ratio | millrace cycles/packet | OVS-DPDK cycles/packet | generator's ceiling |\n|---|---|---|---|---|---|---|\n")
	for _, o := range rates {
		s := o.summary()
		fmt.Fprintf(b, "| %s | %s | %s | **%.1f** | %.0f | %.0f | %.1f |\n", o.Case.About, short(s.OursMpps), short(s.PeerMpps), s.Ratio, s.OursCycles, s.PeerCycles, s.Ceiling)
	}
}

// others is the table of what else those cases tell that are not of rates.
func (p readmePart) others(b *strings.Builder, special []outcome) {
	head := "\n| what | millrace | OVS-DPDK |\n|---|---|---|\n"
	if p.group == egressGroup {
		head = "| what | millrace | other |\n|---|---|---|\n"
	}
	for _, o := range special {
		s := o.summary()
		for _, m := range o.Case.metrics {
			if m.readme {
				fmt.Fprintf(b, "%s| %s: %s | %s | %s |\n", head, o.Case.About, m.Title, m.of(s.Ours), m.of(s.Peer))
				head = ""
			}
		}
	}
}
