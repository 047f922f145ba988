package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// A sample is one turn of one side.
type sample struct {
	Mpps   float64 `json:"mpps"`
	Gbps   float64 `json:"gbps"`
	Cycles float64 `json:"cycles"` // TSC cycles per packet

	Values map[string]float64 `json:"values,omitempty"` // of the case's metrics
}

// Keys of values that several cases have.
const (
	keyBase     = "base_mpps"
	keyAttacked = "attacked_mpps"
	keyKept     = "kept"
	keyMasks    = "masks"
	keyWalks    = "walks_mpps"
	keyBusy     = "busy"
	keyBatch    = "batch"
)

// An outcome is all that was measured of a case.
type outcome struct {
	Case     scenario `json:"case"`
	Date     string   `json:"date"`
	Machine  string   `json:"machine"`
	OursName string   `json:"ours"`
	PeerName string   `json:"peer"`
	Seconds  float64  `json:"seconds"`
	Ring     uint     `json:"ring"`
	Ceiling  float64  `json:"ceiling_mpps"`    // the generator through a forwarder that only copies
	Tried    []tried  `json:"tried,omitempty"` // ways to configure the peer
	Ours     []sample `json:"ours_turns"`
	Peer     []sample `json:"peer_turns"`
}

// A summary is the last line of the output.
type summary struct {
	Case       string  `json:"case"`
	OursMpps   float64 `json:"ours_mpps"`
	PeerMpps   float64 `json:"peer_mpps"`
	Ratio      float64 `json:"ratio"`
	OursCycles float64 `json:"ours_cycles"`
	PeerCycles float64 `json:"peer_cycles"`
	Ceiling    float64 `json:"ceiling_mpps"`
	Pairs      int     `json:"pairs"`

	Ours map[string]float64 `json:"ours,omitempty"` // medians of the case's metrics
	Peer map[string]float64 `json:"peer,omitempty"`
}

func median(samples []sample, of func(sample) float64) float64 {
	var v []float64
	for _, s := range samples {
		v = append(v, of(s))
	}
	slices.Sort(v)
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// medians are those of the values that metrics name (or the worst, where they say
// so), of the samples that have them.
func medians(samples []sample, metrics []metric) map[string]float64 {
	var all map[string]float64
	for _, m := range metrics {
		var with []sample
		for _, s := range samples {
			if _, ok := s.Values[m.Key]; ok {
				with = append(with, s)
			}
		}
		if with == nil {
			continue
		}
		if all == nil {
			all = map[string]float64{}
		}
		of := func(s sample) float64 { return s.Values[m.Key] }
		if all[m.Key] = median(with, of); m.worst {
			all[m.Key] = of(slices.MaxFunc(with, func(a, b sample) int { return cmp.Compare(of(a), of(b)) }))
		}
	}
	return all
}

func mpps(s sample) float64   { return s.Mpps }
func gbps(s sample) float64   { return s.Gbps }
func cycles(s sample) float64 { return s.Cycles }

// ratio is the median of the pairs' ratios, 0 if there is none.
func (o outcome) ratio() float64 {
	var r []sample
	for i := range o.Ours {
		r = append(r, sample{Mpps: over(o.Ours[i].Mpps, o.Peer[i].Mpps)})
	}
	return median(r, mpps)
}

// over is a / b, and 0 where a side was not measured.
func over(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (o outcome) summary() summary {
	return summary{
		Ours: medians(o.Ours, o.Case.metrics), Peer: medians(o.Peer, o.Case.metrics),
		Case: o.Case.Name, OursMpps: round(median(o.Ours, mpps)), PeerMpps: round(median(o.Peer, mpps)), Ratio: round(o.ratio()),
		OursCycles: round(median(o.Ours, cycles)), PeerCycles: round(median(o.Peer, cycles)), Ceiling: round(o.Ceiling), Pairs: len(o.Ours),
	}
}

func round(f float64) float64 { return float64(int(f*100+0.5)) / 100 }

// print shows every turn, and the medians.
func (o outcome) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n", o.Case.Name, o.Case.About)
	if !o.Case.bare {
		o.printRates(w)
	}
	o.printMetrics(w)
	for _, t := range o.Tried {
		fmt.Fprintf(w, "%s with %s: %.3f %s\n", o.Case.rivalName(), t.Tuning, t.Mpps, o.Case.rates())
	}
	fmt.Fprintf(w, "ours: %s\npeer: %s\n", o.OursName, o.PeerName)
}

func (o outcome) printRates(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "turn\tmillrace %[1]s\tcycles/packet\t%[2]s %[1]s\tcycles/packet\tratio\t\n", o.Case.rates(), o.Case.rivalName())
	for i := range o.Ours {
		a, b := o.Ours[i], o.Peer[i]
		fmt.Fprintf(t, "%d\t%.2f\t%.1f\t%.2f\t%.1f\t%.2f\t\n", i+1, a.Mpps, a.Cycles, b.Mpps, b.Cycles, over(a.Mpps, b.Mpps))
	}
	s := o.summary()
	fmt.Fprintf(t, "median\t%.2f\t%.1f\t%.2f\t%.1f\t%.2f\t\n", s.OursMpps, s.OursCycles, s.PeerMpps, s.PeerCycles, s.Ratio)
	_ = t.Flush()
	if o.Ceiling == 0 {
		return
	}
	fmt.Fprintf(w, "generator's ceiling %.2f Mpps; throughput %.1f against %.1f Gbit/s\n", o.Ceiling, median(o.Ours, gbps), median(o.Peer, gbps))
}

// printMetrics shows what else was measured: medians of turns.
func (o outcome) printMetrics(w io.Writer) {
	if o.Case.metrics == nil {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\tmillrace\t%s\n", o.Case.rivalName())
	s := o.summary()
	for _, m := range o.Case.metrics {
		fmt.Fprintf(t, "%s\t%s\t%s\n", m.Title, m.of(s.Ours), m.of(s.Peer))
	}
	_ = t.Flush()
}

// of formats a value, or the lack of it.
func (m metric) of(values map[string]float64) string {
	v, ok := values[m.Key]
	if !ok {
		return "-"
	}
	return fmt.Sprintf(m.Format, v)
}

// machine names what the figures were taken on.
func machine() string {
	model := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(b)) {
			if name, ok := strings.CutPrefix(l, "model name"); ok {
				model = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	kernel := "unknown kernel"
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("%s, %d cores, virtual machine, Linux %s, %s", model, runtime.NumCPU(), kernel, runtime.Version())
}
