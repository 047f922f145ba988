package virtq

import (
	"fmt"
	"testing"

	"millrace/dataplane/packet"
)

// benchPair is a fastPair whose sender's frames all have n bytes.
func benchPair(b *testing.B, n int, ring uint16) *fastPair {
	g := newGuest(b, 1, 64<<20)
	f := newFastPair(b, g, ring, Config{Mergeable: true}, Stride(n), Stride(n), true)
	for i := range int(ring) {
		f.tx.SetLen(i, n)
	}
	b.SetBytes(int64(n))
	b.ReportAllocs()
	return f
}

// BenchmarkForward carries frames from one ring to another with both ends in
// one thread: all four parties' cost is in it.
func BenchmarkForward(b *testing.B) {
	for _, n := range []int{60, 1500} {
		for _, ring := range []uint16{256, 1024} {
			b.Run(fmt.Sprintf("%d/ring %d", n, ring), func(b *testing.B) {
				f := benchPair(b, n, ring)
				b.ResetTimer()
				for done := 0; done < b.N; done += packet.BatchMax {
					f.tx.Room(packet.BatchMax)
					f.tx.Send(packet.BatchMax)
					f.forward()
					f.rx.Count()
				}
			})
		}
	}
}

// BenchmarkDequeue is the device's end of a transmit ring alone, with the least
// driver there is.
func BenchmarkDequeue(b *testing.B) {
	f := benchPair(b, 60, 256)
	b.ResetTimer()
	for done := 0; done < b.N; done += packet.BatchMax {
		f.tx.give(packet.BatchMax)
		f.tx.done += packet.BatchMax
		f.batch.Reset()
		if err := f.from.Dequeue(f.batch); err != nil || f.batch.N != packet.BatchMax {
			b.Fatal(f.batch.N, err)
		}
		f.from.Complete()
	}
}

// BenchmarkEnqueue is the device's end of a receive ring alone, likewise.
func BenchmarkEnqueue(b *testing.B) {
	f := benchPair(b, 60, 256)
	list := f.list
	for i := range list {
		f.batch.Add(make([]byte, 60))
		list[i] = packet.Ref{Frame: uint16(i)}
	}
	b.ResetTimer()
	for done := 0; done < b.N; done += packet.BatchMax {
		if err := f.to.Enqueue(f.batch, list); err != nil {
			b.Fatal(err)
		}
		f.to.Commit(f.batch)
		f.rx.done += packet.BatchMax
		f.rx.give(packet.BatchMax)
	}
}

// BenchmarkDriver is a Sender and a Receiver with a device that does nothing
// but move indices.
func BenchmarkDriver(b *testing.B) {
	f := benchPair(b, 60, 256)
	for i := range uint64(256) {
		store64(f.tx.used+8*uintptr(i), i)
		store64(f.rx.used+8*uintptr(i), i|72<<32)
	}
	idx := uint32(0)
	b.ResetTimer()
	for done := 0; done < b.N; done += packet.BatchMax {
		f.tx.Send(packet.BatchMax)
		idx += packet.BatchMax << 16
		f.tx.idx.Store(idx)
		f.rx.idx.Store(idx)
		if n, _ := f.rx.Count(); n != packet.BatchMax || f.tx.Room(256) != 256 {
			b.Fatal(f.tx.Err(), f.rx.Err())
		}
	}
}
