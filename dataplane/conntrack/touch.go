package conntrack

// Touch takes note of packets that composed programs have carried past the
// table since the last Touch: packets and bytes of them in a direction, the
// last one at time last. It reports whether the connection is still there. The
// counts of one that has gone are in Stats.Late only.
//
// A worker calls it for each connection of a program whose counters have moved:
// once a second or so, and when the program is given up.
func (w *Worker) Touch(ref Ref, reply bool, packets, bytes, last uint64) bool {
	t, i := w.t, ref.index()
	if i == 0 || int(i) >= len(t.records) || t.records[i].generation() != ref.generation() {
		w.counts.late.Add(packets)
		return false
	}
	r, dir := &t.records[i], 0
	if reply {
		dir = 1
	}
	if !t.refresh(i, ref.generation(), tickOf(last)) {
		w.counts.late.Add(packets)
		return false
	}
	r.count(dir, packets, bytes)
	return true
}

// refresh lets a connection live on from tick at. It reports false if it is dead.
func (t *Table) refresh(i, generation, at uint32) bool {
	r := &t.records[i]
	for {
		old := status(r.state.Load())
		if old&dead != 0 || r.generation() != generation {
			return false
		}
		next := old &^ dying
		if r.original.proto() == ProtoUDP {
			next = talk(next, 0, ProtoUDP, uint32(r.ident.Load()), at)
		}
		if next != old {
			if !r.state.CompareAndSwap(uint64(old), uint64(next)) {
				continue
			}
			if (next^old)&classBits != 0 {
				t.move(i)
			}
		}
		until := t.until(at, next, &r.original)
		for {
			d := t.deadlines[i].Load()
			if d == 0 || until == d || int32(until-d) < 0 || t.deadlines[i].CompareAndSwap(d, until) {
				return true
			}
		}
	}
}
