package agent

import (
	"bytes"
	"math"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// FuzzCodec: what the codec makes of bytes is what protobuf makes of them, in one piece or
// in two, and what it writes protobuf reads.
func FuzzCodec(f *testing.F) {
	for _, p := range []*konn.Packet{
		{}, dataPacket(1, []byte("hello")), dataPacket(-1, nil), dataPacket(0, make([]byte, 300)), dataPacket(1<<62, make([]byte, 20000)),
		dialResponse(1, 2, "x"), closeResponse(3, ""), {Type: konn.PacketType_DATA},
		{Type: konn.PacketType_DATA, Payload: &konn.Packet_Data{Data: &konn.Data{ConnectID: 5, Error: "x", Data: []byte("y")}}},
	} {
		b, _ := proto.Marshal(p)
		f.Add(b, len(b)/2)
	}
	f.Add([]byte("\x08\x04\x22\x06\x08\x01\x1a\x02ab\x08\x05"), 3) // the type again, another one
	f.Add([]byte("\x08\x04\x22\x06\x08\x01\x1a\x7fab"), 3)
	f.Add([]byte("\x08\x04\x22\x09002\x0500000%0000"), 6) // fields that nobody knows
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = max(0, min(cut, len(b)))
		pieces := mem.BufferSlice{mem.Copy(b[:cut], mem.DefaultBufferPool()), mem.Copy(b[cut:], mem.DefaultBufferPool())}
		want, got := new(konn.Packet), new(parcel)
		wantErr := proto.Unmarshal(b, want)
		for range 2 { // a parcel serves again and again
			err := codec{}.Unmarshal(pieces, got)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("%v, and by protobuf %v", err, wantErr)
			}
			if err == nil {
				checkSame(t, &got.Packet, want)
			}
			got.free()
		}
		pieces.Free()
		if wantErr == nil {
			checkMarshal(t, b)
		}
	})
}

func checkSame(t *testing.T, got, want *konn.Packet) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
}

// checkMarshal has the codec write the packet in b, as we would have made it: without
// fields that nobody knows.
func checkMarshal(t *testing.T, b []byte) {
	t.Helper()
	p := new(konn.Packet)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, p); err != nil {
		t.Fatal(err)
	}
	s, err := codec{}.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Free()
	back := new(konn.Packet)
	if err := proto.Unmarshal(s.Materialize(), back); err != nil {
		t.Fatal(err)
	}
	checkSame(t, back, p)
}

// TestCodecAllocates: DATA comes without anything for the collector to fetch.
func TestCodecAllocates(t *testing.T) {
	b, err := proto.Marshal(dataPacket(1<<40, bytes.Repeat([]byte("x"), 1024)))
	if err != nil {
		t.Fatal(err)
	}
	pieces, p := mem.BufferSlice{mem.NewBuffer(&b, mem.NopBufferPool{})}, new(parcel)
	n := math.Inf(1)
	for range 5 { // what is left of other tests may allocate meanwhile: the least is ours
		n = min(n, testing.AllocsPerRun(100, func() {
			if err := (codec{}).Unmarshal(pieces, p); err != nil {
				t.Fatal(err)
			}
			p.free()
		}))
	}
	if n > 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

// TestCodecRefuses what is no packet.
func TestCodecRefuses(t *testing.T) {
	if _, err := (codec{}).Marshal("x"); err == nil {
		t.Error("a string was sent")
	}
	if err := (codec{}).Unmarshal(nil, "x"); err == nil {
		t.Error("a string was read")
	}
}
