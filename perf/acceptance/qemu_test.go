package acceptance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/perf/peers"
)

// A guestNet is one network that both guests have a device on.
type guestNet struct {
	name   string
	kind   string // of the switch's ports
	tag    int    // of the switch's ports; 0: none
	queues int
	prefix string // the guests are .1 and .2
	mtu    int
	sizes  []int  // of pings, payload in bytes
	device string // properties of the second guest's device
}

// port is the switch's port for guest g.
func (n guestNet) port(g int) string { return fmt.Sprintf("%s%d", n.name, g) }

// TestQEMU has two Linux guests ping each other through the bridge: over ports
// that listen and that connect, untagged and in VLANs, with 1 and 2 queue
// pairs, up to jumbo frames. Then the dataplane is killed, and they do it again.
func TestQEMU(t *testing.T) {
	need(t, "qemu")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	nets := []guestNet{
		{"plain", listens, 0, 1, "192.0.2", 1500, []int{56, 1400}, ""},
		{"access", connects, 10, 1, "198.51.100", 9000, []int{56, 1400, 8000}, ""},
		{"pairs", listens, 20, 2, "203.0.113", 9000, []int{56, 1400, 8000}, ""},
		{"takes", listens, 30, 1, "198.18.30", 1500, []int{1400}, takesNothing},
	}
	s := runSwitch(t)
	for _, n := range nets {
		for g := range 2 {
			s.add(n.port(g), n.kind, n.tag)
		}
	}
	guests := bootGuests(ctx, t, s, nets)
	for _, n := range nets {
		for g := range guests {
			s.awaitLink(n.port(g), api.Link_LINK_UP)
			eventually(t, func() bool { return s.port(n.port(g)).GetState().GetQueues() == uint32(n.queues) },
				"%s has %d queue pairs", n.port(g), n.queues)
		}
		t.Run(n.name, func(t *testing.T) { pingAll(ctx, t, guests[0], n) })
	}
	t.Run("TCP in super-frames", func(t *testing.T) {
		sendFile(ctx, t, guests, nets[0])
		if p := s.stats(nets[0].port(1))[0]; p.GetTxBytes() < 2000*p.GetTxFrames() || p.GetFinished().GetTcp() != 0 {
			t.Errorf("to a guest that takes them went %v", p)
		}
	})
	t.Run("TCP to a guest that takes nothing", func(t *testing.T) {
		sendFile(ctx, t, guests, nets[3])
		if f := s.stats(nets[3].port(1))[0].GetFinished(); f.GetTcp() == 0 || f.GetChecksums() < f.GetSegments() {
			t.Errorf("finished: %v", f)
		}
	})
	if t.Failed() {
		return
	}
	t.Run("VLANs are apart", func(t *testing.T) {
		// The other guest's plain device has the address, and does not hear of it.
		run(ctx, t, guests[1], "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore && ip addr add 198.18.0.2/24 dev eth0")
		run(ctx, t, guests[0], "ip addr add 198.18.0.1/24 dev eth0")
		if !pings(ctx, guests[0], "198.18.0.2 -c 1 -w 10") {
			t.Error("no ping to the address in its own network")
		}
		run(ctx, t, guests[0], "ip addr del 198.18.0.1/24 dev eth0 && ip addr add 198.18.0.1/24 dev eth1")
		if pings(ctx, guests[0], "198.18.0.2 -c 2 -W 1") {
			t.Error("a ping went from VLAN 10 to untagged ports")
		}
	})
	killed := time.Now()
	s.crash()
	for _, n := range nets {
		t.Run(n.name+" after a crash of the dataplane", func(t *testing.T) {
			for !pings(ctx, guests[0], n.prefix+".2 -c 1 -W 1") {
				check(t, ctx.Err())
			}
			t.Logf("ping again %v after the kill", time.Since(killed).Round(10*time.Millisecond))
			pingAll(ctx, t, guests[0], n)
		})
	}
}

// bootGuests starts both guests at once and sets up their devices.
func bootGuests(ctx context.Context, t *testing.T, s *switchRun, nets []guestNet) [2]*peers.QEMUGuest {
	t.Helper()
	var guests [2]*peers.QEMUGuest
	var errs [2]error
	var both sync.WaitGroup
	for g := range guests {
		cfg := peers.GuestConfig{CPUs: 2}
		for i, n := range nets {
			cfg.NICs = append(cfg.NICs, peers.GuestNIC{
				Path: s.socket(n.port(g), n.kind), Server: n.kind == connects, Queues: n.queues,
				MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i, g),
			})
			if g == 1 {
				cfg.NICs[i].Device = n.device
			}
		}
		both.Go(func() { guests[g], errs[g] = peers.StartQEMU(ctx, cfg) })
	}
	both.Wait()
	for g, guest := range guests {
		if errs[g] == nil {
			t.Cleanup(func() {
				guest.Close()
				if t.Failed() {
					t.Logf("the guest's console:\n%s", tail(guest.Log()))
				}
			})
		}
	}
	for g, guest := range guests {
		check(t, errs[g])
		t.Logf("guest %d booted in %v, KVM: %v", g, guest.BootTime().Round(time.Millisecond), guest.KVM())
		for i, n := range nets {
			run(ctx, t, guest, "ip link set eth%d mtu %d up && ip addr add %s.%d/24 dev eth%d", i, n.mtu, n.prefix, g+1, i)
		}
	}
	return guests
}

// run runs a command in a guest that must go well.
func run(ctx context.Context, t *testing.T, g *peers.QEMUGuest, format string, args ...any) {
	t.Helper()
	_, err := g.Run(ctx, fmt.Sprintf(format, args...))
	check(t, err)
}

// pingAll pings guest 1 from g over n, with each size.
func pingAll(ctx context.Context, t *testing.T, g *peers.QEMUGuest, n guestNet) {
	t.Helper()
	for _, size := range n.sizes {
		out, err := g.Run(ctx, fmt.Sprintf("ping -c 5 -i 0.1 -w 20 -s %d %s.2", size, n.prefix))
		if err != nil || !strings.Contains(out, " 0% packet loss") {
			t.Errorf("ping with %d bytes: %v\n%s", size, err, out)
		}
	}
}

// takesNothing are properties of a device whose driver wants finished frames.
const takesNothing = "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"

// sendFile sends a file by TCP from guest 0 to guest 1, and compares what arrives.
func sendFile(ctx context.Context, t *testing.T, guests [2]*peers.QEMUGuest, n guestNet) {
	t.Helper()
	sum := func(g *peers.QEMUGuest, line string) string {
		out, err := g.Run(ctx, line)
		check(t, err)
		return strings.Fields(out)[0]
	}
	want := sum(guests[0], "head -c 4000000 /dev/urandom > /tmp/file; md5sum < /tmp/file")
	run(ctx, t, guests[1], "rm -f /tmp/got /tmp/done /tmp/p; mkfifo /tmp/p; sleep 600 > /tmp/p & (nc -l -p 5001 > /tmp/got; touch /tmp/done) < /tmp/p 2> /dev/null &")
	run(ctx, t, guests[0], "for i in $(seq 90); do nc %s.2 5001 < /tmp/file && exit; sleep 0.1; done; exit 1", n.prefix)
	run(ctx, t, guests[1], "for i in $(seq 600); do test -e /tmp/done && exit; sleep 0.1; done; exit 1")
	if got := sum(guests[1], "md5sum < /tmp/got"); got != want {
		t.Errorf("what came has sum %s, what was sent %s", got, want)
	}
	for _, g := range guests {
		out, err := g.Run(ctx, "cat /proc/net/snmp | awk '/^Tcp:/ { print $NF }' | tail -1")
		check(t, err)
		if strings.TrimSpace(out) != "0" {
			t.Errorf("a guest counts TCP checksum errors: %s", out)
		}
	}
}

// pings reports whether a ping with args is answered.
func pings(ctx context.Context, g *peers.QEMUGuest, args string) bool {
	_, err := g.Run(ctx, "ping "+args)
	return err == nil
}
