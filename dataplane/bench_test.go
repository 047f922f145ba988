package dataplane

import (
	"fmt"
	"testing"

	"millrace/dataplane/packet"
)

// A nullDevice takes every frame and forgets it.
type nullDevice struct {
	fakeDevice
	taken int
}

type nullTx nullDevice

func (d *nullDevice) Tx() TxQueue { return (*nullTx)(d) }

func (q *nullTx) Tx(_ *packet.Batch, list []packet.Ref) { q.taken = len(list) }
func (q *nullTx) Commit(b *packet.Batch)                { b.Sent += q.taken }
func (q *nullTx) Abort()                                {}
func (q *nullTx) Signal()                               {}

// A flowDevice receives full batches of frames that are there already: only
// what the worker does with them is measured.
type flowDevice struct {
	fakeDevice
	heads [packet.BatchMax][]byte
}

type flowRx flowDevice

func (d *flowDevice) Rx() []RxQueue { return []RxQueue{(*flowRx)(d)} }

func (q *flowRx) Rx(b *packet.Batch) {
	for i := range packet.BatchMax {
		b.Frames[i] = packet.Frame{Off: packet.HeadRoom, HeadLen: 60, Len: 60}
		copy(b.Slot(i)[packet.HeadRoom:packet.HeadRoom+14], q.heads[i])
	}
	b.N = packet.BatchMax
}
func (q *flowRx) Release()    {}
func (q *flowRx) Arm() bool   { return true }
func (q *flowRx) Disarm()     {}
func (q *flowRx) WakeFD() int { return wakePoll }
func (q *flowRx) Signal()     {}

// BenchmarkWorker is the worker's own part for a frame: decision, lists and
// account, with devices that cost next to nothing.
func BenchmarkWorker(b *testing.B) {
	for _, flows := range []int{0, 1, 16, 64} {
		name := fmt.Sprintf("bridge/%d stations", 2*flows)
		if flows == 0 {
			name = "wire"
		}
		b.Run(name, func(b *testing.B) { benchmarkWorker(b, flows) })
	}
}

func benchmarkWorker(b *testing.B, flows int) {
	r := newRig(b)
	src, dst := &flowDevice{}, &nullDevice{}
	for i := range src.heads {
		src.heads[i] = eth(byte(100+i%max(flows, 1)), byte(i%max(flows, 1)), 0, 14)
	}
	r.s.opts.Openers["src"] = func(PortSpec, Env) (Device, error) { return src, nil }
	r.s.opts.Openers["dst"] = func(PortSpec, Env) (Device, error) { return dst, nil }
	r.port("src", PortSpec{Type: "src"})
	r.port("dst", PortSpec{Type: "dst"})
	for i := range flows {
		if err := r.s.AddMAC(b.Context(), MACEntry{Bridge: "br0", MAC: [6]byte{2, 0, 0, 0, 0, byte(100 + i)}, Port: "dst"}); err != nil {
			b.Fatal(err)
		}
	}
	if flows == 0 {
		if err := r.s.Wire("src", "dst"); err != nil {
			b.Fatal(err)
		}
	}
	w := r.s.workers[0]
	for range 100 {
		w.turn()
	}
	measure(b, w)
	r.stats()
}
