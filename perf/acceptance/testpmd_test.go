package acceptance

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/perf/peers"
)

// A pmdCase is how the two virtio-user devices of one testpmd are set up.
type pmdCase struct {
	kind                 string // of the switch's ports
	queues               int
	mergeable, vectorize bool
}

func (c pmdCase) String() string {
	words := []string{"switch listens"}
	if c.kind == connects {
		words[0] = "switch connects"
	}
	words = append(words, fmt.Sprintf("%d queue pairs", c.queues))
	for _, o := range []struct {
		on   bool
		name string
	}{{c.mergeable, "mrg_rxbuf"}, {c.vectorize, "vectorized"}} {
		if o.on {
			words = append(words, o.name)
		}
	}
	return strings.Join(words, ", ")
}

// rxPath is the receive function that DPDK takes for the case.
func (c pmdCase) rxPath() string {
	switch {
	case c.mergeable:
		return "mergeable buffer"
	case c.vectorize:
		return "vectorized"
	}
	return "standard"
}

// Addresses of testpmd's two devices.
var pmdMACs = [2]string{"02:00:00:00:0a:00", "02:00:00:00:0a:01"}

// start starts testpmd with the case's two devices on ports a and b.
func (c pmdCase) start(ctx context.Context, t *testing.T, s *switchRun) *peers.Testpmd {
	t.Helper()
	_, cpu := cpus(t)
	cfg := peers.TestpmdConfig{
		MainCPU: cpu, WorkerCPUs: []int{cpu}, Forward: peers.ForwardMAC, MaxPktLen: 9018,
		Mbufs: 8192, MbufSize: 9728 + 128, Args: []string{"--txonly-multi-flow"},
	}
	if c.mergeable { // jumbo frames come in five buffers, and go out in five
		cfg.Mbufs, cfg.MbufSize = 16384, 0
		cfg.Args = append(cfg.Args, "--enable-scatter")
	}
	for i, port := range []string{"a", "b"} {
		cfg.Devices = append(cfg.Devices, peers.VirtioUser{
			Path: s.socket(port, c.kind), Server: c.kind == connects, Queues: c.queues, QueueSize: 1024, MAC: pmdMACs[i],
			MrgRxbuf: c.mergeable, Vectorized: c.vectorize,
		})
	}
	pmd, err := peers.StartTestpmd(ctx, cfg)
	check(t, err)
	t.Cleanup(func() {
		pmd.Close()
		if t.Failed() {
			t.Logf("testpmd printed last:\n%s", tail(pmd.Log()))
		}
	})
	for i := range pmdMACs {
		_, err := pmd.Command(ctx, "set eth-peer %d %s", i, pmdMACs[1-i])
		check(t, err)
	}
	return pmd
}

// segments splits a frame as the case's buffers want it.
func (c pmdCase) segments(size int) []int {
	const most = 2000
	if !c.mergeable {
		return []int{size}
	}
	var parts []int
	for ; size > most; size -= most {
		parts = append(parts, most)
	}
	return append(parts, size)
}

// TestTestpmd has DPDK's virtio-user exchange frames through the switch, in
// both roles, with each of its receive functions, 1 and 2 queue pairs, from 60
// to 9000 bytes, through the learning bridge and through wires. Some bursts
// circle between its two devices, so that no ring can be full: not one frame
// may be lost.
func TestTestpmd(t *testing.T) {
	need(t, "dpdk-testpmd")
	for _, kind := range []string{listens, connects} {
		for _, queues := range []int{1, 2} {
			for _, mergeable := range []bool{false, true} {
				for _, vectorize := range []bool{false, true} {
					c := pmdCase{kind, queues, mergeable, vectorize}
					t.Run(c.String(), func(t *testing.T) { c.test(t) })
				}
			}
		}
	}
}

func (c pmdCase) test(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := runSwitch(t)
	for _, port := range []string{"a", "b"} {
		s.add(port, c.kind, 0)
	}
	s.add("bystander", listens, 0)
	pmd := c.start(ctx, t, s)
	for i := range 2 {
		if got := pmd.RxPaths()[i]; got != c.rxPath() {
			t.Fatalf("device %d receives by the function %q, want %q", i, got, c.rxPath())
		}
	}
	for _, port := range []string{"a", "b"} {
		s.awaitLink(port, api.Link_LINK_UP)
		eventually(t, func() bool { return s.port(port).GetState().GetQueues() == uint32(c.queues) }, "port %s has %d queue pairs", port, c.queues)
	}
	total := uint64(0)
	for _, way := range []string{"bridge", "wires"} {
		if way == "wires" {
			s.cli("port", "wire", "a", "b", "--both")
		}
		for _, size := range []int{60, 64, 128, 1500, 1518, 9000} {
			t.Run(fmt.Sprintf("%s %d", way, size), func(t *testing.T) { total += c.circle(ctx, t, s, pmd, size) })
		}
	}
	if c.queues > 1 {
		checkSpread(ctx, t, pmd, c.queues)
	}
	t.Logf("%d frames", total)
}

// circle has frames of size bytes circle for a while, takes them out again, and
// compares what testpmd, the switch and testpmd again have counted. It returns
// how many went through.
func (c pmdCase) circle(ctx context.Context, t *testing.T, s *switchRun, pmd *peers.Testpmd, size int) uint64 {
	t.Helper()
	const enough = 20000
	check(t, pmd.SetForward(ctx, peers.ForwardMAC))
	check(t, pmd.SetTxPackets(ctx, c.segments(size)...))
	check(t, pmd.ClearPortStats(ctx))
	before := s.stats("a", "b")
	check(t, pmd.StartTxFirst(ctx, 1))
	eventually(t, func() bool { rx, _ := sums(ctx, t, pmd); return rx.frames >= enough }, "%d frames of %d bytes", enough, size)
	_, err := pmd.Stop(ctx)
	check(t, err)

	// What is in the rings is received, and goes nowhere.
	check(t, pmd.SetForward(ctx, peers.ForwardRxOnly))
	check(t, pmd.Start(ctx))
	var rx, tx sum
	eventually(t, func() bool { rx, tx = sums(ctx, t, pmd); return rx.frames >= tx.frames }, "all frames of %d bytes are back", size)
	_, err = pmd.Stop(ctx)
	check(t, err)

	if rx != tx || tx.bytes != tx.frames*uint64(size) || rx.troubles != 0 {
		t.Errorf("sent %+v, received %+v, want the same, of %d bytes each, and no trouble", tx, rx, size)
	}
	var through sum
	for i, after := range s.stats("a", "b") {
		if n := dropped(after.GetRxDrops()) + dropped(after.GetTxDrops()); n != 0 {
			t.Errorf("port %s dropped %d frames: in %v, out %v", after.GetName(), n, after.GetRxDrops(), after.GetTxDrops())
		}
		through.frames += after.GetTxFrames() - before[i].GetTxFrames()
		through.bytes += after.GetTxBytes() - before[i].GetTxBytes()
	}
	if through != (sum{frames: tx.frames, bytes: tx.bytes}) {
		t.Errorf("the switch forwarded %+v, want %+v", through, tx)
	}
	return through.frames
}

// A sum adds up what all devices have counted.
type sum struct{ frames, bytes, troubles uint64 }

// sums returns what testpmd's devices have received and sent.
func sums(ctx context.Context, t *testing.T, pmd *peers.Testpmd) (rx, tx sum) {
	t.Helper()
	stats, err := pmd.PortStats(ctx)
	check(t, err)
	for _, p := range stats {
		rx.frames += p.RxPackets
		rx.bytes += p.RxBytes
		rx.troubles += p.RxMissed + p.RxErrors + p.RxNoMbuf
		tx.frames += p.TxPackets
		tx.bytes += p.TxBytes
		tx.troubles += p.TxErrors
	}
	return rx, tx
}

// checkSpread checks that each queue of each device got a part of the flows.
func checkSpread(ctx context.Context, t *testing.T, pmd *peers.Testpmd, queues int) {
	t.Helper()
	out, err := pmd.Command(ctx, "show port xstats all")
	check(t, err)
	for q := range queues {
		found := regexp.MustCompile(fmt.Sprintf(`rx_q%d_(?:good_)?packets: (\d+)`, q)).FindAllStringSubmatch(out, -1)
		for _, m := range found {
			if n, _ := strconv.Atoi(m[1]); n == 0 {
				t.Errorf("queue %d of a device got no frame of many flows:\n%s", q, out)
			}
		}
		if len(found) == 0 {
			t.Errorf("no counters of queue %d in\n%s", q, out)
		}
	}
}
