package pktgen

import (
	"fmt"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"millrace/dataplane/sys"
)

// A Result is what a run has found. Rates are means over the time in which
// frames were sent; counts include what came later.
type Result struct {
	Mode         Mode      `json:"mode"`
	Direction    Direction `json:"direction"`
	Sizes        []Share   `json:"sizes,omitempty"`
	Pcap         string    `json:"pcap,omitempty"`
	Flows        int       `json:"flows"`
	RatePPS      float64   `json:"rate_pps"` // asked for, per stream; 0: flood
	RingSize     uint16    `json:"ring_size"`
	Batch        int       `json:"batch"`
	Seconds      float64   `json:"seconds"`
	InProcess    bool      `json:"in_process"`    // no switch: the generator's own forwarder
	SwitchLosses uint64    `json:"switch_losses"` // times that the switch went away

	Total   Total          `json:"total"`
	Streams []StreamResult `json:"streams"`
	Ports   []PortResult   `json:"ports"`
	Latency *Latency       `json:"latency_us,omitempty"`

	// CeilingMpps is what the generator can do with these settings, if it was
	// measured: Total.RxMpps of Ceiling's result.
	CeilingMpps float64 `json:"ceiling_mpps,omitempty"`
}

// Total sums up all streams. A frame that goes to several ports counts once for
// each.
type Total struct {
	Sent       uint64 `json:"sent"`
	Received   uint64 `json:"received"` // each frame once, as it was sent
	Lost       uint64 `json:"lost"`
	Duplicated uint64 `json:"duplicated"`
	Reordered  uint64 `json:"reordered"` // came, but behind later ones of its flow
	Corrupted  uint64 `json:"corrupted"`
	Stale      uint64 `json:"stale"`  // so late that they may be duplicates; not in received
	Missed     uint64 `json:"missed"` // due by the rate, not sent: the ring was full or the generator too slow

	TxMpps float64 `json:"tx_mpps"`
	RxMpps float64 `json:"rx_mpps"`
	TxGbps float64 `json:"tx_gbps"` // frames' bits, without checksum, preamble and gap
	RxGbps float64 `json:"rx_gbps"`
}

// A StreamResult is about what one port sent, at all ports that should get it.
type StreamResult struct {
	From       string   `json:"from"`
	To         []string `json:"to"`
	Sent       uint64   `json:"sent"`
	Received   uint64   `json:"received"`
	Lost       uint64   `json:"lost"` // includes frames whose tag was corrupted; Total.Lost does not
	Duplicated uint64   `json:"duplicated"`
	Reordered  uint64   `json:"reordered"`
	Stale      uint64   `json:"stale"`
	Missed     uint64   `json:"missed"`
}

// A PortResult is about all frames at one port. In Fast they are only counted.
type PortResult struct {
	Name          string  `json:"name"`
	Sent          uint64  `json:"sent"`
	SentBytes     uint64  `json:"sent_bytes"`
	Received      uint64  `json:"received"` // everything that came
	ReceivedBytes uint64  `json:"received_bytes"`
	RxMpps        float64 `json:"rx_mpps"` // while frames were sent
	Corrupted     uint64  `json:"corrupted"`
	Misdelivered  uint64  `json:"misdelivered"` // of streams that go elsewhere: flooded, or led astray
	Unknown       uint64  `json:"unknown"`      // not ours
}

// Latency is from the moment that a batch is made to the moment that a turn of
// the receiver begins in which the frame is there, in microseconds.
type Latency struct {
	Samples int64   `json:"samples"`
	Min     float64 `json:"min"`
	Mean    float64 `json:"mean"`
	P50     float64 `json:"p50"`
	P90     float64 `json:"p90"`
	P99     float64 `json:"p99"`
	P999    float64 `json:"p999"`
	Max     float64 `json:"max"`
}

func newLatency(h *hdrhistogram.Histogram) *Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e3 }
	return &Latency{
		Samples: h.TotalCount(), Min: float64(h.Min()) / 1e3, Mean: h.Mean() / 1e3,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1e3,
	}
}

// result sums up a phase.
func (g *generator) result(p *phase) *Result {
	c := &g.cfg
	r := &Result{
		Mode: c.Mode, Direction: c.Direction, Sizes: c.Sizes, Pcap: c.Pcap, Flows: c.Flows, RatePPS: c.Rate,
		RingSize: c.RingSize, Batch: c.Batch, InProcess: g.fwd != nil, SwitchLosses: g.lost.Load(),
		Seconds: sys.TSCDuration(p.ticks).Seconds(), Ports: make([]PortResult, len(c.Ports)),
	}
	hist := newHistogram()
	unattributed := uint64(0)
	for i, s := range g.engine.sinks {
		hist.Merge(s.hist)
		unattributed += s.unattributed
		r.Total.Corrupted += s.corrupted
		r.Ports[i] = PortResult{
			Name: c.Ports[i].Name, Received: s.frames, ReceivedBytes: s.bytes,
			Corrupted: s.corrupted, Misdelivered: s.misdelivered, Unknown: s.unknown,
		}
	}
	for _, st := range g.engine.streams {
		g.addStream(r, st)
	}
	r.Latency = newLatency(hist)
	for i, s := range g.engine.sinks {
		r.Ports[i].RxMpps = float64(s.during) / r.Seconds / 1e6
	}
	t := &r.Total
	t.Lost -= min(t.Lost, unattributed)
	if c.Mode == Verify && g.replay == nil {
		t.Received -= min(t.Received, t.Corrupted-unattributed)
	}
	bytes := uint64(0)
	for _, port := range r.Ports {
		bytes += port.SentBytes
	}
	t.TxMpps, t.RxMpps = float64(t.Sent)/r.Seconds/1e6, float64(p.during)/r.Seconds/1e6
	t.TxGbps, t.RxGbps = float64(bytes)*8/r.Seconds/1e9, float64(p.bytes)*8/r.Seconds/1e9
	return r
}

// addStream adds what became of a stream.
func (g *generator) addStream(r *Result, st *stream) {
	frames, bytes, missed := st.sent()
	s := StreamResult{From: r.Ports[st.from].Name, Sent: frames, Missed: missed}
	for _, k := range st.to {
		s.To = append(s.To, r.Ports[k].Name)
		if g.cfg.Mode == Fast || g.replay != nil {
			s.Received += min(frames, g.engine.sinks[k].frames)
			continue
		}
		t := g.engine.sinks[k].expect[st.id].track
		s.Received += t.unique
		s.Duplicated += t.duplicated
		s.Reordered += t.reordered
		s.Stale += t.stale
	}
	due := frames * uint64(len(st.to))
	s.Lost = due - min(due, s.Received)
	r.Streams = append(r.Streams, s)
	r.Ports[st.from].Sent += frames
	r.Ports[st.from].SentBytes += bytes
	t := &r.Total
	t.Sent += due
	t.Received += s.Received
	t.Lost += s.Lost
	t.Duplicated += s.Duplicated
	t.Reordered += s.Reordered
	t.Stale += s.Stale
	t.Missed += missed
}

// Clean reports whether every frame that was sent came once, in order and whole.
func (t *Total) Clean() bool {
	return t.Received == t.Sent && t.Lost+t.Duplicated+t.Reordered+t.Corrupted+t.Stale == 0
}

// String is the result as a table.
func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, %s, %d flows, %s, %.2f s\n\n", r.Mode, r.Direction, r.frames(), r.Flows, r.rate(), r.Seconds)
	fmt.Fprintf(&b, "%-24s %14s %14s %10s %10s %10s %10s\n", "stream", "sent", "received", "lost", "duplicate", "reordered", "missed")
	for _, s := range r.Streams {
		fmt.Fprintf(&b, "%-24s %14d %14d %10d %10d %10d %10d\n", s.From+" > "+strings.Join(s.To, ","), s.Sent, s.Received, s.Lost, s.Duplicated, s.Reordered, s.Missed)
	}
	fmt.Fprintf(&b, "\n%-24s %14s %14s %10s %10s %10s\n", "port", "sent", "received", "corrupted", "misdeliv.", "unknown")
	for _, p := range r.Ports {
		fmt.Fprintf(&b, "%-24s %14d %14d %10d %10d %10d\n", p.Name, p.Sent, p.Received, p.Corrupted, p.Misdelivered, p.Unknown)
	}
	fmt.Fprintf(&b, "\nsent      %9.3f Mpps %9.3f Gbit/s\nreceived  %9.3f Mpps %9.3f Gbit/s\n", r.Total.TxMpps, r.Total.TxGbps, r.Total.RxMpps, r.Total.RxGbps)
	if r.CeilingMpps != 0 {
		fmt.Fprintf(&b, "ceiling   %9.3f Mpps (the generator's own, through a forwarder that only copies)\n", r.CeilingMpps)
	}
	if l := r.Latency; l != nil {
		fmt.Fprintf(&b, "latency   min %.1f  mean %.1f  p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f us (%d frames)\n", l.Min, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max, l.Samples)
	}
	return b.String()
}

// frames says in words what was sent.
func (r *Result) frames() string {
	if r.Pcap != "" {
		return r.Pcap
	}
	var parts []string
	for _, s := range r.Sizes {
		parts = append(parts, fmt.Sprintf("%dx%d", s.Weight, s.Size))
	}
	if len(r.Sizes) == 1 {
		parts[0] = fmt.Sprint(r.Sizes[0].Size)
	}
	return strings.Join(parts, "+") + " bytes"
}

func (r *Result) rate() string {
	if r.RatePPS == 0 {
		return "flood"
	}
	return fmt.Sprintf("%.0f frames/s per stream", r.RatePPS)
}
