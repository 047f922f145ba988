package l3

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what Collect gives.
var metrics = struct {
	ready, packets, bytes, dropped, datagrams, up, handshake, seen, rtt, heals, peerBytes *prometheus.Desc
}{
	prometheus.NewDesc("egress_l3_ready", "1 if a peer that is dialled has answered in the last 10 s, or none is dialled.", nil, nil),
	prometheus.NewDesc("egress_l3_packets_total", "Packets inside, that went through: in from peers, out from the inner end.", []string{"dir"}, nil),
	prometheus.NewDesc("egress_l3_bytes_total", "Their bytes.", []string{"dir"}, nil),
	prometheus.NewDesc("egress_l3_dropped_total", "Packets and handshakes that did not go through, by reason.", []string{"reason"}, nil),
	prometheus.NewDesc("egress_l3_datagrams_total", "UDP datagrams that came, by kind; of those of kind data, opened and keepalive are genuine.", []string{"kind"}, nil),
	prometheus.NewDesc("egress_l3_peer_up", "1 if the peer has been heard of lately.", []string{"peer"}, nil),
	prometheus.NewDesc("egress_l3_peer_handshake_age_seconds", "Since the last handshake; none: there was none.", []string{"peer"}, nil),
	prometheus.NewDesc("egress_l3_peer_seen_age_seconds", "Since anything came from the peer; none: nothing has.", []string{"peer"}, nil),
	prometheus.NewDesc("egress_l3_peer_rtt_seconds", "Of the last echo that was answered.", []string{"peer"}, nil),
	prometheus.NewDesc("egress_l3_peer_heals_total", "Handshakes because nothing was heard.", []string{"peer"}, nil),
	prometheus.NewDesc("egress_l3_peer_bytes_total", "Bytes outside.", []string{"peer", "dir"}, nil),
}

// Describe and Collect make a Tunnel a prometheus.Collector.
func (t *Tunnel) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(t, ch) }

// Collect gives the status as metrics.
func (t *Tunnel) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := t.Status()
	gauge(metrics.ready, number(s.Ready))
	counter(metrics.packets, s.Packets.In, "in")
	counter(metrics.packets, s.Packets.Out, "out")
	counter(metrics.bytes, s.Packets.InBytes, "in")
	counter(metrics.bytes, s.Packets.OutBytes, "out")
	for _, reason := range slices.Sorted(maps.Keys(s.Dropped)) {
		counter(metrics.dropped, s.Dropped[reason], reason)
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Kinds)) {
		counter(metrics.datagrams, s.Kinds[kind], kind)
	}
	for _, p := range s.Peers {
		gauge(metrics.up, number(p.Up), p.Name)
		if p.Handshake > 0 {
			gauge(metrics.handshake, p.Handshake.Seconds(), p.Name)
		}
		if p.Seen > 0 {
			gauge(metrics.seen, p.Seen.Seconds(), p.Name)
		}
		if p.RTT > 0 {
			gauge(metrics.rtt, p.RTT.Seconds(), p.Name)
		}
		counter(metrics.heals, uint64(p.Heals), p.Name)
		counter(metrics.peerBytes, p.Sent, p.Name, "out")
		counter(metrics.peerBytes, p.Received, p.Name, "in")
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
