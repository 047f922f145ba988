package control

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is looked up by its name
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"millrace/control/flows"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
)

// A transaction of a hundred thousand rules is written straight into bytes: as
// messages, each word of each rule would be an object.

// wireMax is how many bytes of changes go into one message, about.
const wireMax = 128 << 10

// What room a message is given: the change that fills it may be some bytes too
// long, and most changes take fewer bytes than this.
const wireSpare, changeBytes = 4 << 10, 256

// encoded is a message that is encoded already.
type encoded []byte

// A wireCodec is protobuf's, but that it leaves what is encoded as it is.
type wireCodec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c wireCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// transact makes one transaction of changes, in their order.
func (s *session) transact(ctx context.Context, changes []flows.Change) (*api.TransactResponse, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream where we return early
	defer cancel()
	stream, err := s.client.Flows.Transact(ctx, grpc.ForceCodecV2(wireCodec{encoding.GetCodecV2("proto")}))
	if err != nil {
		return nil, api.FromStatus(err)
	}
	for first := true; first || len(changes) > 0; first = false {
		var b encoded
		if b, changes, err = appendChanges(changes, first); err != nil {
			return nil, err
		}
		if err := stream.SendMsg(b); err != nil {
			break // the answer knows why
		}
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return nil, api.FromStatus(err)
	}
	return r, nil
}

// appendChanges returns a message of the first changes, and the others. The first
// message says that a transaction may be made in part.
func appendChanges(changes []flows.Change, first bool) (b encoded, rest []flows.Change, err error) {
	b = make([]byte, 0, min(wireMax+wireSpare, changeBytes*len(changes)+wireSpare))
	if first {
		b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), 1)
	}
	var one, rule []byte // scratch
	for len(changes) > 0 && len(b) < wireMax {
		if one, rule, err = appendChange(one[:0], rule[:0], &changes[0]); err != nil {
			return nil, nil, err
		}
		b = appendMessage(b, 2, one)
		changes = changes[1:]
	}
	return b, changes, nil
}

// appendChange encodes a change as an api.FlowChange. It returns rule, which is
// scratch, as well.
func appendChange(b, rule []byte, c *flows.Change) (change, scratch []byte, err error) {
	switch c.Kind {
	case flows.AddRule:
		rule = appendRule(rule, c.Rule)
		return appendMessage(b, 1, rule), rule, nil
	case flows.RemoveRule:
		return protowire.AppendFixed64(protowire.AppendTag(b, 3, protowire.Fixed64Type), uint64(c.Removed)), rule, nil
	}
	b, err = proto.MarshalOptions{}.MarshalAppend(b, flowChange(c))
	if err != nil {
		return nil, nil, fmt.Errorf("encode a change of the flow table: %w", err)
	}
	return b, rule, nil
}

// appendMessage appends a field that is a message.
func appendMessage(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}

// appendFixed and appendInt append a number, unless it is 0, as protobuf does.
func appendFixed(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), v)
}

func appendInt(b []byte, field protowire.Number, v uint32) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

// appendRule encodes a rule as an api.FlowRule.
func appendRule(b []byte, r *flowtable.Rule) []byte {
	b = appendFixed(b, 1, uint64(r.ID))
	b = appendInt(b, 2, uint32(r.Table))
	b = appendInt(b, 3, uint32(r.Priority))
	b = appendFixed(b, 4, r.Datapath)
	b = appendInt(b, 5, uint32(r.Group))
	var part [96]byte // enough for all but lists of actions
	for _, m := range r.Match {
		p := appendInt(part[:0], 1, uint32(m.Word))
		p = appendFixed(p, 2, m.Value)
		b = appendMessage(b, 6, appendFixed(p, 3, m.Mask))
	}
	for i := range r.Preds {
		b = appendMessage(b, 7, appendPred(part[:0], &r.Preds[i]))
	}
	for i := range r.Actions {
		b = appendMessage(b, 8, appendAction(part[:0], &r.Actions[i]))
	}
	return appendFixed(b, 9, r.Cookie)
}

// appendPred encodes an api.FlowPredicate.
func appendPred(b []byte, p *flowtable.Pred) []byte {
	b = appendInt(b, 1, uint32(p.Kind))
	b = appendInt(b, 2, flowapi.PackField(p.Field))
	b = appendInt(b, 3, uint32(p.Set))
	for i, v := range [...]uint64{p.Low, p.High, p.LowLow, p.Mask, p.MaskLow} {
		b = appendFixed(b, protowire.Number(4+i), v)
	}
	return b
}

// appendAction encodes an api.FlowAction.
func appendAction(b []byte, a *flowtable.Action) []byte {
	b = appendInt(b, 1, uint32(a.Code))
	b = appendInt(b, 2, uint32(a.Table))
	b = appendInt(b, 3, flowapi.PackField(a.Dst))
	b = appendInt(b, 4, flowapi.PackField(a.Src))
	b = appendInt(b, 5, flowapi.PackField(a.Src2))
	b = appendInt(b, 6, a.Arg)
	b = appendFixed(b, 7, a.Value)
	b = appendFixed(b, 8, a.ValueLow)
	for i := range a.Nested {
		b = appendMessage(b, 9, appendAction(nil, &a.Nested[i]))
	}
	return b
}
