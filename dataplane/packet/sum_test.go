package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// cut puts one frame into b, cut into pieces at random.
func cut(b *Batch, r *rand.Rand, frame []byte) *Batch {
	b.Reset()
	n := min(r.IntN(HeadMax)+1, len(frame))
	head := frame[:n]
	var tail []Seg
	for rest := frame[n:]; len(rest) > 0; {
		n := min(r.IntN(60), len(rest)) // also pieces of no bytes
		tail = append(tail, Seg{Addr(rest[:n]), uintptr(n)})
		rest = rest[n:]
	}
	b.Add(head, tail...)
	return b
}

// TestSum compares with adding up word by word.
func TestSum(t *testing.T) {
	r, b := rand.New(rand.NewPCG(1, 2)), NewBatch()
	for range 2000 {
		frame := make([]byte, r.IntN(600)+1)
		for i := range frame {
			frame[i] = byte(r.Uint32() | uint32(r.IntN(2))*0xff)
		}
		from := r.IntN(len(frame))
		to := from + r.IntN(len(frame)-from+1)
		want := uint64(0)
		for part := append(bytes.Clone(frame[from:to]), 0); len(part) >= 2; part = part[2:] {
			want += uint64(binary.BigEndian.Uint16(part))
		}
		want = want>>16 + want&0xffff
		want = want>>16 + want&0xffff
		if got := cut(b, r, frame).SumTo(0, from, to); got%0xffff != uint16(want)%0xffff {
			t.Fatalf("sum of bytes %d to %d of %x is %#x, want %#x", from, to, frame, got, want)
		}
	}
}

// TestPull takes bytes off both ends of frames: what is left is right, and as
// much of it private as of a received frame.
func TestPull(t *testing.T) {
	r, b := rand.New(rand.NewPCG(3, 4)), NewBatch()
	for range 2000 {
		frame := make([]byte, r.IntN(600)+1)
		for i := range frame {
			frame[i] = byte(r.Uint32())
		}
		cut(b, r, frame)
		off := r.IntN(int(b.Frames[0].HeadLen) + 1)
		end := off + r.IntN(len(frame)-off+1)
		if !b.Trim(0, uint32(end)) {
			t.Fatal("no room to trim")
		}
		off = min(off, int(b.Frames[0].HeadLen))
		b.Shrink(0, uint16(off))
		if !b.Pull(0) {
			t.Fatal("no room to pull")
		}
		f := b.Frames[0]
		if got := b.AppendTo(nil, 0); !bytes.Equal(got, frame[off:end]) {
			t.Fatalf("%x\nwant\n%x", got, frame[off:end])
		}
		if f.Off != HeadRoom || int(f.HeadLen) != min(end-off, HeadMax) || int(f.Len) != end-off {
			t.Fatalf("%+v", f)
		}
	}
}
