package tap

import (
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/dataplane/tap/taptest"
)

// onCPU reports the processor time of a benchmark, which other processes do not
// lengthen as they do the time that goes by.
func onCPU(b *testing.B, per int, unit string) func() {
	runtime.LockOSThread()
	used := func() int64 {
		var r unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &r); err != nil {
			b.Fatal(err)
		}
		return r.Utime.Nano() + r.Stime.Nano()
	}
	began := used()
	return func() {
		b.ReportMetric(float64(used()-began)/float64(b.N*per), unit)
		runtime.UnlockOSThread()
	}
}

// BenchmarkIdle is a turn of a worker with idle ports: what they cost those that
// are busy.
func BenchmarkIdle(b *testing.B) {
	taptest.Need(b)
	for _, ports := range []int{1, 10, 50} {
		b.Run(fmt.Sprint("ports=", ports), func(b *testing.B) {
			k := newKernel(b)
			s := quiet(b, nil)
			var queues []*RxQueue
			for i := range ports {
				queues = append(queues, open(b, Options{Name: fmt.Sprint("bench", i), Settings: s, Kernel: k}).RxQueues()...)
			}
			batch := packet.NewBatch()
			defer onCPU(b, 1, "cpu-ns/turn")()
			for b.Loop() {
				for _, q := range queues {
					batch.Reset()
					q.Rx(batch)
				}
			}
		})
	}
}

// BenchmarkRead is what reading an idle descriptor costs: what BenchmarkIdle would
// be without the lookout.
func BenchmarkRead(b *testing.B) {
	taptest.Need(b)
	p := open(b, Options{Name: "bench", Settings: quiet(b, nil)})
	batch := packet.NewBatch()
	q := p.RxQueues()[0]
	defer onCPU(b, 1, "cpu-ns/turn")()
	for b.Loop() {
		q.hot = true
		batch.Reset()
		q.Rx(batch)
	}
}

// BenchmarkTx sends batches of 64 frames to the kernel, which has no use for them:
// from memory that lasts, as from another TAP port, and from memory that does not,
// as a guest's.
func BenchmarkTx(b *testing.B) {
	taptest.Need(b)
	mem, err := sys.MapAnonymous(packet.BatchMax * packet.FrameMax)
	if err != nil {
		b.Fatal(err)
	}
	defer mem.Close()
	for _, size := range []int{60, 1514, 9014} {
		for _, lasts := range []bool{true, false} {
			b.Run(fmt.Sprintf("size=%d/lasts=%t", size, lasts), func(b *testing.B) {
				s := quiet(b, nil)
				s.MTU = 9000
				p := open(b, Options{Name: "bench", Settings: s})
				up(b, p)
				batch, list := packet.NewBatch(), make([]packet.Ref, packet.BatchMax)
				head := frameOf(min(size, packet.HeadMax), 1)
				head[0] = 6 // nobody's: the kernel drops it early
				defer onCPU(b, packet.BatchMax, "cpu-ns/frame")()
				for b.Loop() {
					batch.Reset()
					for i := range list {
						list[i] = packet.Ref{Frame: uint16(i)}
						if size > packet.HeadMax {
							batch.Add(head, packet.Seg{Addr: packet.Addr(mem.Bytes()[i*packet.FrameMax:]), Len: uintptr(size - packet.HeadMax)})
						} else {
							batch.Add(head)
						}
					}
					if lasts {
						batch.Last()
					}
					batch.Sent = 0
					p.tx.Tx(batch, list)
					p.tx.Commit(batch)
					if batch.Sent != packet.BatchMax {
						b.Fatalf("%d sent: %v", batch.Sent, list[0].Why)
					}
				}
			})
		}
	}
}

// BenchmarkRx receives batches of 64 frames from the kernel. The time that the
// kernel takes to send them is not counted.
func BenchmarkRx(b *testing.B) {
	taptest.Need(b)
	for _, size := range []int{60, 1514, 9014} {
		b.Run(fmt.Sprint("size=", size), func(b *testing.B) {
			s := quiet(b, nil)
			s.MTU = 9000
			p := open(b, Options{Name: "bench", Settings: s})
			up(b, p)
			w := wireTo(b, nil, "bench")
			frame := frameOf(size, 1)
			batch := packet.NewBatch()
			q := p.RxQueues()[0]
			n := 0
			for range b.N {
				b.StopTimer()
				for range packet.BatchMax {
					if _, err := unix.Write(w.fd, frame); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				for got := 0; got < packet.BatchMax; got += batch.N {
					batch.Reset()
					q.Rx(batch)
					n += batch.N
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/frame")
		})
	}
}
