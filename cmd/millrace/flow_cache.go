package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"millrace/dataplane/api"
	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

// dumpCache shows the programs that workers have cached.
func (a *app) dumpCache(ctx context.Context, c *api.Client, q *dumpQuery) error {
	l, err := a.lookUp(ctx, c)
	if err != nil {
		return err
	}
	if q.bridge != "" {
		if _, err := l.bridge(q.bridge); err != nil {
			return err
		}
	}
	if q.port != "" {
		if _, err := l.port(q.bridge, q.port); err != nil {
			return err
		}
	}
	var programs []*api.CachedProgram
	s, err := c.Flows.ListCached(ctx, &api.ListCachedRequest{Port: q.port, EntriesMax: q.keys})
	err = each(s, err, func(m *api.ListCachedResponse) {
		for _, p := range m.GetPrograms() {
			if q.bridge == "" || l.cachedFor(p, q.bridge) {
				programs = append(programs, p)
			}
		}
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(programs, func(a, b *api.CachedProgram) int {
		return cmp.Or(cmp.Compare(a.GetCpu(), b.GetCpu()), cmp.Compare(b.GetPackets(), a.GetPackets()))
	})
	if a.json {
		return a.printJSON(object{{"programs", l.programsJSON(programs)}})
	}
	l.printPrograms(a, programs)
	return nil
}

// cachedFor reports whether a program is for frames that come by ports of a bridge.
func (l *listing) cachedFor(p *api.CachedProgram, bridge string) bool {
	for _, e := range p.GetEntries() {
		for _, m := range e.GetMatch() {
			if m.GetWord() != flowtable.WordIn {
				continue
			}
			if _, err := l.port(bridge, l.portName(uint32(m.GetValue()>>32))); err == nil {
				return true
			}
		}
	}
	return false
}

func (l *listing) printPrograms(a *app, programs []*api.CachedProgram) {
	t := newTable(">CPU", ">PACKETS", ">BYTES", ">IDLE", "KEY", "PROGRAM")
	for _, p := range programs {
		cpu, packets, bytes, what := fmt.Sprint(p.GetCpu()), count(p.GetPackets()), count(p.GetBytes()), l.program(p)
		for _, e := range p.GetEntries() {
			t.add(cpu, packets, bytes, span(seconds(e.GetIdleSeconds())), l.key(e), what)
			cpu, packets, bytes, what = "", "", "", ""
		}
		if more := p.GetNEntries() - uint64(len(p.GetEntries())); more > 0 {
			t.add(cpu, packets, bytes, "", fmt.Sprintf("(%s)", plural(uint32(more), "more key")), what)
		}
	}
	t.print(a.out, "nothing is cached")
}

// key writes a key: what frames must agree with.
func (l *listing) key(e *api.CachedEntry) string {
	return flowtext.Match(masked(e.GetMatch()), nil, l.names)
}

// kindOfKey says in which cache a key is.
func kindOfKey(e *api.CachedEntry) string {
	if e.GetExact() {
		return "exact"
	}
	return "wildcard"
}

// program writes what is done with the frames.
func (l *listing) program(p *api.CachedProgram) string {
	text := ""
	if len(p.GetOps()) == 0 {
		text = "drop: " + p.GetDropReason()
	} else {
		var about []flowtable.Masked
		if len(p.GetEntries()) > 0 {
			about = masked(p.GetEntries()[0].GetMatch())
		}
		text = flowtext.Program(ops(p.GetOps()), about, l.names)
	}
	if p.GetStale() {
		text += " (stale)"
	}
	return text
}

func (l *listing) programsJSON(programs []*api.CachedProgram) []object {
	out := []object{}
	for _, p := range programs {
		keys, rules := []object{}, []string{}
		for _, e := range p.GetEntries() {
			keys = append(keys, object{{"key", l.key(e)}, {"kind", kindOfKey(e)}, {"idle_seconds", e.GetIdleSeconds()}})
		}
		for _, id := range p.GetRules() {
			rules = append(rules, hex64(id))
		}
		out = append(out, object{
			{"cpu", p.GetCpu()}, {"n_packets", p.GetPackets()}, {"n_bytes", p.GetBytes()}, {"program", l.program(p)},
			{"drop_reason", p.GetDropReason()}, {"stale", p.GetStale()}, {"n_keys", p.GetNEntries()}, {"keys", keys}, {"rules", rules},
		})
	}
	return out
}
