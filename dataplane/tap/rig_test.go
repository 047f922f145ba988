package tap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/tap/taptest"
	"millrace/waittest"
)

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waittest.Until(t, what, ok)
}

// newKernel makes what ports of a test share.
func newKernel(t testing.TB) *Kernel {
	k := &Kernel{}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// open opens a port, and closes it with the test.
func open(t testing.TB, o Options) *Port {
	t.Helper()
	taptest.Need(t)
	if o.Kernel == nil {
		o.Kernel = newKernel(t)
	}
	if o.Log == nil {
		o.Log = zaptest.NewLogger(t)
	}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// quiet is the settings of a port that is up and quiet: no IPv6, so that the kernel
// sends nothing by itself.
func quiet(t testing.TB, ns *taptest.Namespace) Settings {
	t.Helper()
	ns.Run(t, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
	return Settings{Up: true}
}

// up waits until the port forwards.
func up(t testing.TB, p *Port) State {
	t.Helper()
	until(t, "the port to come up", func() bool { return p.State().Link == LinkUp })
	return p.State()
}

// A wire is a packet socket on a device: what it sends, the port receives.
type wire struct {
	t  testing.TB
	fd int
}

// wireTo opens a socket on device name in namespace ns; nil is the tests' own. The device is up. One
// that was up before it had a port takes frames when the kernel has taken note of that.
func wireTo(t testing.TB, ns *taptest.Namespace, name string) *wire {
	t.Helper()
	w := &wire{t: t, fd: -1}
	runs := false
	openIt := func() error {
		l, err := netlink.LinkByName(name) // it waits for the kernel's lock, which is held meanwhile
		if err != nil {
			return err
		}
		if runs = l.Attrs().RawFlags&unix.IFF_RUNNING != 0; !runs {
			return nil
		}
		proto := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8)
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(proto))
		if err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: l.Attrs().Index})
	}
	until(t, "device "+name+" to run", func() bool {
		if ns != nil {
			ns.Do(t, openIt)
		} else if err := openIt(); err != nil {
			t.Fatal(err)
		}
		return runs
	})
	t.Cleanup(w.close)
	return w
}

func (w *wire) close() {
	_ = unix.Close(w.fd)
	w.fd = -1
}

// send has the kernel send a frame by the device.
func (w *wire) send(frame []byte) {
	w.t.Helper()
	until(w.t, "room to send", func() bool {
		_, err := unix.Write(w.fd, frame)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
			w.t.Fatalf("send frame of %d bytes: %v", len(frame), err)
		}
		return err == nil
	})
}

// receive returns the next frame that the port has sent, and not the ones that we
// have sent ourselves.
func (w *wire) receive() []byte {
	w.t.Helper()
	var frame []byte
	until(w.t, "a frame from the port", func() bool { frame = w.next(); return frame != nil })
	return frame
}

// next is receive without waiting: nil if there is none.
func (w *wire) next() []byte {
	buf := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return nil
		}
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
			return buf[:n]
		}
	}
}

// frameOf makes a frame of n bytes that is told from others by its seed. Its type
// is one for local experiments, which the kernel has no use for.
func frameOf(n, seed int) []byte {
	f := make([]byte, n)
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
	for i := 14; i < n; i++ {
		f[i] = byte(seed + i*7 + i>>8)
	}
	return f
}

// receive polls q until it has n frames, and returns their bytes.
func receive(t testing.TB, q *RxQueue, n int) [][]byte {
	t.Helper()
	b := packet.NewBatch()
	var frames [][]byte
	until(t, fmt.Sprintf("%d frames", n), func() bool {
		frames = append(frames, rx(q, b)...)
		return len(frames) >= n
	})
	return frames
}

// rx is one turn of a worker: the frames that q has.
func rx(q *RxQueue, b *packet.Batch) [][]byte {
	b.Reset()
	q.Rx(b)
	q.Release()
	var frames [][]byte
	for i := range b.N {
		frames = append(frames, b.AppendTo(nil, i))
	}
	q.Signal()
	return frames
}

// send gives frames to the port by a batch that takes its bytes away at Release,
// as a guest does. It returns why each was left.
func send(q *TxQueue, b *packet.Batch, frames ...[]byte) []packet.Reason {
	b.Reset()
	var list []packet.Ref
	var lent [][]byte
	for i, f := range frames {
		head := min(len(f), packet.HeadMax)
		tail := onHeap(f[head:])
		lent = append(lent, tail)
		var segs []packet.Seg
		for len(tail) > 0 { // a few segments
			n := min(len(tail), 4000)
			segs = append(segs, packet.Seg{Addr: packet.Addr(tail), Len: uintptr(n)})
			tail = tail[n:]
		}
		b.Add(f[:head], segs...)
		list = append(list, packet.Ref{Frame: uint16(i)})
	}
	q.Tx(b, list)
	for _, l := range lent {
		clear(l) // Release: the guest writes its buffers
	}
	b.Sent, b.SentBytes = 0, 0
	q.Commit(b)
	q.Signal()
	var why []packet.Reason
	for _, r := range list {
		why = append(why, r.Why)
	}
	return why
}

// heap keeps what onHeap has returned last.
var heap atomic.Pointer[[]byte]

// onHeap copies b to memory that has an address: what is on a stack moves.
func onHeap(b []byte) []byte {
	c := bytes.Clone(b)
	heap.Store(&c)
	return c
}

// descriptors counts the process's open files, without those that ports have for a moment
// while they look at their devices.
func descriptors(t testing.TB, ports ...*Port) int {
	t.Helper()
	for _, p := range ports {
		p.mu.Lock()
		defer p.mu.Unlock()
	}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
