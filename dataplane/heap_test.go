package dataplane

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// TestHeapWithAMillionFlows: what a million cached flows take is outside of Go's
// heap, which stays as small as it was.
func TestHeapWithAMillionFlows(t *testing.T) {
	flows := 1_000_000
	if raceOn {
		flows = 10_000 // tables are in the heap there
	}
	heap := func() int64 { // what tests before have left may go at any time: growth may be below zero
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	r := newRigWith(t, nil)
	src := &streamDevice{frames: make([]byte, 64), ports: true}
	copy(src.frames, parse.Build(flowtable.Key{flowtable.WordIn: 0x0800, flowtable.WordDst: 0x020000000002 << 16, flowtable.WordSrc: 0x020000000001<<16 | 17<<8 | 64, flowtable.WordIP4: 10<<56 | 1, flowtable.WordL4: 1 << 32}))
	r.s.opts.Openers["src"] = func(PortSpec, Env) (Device, error) { return src, nil }
	r.s.opts.Openers["dst"] = func(PortSpec, Env) (Device, error) { return &nullDevice{}, nil }
	r.port("src", PortSpec{Type: "src"})
	r.port("dst", PortSpec{Type: "dst"})
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	r.rule(1, 0, nil, out(2))
	r.rule(2, 0, []flowtable.Masked{is(fields("eth.type")[0], 0x0800), is(fields("ip4.src")[0], 1), is(fields("tp.src")[0], 1)}, out(2))
	w := r.s.workers[0]
	for range 4 { // most are kept from their second frame on, and some are forgotten before it
		src.count = 0
		for range flows / packet.BatchMax {
			w.turn()
		}
	}
	u := w.flow.cache.Usage()
	cached := 0
	for _, n := range u.Entries {
		cached += n
	}
	capacity := u.Capacity[2] / 2 // of this machine
	if cached < min(flows*9/10, capacity) {
		t.Errorf("%d of %d flows are cached", cached, flows)
	}
	if got := heap() - before; got >= 16<<20 && !raceOn {
		t.Errorf("the heap has grown by %d bytes", got)
	}
	runtime.KeepAlive(r)
}

// TestFewFlowsTakeLittleMemory: entries of a few flows lie anywhere in tables of many
// megabytes, which must not become memory for them.
func TestFewFlowsTakeLittleMemory(t *testing.T) {
	resident := func() int {
		b, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Fatal(err)
		}
		pages, err := strconv.Atoi(strings.Fields(string(b))[1])
		if err != nil {
			t.Fatal(err)
		}
		return pages * os.Getpagesize()
	}
	if raceOn {
		t.Skip("needs a build without the race detector")
	}
	r := newRigWith(t, nil)
	a := r.port("a", PortSpec{})
	r.port("b", PortSpec{})
	before := resident()
	for i := range 200 {
		a.in = append(a.in, eth(byte(i), byte(i+1), 0, 60))
	}
	for range 4 {
		r.turn()
	}
	if n := r.s.workers[0].flow.cache.Usage().Entries[2]; n < 100 {
		t.Errorf("%d entries in the cache", n)
	}
	if got := resident() - before; got > 24<<20 {
		t.Errorf("a hundred flows take %d bytes", got)
	}
}
