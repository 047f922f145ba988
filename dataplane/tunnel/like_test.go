package tunnel

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
)

// checkLike compares what is said of frame f, which may be like frame like, with what is read of it: who is like
// another has nothing else in its headers, and its own parts are right.
func checkLike(t testing.TB, kind Kind, like, f []byte) (is bool) {
	t.Helper()
	var first, o Outer
	if _, ok := first.To(like); !ok || first.Read(kind, like, uint32(len(like))) != packet.ReasonNone {
		return false
	}
	words, option, ok := first.Like(like)
	if !ok || len(f) < LikeLen {
		return false
	}
	n, end := IsLike((*[LikeLen]byte)(f), &words, option, uint32(len(f)))
	if n == 0 {
		return false
	}
	fragment, ok := o.To(f)
	if why := o.Read(kind, f, uint32(len(f))); !ok || fragment || why != packet.ReasonNone {
		t.Fatalf("%x\nis like\n%x\nand dropped as %s, fragment %t", f[:LikeLen], like[:LikeLen], why, fragment)
	}
	data := uint64(0)
	if option {
		data = 1<<32 - 1
	}
	if o.Src != first.Src || o.Dst != first.Dst || o.Port != first.Port || o.TOS != first.TOS || (o.Word^first.Word)&^data != 0 || o.Sum || o.Len != n || o.End != end {
		t.Fatalf("read as %+v, like %+v, headers of %d bytes up to %d", o, first, n, end)
	}
	if option && uint32(o.Word) != be32(f[n-4:]) {
		t.Fatalf("data %x of % x", uint32(o.Word), f[n-8:n])
	}
	return true
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// TestLike: frames of one tunnel are like each other whatever is inside, and a bit that differs elsewhere
// makes them unlike.
func TestLike(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []Kind{Geneve, VXLAN} {
		for _, word := range []uint64{wordOf(7), wordOf(7) | HasData<<flagsShift | 0x1234} {
			c := config(t, kind, "remote_ip=10.0.0.2 key=flow")
			like := pushed(t, c, word, innerFrame(t, 4, 100, 0))
			for range 300 {
				f := pushed(t, c, word^uint64(r.Uint32())*(word>>flagsShift&1), innerFrame(t, 4+2*r.IntN(2), r.IntN(1200), 0))
				if !checkLike(t, kind, like, f) {
					t.Fatalf("%x\nis not like\n%x", f[:LikeLen], like[:LikeLen])
				}
				for at := range likeBase {
					bad := bytes.Clone(f)
					bad[at] ^= 1 << r.IntN(8)
					free := at == 34 || at == 35 || at == 38 || at == 39 // source port; a shorter datagram has padding behind it
					if is := checkLike(t, kind, like, bad); is && !free {
						t.Fatalf("byte %d differs, and nobody minds", at)
					}
				}
			}
		}
	}
	for _, other := range []string{"remote_ip=10.0.0.2 csum=true", "remote_ip=fd00::2"} {
		f := pushed(t, config(t, Geneve, other), wordOf(7), innerFrame(t, 4, 100, 0))
		if checkLike(t, Geneve, f, f) {
			t.Errorf("%s: compared", other)
		}
	}
}

// FuzzLike has the fuzzer change a frame.
func FuzzLike(f *testing.F) {
	for _, word := range []uint64{wordOf(7), wordOf(7) | HasData<<flagsShift | 5} {
		good := pushed(f, config(f, Geneve, "remote_ip=10.0.0.2 key=flow"), word, innerFrame(f, 4, 100, 0))
		f.Add(good, good)
	}
	f.Fuzz(func(t *testing.T, like, frame []byte) {
		for _, kind := range []Kind{Geneve, VXLAN} {
			checkLike(t, kind, like, frame)
		}
	})
}
