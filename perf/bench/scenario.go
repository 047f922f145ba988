package main

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"millrace/perf/pktgen"
	"millrace/perf/ruleset"
)

// A scenario is a case of the benchmark: what the switches do, and with what.
type scenario struct {
	Name  string         `json:"name"`
	About string         `json:"about"`
	Sizes []pktgen.Share `json:"sizes"`
	Flows int            `json:"flows"`
	// Bridge: the switches learn and look up addresses. Otherwise the input
	// port alone decides, on both sides, unless there are rules.
	Bridge bool   `json:"bridge"`
	Group  string `json:"group,omitempty"` // of results: vhost, flows, ct, kernel or egress

	ring    uint                            // descriptors of the generator's rings; 0: as the command line says
	ports   int                             // 0: two
	rules   func() ruleset.Set              // that both switches have; nil: see Bridge
	traffic func(turn int) []pktgen.Traffic // by port, before the rate is limited; nil: Flows
	warm    func() []pktgen.Traffic         // sent before all turns, so that each flow has been seen; nil: nothing
	tunings []tuning                        // of OVS, of which the best is taken
	turn    turnFunc                        // nil: turnRate
	metrics []metric                        // what is measured besides packets and cycles
	bare    bool                            // packets a second and their ratio are not the point

	connects bool                         // connections are tracked
	client   func(n uint32) pktgen.Header // that are established before a turn
	once     bool                         // one pair is enough: what is measured takes minutes
	seconds  float64                      // length of a turn at most; 0: as the command line says
	warmup   time.Duration                // of each turn, if a sixth of it is not enough
	ceiling  ceilingFunc                  // of the generator; nil: as many frames as go through a forwarder

	ours     rivalFunc         // starts our side; nil: the switch
	far      bool              // the link of tunnels has delay and loss
	plug     *plug             // how ports are made; nil: they are vhost-user sockets of the generator
	underlay *underlay         // of a tunnel, which ports lead to; nil: none
	rival    rivalFunc         // nil: OVS
	peer     string            // the rival's name in tables; empty: OVS-DPDK
	poll     string            // how our worker polls; empty: busy
	unit     string            // of rates; empty: Mpps
	config   map[string]string // of Open_vSwitch.other_config, from the start
	done     func()            // ends what turns have begun
}

// A rivalFunc starts the other side.
type rivalFunc func(ctx context.Context, s settings, c scenario, dir string) (side, error)

// rates is the unit of the case's rates.
func (c scenario) rates() string { return cmp.Or(c.unit, "Mpps") }

// rivalName is what the other side is called.
func (c scenario) rivalName() string { return cmp.Or(c.peer, "OVS-DPDK") }

// A ceilingFunc measures what the generator can do, in the unit of the case's rates.
type ceilingFunc func(ctx context.Context, s settings, c scenario) (float64, error)

// A turnFunc is one turn of who, turn number n of it.
type turnFunc func(ctx context.Context, s settings, c scenario, who side, n int) (sample, error)

// A metric is one of a sample's values.
type metric struct {
	Key    string
	Title  string // with its unit
	Format string // of a number
	readme bool   // it stands in the README
	worst  bool   // the largest of all turns counts, not the median
}

// The groups of results.
const (
	vhostGroup   = "vhost"
	flowsGroup   = "flows"
	connectGroup = "ct"
	kernelGroup  = "kernel"
	egressGroup  = "egress"
)

func small() []pktgen.Share { return []pktgen.Share{{Size: 60, Weight: 1}} }

func allCases() []scenario {
	return slices.Concat([]scenario{
		{Name: "p2p", About: "port to port, 60 bytes: the input port decides", Sizes: small(), Flows: 1, Group: vhostGroup, metrics: batches()},
		{Name: "l2", About: "learning bridge (OVS: action NORMAL), 60 bytes", Sizes: small(), Flows: 1, Bridge: true, Group: vhostGroup, metrics: batches()},
		{Name: "1500", About: "port to port, 1500 bytes", Sizes: []pktgen.Share{{Size: 1500, Weight: 1}}, Flows: 1, Group: vhostGroup, metrics: batches()},
		{Name: "imix", About: "port to port, 7 x 60, 4 x 590, 1 x 1514 bytes", Sizes: pktgen.IMIX(), Flows: 1, Group: vhostGroup, metrics: batches()},
	}, flowCases(), connectCases(), kernelCases(), egressCases())
}

// batches tell how both ends of the rings keep up with each other.
func batches() []metric {
	return []metric{{Key: keyBatch, Title: "frames taken from a ring at once", Format: "%.1f"}, {Key: keyBusy, Title: "share of the core's time with packets", Format: "%.2f"}}
}

// findCases returns the case called name, with those whose names go on from there
// (change, tap), those of a group: vhost, flows, ct, kernel, egress, or all, or those
// that fit a pattern as of files (egress-*).
func findCases(name string) []scenario {
	return slices.DeleteFunc(allCases(), func(c scenario) bool {
		fits, _ := path.Match(name, c.Name) // a bad pattern fits none
		return name != "all" && c.Name != name && c.Group != name && !strings.HasPrefix(c.Name, name+"-") && !fits
	})
}

// caseNames are what findCases knows.
func caseNames() string {
	var names []string
	for _, c := range allCases() {
		names = append(names, c.Name)
	}
	return strings.Join(append(names, "change", vhostGroup, flowsGroup, connectGroup, kernelGroup, egressGroup, "all"), ", ")
}

// generatorPorts is how many ports the generator has.
func (c scenario) generatorPorts() int { return max(c.ports, 2) }

// streams is what each port sends in a turn.
func (c scenario) streams(turn int) []pktgen.Traffic {
	ts := make([]pktgen.Traffic, c.generatorPorts())
	if c.traffic != nil {
		copy(ts, c.traffic(turn))
		return ts
	}
	for i := range ts {
		ts[i] = pktgen.Traffic{Flows: c.Flows}
	}
	return ts
}
