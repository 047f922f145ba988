package dataplane

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"millrace/dataplane/packet"
)

// BenchmarkTunnel is what a worker does with a frame on its way into a tunnel or
// out of it: all but devices, for full batches of 64 flows. Bridges learn on both
// sides.
func BenchmarkTunnel(b *testing.B) {
	for _, way := range []string{"out", "in"} {
		for _, direct := range []bool{false, true} {
			for _, sum := range []bool{false, true} {
				for _, n := range []int{60, 1400} {
					b.Run(fmt.Sprintf("%s/direct=%v/csum=%v/%d", way, direct, sum, n), func(b *testing.B) {
						benchmarkTunnel(b, way, direct, sum, n)
					})
				}
			}
		}
	}
}

func benchmarkTunnel(b *testing.B, way string, direct, sum bool, n int) {
	nodes := []*node{newNode(b, 1, direct), newNode(b, 2, direct)}
	for _, nd := range nodes {
		nd.mustTunnel("tun", TypeGeneve, fmt.Sprintf("remote_ip=10.0.0.%d csum=%v", 3-nd.n, sum))
	}
	var frames [][]byte
	for i := range packet.BatchMax {
		frames = append(frames, inner(n, byte(i)))
	}
	nodes[1].devs["pod"].in = [][]byte{eth(1, 2, 0, 60)}
	for range 2 { // both bridges learn where both stations are
		nodes[1].turn()
		nodes[0].devs["wire"].in, nodes[1].devs["wire"].out = nodes[1].devs["wire"].out, nil
		nodes[0].turn()
		nodes[0].devs["pod"].in = frames
		nodes[0].turn()
		nodes[1].devs["wire"].in, nodes[0].devs["wire"].out = nodes[0].devs["wire"].out, nil
		nodes[1].turn()
	}
	nd, port := nodes[0], "pod"
	if way == "in" {
		nodes[0].devs["pod"].in = frames
		nodes[0].turn()
		nd, port, frames = nodes[1], "wire", nodes[0].devs["wire"].out
	}
	w := nd.s.workers[0]
	p := w.ports[nd.s.ports[port].number]
	var done uint64
	step := func() {
		w.batch.Reset()
		for _, f := range frames {
			head := f[:min(len(f), packet.HeadMax)]
			if tail := f[len(head):]; len(tail) > 0 {
				w.batch.Add(head, packet.Seg{Addr: packet.Addr(tail), Len: uintptr(len(tail))})
			} else {
				w.batch.Add(head)
			}
		}
		w.fl = flight{src: w.rx[0], out: w.fl.out[:0]}
		w.classify(p)
		for _, o := range w.fl.out {
			done += uint64(o.n)
			o.n = 0
		}
	}
	step()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const part = 128
	var parts []float64
	for b.Loop() {
		t0 := threadTime(b)
		done = 0
		for range part {
			step()
		}
		if done != part*packet.BatchMax {
			b.Fatalf("%d frames went, want %d", done, part*packet.BatchMax)
		}
		parts = append(parts, float64(threadTime(b)-t0)/float64(done))
	}
	slices.Sort(parts)
	b.ReportMetric(parts[len(parts)/10], "ns/frame(p10)")
	b.ReportMetric(0, "ns/op")
}
