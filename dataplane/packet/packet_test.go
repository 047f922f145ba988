package packet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestMove copies every length up to a jumbo frame and finds what a plain
// loop would have made, with not a byte changed around it.
func TestMove(t *testing.T) {
	const pad = 64
	src := make([]byte, FrameMax+2*pad)
	for i := range src {
		src[i] = byte(rand.Uint32())
	}
	for n := range FrameMax + 1 {
		if n > 300 && n%97 != 0 {
			continue
		}
		dst := bytes.Repeat([]byte{0xee}, n+2*pad)
		Move([]Copy{{Addr(dst[pad:]), Addr(src[pad:]), uintptr(n)}})
		want := bytes.Repeat([]byte{0xee}, n+2*pad)
		copy(want[pad:], src[pad:pad+n])
		if !bytes.Equal(dst, want) {
			t.Fatalf("%d bytes: copy differs", n)
		}
	}
}

// TestMoveMany makes several copies in one call, in order.
func TestMoveMany(t *testing.T) {
	a, b, c := []byte("abcdefgh0123456789abcdefgh0123456789"), make([]byte, 64), make([]byte, 64)
	Move([]Copy{{Addr(b), Addr(a), 36}, {Addr(c), Addr(b[3:]), 20}, {Addr(c[20:]), Addr(a), 3}, {Addr(c[30:]), Addr(a), 0}})
	if got, want := string(c[:23]), "defgh0123456789abcdeabc"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	Move(nil)
}

// TestGrowShrink pushes and pops a tag's room and finds the frame unchanged.
func TestGrowShrink(t *testing.T) {
	b := NewBatch()
	tail := []byte("tail")
	if !b.Add([]byte("head"), Seg{Addr(tail), 4}) {
		t.Fatal("no room in an empty batch")
	}
	copy(b.Grow(0, 4), "TAG:")
	if got := string(b.AppendTo(nil, 0)); got != "TAG:headtail" {
		t.Fatalf("after Grow: %q", got)
	}
	if got := b.Frames[0].Len; got != 12 {
		t.Fatalf("length %d, want 12", got)
	}
	b.Shrink(0, 4)
	if got := string(b.AppendTo(nil, 0)); got != "headtail" {
		t.Fatalf("after Shrink: %q", got)
	}
}

// TestReset: drops of a receive that did not come to its end are not counted
// with the next one.
func TestReset(t *testing.T) {
	b := NewBatch()
	b.Add([]byte("frame"))
	b.DropEarly(ReasonRxTooShort)
	b.Reset()
	if b.N != 0 || b.Bytes != 0 || b.NEarly != 0 || b.Early[ReasonRxTooShort] != 0 {
		t.Errorf("left: %d frames, %d bytes, %d drops", b.N, b.Bytes, b.NEarly)
	}
}

// TestReasons finds a name and a text for every reason, none twice.
func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for r := ReasonNone; r < ReasonCount; r++ {
		if r.String() == "" || r.Text() == "" || seen[r.String()] {
			t.Errorf("reason %d: name %q, text %q", r, r, r.Text())
		}
		seen[r.String()] = true
	}
}

func BenchmarkMove(b *testing.B) {
	for _, n := range []int{12, 60, 72, 128, 590, 1500} {
		for _, impl := range []struct {
			name string
			move func(*Copy, int)
		}{{"fast", move}, {"generic", moveGeneric}} {
			b.Run(fmt.Sprintf("%s/%d", impl.name, n), func(b *testing.B) {
				src, dst := make([]byte, 64*2112), make([]byte, 64*2112)
				copies := make([]Copy, 64)
				for i := range copies {
					copies[i] = Copy{Addr(dst[i*2112:]), Addr(src[i*2112:]), uintptr(n)}
				}
				b.SetBytes(int64(n))
				for i := 0; i < b.N; i += 64 {
					impl.move(&copies[0], 64)
				}
			})
		}
	}
}
