package dataplane

import (
	"fmt"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/flowtable"
)

// tracking are rules that send all IP out by port 2, through so many zones; in the last
// one sources are translated if nat is set.
func tracking(zones int, nat bool) []flowtable.Rule {
	ip := []flowtable.Masked{is(fields("eth.type")[0], 0x0800)}
	isNew := []flowtable.Masked{hasState(conntrack.StateNew|conntrack.StateTracked, 0)}
	rules := []flowtable.Rule{{Match: ip, Actions: []flowtable.Action{connect(1, resume|flowtable.CTTranslate, 1)}}}
	for z := 1; z <= zones; z++ {
		on := []flowtable.Action{out(2)}
		if z < zones {
			on = []flowtable.Action{connect(uint16(z+1), resume|flowtable.CTTranslate, uint8(2*z+1))}
		}
		terms := []flowtable.Action{}
		if nat && z == zones {
			terms = append(terms, natTo(flowtable.NATSource, "192.0.2.1", 0), flowtable.Action{Code: flowtable.ActNAT, Table: flowtable.NATSource | flowtable.NATLast, ValueLow: 0xc00002ff})
		}
		table := uint8(2*z - 1)
		rules = append(rules,
			flowtable.Rule{Table: table, Priority: 2, Match: isNew, Actions: []flowtable.Action{connect(uint16(z), committed|flowtable.CTTranslate, table+1, terms...)}},
			flowtable.Rule{Table: table, Priority: 1, Actions: on}, flowtable.Rule{Table: table + 1, Actions: on})
	}
	return rules
}

// BenchmarkConnections is connections whose packets all come from one side, through one
// zone, two, and two with translation.
func BenchmarkConnections(b *testing.B) {
	for _, n := range []int{1024, 65536} {
		for _, c := range []struct {
			name  string
			zones int
			nat   bool
		}{{"one zone", 1, false}, {"two zones", 2, false}, {"two zones and NAT", 2, true}} {
			b.Run(fmt.Sprintf("%d/%s", n, c.name), func(b *testing.B) {
				s := newStage(b, udpFlows(n), shuffled(n))
				s.add(tracking(c.zones, c.nat))
				s.run(b)
			})
		}
	}
}

// BenchmarkConnect is frames that each begin a connection, in one zone.
func BenchmarkConnect(b *testing.B) {
	s := newStage(b, udpFlows(1), []uint32{0})
	s.src.ports = true
	s.add(tracking(1, false))
	s.run(b)
}
