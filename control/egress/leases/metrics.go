package leases

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names of stock agents.
type metrics struct {
	lists, watches *prometheus.CounterVec
	latency        *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	const stock = "konnectivity_network_proxy_agent_lease_"
	m := &metrics{
		lists:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: stock + "lists_total", Help: "Lists of servers' leases."}, []string{"http_response_code", "reason"}),
		watches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: stock + "watches_total", Help: "Watches of servers' leases."}, []string{"http_response_code", "reason"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: stock + "list_latency_seconds", Help: "Time that a list took.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 2.5, 10, 30}}, []string{"http_response_code"}),
	}
	if r != nil {
		r.MustRegister(m.lists, m.watches, m.latency)
	}
	return m
}

func (m *metrics) listed(took time.Duration, err error) {
	code, reason := outcome(err)
	m.lists.WithLabelValues(code, reason).Inc()
	m.latency.WithLabelValues(code).Observe(took.Seconds())
}

func (m *metrics) watched(err error) { m.watches.WithLabelValues(outcome(err)).Inc() }

// outcome is how an answer is counted: 0 if there was none.
func outcome(err error) (code, reason string) {
	if err == nil {
		return "200", ""
	}
	s, ok := errors.AsType[*apiStatus](err)
	switch {
	case !ok:
		return "0", "unreachable"
	case len(s.Reason) > 40:
		return strconv.Itoa(s.Code), "other"
	}
	return strconv.Itoa(s.Code), s.Reason
}
