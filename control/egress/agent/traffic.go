package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A traffic is what requests of one class by one port have carried.
type traffic struct {
	bytes       [2]int64 // to the client, to the target
	stalls      [2]time.Duration
	retransmits uint64
}

// A trafficKey is the labels of a traffic.
type trafficKey struct{ class, port string }

// trafficDescs are the metrics of traffic.
var trafficDescs = struct{ bytes, stalls, retransmits *prometheus.Desc }{
	prometheus.NewDesc("egress_bytes_total", "Bytes of requests, open ones too.", []string{"class", "port", "dir"}, nil),
	prometheus.NewDesc("egress_stall_seconds_total", "Time in which a side took nothing of what waited for it.", []string{"class", "port", "side"}, nil),
	prometheus.NewDesc("egress_retransmits_total", "Segments that were sent to targets again.", []string{"class", "port"}, nil),
}

// add adds what a request that was connected has carried until now.
func (t *traffic) add(r *request) {
	now := time.Since(r.started)
	t.bytes[clientSide] += r.back.Load()
	t.bytes[targetSide] += r.toward.Load()
	for side := range r.stalled {
		t.stalls[side] += r.stalled[side].at(now)
	}
	t.retransmits += r.resent()
}

func (r *request) trafficKey() trafficKey { return trafficKey{string(r.visit.Class), r.visit.Port} }

// account takes a request's traffic over: it has ended.
func (a *Agent) account(r *request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.carried[r.trafficKey()]
	t.add(r)
	a.carried[r.trafficKey()] = t
	r.accounted = true
}

// traffic is that of all requests, whether they have ended or not.
func (a *Agent) traffic() map[trafficKey]traffic {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[trafficKey]traffic, len(a.carried))
	for key, t := range a.carried {
		all[key] = t
	}
	for r := range a.live {
		if r.accounted || r.state.Load() == dialing {
			continue
		}
		t := all[r.trafficKey()]
		t.add(r)
		all[r.trafficKey()] = t
	}
	return all
}

// A trafficCollector gives traffic as metrics. A connection may be open for days, so
// those that are open count.
type trafficCollector struct{ agent *Agent }

// Describe implements prometheus.Collector.
func (c trafficCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- trafficDescs.bytes
	ch <- trafficDescs.stalls
	ch <- trafficDescs.retransmits
}

// Collect implements prometheus.Collector.
func (c trafficCollector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for key, t := range c.agent.traffic() {
		for side, name := range []string{"client", "target"} {
			counter(trafficDescs.bytes, float64(t.bytes[side]), key.class, key.port, "to_"+name)
			counter(trafficDescs.stalls, t.stalls[side].Seconds(), key.class, key.port, name)
		}
		counter(trafficDescs.retransmits, float64(t.retransmits), key.class, key.port)
	}
}
