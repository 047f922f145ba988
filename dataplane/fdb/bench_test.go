package fdb

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// filled returns a table of the default capacity with n stations on eight
// ports, a worker of it, and 4,096 of their keys (repeated if there are fewer)
// in an order that no predictor learns.
func filled(tb testing.TB, n int) (*Worker, []Key) {
	tb.Helper()
	t, err := New(0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error(err)
		}
	})
	w, err := t.Worker(0)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		if r := w.Learn(station(i, 1), uint32(i%8), 1); r != Learned {
			tb.Fatalf("learn station %d of %d: %v", i, n, r)
		}
	}
	keys := make([]Key, 4096)
	for i := range keys {
		keys[i] = station(rand.IntN(n), 1)
	}
	return w, keys
}

// station returns the key of station i.
func station(i int, vlan uint16) Key {
	return KeyOf([6]byte{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, vlan)
}

// portOfStation is where filled put a station.
func portOfStation(k Key) uint32 { return uint32(k.MAC()[5] % 8) }

var benchSizes = []int{1, 1024, 8192}

func BenchmarkLookup(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w, keys := filled(b, n)
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				if _, _, ok := w.Lookup(keys[i&4095]); !ok {
					b.Fatal("a station is lost")
				}
			}
		})
	}
}

func BenchmarkLookupMiss(b *testing.B) {
	w, keys := filled(b, 8192)
	for i := 0; b.Loop(); i++ {
		if _, _, ok := w.Lookup(keys[i&4095] ^ 1<<8); ok {
			b.Fatal("a stranger is found")
		}
	}
}

func BenchmarkTouch(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w, keys := filled(b, n)
			ports := make([]uint32, len(keys))
			for i, k := range keys {
				ports[i] = portOfStation(k)
			}
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				if r := w.Touch(keys[i&4095], ports[i&4095], 1); r != Known {
					b.Fatal("got ", r)
				}
			}
		})
	}
}

// BenchmarkTouchNewSecond is the worst of Touch: each call renews the second.
func BenchmarkTouchNewSecond(b *testing.B) {
	w, keys := filled(b, 1)
	for now := uint32(2); b.Loop(); now++ {
		if r := w.Touch(keys[0], portOfStation(keys[0]), now); r != Refreshed {
			b.Fatal("got ", r)
		}
	}
}

func BenchmarkLearnFlood(b *testing.B) {
	w, _ := filled(b, 8192)
	for i := 8192; b.Loop(); i++ {
		if r := w.Learn(MakeKey(uint64(i)<<8|2, 1), 7, 2); r != Learned && r != Full {
			b.Fatal("got ", r)
		}
	}
}
