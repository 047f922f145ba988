package afxdp

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
)

// A stranger is the AF_XDP socket of a pod, of an implementation that is not
// ours.
type stranger struct {
	prog *xdp.Program
	sock *xdp.Socket
}

// newStranger binds a socket to a pod's eth0.
func newStranger(t *testing.T, p *netnstest.Pod) *stranger {
	t.Helper()
	s := &stranger{}
	err := p.Do(func() error {
		d, err := look("eth0")
		if err != nil {
			return err
		}
		if s.prog, err = xdp.NewProgram(1); err != nil {
			return err
		}
		if err = s.prog.Attach(d.index); err != nil {
			return err
		}
		if s.sock, err = xdp.NewSocket(d.index, 0, &xdp.SocketOptions{
			NumFrames: 256, FrameSize: 2048, FillRingNumDescs: 128, CompletionRingNumDescs: 64, RxRingNumDescs: 128, TxRingNumDescs: 64,
		}); err != nil {
			return err
		}
		s.fill()
		return s.prog.Register(0, s.sock.FD())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = s.sock.Close(), s.prog.Close() })
	return s
}

// fill gives the kernel as many chunks to receive into as it has room for.
func (s *stranger) fill() {
	if n := s.sock.NumFreeFillSlots(); n > 0 {
		s.sock.Fill(s.sock.GetDescs(n))
	}
}

// send sends frames, and returns when the kernel has taken them.
func (s *stranger) send(frames [][]byte) error {
	descs := s.sock.GetDescs(len(frames))
	if len(descs) < len(frames) {
		return fmt.Errorf("%d chunks for %d frames", len(descs), len(frames))
	}
	for i, f := range frames {
		descs[i].Len = uint32(copy(s.sock.GetFrame(descs[i]), f))
	}
	s.sock.Transmit(descs)
	deadline := time.Now().Add(netnstest.Patience)
	for s.sock.NumCompleted() < len(frames) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d frames completed", s.sock.NumCompleted(), len(frames))
		}
		_, _, _ = unix.Syscall6(unix.SYS_SENDTO, uintptr(s.sock.FD()), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	}
	s.sock.Complete(len(frames))
	return nil
}

// receive receives the frames that want names, in order. Others (neighbour
// discovery of the kernel) are ignored.
func (s *stranger) receive(want [][]byte) error {
	deadline := time.Now().Add(netnstest.Patience)
	for len(want) > 0 {
		s.fill()
		fds := []unix.PollFd{{Fd: int32(s.sock.FD()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, d := range s.sock.Receive(s.sock.NumReceived()) {
			got := s.sock.GetFrame(d)
			if len(want) > 0 && bytes.Equal(got, want[0]) {
				want = want[1:]
			} else if len(got) > 14 && got[12] == 0x88 && got[13] == 0xb5 {
				return fmt.Errorf("frame % x..., want % x...", got[:20], want[0][:20])
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d frames have not come", len(want))
		}
	}
	return nil
}

// TestStranger exchanges frames between two sockets of an independent
// implementation through the switch, and finds each whole and in order.
func TestStranger(t *testing.T) {
	for _, mode := range []Mode{Native, Generic} {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, dataplane.PollAdaptive)
			r.o.Mode = mode
			a, b := netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)
			sa, sb := newStranger(t, a), newStranger(t, b)
			r.add("pa")
			r.add("pb")
			r.up("pa", "pb")
			for round := range 60 {
				from, to := sa, sb
				if round%2 == 1 {
					from, to = sb, sa
				}
				var frames [][]byte
				for i := range 32 {
					f := frameOf(60+(round*32+i)%1455, uint32(round*32+i))
					copy(f, []byte{2, 0, 0, 0, 0, byte(0xa + (round+1)%2), 2, 0, 0, 0, 0, byte(0xa + round%2), 0x88, 0xb5})
					frames = append(frames, f)
				}
				if err := from.send(frames); err != nil {
					t.Fatal(err)
				}
				if err := to.receive(frames); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
			}
			r.balanced()
		})
	}
}
