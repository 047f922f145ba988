package parse

import (
	"testing"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// BenchmarkNarrow is the cost of one frame in a full batch of its kind.
func BenchmarkNarrow(b *testing.B) {
	for _, tt := range []struct {
		name  string
		level Level
		key   func(i int) flowtable.Key
	}{
		{"UDP", Full, udpKey},
		{"TCP", Full, func(i int) flowtable.Key { return with(udpKey(i), flowtable.WordSrc, 6<<8|64) }},
		{"UDP in a VLAN", Full, func(i int) flowtable.Key {
			return with(udpKey(i), flowtable.WordIn, (flowtable.TagPresent|100)<<16|typeIPv4)
		}},
		{"ICMP", Full, func(i int) flowtable.Key { return with(udpKey(i), flowtable.WordSrc, 1<<8|64) }},
		{"UDP6", Full, func(i int) flowtable.Key { return with(udpKey(i), flowtable.WordIn, typeIPv6) }},
		{"ARP", Full, func(i int) flowtable.Key { return with(udpKey(i), flowtable.WordIn, typeARP) }},
		{"L2", L2, udpKey},
	} {
		b.Run(tt.name, func(b *testing.B) {
			batch, keys, wide := packet.NewBatch(), new(NarrowKeys), new(Wide)
			for i := range packet.BatchMax {
				batch.Add(Build(tt.key(i)))
			}
			b.ReportAllocs()
			for i := 0; i < b.N; i += packet.BatchMax {
				Narrow(batch, 7, tt.level, keys, wide)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/frame")
		})
	}
}

// udpKey is the key of the i-th flow of a bulk sender.
func udpKey(i int) flowtable.Key {
	return flowtable.Key{
		flowtable.WordIn:  typeIPv4,
		flowtable.WordDst: 0x525400000001 << 16,
		flowtable.WordSrc: 0x525400000002<<16 | 17<<8 | 64,
		flowtable.WordIP4: 10<<56 | 1<<32 | 10<<24 | 2,
		flowtable.WordL4:  uint64(1024+i)<<48 | 4789<<32,
	}
}

// with returns k with another value in one word, whose addresses stay.
func with(k flowtable.Key, word int, value uint64) flowtable.Key {
	if word == flowtable.WordSrc {
		value |= k[word] &^ 0xffff
	}
	k[word] = value
	return k
}
