package afxdp

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"

	"millrace/dataplane/netnstest"
	"millrace/dataplane/packet"
)

// A farSocket is an AF_XDP socket in a pod, with its program.
type farSocket struct {
	pod  *netnstest.Pod
	prog *program
	sock *socket
}

// newFarSocket attaches a program to a pod's device that has all frames go to a socket.
func newFarSocket(t *testing.T, p *netnstest.Pod) *farSocket {
	t.Helper()
	f := &farSocket{pod: p}
	check(t, p.Do(func() error {
		d, err := look("eth0")
		if err != nil {
			return err
		}
		if f.sock, err = openSocket(d.index, 0, binding{needWakeup: true, multi: true}, chunkLarge, func(_ *socket, err error) { t.Error(err) }); err != nil {
			return err
		}
		if f.prog, err = loadProgram(d.index, &Selection{}, false, true, 0); err != nil {
			return err
		}
		if err := f.prog.steer(f.sock); err != nil {
			return err
		}
		return f.prog.attach(d.index, true)
	}))
	return f
}

func (f *farSocket) close(t *testing.T) {
	t.Helper()
	check(t, f.prog.close())
	check(t, f.sock.close())
}

// noType is an EtherType for experiments (IEEE 802).
var noType = []byte{0x88, 0xb5}

// take waits for n frames.
func (f *farSocket) take(t *testing.T, n int) (got [][]byte) {
	t.Helper()
	b := packet.NewBatch()
	netnstest.Wait(t, func() string {
		b.Reset()
		check(t, f.sock.rx.receive(b))
		for i := range b.N {
			if f := b.AppendTo(nil, i); bytes.Equal(f[12:14], noType) { // and not from the kernel
				got = append(got, f)
			}
		}
		check(t, f.sock.rx.give())
		if len(got) < n {
			return fmt.Sprintf("%d of %d frames came", len(got), n)
		}
		return ""
	})
	return got
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runRig is a session that sends by runs to a pod's socket.
type runRig struct {
	t   *testing.T
	s   *session
	q   TxQueue
	far *farSocket
	seq byte
}

func newRunRig(t *testing.T, mtu int) *runRig {
	t.Helper()
	netnstest.Need(t)
	needXDP(t)
	p := netnstest.NewPod(t, "pa", 1)
	netnstest.IP(t, "link set pa mtu %d", mtu)
	p.Run("ip link set eth0 mtu %d", mtu)
	r := &runRig{t: t, far: newFarSocket(t, p)}
	t.Cleanup(func() { r.far.close(t) })
	d, err := look("pa")
	check(t, err)
	r.s, err = choose(d, &Options{Settings: Settings{Mode: Native, Runs: true}, Log: zap.NewNop()}, 1, func(_ *socket, err error) { t.Error(err) })
	check(t, err)
	t.Cleanup(func() { check(t, r.s.close()) })
	if r.s.out == nil {
		t.Skipf("needs runs with live frames: %v", r.s.why)
	}
	r.q.mtu.Store(uint32(mtu))
	r.q.exchange(r.s.senders())
	return r
}

// send sends frames of sizes, and reports whether it was by a run.
func (r *runRig) send(sizes ...int) (sent [][]byte, list []packet.Ref, run bool) {
	r.t.Helper()
	b := packet.NewBatch()
	for i, size := range sizes {
		f := make([]byte, size)
		r.seq++
		for j := range f {
			f[j] = r.seq + byte(j)
		}
		copy(f[12:], noType)
		head := min(size, packet.HeadMax)
		if tail := f[head:]; len(tail) > 0 {
			b.Add(f[:head], packet.Seg{Addr: packet.Addr(tail), Len: uintptr(len(tail))})
		} else {
			b.Add(f[:head])
		}
		sent, list = append(sent, f), append(list, packet.Ref{Frame: uint16(i)})
	}
	ring := &r.s.sockets[0].tx.ring
	before := ring.producer.Load()
	r.q.Tx(b, list)
	r.q.Commit(b)
	r.q.Signal()
	took := 0
	for _, ref := range list {
		if ref.Why == packet.ReasonNone {
			took++
		}
	}
	if b.Sent != took {
		r.t.Errorf("%d frames were sent, %d have no reason not to be", b.Sent, took)
	}
	return sent, list, ring.producer.Load() == before
}

// same compares what came with what was sent.
func same(t *testing.T, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames came, %d were sent", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d of %d bytes came as one of %d:\n% x\n% x", i, len(want[i]), len(got[i]), want[i][:32], got[i][:32])
		}
	}
}

// repeated is n sizes, each of list in turn.
func repeated(n int, list ...int) (sizes []int) {
	for i := range n {
		sizes = append(sizes, list[i%len(list)])
	}
	return sizes
}

// TestRuns sends lists of all lengths and frames of all sizes: long lists by runs, short ones, and
// such with a frame that no slot has room for, by the ring. All arrive as they were, in order.
func TestRuns(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	r := newRunRig(t, 3500)
	if f := r.s.features(); f[len(f)-1] != "sent-by-runs" {
		t.Fatalf("features %v: %s", f, r.s.how(&Selection{}))
	}
	for _, tt := range []struct {
		sizes []int
		run   bool
	}{
		{repeated(1, 60), false},
		{repeated(runLeast-1, 60), false},
		{repeated(runLeast, 60), true},
		{repeated(packet.BatchMax, 60), true},
		{repeated(packet.BatchMax, 14, 59, 60, 61, 127, 128, 129, 1514, slotMax), true},
		{append(repeated(40, 60), slotMax+1), false},
		{repeated(packet.BatchMax, 1514), true},
	} {
		sent, _, run := r.send(tt.sizes...)
		if run != tt.run {
			t.Errorf("%d frames of %v bytes by a run: %v", len(tt.sizes), tt.sizes[:1], run)
		}
		same(t, r.far.take(t, len(sent)), sent)
	}
	// Lists that follow each other on both ways keep their order.
	var all [][]byte
	for i := range 20 {
		sent, _, _ := r.send(repeated([]int{64, 3, 30}[i%3], 60, 200)...)
		all = append(all, sent...)
	}
	same(t, r.far.take(t, len(all)), all)
	// What is longer than the MTU is left out, and the rest goes.
	r.q.mtu.Store(1000)
	sizes := repeated(packet.BatchMax, 60)
	sizes[0], sizes[30] = 1500, 1500
	sent, list, run := r.send(sizes...)
	if !run || list[0].Why != packet.ReasonTxTooLong || list[30].Why != packet.ReasonTxTooLong {
		t.Errorf("run %v, reasons %v and %v", run, list[0].Why, list[30].Why)
	}
	same(t, r.far.take(t, len(sent)-2), append(sent[1:30:30], sent[31:]...))
}

// TestRunsNeedAProgram: runs begin when the other end has a program, and end when it has none
// any more, whether its kernel would take frames or not.
func TestRunsNeedAProgram(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	r := newRunRig(t, 1500)
	r.far.close(t)
	if !r.s.out.look(&r.s.dev) || !strings.Contains(r.s.how(&Selection{}), "not sent by runs: the other end has no XDP program") {
		t.Errorf("without a program: %s", r.s.how(&Selection{}))
	}
	if _, _, run := r.send(repeated(packet.BatchMax, 60)...); run {
		t.Error("a run to nobody")
	}
	gro := func(on bool) error {
		return withControl("eth0", func(c *control, name string) error {
			_, err := genericFeatures[0].turn(c, name, on)
			return err
		})
	}
	check(t, r.far.pod.Do(func() error { return gro(true) }))
	if f, err := askFeatures(r.s.dev.index); err != nil || f.flags&featureXmit == 0 {
		t.Errorf("the device takes no frames for a pod with GRO: %+v, %v", f, err)
	}
	if r.s.out.look(&r.s.dev) {
		t.Errorf("with GRO: %s", r.s.how(&Selection{}))
	}
	check(t, r.far.pod.Do(func() error { return gro(false) }))
	r.s.out.look(&r.s.dev)
	r.far = newFarSocket(t, r.far.pod)
	if !r.s.out.look(&r.s.dev) {
		t.Errorf("with a program again: %s", r.s.how(&Selection{}))
	}
	sent, _, run := r.send(repeated(packet.BatchMax, 60)...)
	if !run {
		t.Error("no run")
	}
	same(t, r.far.take(t, len(sent)), sent)
}

// TestRunsFail: a run that the kernel refuses sends nothing and says so, and the next list goes by
// the ring, until the port has looked.
func TestRunsFail(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	r := newRunRig(t, 1500)
	run := r.s.sockets[0].run
	run.attr.prog = 1 << 30 // no descriptor of ours
	_, list, _ := r.send(repeated(packet.BatchMax, 60)...)
	for i, ref := range list {
		if ref.Why != packet.ReasonTxFull {
			t.Fatalf("frame %d: %v", i, ref.Why)
		}
	}
	sent, _, byRun := r.send(repeated(packet.BatchMax, 60)...)
	if byRun {
		t.Error("a run after one that failed")
	}
	same(t, r.far.take(t, len(sent)), sent)
	run.attr.prog = uint32(r.s.out.prog)
	r.s.out.look(&r.s.dev)
	if _, _, byRun = r.send(repeated(packet.BatchMax, 60)...); !byRun {
		t.Error("no run after the port has looked")
	}
	// A worker whose source's memory goes in the middle of Tx forgets what it has copied.
	b := packet.NewBatch()
	var more []packet.Ref
	for i := range packet.BatchMax {
		b.Add(make([]byte, 60))
		more = append(more, packet.Ref{Frame: uint16(i)})
	}
	r.q.Tx(b, more)
	r.q.Abort()
	r.q.Commit(b)
	if b.Sent != 0 {
		t.Errorf("%d frames were sent after all", b.Sent)
	}
}
