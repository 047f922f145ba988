package conntrack

// Peek says of a packet what Track would, and, if c is not nil, what Commit would
// make of that. It takes note of nothing: it is for traces. A fragment that is not
// the first is invalid to it, and a port that NAT would have to look for is the
// first of its range.
func (t *Table) Peek(zone uint16, p *Packet, c *Terms, v *Verdict) {
	*v = Verdict{Original: p.Tuple, Uses: usesOf(p)}
	t.inside(func() { t.peek(zone, p, v) })
	if c != nil && v.State&(StateInvalid|StateRelated) == 0 {
		t.foresee(zone, p, c, v)
	}
}

// peek is Peek without terms. It runs inside: no record that it comes across is used again meanwhile.
func (t *Table) peek(zone uint16, p *Packet, v *Verdict) {
	v.State = StateTracked | StateInvalid
	switch {
	case p.Bad || p.Fragment == LaterFragment:
		return
	case p.Error:
		t.about(zone, p, v)
		return
	}
	k := p.key(zone)
	i, dir := t.find(&k, t.index.seed.hash(&k))
	if i == 0 {
		if _, _, ok := t.begin(p); ok {
			v.State = StateTracked | StateNew
		}
		return
	}
	s := status(t.records[i].state.Load())
	if p.Proto == ProtoTCP && !t.options.Windows {
		if _, what := tcpStep(s, dir, p.Flags); what == invalid {
			return
		}
	}
	t.describe(i, dir, s, v)
}

// foresee adds to a verdict what a commit would change.
func (t *Table) foresee(zone uint16, p *Packet, c *Terms, v *Verdict) {
	v.Mark = v.Mark&^c.MarkMask | c.Mark&c.MarkMask
	v.Label = masked(v.Label, c)
	if v.Ref != 0 || c.NAT == nil {
		return
	}
	k, to := p.key(zone), p.Tuple
	if !c.NAT.aim(&to, t.index.seed.hash(&k), 0, &t.index.seed) {
		return
	}
	if c.NAT.Src.Set && to.ported() && !c.NAT.Src.hasPort(to.SrcPort) {
		to.SrcPort = c.NAT.Src.PortMin
	}
	r := Rewrite{Src: to.Src, Dst: to.Dst, SrcPort: to.SrcPort, DstPort: to.DstPort}
	if to.Src != p.Src || to.SrcPort != p.SrcPort {
		r.Set |= RewriteSrc
	}
	if to.Dst != p.Dst || to.DstPort != p.DstPort {
		r.Set |= RewriteDst
	}
	v.Rewrite = r
}
