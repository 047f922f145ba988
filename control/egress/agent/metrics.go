package agent

import (
	"errors"
	"io"
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

	requests  *prometheus.CounterVec
	denied    *prometheus.CounterVec
	refused   *prometheus.CounterVec
	phases    *prometheus.HistogramVec
	firstByte *prometheus.HistogramVec
	durations *prometheus.HistogramVec

	lost atomic.Uint64 // segments that links sent again which are no more
	// by type, since there is one for each packet
	in, out [konn.PacketType_DRAIN + 1]prometheus.Counter
}

// seconds are the bounds of buckets: all those of stock agents, so that rules by one
// of them hold, and more.
var seconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

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

		requests:  counter("egress_requests_total", "Requests that have ended.", "class", "port", "result"),
		denied:    counter("egress_denied_total", "Requests that the policy denied.", "class", "reason"),
		refused:   counter("egress_refused_total", "Dials that were refused because there were too many at once: dials, or requests.", "bound"),
		phases:    histogram("egress_dial_seconds", "Parts of the time until a target was connected, or was not.", "class", "port", "phase"),
		firstByte: histogram("egress_first_byte_seconds", "Time from the dial to the target's first byte.", "class", "port"),
		durations: histogram("egress_request_seconds", "Time from the dial to the end.", "class", "port"),
	}
	for t := range m.in {
		name := konn.PacketType(t).String()
		m.in[t], m.out[t] = m.packets.WithLabelValues("to_agent", name), m.packets.WithLabelValues("from_agent", name)
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.dialDuration, m.dialFailures, m.packets, m.errors, m.linkFailures,
		m.requests, m.denied, m.refused, m.phases, m.firstByte, m.durations, trafficCollector{a},
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "egress_tunnel_retransmits_total", Help: "Segments that were sent to servers again."},
			func() float64 { return float64(a.retransmits()) }),
		gauge("open_server_connections", "Servers that are connected.", func() float64 { return float64(a.Status().ServersUp) }),
		gauge("known_server_count", "Servers that there are, as they or their leases say.", func() float64 { return float64(a.Status().ServersKnown) }),
		gauge("open_endpoint_connections", "Connections to targets that are open.", func() float64 { return float64(a.connections()) }))
	return m
}

func (m *metrics) received(p *konn.Packet) {
	if t := p.GetType(); t >= 0 && int(t) < len(m.in) {
		m.in[t].Inc()
	}
}

func (m *metrics) sent(p *konn.Packet, err error) {
	m.out[p.GetType()].Inc()
	if err != nil && !errors.Is(err, io.EOF) { // which says that reading has the error
		m.errors.WithLabelValues("from_agent", status.Code(err).String(), p.Type.String()).Inc()
		m.linkFailures.WithLabelValues("to_server").Inc()
	}
}

// unread counts the end of a stream that should not have ended.
func (m *metrics) unread(err error) {
	m.errors.WithLabelValues("to_agent", status.Code(err).String(), "Unknown").Inc()
	if !errors.Is(err, io.EOF) {
		m.linkFailures.WithLabelValues("from_server").Inc()
	}
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
	if res == resultCanceled { // by the client: nothing was wrong with the target
		return
	}
	if !res.dialled() {
		m.dialFailures.WithLabelValues(stockReason(res)).Inc()
		return
	}
	if f := r.first.Load(); f > 0 {
		m.firstByte.WithLabelValues(class, port).Observe(time.Duration(f).Seconds())
	}
	m.durations.WithLabelValues(class, port).Observe(time.Since(r.started).Seconds())
}

// connections is how many requests have come to be connections, and are open.
func (a *Agent) connections() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for r := range a.live {
		if r.state.Load() != dialing {
			n++
		}
	}
	return n
}

// stockReason is what stock agents make of a failure.
func stockReason(res result) string {
	if res == resultTimeout {
		return "timeout"
	}
	return "unknown"
}
