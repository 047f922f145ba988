package main

import (
	"fmt"
	"os"
	"strings"
)

// The marks between which a README has the results of forwarding, of the flow table,
// and of connection tracking.
const (
	forwardBegin = "<!-- results of forwarding: go run ./perf/bench -readme README.md -->\n"
	readmeBegin  = "<!-- results of the flow table: go run ./perf/bench -readme README.md -->\n"
	connectBegin = "<!-- results of connection tracking: go run ./perf/bench -readme README.md -->\n"
	readmeEnd    = "<!-- end of results -->\n"
)

// A readmePart is a part of the README with the results of a group.
type readmePart struct{ group, begin, title string }

var readmeParts = []readmePart{
	{vhostGroup, forwardBegin, "Forwarding"},
	{flowsGroup, readmeBegin, "The flow table, the same way, OVS-DPDK with the better of its caches"},
	{connectGroup, connectBegin, "Connection tracking, the same way, OVS-DPDK with the better of its caches"},
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
	b.WriteString("| case | millrace Mpps | OVS-DPDK Mpps | ratio | millrace cycles/packet | OVS-DPDK cycles/packet | generator's ceiling |\n|---|---|---|---|---|---|---|\n")
	for _, o := range rates {
		s := o.summary()
		fmt.Fprintf(&b, "| %s | %s | %s | **%.1f** | %.0f | %.0f | %.1f |\n", o.Case.About, short(s.OursMpps), short(s.PeerMpps), s.Ratio, s.OursCycles, s.PeerCycles, s.Ceiling)
	}
	head := "\n| what | millrace | OVS-DPDK |\n|---|---|---|\n"
	for _, o := range special {
		s := o.summary()
		for _, m := range o.Case.metrics {
			if m.readme {
				fmt.Fprintf(&b, "%s| %s: %s | %s | %s |\n", head, o.Case.About, m.Title, m.of(s.Ours), m.of(s.Peer))
				head = ""
			}
		}
	}
	fmt.Fprintf(&b, "\n![throughput and cycles per packet](docs/results/%s.svg)\n\n", p.group)
	return b.String()
}
