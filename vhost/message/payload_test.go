package message

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"
)

// codec is a payload type behind one face, so that one table holds them all.
type codec struct {
	marshal   func(any) []byte
	unmarshal func([]byte) (any, error)
}

func codecOf[T any](m func(T) []byte, u func([]byte) (T, error)) codec {
	return codec{
		marshal:   func(v any) []byte { return m(v.(T)) },
		unmarshal: func(b []byte) (any, error) { return u(b) },
	}
}

// codecs are all payloads, by name.
func codecs() map[string]codec {
	return map[string]codec{
		"u64":         codecOf(MarshalU64, UnmarshalU64),
		"status":      codecOf(func(s Status) []byte { return MarshalU64(uint64(s)) }, UnmarshalStatus),
		"mtu":         codecOf(func(m uint16) []byte { return MarshalU64(uint64(m)) }, UnmarshalMTU),
		"vring state": codecOf(MarshalVringState, UnmarshalVringState),
		"vring addr":  codecOf(MarshalVringAddr, UnmarshalVringAddr),
		"vring fd":    codecOf(MarshalVringFD, UnmarshalVringFD),
		"mem table":   codecOf(MarshalMemTable, UnmarshalMemTable),
		"add region":  codecOf(MarshalMemRegion, UnmarshalAddMemReg),
		"rem region":  codecOf(MarshalMemRegion, UnmarshalRemMemReg),
		"header":      codecOf(MarshalHeader, UnmarshalHeader),
	}
}

// TestPayloads holds every payload against its bytes on the wire, both ways. A
// wrong offset, width or byte order shows here, where encoding and decoding
// cannot agree on the same mistake.
func TestPayloads(t *testing.T) {
	region := MemRegion{GPA: 0x1_0000_0000, Size: 0x20_0000, UserAddr: 0x7f12_3456_7000, MmapOffset: 0x1000}
	wireRegion := []byte{
		0x00, 0x00, 0x00, 0x00, // guest address
		0x01, 0x00, 0x00, 0x00,
		0x00, 0x00, 0x20, 0x00, // size
		0x00, 0x00, 0x00, 0x00,
		0x00, 0x70, 0x56, 0x34, // user address
		0x12, 0x7f, 0x00, 0x00,
		0x00, 0x10, 0x00, 0x00, // mmap offset
		0x00, 0x00, 0x00, 0x00,
	}
	second := MemRegion{Size: 1}
	wireSecond := append(append(make([]byte, 8), 1), make([]byte, 23)...)
	removed := region
	removed.MmapOffset = 0
	wireRemoved := append(bytes.Clone(wireRegion[:24]), make([]byte, 8)...)

	tests := []struct {
		name  string
		codec string
		value any
		wire  []byte
	}{
		{"u64", "u64", uint64(0x0807060504030201), []byte{
			0x01, 0x02, 0x03, 0x04,
			0x05, 0x06, 0x07, 0x08,
		}},
		{"status of a ready driver", "status", StatusAcknowledge | StatusDriver | StatusFeaturesOK | StatusDriverOK, []byte{
			0x0f, 0x00, 0x00, 0x00,
			0x00, 0x00, 0x00, 0x00,
		}},
		{"status of a broken device", "status", StatusNeedsReset | StatusFailed, []byte{
			0xc0, 0x00, 0x00, 0x00,
			0x00, 0x00, 0x00, 0x00,
		}},
		{"mtu of jumbo frames", "mtu", uint16(9000), []byte{
			0x28, 0x23, 0x00, 0x00,
			0x00, 0x00, 0x00, 0x00,
		}},
		{"vring state", "vring state", VringState{Index: 3, Num: 0x8100}, []byte{
			0x03, 0x00, 0x00, 0x00,
			0x00, 0x81, 0x00, 0x00,
		}},
		{"vring addr", "vring addr", VringAddr{
			Index: 2, Flags: VringFLog, Desc: 0x1000, Used: 0x2000, Avail: 0x7f00_0000_3000, Log: math.MaxUint64,
		}, []byte{
			0x02, 0x00, 0x00, 0x00, // index
			0x01, 0x00, 0x00, 0x00, // flags
			0x00, 0x10, 0x00, 0x00, // desc
			0x00, 0x00, 0x00, 0x00,
			0x00, 0x20, 0x00, 0x00, // used
			0x00, 0x00, 0x00, 0x00,
			0x00, 0x30, 0x00, 0x00, // avail
			0x00, 0x7f, 0x00, 0x00,
			0xff, 0xff, 0xff, 0xff, // log
			0xff, 0xff, 0xff, 0xff,
		}},
		{"vring with descriptor", "vring fd", VringFD{Index: 255}, []byte{
			0xff, 0x00, 0x00, 0x00,
			0x00, 0x00, 0x00, 0x00,
		}},
		{"vring without descriptor", "vring fd", VringFD{Index: 1, NoFD: true}, []byte{
			0x01, 0x01, 0x00, 0x00,
			0x00, 0x00, 0x00, 0x00,
		}},
		{"no memory", "mem table", MemTable{}, []byte{
			0x00, 0x00, 0x00, 0x00,
			0x00, 0x00, 0x00, 0x00,
		}},
		{"two regions", "mem table", MemTable{region, second}, bytes.Join([][]byte{{
			0x02, 0x00, 0x00, 0x00, // num regions
			0x00, 0x00, 0x00, 0x00, // padding
		}, wireRegion, wireSecond}, nil)},
		{"region to add", "add region", region, append(make([]byte, 8), wireRegion...)},
		{"region to remove", "rem region", removed, append(make([]byte, 8), wireRemoved...)},
		{"header", "header", Header{Request: GetStatus, Flags: Version | FlagReply, Size: 8}, []byte{
			0x28, 0x00, 0x00, 0x00, // request
			0x05, 0x00, 0x00, 0x00, // flags
			0x08, 0x00, 0x00, 0x00, // size
		}},
		{"header of an unknown request", "header", Header{Request: 0xdeadbeef, Flags: Version | FlagNeedReply, Size: MaxPayload}, []byte{
			0xef, 0xbe, 0xad, 0xde,
			0x09, 0x00, 0x00, 0x00,
			0x00, 0x10, 0x00, 0x00,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := codecs()[tt.codec]
			if got := c.marshal(tt.value); !bytes.Equal(got, tt.wire) {
				t.Errorf("marshal\n got % x\nwant % x", got, tt.wire)
			}
			got, err := c.unmarshal(tt.wire)
			if err != nil || !reflect.DeepEqual(got, tt.value) {
				t.Errorf("unmarshal got %+v, %v, want %+v", got, err, tt.value)
			}
			for n := range tt.wire {
				if _, err := c.unmarshal(tt.wire[:n]); !errors.Is(err, ErrSize) {
					t.Errorf("first %d bytes of %d: got %v, want ErrSize", n, len(tt.wire), err)
				}
			}
			if _, err := c.unmarshal(append(bytes.Clone(tt.wire), 0)); !errors.Is(err, ErrSize) {
				t.Errorf("a byte too many: got %v, want ErrSize", err)
			}
		})
	}
}

// TestPayloadsLoose checks the bytes that decode although we never send them.
func TestPayloadsLoose(t *testing.T) {
	regions := MemTable{{GPA: 1, Size: 2, UserAddr: 3, MmapOffset: 4}}
	table := MarshalMemTable(regions)
	full := append(bytes.Clone(table), bytes.Repeat([]byte{0xee}, 7*regionSize)...)
	full[4] = 0xff // padding
	remove := MarshalMemRegion(MemRegion{GPA: 1, Size: 2, UserAddr: 3, MmapOffset: math.MaxUint64})

	tests := []struct {
		name  string
		codec string
		wire  []byte
		want  any
	}{
		{"table with room for eight", "mem table", full, regions},
		{"removed region with an offset", "rem region", remove, MemRegion{GPA: 1, Size: 2, UserAddr: 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := codecs()[tt.codec].unmarshal(tt.wire)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

// TestPayloadsRefused checks the payloads of right size whose values no honest
// peer sends, and that a table which claims more regions than it has is not
// believed.
func TestPayloadsRefused(t *testing.T) {
	const top = math.MaxUint64
	region := func(r MemRegion) []byte { return MarshalMemRegion(r) }
	table := func(n uint32, size int) []byte {
		b := make([]byte, size)
		copy(b, MarshalVringState(VringState{Index: n}))
		return b
	}
	tests := []struct {
		name  string
		codec string
		wire  []byte
		want  error
	}{
		{"status of nine bits", "status", MarshalU64(0x100), ErrValue},
		{"status that narrows to zero", "status", MarshalU64(1 << 32), ErrValue},
		{"mtu too small", "mtu", MarshalU64(67), ErrValue},
		{"mtu that narrows to a good one", "mtu", MarshalU64(1<<16 + 1500), ErrValue},
		{"vring index that narrows to zero", "vring fd", MarshalU64(1 << 9), ErrValue},
		{"vring index that narrows, high", "vring fd", MarshalU64(1 << 63), ErrValue},
		{"nine regions", "mem table", table(9, 8+9*regionSize), ErrValue},
		{"2^32-1 regions", "mem table", table(math.MaxUint32, 8+8*regionSize), ErrValue},
		{"2^27 regions, whose bytes wrap to none", "mem table", table(1<<27, 8), ErrValue},
		{"two regions claimed, one sent", "mem table", table(2, 8+regionSize), ErrSize},
		{"one region claimed, two sent", "mem table", table(1, 8+2*regionSize), ErrSize},
		{"empty region in a table", "mem table", table(1, 8+regionSize), ErrValue},
		{"empty region", "add region", region(MemRegion{GPA: 1, UserAddr: 1}), ErrValue},
		{"guest address wraps", "add region", region(MemRegion{GPA: top, Size: 2}), ErrValue},
		{"guest address ends at 2^64", "add region", region(MemRegion{GPA: top, Size: 1}), ErrValue},
		{"user address wraps", "add region", region(MemRegion{UserAddr: top - 0xfff, Size: 0x2000}), ErrValue},
		{"offset wraps", "add region", region(MemRegion{MmapOffset: 2, Size: top}), ErrValue},
		{"removed guest address wraps", "rem region", region(MemRegion{GPA: 2, Size: top}), ErrValue},
		{"header of version 0", "header", MarshalHeader(Header{GetFeatures, 0, 0}), ErrVersion},
		{"header of version 2", "header", MarshalHeader(Header{GetFeatures, 2, 0}), ErrVersion},
		{"header with a long payload", "header", MarshalHeader(Header{GetFeatures, 1, MaxPayload + 1}), ErrOversize},
		{"header with the longest payload", "header", MarshalHeader(Header{GetFeatures, 1, math.MaxUint32}), ErrOversize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := codecs()[tt.codec].unmarshal(tt.wire)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %+v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// FuzzPayloads decodes any bytes as every payload. Nothing panics, and what
// decodes survives the way out and back.
func FuzzPayloads(f *testing.F) {
	f.Add(MarshalU64(1500))
	f.Add(MarshalVringFD(VringFD{Index: 1, NoFD: true}))
	f.Add(MarshalVringAddr(VringAddr{Index: 1, Desc: 1 << 40}))
	f.Add(MarshalMemTable(MemTable{{GPA: 1, Size: 2}, {GPA: 4, Size: 4}}))
	f.Add(make([]byte, 8+MaxRegions*regionSize))
	f.Add(MarshalMemRegion(MemRegion{Size: 1}))
	f.Add(MarshalHeader(Header{GetConfig, Version, 12}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, c := range codecs() {
			v, err := c.unmarshal(b)
			if err != nil {
				continue
			}
			again, err := c.unmarshal(c.marshal(v))
			if err != nil || !reflect.DeepEqual(again, v) {
				t.Errorf("%s: % x decodes to %+v, encodes and decodes to %+v, %v", name, b, v, again, err)
			}
		}
	})
}
