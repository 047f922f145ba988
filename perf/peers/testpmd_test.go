package peers_test

import (
	"context"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"millrace/perf/peers"
)

// deadline bounds one test with peers.
const deadline = 120 * time.Second

// startTestpmd starts testpmd for the length of the test.
func startTestpmd(ctx context.Context, t *testing.T, cfg peers.TestpmdConfig) *peers.Testpmd {
	t.Helper()
	pmd, err := peers.StartTestpmd(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pmd.Close()
		if t.Failed() {
			t.Logf("testpmd printed:\n%s", pmd.Log())
		}
	})
	return pmd
}

// TestTestpmdPair has DPDK's own vhost back end send back what a virtio-user
// device sends, for the devices that our switch must serve.
func TestTestpmdPair(t *testing.T) {
	peers.Need(t, "dpdk-testpmd")
	const jumboRoom = 9728 + 128
	tests := []struct {
		name   string
		dev    peers.VirtioUser
		size   int
		room   int
		noHuge bool
		path   string // the receive function that must be in use
	}{
		{name: "standard", size: 60, path: "standard"},
		{name: "vectorized", dev: peers.VirtioUser{Vectorized: true}, size: 60, path: "vectorized"},
		{name: "mergeable", dev: peers.VirtioUser{MrgRxbuf: true, QueueSize: 256}, size: 1500, path: "mergeable buffer"},
		{name: "mergeable is not vectorized", dev: peers.VirtioUser{MrgRxbuf: true, Vectorized: true}, size: 60, path: "mergeable buffer"},
		{name: "testpmd listens", dev: peers.VirtioUser{Server: true, Vectorized: true}, size: 60, path: "vectorized"},
		{name: "two queue pairs", dev: peers.VirtioUser{Queues: 2, MrgRxbuf: true}, size: 60, path: "mergeable buffer"},
		{name: "jumbo in one buffer", size: 9000, room: jumboRoom, path: "standard"},
		{name: "jumbo mergeable", dev: peers.VirtioUser{MrgRxbuf: true}, size: 9000, room: jumboRoom, path: "mergeable buffer"},
		{name: "no hugepages", size: 60, noHuge: true, path: "standard"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			dev := tt.dev
			dev.Path = filepath.Join(t.TempDir(), "s")
			maxLen := 0
			if tt.room != 0 {
				maxLen = 9018
			}
			front := func() *peers.Testpmd {
				return startTestpmd(ctx, t, peers.TestpmdConfig{Devices: []peers.VirtioUser{dev}, WorkerCPUs: []int{0}, MainCPU: 1,
					Forward: peers.ForwardTxOnly, Mbufs: 4096, MbufSize: tt.room, MaxPktLen: maxLen, NoHuge: tt.noHuge})
			}
			back := func() *peers.Testpmd {
				vdev := "net_vhost0,iface=" + dev.Path + ",queues=" + strconv.Itoa(max(1, dev.Queues))
				args := []string{"--rxq=" + strconv.Itoa(max(1, dev.Queues)), "--txq=" + strconv.Itoa(max(1, dev.Queues))}
				if dev.Server {
					vdev += ",client=1"
				}
				return startTestpmd(ctx, t, peers.TestpmdConfig{Vdevs: []string{vdev}, WorkerCPUs: []int{1}, MainCPU: 0,
					Forward: peers.ForwardRxOnly, Mbufs: 4096, MbufSize: tt.room, MaxPktLen: maxLen, NoHuge: tt.noHuge, Args: args})
			}
			device, driver := back(), front()
			exchange(ctx, t, driver, device, tt.size)
			if got := driver.RxPaths()[0]; got != tt.path {
				t.Errorf("receive path %q, want %q", got, tt.path)
			}
		})
	}
}

// exchange sends frames of size bytes from driver until device has seen some,
// and checks that all that were sent arrived, at that size.
func exchange(ctx context.Context, t *testing.T, driver, device *peers.Testpmd, size int) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(driver.SetTxPackets(ctx, size))
	check(device.Start(ctx))
	check(driver.Start(ctx))
	seen := func() peers.PortStats {
		stats, err := device.PortStats(ctx)
		check(err)
		if len(stats) != 1 {
			t.Fatalf("statistics of %d ports, want 1", len(stats))
		}
		return stats[0]
	}
	for seen().RxPackets < 1000 {
		check(ctx.Err())
	}
	sent, err := driver.Stop(ctx)
	check(err)
	if len(sent) != 1 {
		t.Fatalf("forward statistics of %d ports, want 1", len(sent))
	}
	want := sent[0].TxPackets
	for seen().RxPackets < want && ctx.Err() == nil {
	}
	if got := seen(); got.RxPackets != want || got.RxBytes != want*uint64(size) {
		t.Errorf("received %d frames of %d bytes in all, want %d of %d", got.RxPackets, got.RxBytes, want, want*uint64(size))
	}
}

// TestTestpmdErrors checks that what goes wrong is said.
func TestTestpmdErrors(t *testing.T) {
	peers.Need(t, "dpdk-testpmd")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	gone := peers.TestpmdConfig{Devices: []peers.VirtioUser{{Path: filepath.Join(t.TempDir(), "nobody")}}, NoHuge: true, Mbufs: 4096}
	if pmd, err := peers.StartTestpmd(ctx, gone); err == nil {
		pmd.Close()
		t.Error("started without a switch, want an error")
	} else {
		t.Log(err)
	}
	pmd := startTestpmd(ctx, t, peers.TestpmdConfig{Vdevs: []string{"net_null0"}, NoHuge: true, Mbufs: 4096})
	if _, err := pmd.Command(ctx, "nonsense"); err == nil {
		t.Error("a command that does not exist returned no error")
	}
}
