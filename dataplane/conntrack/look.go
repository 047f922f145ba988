package conntrack

// Look says of a packet which connection it is of, in v, and takes note of nothing. Only
// State, Original, Uses and what tells how long the answer holds are set; the answer does not
// depend on TCP's flags. An ICMP error is of none; a later fragment is if its ports are known.
func (w *Worker) Look(zone uint16, p *Packet, v *Verdict) {
	t := w.t
	*v = Verdict{Original: p.Tuple, State: StateTracked, Uses: usesOf(p) &^ UsesFlags}
	if p.Proto == ProtoSCTP {
		v.Uses &^= UsesUnkeyed
	}
	if p.Bad || p.Error {
		return
	}
	k := p.key(zone)
	h := t.index.seed.hash(&k)
	for range lookTries {
		v.Cell = t.absence(h)
		v.Want = t.cell(v.Cell)
		i, dir := t.find(&k, h)
		if i == 0 {
			v.State |= StateNew
			v.Cacheable = v.Uses&UsesUnkeyed == 0
			return
		}
		want := t.cell(i)
		s := status(t.records[i].state.Load())
		if s&dead != 0 || v.Uses&UsesUnkeyed == 0 && !t.records[i].watch(s) {
			continue
		}
		t.describe(i, dir, s, v)
		v.Cell, v.Want = i, want
		v.Cacheable = v.Uses&UsesUnkeyed == 0
		return
	}
}
