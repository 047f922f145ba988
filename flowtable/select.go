package flowtable

import (
	"math"
	"math/bits"
)

// Hashes of select groups have no seed: after a restart, and on every worker, a
// flow comes to the same bucket.
const (
	selectStart = 0x9e3779b97f4a7c15
	selectA     = 0xbf58476d1ce4e5b9
	selectB     = 0x94d049bb133111eb
)

// choose takes a bucket of a select group. Its actions run, or, if the action
// has a destination, that is set to the bucket's id and the table to look on in
// is returned.
func (w *Walker) choose(s *step) int {
	t := w.t
	obj := t.findObject(objSelect, s.arg)
	if obj == 0 {
		w.last = DropNoBucket
		return -1
	}
	w.edges = append(w.edges, stepSelect<<stepKind|uint64(obj)<<8)
	state := t.stateAt(obj, w.version)
	if state == 0 {
		w.last = DropNoBucket
		return -1
	}
	d := t.data(state)
	h := uint64(selectStart)
	fields := d[1 : 1+d[0]]
	for _, f := range fields {
		high, low := w.read(unpack(f))
		h = selectMix(selectMix(h, high), low)
	}
	id, actions, ok := pick(d[1+d[0]:], h)
	if !ok {
		w.last = DropNoBucket
		return -1
	}
	if s.dst.Width == 0 {
		w.nested(func() { w.list(actions) })
		return -1
	}
	w.write(s.dst, 0, uint64(id))
	return int(s.table)
}

// selectMix folds x into h.
func selectMix(h, x uint64) uint64 {
	hi, lo := bits.Mul64(x^selectA, h^selectB)
	return hi ^ lo ^ x
}

// pick chooses among encoded buckets by weighted rendezvous: each draws a number
// from the hash and its id, and the highest wins, so a bucket that goes moves
// only the flows that it had.
func pick(d []uint64, h uint64) (id uint32, actions []uint64, ok bool) {
	best := math.Inf(-1)
	n := d[0]
	d = d[1:]
	for range n {
		b, weight, size := uint32(d[0]), uint16(d[0]>>32), d[0]>>48
		if score := draw(h, b, weight); weight > 0 && score > best {
			best, id, actions, ok = score, b, d[1:1+size], true
		}
		d = d[1+size:]
	}
	return id, actions, ok
}

// draw returns the number that a bucket draws: -weight / ln(u), for u even over
// (0, 1).
func draw(h uint64, bucket uint32, weight uint16) float64 {
	x := selectMix(selectMix(h, uint64(bucket)+1), selectB)
	u := (float64(x>>11) + 0.5) / (1 << 53)
	return -float64(weight) / math.Log(u)
}
