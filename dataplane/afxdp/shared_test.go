package afxdp

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dataplane/netnstest"
	"millrace/dataplane/packet"
)

// TestSharedTx has several workers send to a port that has one queue: each frame is
// sent or left for a reason, and the kernel has sent as many.
func TestSharedTx(t *testing.T) {
	netnstest.Need(t)
	needXDP(t)
	a := netnstest.NewPod(t, "pa", 1)
	silence(t, a)
	p, err := Open(Options{Name: "pa"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	netnstest.Wait(t, func() string {
		if st := p.State(); st.Link != LinkUp {
			return fmt.Sprintf("port is %s: %s", st.Link, st.Reason)
		}
		return ""
	})
	before := kernelSays(t, "pa").TxPackets
	const workers, turns, frames = 4, 200, 8
	var sent, left atomic.Uint64
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			b := packet.NewBatch()
			frame := make([]byte, 60)
			copy(frame, []byte{2, 0, 0, 0, 0, 99, 2, 0, 0, 0, 0, byte(w), 0x88, 0xb5})
			for range turns {
				b.Reset()
				list := make([]packet.Ref, frames)
				for i := range list {
					b.Add(frame)
					list[i].Frame = uint16(i)
				}
				p.TxQueue().Tx(b, list)
				p.TxQueue().Commit(b)
				p.TxQueue().Signal()
				for _, r := range list {
					switch r.Why {
					case packet.ReasonNone:
						sent.Add(1)
					case packet.ReasonTxBusy, packet.ReasonTxFull:
						left.Add(1)
					default:
						t.Errorf("left for %v", r.Why)
					}
				}
			}
		})
	}
	running.Wait()
	if n := sent.Load() + left.Load(); n != workers*turns*frames {
		t.Errorf("%d frames are accounted for, want %d", n, workers*turns*frames)
	}
	netnstest.Wait(t, func() string {
		p.TxQueue().Signal()
		if got := kernelSays(t, "pa").TxPackets - before; got != sent.Load() {
			time.Sleep(time.Millisecond)
			return fmt.Sprintf("the kernel has sent %d frames, we gave it %d", got, sent.Load())
		}
		return ""
	})
	t.Logf("%d sent, %d left because the queue was another worker's or full", sent.Load(), left.Load())
}
