package peers_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"millrace/perf/peers"
)

// startGuest boots a guest for the length of the test.
func startGuest(ctx context.Context, t *testing.T, cfg peers.GuestConfig) *peers.QEMUGuest {
	t.Helper()
	g, err := peers.StartQEMU(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Close()
		if t.Failed() {
			t.Logf("the guest's console:\n%s", g.Log())
		}
	})
	t.Logf("booted in %v, KVM: %v", g.BootTime(), g.KVM())
	return g
}

// TestGuest boots a guest and runs commands in it.
func TestGuest(t *testing.T) {
	peers.Need(t, "qemu")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	g := startGuest(ctx, t, peers.GuestConfig{})
	out, err := g.Run(ctx, "uname -s; echo two lines")
	if want := "Linux\ntwo lines\n"; out != want || err != nil {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
	var exit *peers.ExitError
	if _, err := g.Run(ctx, "echo why; false"); !errors.As(err, &exit) || exit.Status != 1 || exit.Output != "why\n" {
		t.Errorf("a failing command returned %v", err)
	}
	if _, err := g.Run(ctx, "two\nlines"); err == nil {
		t.Error("a command of two lines was taken")
	}
}

// TestGuestNetwork has DPDK's vhost back end answer a guest's ping, so that
// the guest's driver and its vhost-user options are known to be good.
func TestGuestNetwork(t *testing.T) {
	peers.Need(t, "qemu", "dpdk-testpmd")
	for _, server := range []bool{false, true} {
		t.Run(map[bool]string{false: "QEMU connects", true: "QEMU listens"}[server], func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			socket := filepath.Join(t.TempDir(), "s")
			vdev := "net_vhost0,queues=1,iface=" + socket
			if server {
				vdev += ",client=1"
			}
			device := startTestpmd(ctx, t, peers.TestpmdConfig{Vdevs: []string{vdev}, MainCPU: 0, WorkerCPUs: []int{1}, Forward: peers.ForwardICMPEcho, Mbufs: 4096})
			if err := device.Start(ctx); err != nil {
				t.Fatal(err)
			}
			g := startGuest(ctx, t, peers.GuestConfig{NICs: []peers.GuestNIC{{Path: socket, Server: server}}})
			out, err := g.Run(ctx, "ip addr add 192.0.2.1/24 dev eth0 && ip link set eth0 up && ping -c 5 -i 0.2 -w 20 192.0.2.2")
			if err != nil || !strings.Contains(out, " 0% packet loss") {
				t.Errorf("ping: %v\n%s", err, out)
			}
		})
	}
}
