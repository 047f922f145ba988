package agent

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// metrics are what stock agents count, by the same names, so that dashboards
// work; and what they do not: where requests went, how long, how much, and why not.
type metrics struct {
	dialDuration prometheus.Histogram
	dialFailures *prometheus.CounterVec
	packets      *prometheus.CounterVec
	errors       *prometheus.CounterVec
	linkFailures *prometheus.CounterVec

	requests    *prometheus.CounterVec
	denied      *prometheus.CounterVec
	refused     *prometheus.CounterVec
	phases      *prometheus.HistogramVec
	firstByte   *prometheus.HistogramVec
	durations   *prometheus.HistogramVec
	bytes       *prometheus.CounterVec
	stalls      *prometheus.CounterVec
	retransmits *prometheus.CounterVec

	lost atomic.Uint64 // segments that links sent again which are no more
	// by type, since there is one for each packet
	in, out [konn.PacketType_DRAIN + 1]prometheus.Counter
}

// seconds are buckets from 0.5 ms to 16 s.
var seconds = prometheus.ExponentialBuckets(0.0005, 2, 16)

func newMetrics(r prometheus.Registerer, a *Agent) *metrics {
	const stock = "konnectivity_network_proxy_agent_"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds}, labels)
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: stock + name, Help: help}, f)
	}
	m := &metrics{
		dialDuration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: stock + "dial_duration_seconds", Help: "Time until a target was connected.", Buckets: seconds}),
		dialFailures: counter(stock+"endpoint_dial_failure_total", "Targets that were not reached.", "reason"),
		packets:      counter(stock+"stream_packets_total", "Packets of the tunnel.", "segment", "packet_type"),
		errors:       counter(stock+"stream_errors_total", "Packets that could not be sent or read.", "segment", "code", "packet_type"),
		linkFailures: counter(stock+"server_connection_failure_count", "Failures of connections to servers.", "direction"),

		requests:    counter("egress_requests_total", "Requests that have ended.", "class", "port", "result"),
		denied:      counter("egress_denied_total", "Requests that the policy denied.", "class", "reason"),
		refused:     counter("egress_refused_total", "Dials that were refused because there were too many at once: dials, or requests.", "bound"),
		phases:      histogram("egress_dial_seconds", "Parts of the time until a target was connected, or was not.", "class", "port", "phase"),
		firstByte:   histogram("egress_first_byte_seconds", "Time from the dial to the target's first byte.", "class", "port"),
		durations:   histogram("egress_request_seconds", "Time from the dial to the end.", "class", "port"),
		bytes:       counter("egress_bytes_total", "Bytes of requests that have ended.", "class", "port", "dir"),
		stalls:      counter("egress_stall_seconds_total", "Time in which a side took nothing of what waited for it.", "class", "port", "side"),
		retransmits: counter("egress_retransmits_total", "Segments that were sent to targets again.", "class", "port"),
	}
	for t := range m.in {
		name := konn.PacketType(t).String()
		m.in[t], m.out[t] = m.packets.WithLabelValues("to_agent", name), m.packets.WithLabelValues("from_agent", name)
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.dialDuration, m.dialFailures, m.packets, m.errors, m.linkFailures,
		m.requests, m.denied, m.refused, m.phases, m.firstByte, m.durations, m.bytes, m.stalls, m.retransmits,
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "egress_tunnel_retransmits_total", Help: "Segments that were sent to servers again."},
			func() float64 { return float64(a.retransmits()) }),
		gauge("open_server_connections", "Servers that are connected.", func() float64 { return float64(a.Status().ServersUp) }),
		gauge("known_server_count", "Servers that there are, as they or their leases say.", func() float64 { return float64(a.Status().ServersKnown) }),
		gauge("open_endpoint_connections", "Requests that are open.", func() float64 { return float64(a.Status().Requests) }))
	return m
}

func (m *metrics) received(p *konn.Packet) {
	if t := p.GetType(); t >= 0 && int(t) < len(m.in) {
		m.in[t].Inc()
	}
}

func (m *metrics) sent(p *konn.Packet, err error) {
	m.out[p.GetType()].Inc()
	if err != nil {
		m.errors.WithLabelValues("from_agent", status.Code(err).String(), p.Type.String()).Inc()
	}
}

// unread counts the end of a stream that should not have ended.
func (m *metrics) unread(err error) {
	m.errors.WithLabelValues("to_agent", status.Code(err).String(), "").Inc()
}

func (m *metrics) linkFailed() { m.linkFailures.WithLabelValues("connect").Inc() }

func (m *metrics) dialed(d time.Duration) { m.dialDuration.Observe(d.Seconds()) }

// turnedAway counts a dial for which there were too many dials, or too many requests.
func (m *metrics) turnedAway(bound string) {
	m.refused.WithLabelValues(bound).Inc()
	m.dialFailures.WithLabelValues(stockReason(resultOther)).Inc()
}

// ended counts a request that has ended. reason is the policy's, if it denied.
func (m *metrics) ended(r *request, res result, reason string) {
	class, port := string(r.visit.Class), r.visit.Port
	m.requests.WithLabelValues(class, port, string(res)).Inc()
	if reason != "" {
		m.denied.WithLabelValues(class, reason).Inc()
	}
	m.phases.WithLabelValues(class, port, "resolve").Observe(r.visit.Resolve.Seconds())
	m.phases.WithLabelValues(class, port, "connect").Observe(r.visit.Connect.Seconds())
	if res != resultOK {
		m.dialFailures.WithLabelValues(stockReason(res)).Inc()
		return
	}
	if f := r.first.Load(); f > 0 {
		m.firstByte.WithLabelValues(class, port).Observe(time.Duration(f).Seconds())
	}
	m.durations.WithLabelValues(class, port).Observe(time.Since(r.started).Seconds())
	m.bytes.WithLabelValues(class, port, "to_target").Add(float64(r.toward.Load()))
	m.bytes.WithLabelValues(class, port, "to_client").Add(float64(r.back.Load()))
	m.retransmits.WithLabelValues(class, port).Add(float64(r.retransmits.Load()))
	for side, name := range []string{"client", "target"} {
		m.stalls.WithLabelValues(class, port, name).Add(time.Duration(r.stalled[side].Load()).Seconds())
	}
}

// stockReason is what stock agents make of a failure.
func stockReason(res result) string {
	if res == resultTimeout {
		return "timeout"
	}
	return "unknown"
}
