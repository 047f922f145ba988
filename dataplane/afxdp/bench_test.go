package afxdp

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
	"millrace/dataplane/packet"
)

// A flood sends frames from a pod as fast as it can, by a socket of our own.
type flood struct {
	sock *socket
	b    *packet.Batch
	list []packet.Ref
	sent atomic.Uint64
	stop atomic.Bool
	done chan struct{}
}

// newFlood makes batches of 64 frames of size bytes, from one address to another.
func newFlood(t testing.TB, p *netnstest.Pod, size int) *flood {
	t.Helper()
	f := &flood{b: packet.NewBatch(), done: make(chan struct{})}
	frame := make([]byte, packet.HeadMax)
	copy(frame, []byte{2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, 0xaa, 0x08, 0x00, 0x45})
	for i := range packet.BatchMax {
		f.b.Add(frame[:min(size, packet.HeadMax)])
		f.list = append(f.list, packet.Ref{Frame: uint16(i)})
	}
	err := p.Do(func() error {
		d, err := look("eth0")
		if err != nil {
			return err
		}
		f.sock, err = openSocket(d.index, 0, binding{needWakeup: true}, chunkSmall, func(_ *socket, err error) { t.Error(err) })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *flood) run() {
	runtime.LockOSThread()
	defer close(f.done)
	for !f.stop.Load() {
		if err := f.sock.tx.send(f.b, f.list, 0); err != nil {
			return
		}
		f.sock.tx.commit(f.b)
		f.sock.kick()
		f.sent.Add(packet.BatchMax)
		for i := range f.list {
			f.list[i].Why = 0
		}
	}
}

// sink drops all that a pod gets, before its stack, and counts it.
func sink(t testing.TB, p *netnstest.Pod) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("out"), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Do(func() error {
		d, err := look("eth0")
		if err != nil {
			return err
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: d.index, Flags: link.XDPDriverMode})
		if err == nil {
			t.Cleanup(func() { _, _, _ = l.Close(), prog.Close(), m.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func counted(t testing.TB, m *ebpf.Map) (n uint64) {
	if err := m.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// workerTime is the CPU time of the worker: of the threads that are pinned.
func workerTime(b *testing.B) (sum time.Duration) {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		b.Fatal(err)
	}
	for _, task := range tasks {
		id, _ := strconv.Atoi(filepath.Base(task))
		var set unix.CPUSet
		if unix.SchedGetaffinity(id, &set) != nil || set.Count() != 1 {
			continue
		}
		stat, err := os.ReadFile(task + "/schedstat")
		if err != nil {
			continue
		}
		var ns int64
		_, _ = fmt.Sscan(string(stat), &ns)
		sum += time.Duration(ns)
	}
	return sum
}

// BenchmarkForward sends from one pod to another through the switch as fast as
// the sender can, for as many frames as b.N says, and reports what came.
func BenchmarkForward(b *testing.B) {
	for _, mode := range []Mode{Native, Generic} {
		b.Run(string(mode), func(b *testing.B) {
			r := newRig(b, dataplane.PollBusy)
			r.o.Mode = mode
			pa, pb := netnstest.NewPod(b, "pa", 1), netnstest.NewPod(b, "pb", 1)
			m := sink(b, pb)
			r.add("pa")
			r.add("pb")
			r.up("pa", "pb")
			f := newFlood(b, pa, 60)
			go f.run()
			time.Sleep(100 * time.Millisecond)
			b.ResetTimer()
			cpu := workerTime(b)
			start, from := time.Now(), counted(b, m)
			sent := f.sent.Load()
			for counted(b, m)-from < uint64(b.N) && time.Since(start) < 20*time.Second {
				time.Sleep(time.Millisecond)
			}
			took := time.Since(start).Seconds()
			frames := float64(counted(b, m) - from)
			b.ReportMetric(float64(workerTime(b)-cpu)/frames, "worker_ns/frame")
			b.ReportMetric(float64(counted(b, m)-from)/took/1e3, "kpps")
			b.ReportMetric(float64(f.sent.Load()-sent)/took/1e3, "offered_kpps")
			b.StopTimer()
			for _, s := range r.sw.Snapshot().Ports {
				if s.RxFrames > 0 {
					b.Logf("%s rx %d drops %v", s.Name, s.RxFrames, s.RxDrops)
				}
				if s.Offered > 0 {
					b.Logf("%s tx %d drops %v", s.Name, s.TxFrames, s.TxDrops)
				}
			}
			f.stop.Store(true)
			<-f.done
			_ = f.sock.close()
		})
	}
}
