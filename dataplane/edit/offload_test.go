package edit

import (
	"encoding/binary"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// TestUnfinished translates addresses and ports of frames whose checksum is not finished, and
// of super-frames, in both ways that there are: what comes out in the end is sound.
func TestUnfinished(t *testing.T) {
	ops := []flowtable.Op{
		{Code: flowtable.OpSet, Word: flowtable.WordIP4, Value: 0xc0a80107_c6336409, Mask: ^uint64(0)},
		{Code: flowtable.OpSet, Word: flowtable.WordL4, Value: 0x1f90_0035 << 32, Mask: 0xffffffff << 32},
		{Code: flowtable.OpDecTTL},
	}
	patch, ok := Compile(ops)
	if !ok {
		t.Fatal("the changes cannot be made ready")
	}
	for name, apply := range map[string]func(*packet.Batch, int){
		"ops":   func(b *packet.Batch, i int) { Apply(b, i, ops) },
		"patch": func(b *packet.Batch, i int) { patch.Apply(b, i) },
	} {
		for _, size := range []int{0, 500} {
			f := make([]byte, 54+2100)
			for i := range f {
				f[i] = byte(i * 13)
			}
			copy(f[12:], []byte{8, 0, 0x45, 0, 0, 0, 0, 9, 0, 0, 64, 6, 0, 0})
			binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
			binary.BigEndian.PutUint16(f[24:], parsetest.Checksum(f[14:34]))
			f[46] = 0x50
			h := make([]byte, packet.HeaderLen)
			h[0], h[6], h[8] = 1, 34, 16
			if size > 0 {
				h[1] = 1
				binary.LittleEndian.PutUint16(h[4:], uint16(size))
			}
			b := packet.NewBatch()
			b.Add(f[:packet.HeadMax], packet.Seg{Addr: packet.Addr(f[packet.HeadMax:]), Len: uintptr(len(f) - packet.HeadMax)})
			if why := b.Judge(0, h, packet.TakesSum|packet.TakesTCP4); why != packet.ReasonNone {
				t.Fatal(why)
			}
			apply(b, 0)
			first, n := 0, 1
			if size > 0 {
				if first, n = b.Cut(0); n != 5 {
					t.Fatalf("%d segments", n)
				}
			}
			for i := range n {
				b.Settle(first+i, 0)
				got := b.AppendTo(nil, first+i)
				if err := parsetest.Sound(got, 14, 34, len(got), 6); err != nil {
					t.Errorf("%s, segment %d of %d: %v", name, i, n, err)
				}
				if got[22] != 63 || got[35] == f[35] && got[34] == f[34] || string(got[26:30]) == string(f[26:30]) {
					t.Errorf("%s: nothing was translated: %x", name, got[:54])
				}
			}
		}
	}
}
