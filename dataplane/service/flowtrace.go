package service

import (
	"context"
	"slices"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// Trace implements api.FlowsServer.
func (f *flows) Trace(_ context.Context, req *api.TraceRequest) (*api.TraceResponse, error) {
	var c checker
	c.name("port", req.GetPort())
	if n := len(req.GetFrame()); n < packet.FrameMin || n > packet.FrameMax {
		c.fail("frame", "%d bytes are not in %d..%d", n, packet.FrameMin, packet.FrameMax)
	}
	if c.err != nil {
		return nil, c.err
	}
	tr, err := f.Switch.Trace(req.GetPort(), req.GetFrame())
	if err != nil {
		return nil, err
	}
	return toTrace(tr), nil
}

func toTrace(tr *dataplane.Trace) *api.TraceResponse {
	m := &api.TraceResponse{Key: tr.Key[:]}
	if tr.Early != packet.ReasonNone {
		m.Early = tr.Early.Text()
		return m
	}
	m.Ops, m.Consulted = flowapi.ToOps(tr.Composed.Ops), flowapi.ToMasked(tr.Key[:], tr.Composed.Mask[:])
	for i := range tr.Steps {
		m.Steps = append(m.Steps, toStep(tr.Steps, i))
	}
	for _, o := range tr.Outputs {
		out := &api.TraceOutput{Port: o.Port, Frame: o.Frame}
		if o.Drop != packet.ReasonNone {
			out.DropReason = o.Drop.Text()
		}
		m.Outputs = append(m.Outputs, out)
	}
	if !outputs(tr.Composed.Ops) {
		m.Drop, m.DropReason = tr.Composed.Drop, dataplane.DropText(tr.Composed.Drop)
	}
	if tr.Drop != packet.ReasonNone {
		m.DropReason = tr.Drop.Text()
	}
	return m
}

// outputs reports whether a program delivers anything.
func outputs(ops []flowtable.Op) bool {
	return slices.ContainsFunc(ops, func(o flowtable.Op) bool { return o.Code == flowtable.OpOutput || o.Code == flowtable.OpFlood })
}

func toStep(steps []flowtable.TraceStep, i int) *api.TraceStep {
	s := &steps[i]
	m := &api.TraceStep{Depth: uint32(s.Depth), Datapath: s.Datapath, Table: uint32(s.Table)}
	if s.Action == nil {
		if s.Rule != nil {
			m.Rule = flowapi.ToRule(s.Rule)
		}
		return m
	}
	m.Action = flowapi.ToAction(s.Action)
	after := s.Before
	if i+1 < len(steps) && steps[i+1].Depth >= s.Depth {
		after = steps[i+1].Before
	} else {
		write(&after, s.Action) // the next step, if there is one, sees what was before a copy was made
	}
	m.Changed = changes(&s.Before, &after)
	return m
}

// changes returns the words that differ, whole, and the bits that do; with the
// other halves of fields of 128 bits.
func changes(before, after *flowtable.Context) []*api.FlowMasked {
	var out []*api.FlowMasked
	for w := range before {
		differ := before[w] != after[w]
		if half := otherHalf(w); half >= 0 && before[half] != after[half] {
			differ = true
		}
		if differ {
			out = append(out, &api.FlowMasked{Word: uint32(w), Value: after[w], Mask: before[w] ^ after[w]})
		}
	}
	return out
}

// otherHalf returns the word with the other half of the field of 128 bits that
// word w is of, or -1. Wide registers are not looked at: they have shorter names.
func otherHalf(w int) int {
	for _, first := range [...]int{flowtable.WordIP6Src, flowtable.WordIP6Dst, flowtable.WordND, flowtable.WordLabel, flowtable.WordCTIP6Src, flowtable.WordCTIP6Dst} {
		switch w {
		case first:
			return first + 1
		case first + 1:
			return first
		}
	}
	return -1
}

// write does to a context what a simple action does.
func write(ctx *flowtable.Context, a *flowtable.Action) {
	switch a.Code {
	case flowtable.ActSet:
		put(ctx, a.Dst, [2]uint64{a.Value, a.ValueLow})
	case flowtable.ActMove:
		put(ctx, a.Dst, get(ctx, a.Src))
	case flowtable.ActExchange:
		dst, src := get(ctx, a.Dst), get(ctx, a.Src)
		put(ctx, a.Dst, src)
		put(ctx, a.Src, dst)
	}
}

// get returns the value of a field as actions have it: of 64 bits or fewer, in
// the first number.
func get(ctx *flowtable.Context, f flowtable.Field) [2]uint64 {
	if f.Width == 128 {
		return [2]uint64{ctx[f.Word], ctx[f.Word+1]}
	}
	bits, _ := f.Bits()
	return [2]uint64{ctx[f.Word] & bits >> f.Shift, 0}
}

// put sets a field. That there is a tag is left as it is (see flowtable.Action).
func put(ctx *flowtable.Context, f flowtable.Field, v [2]uint64) {
	if f.Width == 128 {
		ctx[f.Word], ctx[f.Word+1] = v[0], v[1]
		return
	}
	bits, _ := f.Bits()
	if f.Word == flowtable.WordIn {
		bits &^= flowtable.TagPresent << 16
	}
	ctx[f.Word] = ctx[f.Word]&^bits | v[0]<<f.Shift&bits
}
