package flows

import (
	"crypto/sha256"
	"encoding/binary"

	"millrace/flowtable"
)

// A digester writes down what rules say, byte for byte the same for the same
// rule in each life of control and on each machine.
type digester struct{ b []byte }

func (d *digester) u8(v ...uint8)           { d.b = append(d.b, v...) }
func (d *digester) u32(v uint32)            { d.b = binary.LittleEndian.AppendUint32(d.b, v) }
func (d *digester) u64(v uint64)            { d.b = binary.LittleEndian.AppendUint64(d.b, v) }
func (d *digester) text(s string)           { d.u32(uint32(len(s))); d.b = append(d.b, s...) }
func (d *digester) field(f flowtable.Field) { d.u8(f.Word, f.Shift, f.Width) }

// rule gives r its id: a digest of all else that it says. Zero is none.
func (d *digester) rule(r *flowtable.Rule) {
	d.b = d.b[:0]
	d.u64(r.Datapath)
	d.u8(r.Table)
	d.u32(uint32(r.Priority))
	d.u64(r.Cookie)
	d.u8(uint8(len(r.Match)), uint8(len(r.Preds)))
	for _, m := range r.Match {
		d.u8(m.Word)
		d.u64(m.Value)
		d.u64(m.Mask)
	}
	for i := range r.Preds {
		d.pred(&r.Preds[i])
	}
	d.actions(r.Actions)
	sum := sha256.Sum256(d.b)
	r.ID = max(flowtable.RuleID(binary.LittleEndian.Uint64(sum[:8])), 1)
}

func (d *digester) pred(p *flowtable.Pred) {
	d.u8(p.Kind)
	d.field(p.Field)
	d.u32(uint32(p.Set))
	for _, v := range [...]uint64{p.Low, p.High, p.LowLow, p.Mask, p.MaskLow} {
		d.u64(v)
	}
}

func (d *digester) actions(list []flowtable.Action) {
	d.u32(uint32(len(list)))
	for i := range list {
		a := &list[i]
		d.u8(a.Code, a.Table)
		d.field(a.Dst)
		d.field(a.Src)
		d.field(a.Src2)
		d.u32(a.Arg)
		d.u64(a.Value)
		d.u64(a.ValueLow)
		d.actions(a.Nested)
	}
}

// members writes down the members of a set, which are in order.
func (d *digester) members(width uint8, list []flowtable.Member) {
	d.u8(width)
	for _, m := range list {
		d.u64(m.High)
		d.u64(m.Low)
		d.u64(m.MaskHigh)
		d.u64(m.MaskLow)
	}
}

// number is a digest of 32 bits of what was written down.
func (d *digester) number() uint32 {
	sum := sha256.Sum256(d.b)
	return binary.LittleEndian.Uint32(sum[:4])
}

// key is a digest of 32 bits of an object's key.
func (d *digester) key(k objectKey) uint32 {
	d.b = append(append(d.b[:0], k.kind), k.text...)
	return d.number()
}

// choice writes down a select group.
func (d *digester) choice(s *flowtable.Select) {
	d.u32(uint32(len(s.Fields)))
	for _, f := range s.Fields {
		d.field(f)
	}
	for _, b := range s.Buckets {
		d.u32(b.ID)
		d.u32(uint32(b.Weight))
		d.actions(b.Actions)
	}
}
