package agent

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// A codec is protobuf, with a short way for DATA, which nearly all packets are: no
// reflection, and nothing that the collector would have to fetch.
//
//	08 04 22 length of the rest 08 connect id 1a length bytes
type codec struct{}

// A parcel is a packet that comes. One serves all packets of a stream: what is in it is
// good until free.
type parcel struct {
	konn.Packet
	payload konn.Packet_Data
	data    konn.Data
	held    mem.Buffer // where the bytes are, if they are not its own
}

// free gives back what a packet was read into.
func (p *parcel) free() {
	if p.held != nil {
		p.held.Free()
		p.held = nil
		p.data.Data = nil
	}
}

// Tags of fields, as they are on the wire.
const (
	tagType    = 1<<3 | byte(protowire.VarintType)
	tagPayload = 4<<3 | byte(protowire.BytesType) // of DATA in a packet
	tagID      = 1<<3 | byte(protowire.VarintType)
	tagBytes   = 3<<3 | byte(protowire.BytesType)
)

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	p, ok := v.(*konn.Packet)
	if !ok {
		return nil, fmt.Errorf("send a packet: %T is none", v)
	}
	if d, ok := p.Payload.(*konn.Packet_Data); ok && p.Type == konn.PacketType_DATA && d.Data.Error == "" {
		return mem.BufferSlice{marshalData(d.Data)}, nil
	}
	b, err := proto.Marshal(p)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func marshalData(d *konn.Data) mem.Buffer {
	inner := 1 + protowire.SizeVarint(uint64(d.ConnectID)) + 1 + protowire.SizeBytes(len(d.Data))
	pool := mem.DefaultBufferPool()
	buf := pool.Get(3 + protowire.SizeBytes(inner))
	b := append((*buf)[:0], tagType, byte(konn.PacketType_DATA), tagPayload)
	b = protowire.AppendVarint(b, uint64(inner))
	b = protowire.AppendVarint(append(b, tagID), uint64(d.ConnectID))
	b = protowire.AppendBytes(append(b, tagBytes), d.Data)
	*buf = b
	return mem.NewBuffer(buf, pool)
}

func (codec) Unmarshal(s mem.BufferSlice, v any) error {
	buf := s.MaterializeToBuffer(mem.DefaultBufferPool())
	in, ok := v.(*parcel)
	if ok && in.readData(buf.ReadOnlyData()) {
		in.held = buf
		return nil
	}
	defer buf.Free()
	p, plain := v.(*konn.Packet)
	if ok {
		p = &in.Packet
	} else if !plain {
		return fmt.Errorf("read a packet: %T is none", v)
	}
	return proto.Unmarshal(buf.ReadOnlyData(), p)
}

// readData reads DATA in the form that everybody writes it; other forms are for
// protobuf. The bytes are not copied.
func (p *parcel) readData(b []byte) bool {
	if len(b) < 3 || b[0] != tagType || b[1] != byte(konn.PacketType_DATA) || b[2] != tagPayload {
		return false
	}
	inner, n := protowire.ConsumeBytes(b[3:])
	if n < 0 || 3+n != len(b) || len(inner) == 0 || inner[0] != tagID {
		return false
	}
	id, n := protowire.ConsumeVarint(inner[1:])
	if n < 0 || 1+n == len(inner) || inner[1+n] != tagBytes {
		return false
	}
	rest := inner[2+n:]
	bytes, n := protowire.ConsumeBytes(rest)
	if n < 0 || n != len(rest) {
		return false
	}
	p.data.ConnectID, p.data.Data, p.data.Error = int64(id), bytes, ""
	p.payload.Data = &p.data
	p.Packet.Type, p.Packet.Payload = konn.PacketType_DATA, &p.payload
	return true
}
