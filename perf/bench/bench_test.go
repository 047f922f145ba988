package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/dataplane/api"
)

// TestSummary takes medians, and the median of ratios, not the ratio of
// medians: a turn that was disturbed counts once.
func TestSummary(t *testing.T) {
	o := outcome{
		Case: scenario{Name: "p2p"},
		Ours: []sample{{Mpps: 40, Cycles: 30}, {Mpps: 10, Cycles: 90}, {Mpps: 42, Cycles: 31}},
		Peer: []sample{{Mpps: 10, Cycles: 150}, {Mpps: 10, Cycles: 160}, {Mpps: 14, Cycles: 155}},
	}
	s := o.summary()
	if s.OursMpps != 40 || s.PeerMpps != 10 || s.Ratio != 3 || s.OursCycles != 31 || s.PeerCycles != 155 {
		t.Errorf("summary %+v", s)
	}
	if m := median(nil, mpps); m != 0 {
		t.Errorf("median of nothing is %v", m)
	}
	if m := median([]sample{{Mpps: 1}, {Mpps: 2}}, mpps); math.Abs(m-1.5) > 1e-9 {
		t.Errorf("median of two is %v", m)
	}
}

// TestMedians takes medians of values, and the worst of those that ask for it.
func TestMedians(t *testing.T) {
	var samples []sample
	for _, v := range []float64{1, 9, 2} {
		samples = append(samples, sample{Values: map[string]float64{"a": v, "b": v}})
	}
	got := medians(append(samples, sample{}), []metric{{Key: "a"}, {Key: "b", worst: true}, {Key: "c"}})
	if len(got) != 2 || got["a"] != 2 || got["b"] != 9 {
		t.Errorf("got %v", got)
	}
}

// TestResults keeps two cases of each group, the later one first, and finds both
// in the table and in a plot that is well-formed.
func TestResults(t *testing.T) {
	for group, names := range map[string][2]string{"vhost": {"p2p", "1500"}, "flows": {"flows-1k", "tse"}, "ct": {"ct-1k", "ct-new"}} {
		dir := t.TempDir()
		for _, name := range []string{names[1], names[0]} {
			c := findCases(name)[0]
			values := map[string]float64{"kept": 0.25}
			o := outcome{
				Case: c, Date: "2026-01-02", Machine: "a machine", Tried: []tried{{"SMC", 2}},
				Ours: []sample{{Mpps: 4, Cycles: 50, Values: values}}, Peer: []sample{{Mpps: 2, Cycles: 100}},
			}
			if err := writeResults(dir, o); err != nil {
				t.Fatal(err)
			}
		}
		table := read(t, filepath.Join(dir, group+".md"))
		if first, second := strings.Index(table, "| "+names[0]+" |"), strings.Index(table, "| "+names[1]+" |"); first < 0 || second < first {
			t.Errorf("cases missing or out of order:\n%s", table)
		}
		if !strings.Contains(table, "| SMC | 2.000 |") || group == "flows" && !strings.Contains(table, "| share that the victim keeps | 0.250 | - |") {
			t.Errorf("metrics or ways to configure are missing:\n%s", table)
		}
		d := xml.NewDecoder(strings.NewReader(read(t, filepath.Join(dir, group+".svg"))))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("plot: %v", err)
			}
		}
	}
}

// TestReadme puts results between the marks of a README, again and again, and
// nothing else changes.
func TestReadme(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "README.md")
	if err := os.WriteFile(path, []byte("before\n"+readmeBegin+readmeEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeReadme(path, dir); err == nil {
		t.Error("no results, no error")
	}
	for _, name := range []string{"flows-1k", "tse", "change-one"} {
		o := outcome{
			Case: findCases(name)[0], Ours: []sample{{Mpps: 4, Values: map[string]float64{"kept": 0.99, "new_p99_us": 77}}},
			Peer: []sample{{Mpps: 2, Values: map[string]float64{"kept": 0.01}}},
		}
		if err := writeResults(dir, o); err != nil {
			t.Fatal(err)
		}
		if err := writeReadme(path, dir); err != nil {
			t.Fatal(err)
		}
	}
	text := read(t, path)
	for _, want := range []string{"before\n" + readmeBegin, readmeEnd + "after\n", "| 4.0 | 2.0 | **2.0** |", "keeps | 0.990 | 0.010 |", "| 77 | - |"} {
		if strings.Count(text, want) < 1 {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "docs/results/flows.svg"); n != 1 {
		t.Errorf("%d sections:\n%s", n, text)
	}
	if err := os.WriteFile(path, []byte("nothing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeReadme(path, dir); err == nil || read(t, path) != "nothing\n" {
		t.Errorf("no marks: %v", err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestCases: every case of the command line is there, by its name or its group.
func TestCases(t *testing.T) {
	for name, n := range map[string]int{
		"p2p": 1, "l2": 1, "1500": 1, "imix": 1, "vhost": 4, "flows-1k": 1, "flows-64k": 1, "flows-1m": 1, "rules": 1, "newflows": 1, "tse": 1,
		"change": 4, "change-one": 1, "flows": 10, "ct": 5, "ct-1k": 1, "ct-64k": 1, "ct-1m": 1, "ct-ovn": 1, "ct-new": 1, "kernel": 17, "afxdp": 3, "afxdp-runs": 1, "afxdp-c": 1, "tap": 6, "tap-4": 3, "qemu": 2, "qemu-poll": 1, "egress": 14, "egress-pod": 1, "egress-far": 2, "egress-*": 14, "egress-*-openvpn": 4, "*-one": 1, "all": 50, "nothing": 0, "nothing-*": 0, "[": 0,
	} {
		if cases := findCases(name); len(cases) != n {
			t.Errorf("case %s: %d cases, want %d", name, len(cases), n)
		}
	}
	for _, c := range allCases() {
		if c.About == "" || len(c.Sizes) == 0 || c.Group == "" || len(c.streams(0)) != c.generatorPorts() {
			t.Errorf("case %s: %+v", c.Name, c)
		}
		for i, m := range c.metrics {
			if m.Key == "" || m.Title == "" || !strings.HasPrefix(m.Format, "%") {
				t.Errorf("case %s: metric %d: %+v", c.Name, i, m)
			}
		}
		if cfg := (settings{Seconds: 1, Queue: 256}).generator(c, nil, 1); len(cfg.Ports) != 2 || cfg.Ports[0].Traffic.Rate != 0 || !cfg.Ports[1].Silent {
			t.Errorf("case %s: ceiling by %+v", c.Name, cfg)
		}
	}
}

// TestQuantile takes times of which so many are not longer.
func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 200 {
		times = append(times, time.Duration(200-i)*time.Microsecond)
	}
	for q, want := range map[float64]float64{0.5: 100, 0.99: 198, 1: 200} {
		if got := quantile(times, q); got != want {
			t.Errorf("quantile %v is %v us, want %v", q, got, want)
		}
	}
	if got := quantile([]time.Duration{time.Millisecond}, 0.99); got != 1000 {
		t.Errorf("of one: %v", got)
	}
}

// TestMasks tells masks apart, and not values.
func TestMasks(t *testing.T) {
	m := func(word uint32, value, mask uint64) *api.FlowMasked {
		return &api.FlowMasked{Word: word, Value: value, Mask: mask}
	}
	a := maskText([]*api.FlowMasked{m(1, 5, 7), m(2, 0, 1)})
	if b := maskText([]*api.FlowMasked{m(1, 4, 7), m(2, 1, 1)}); a != b {
		t.Errorf("%q and %q", a, b)
	}
	if b := maskText([]*api.FlowMasked{m(1, 5, 7), m(3, 0, 1)}); a == b {
		t.Errorf("%q twice", a)
	}
}

// TestSwap: what is in both generations stays, the rest goes and comes, in
// messages of bounded size.
func TestSwap(t *testing.T) {
	var from, to []*api.FlowRule
	for i := range uint64(1500) {
		from, to = append(from, &api.FlowRule{Id: i + 1}), append(to, &api.FlowRule{Id: i + 1001})
	}
	removed, added := map[uint64]bool{}, map[uint64]bool{}
	s := newSwap(nil, from, to)
	for _, m := range s.messages {
		if len(m.GetChanges()) > perMessage {
			t.Errorf("message of %d changes", len(m.GetChanges()))
		}
		for _, c := range m.GetChanges() {
			if id := c.GetRemove(); id != 0 {
				removed[id] = true
				continue
			}
			added[c.GetAdd().GetId()] = true
		}
	}
	if len(removed) != 1000 || len(added) != 1000 || removed[1001] || added[1500] {
		t.Errorf("%d removed, %d added", len(removed), len(added))
	}
}

// TestReadmeParts puts results of two groups into their places, and asks for a place
// only if there are results.
func TestReadmeParts(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "README.md")
	keep := func(name string, ours float64) {
		o := outcome{Case: findCases(name)[0], Ours: []sample{{Mpps: ours}}, Peer: []sample{{Mpps: 1}}}
		if err := writeResults(dir, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("a\n"+readmeBegin+readmeEnd+"b\n"+connectBegin+readmeEnd+"c\n"+egressBegin+readmeEnd+"d\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	keep("ct-64k", 7)
	if err := writeReadme(path, dir); err != nil {
		t.Fatal(err)
	}
	keep("flows-1k", 3)
	keep("egress-down", 9)
	if err := writeReadme(path, dir); err != nil {
		t.Fatal(err)
	}
	text := read(t, path)
	_, flows, _ := strings.Cut(text, readmeBegin)
	flows, connections, _ := strings.Cut(flows, connectBegin)
	connections, tunnels, _ := strings.Cut(connections, egressBegin)
	if !strings.Contains(flows, "**3.0**") || !strings.Contains(connections, "**7.0**") || !strings.Contains(connections, "docs/results/ct.svg") || strings.Contains(flows, "ct.svg") || !strings.Contains(tunnels, "| stock agent | Gbit/s | 9.00 | 1.00 | **9.00** |") {
		t.Errorf("%s", text)
	}
	if err := os.WriteFile(path, []byte(readmeBegin+readmeEnd), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeReadme(path, dir); err == nil {
		t.Error("no place for connections, no error")
	}
}
