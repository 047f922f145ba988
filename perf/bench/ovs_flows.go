package main

import (
	"context"
	"strings"

	"millrace/perf/peers"
	"millrace/perf/ruleset"
)

// tune configures OVS. What earlier tunings have set and this one does not stays:
// those of one case set the same keys.
func (v *ovs) tune(ctx context.Context, t tuning) error {
	v.tuning = t.Name
	if err := v.o.Configure(ctx, t.config); err != nil {
		return err
	}
	prefixes := []string{"ip_dst", "ip_src"} // the default
	if t.noTries {
		prefixes = []string{"tun_id"} // which no frame has
	}
	return v.o.SetPrefixes(ctx, "br0", ruleset.TablesMax, prefixes...)
}

func (v *ovs) settle(ctx context.Context, t tuning) error {
	if t.settled == nil {
		return nil
	}
	return v.o.Configure(ctx, t.settled)
}

// reset removes all megaflows, which makes the entries of both caches void.
func (v *ovs) reset(ctx context.Context) error {
	_, err := v.o.Appctl(ctx, "revalidator/purge")
	return err
}

func (v *ovs) masks(ctx context.Context) (int, error) {
	flows, err := v.o.DatapathFlows(ctx)
	return flows.Masks, err
}

// numbers are the ports' numbers in OpenFlow, by the names that rules have.
func (v *ovs) numbers() map[string]int {
	n := map[string]int{}
	for i := range v.gen {
		n[portName(i)] = i + 1
	}
	return n
}

func (v *ovs) replace(ctx context.Context, rules ruleset.Set) error {
	var b strings.Builder
	if err := rules.WriteOpenFlow(&b, v.numbers()); err != nil {
		return err
	}
	if groups := rules.Groups(); groups != nil {
		if err := v.o.ReplaceGroups(ctx, "br0", strings.Join(groups, "\n")+"\n"); err != nil {
			return err
		}
	}
	return v.o.ReplaceFlows(ctx, "br0", b.String())
}

func (v *ovs) connections(ctx context.Context) (connectionCount, error) {
	n, err := v.o.CountConnections(ctx)
	return connectionCount{Total: n}, err
}

func (v *ovs) forget(ctx context.Context) error { return v.o.FlushConnections(ctx) }
func (v *ovs) footprint() *footprint            { return &v.memory }
func (v *ovs) pid() int                         { return v.o.PID() }

// prepare keeps the rules for launch: OVS has none when it starts.
func (v *ovs) prepare(_ context.Context, rules ruleset.Set) error {
	v.rules = rules
	return nil
}

func (v *ovs) launch(ctx context.Context) error { return v.replace(ctx, v.rules) }

func (v *ovs) inForce(ctx context.Context) (int, error) { return v.o.CountFlows(ctx, "br0") }

func (v *ovs) changers(ctx context.Context) ([]changer, error) {
	f, err := v.o.OpenFlow(ctx, "br0")
	if err != nil {
		return nil, err
	}
	return []changer{&openFlowChanger{f, v.numbers()}}, nil
}

// openFlowChanger sends single flow_mods, and a barrier after each.
type openFlowChanger struct {
	f       *peers.OpenFlow
	numbers map[string]int
}

func (c *openFlowChanger) name() string { return "OpenFlow" }

func (c *openFlowChanger) gate(_ context.Context, alt bool) error {
	return c.modify(peers.UDPFlow{Priority: ruleset.GatePriority, Dst: ruleset.GateDst}, alt)
}

func (c *openFlowChanger) idle(_ context.Context, rule int, alt bool) error {
	return c.modify(peers.UDPFlow{Priority: ruleset.IdlePriority, Dst: ruleset.IdleDst(rule)}, alt)
}

func (c *openFlowChanger) modify(flow peers.UDPFlow, alt bool) error {
	flow.InPort, flow.DstPort, flow.Output = uint16(c.numbers["p0"]), ruleset.GatePort, uint16(c.numbers["p1"])
	if alt {
		flow.Output = uint16(c.numbers["p3"])
	}
	if err := c.f.Change(peers.FlowModify, flow); err != nil {
		return err
	}
	return c.f.Barrier()
}

func (c *openFlowChanger) close() { _ = c.f.Close() }

// explain says what the ports have dropped.
func (v *ovs) explain(ctx context.Context) string {
	out, err := v.o.Ofctl(ctx, "dump-ports", "br0")
	if err != nil {
		return err.Error()
	}
	return out
}
