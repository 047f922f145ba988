package acceptance

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/dataplane/tap/taptest"
	"millrace/perf/pktgen"
)

// TestKernelEnds checks every frame between ports of all kinds in one bridge:
//
//	pod ── veth ── AF_XDP ┐        ┌ AF_XDP ── veth ── pod     (asavie/xdp at both far ends)
//	                      ├ bridge ┤
//	pod ── TAP device ────┘        └ vhost-user ── guest       (a packet socket, our rings)
//
// Frames of several sizes go both ways; none may be lost, doubled, changed or out of
// order.
func TestKernelEnds(t *testing.T) {
	need(t)
	needRoot(t)
	s := beginIn(t, syscall.CLONE_NEWNET, "run")
	host := netnsOf(s.cmd.Process.Pid)
	s.cli("bridge", "add", "br0")
	var ends []pktgen.Port
	for i, name := range []string{"va", "vb"} {
		pod := pause(t)
		plugVeth(t, host, pod, name)
		s.cli("port", "add", "br0", name, "--type", "afxdp", "--wait=10s")
		s.awaitLink(name, api.Link_LINK_UP)
		ends = append(ends, pktgen.Port{Name: name, MAC: macOf(i), End: pktgen.End{Kind: pktgen.EndAFXDP, Device: "eth0", Netns: pod.Path}})
	}
	pod := pause(t)
	pod.Run(t, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
	s.cli("port", "add", "br0", "ta", "--type", "tap", "--netns", pod.Path, "--up", "--wait=10s")
	s.awaitLink("ta", api.Link_LINK_UP)
	s.add("vu", listens, 0)
	ends = append(ends,
		pktgen.Port{Name: "ta", MAC: macOf(2), End: pktgen.End{Kind: pktgen.EndPacket, Device: "ta", Netns: pod.Path}},
		pktgen.Port{Name: "vu", MAC: macOf(3), Path: s.socket("vu", listens)})
	r := checkEnds(t, ends)
	if all := uint64(len(ends) * kernelEndFrames); !r.Total.Clean() || r.Total.Received != all || r.SwitchLosses != 0 {
		t.Errorf("want %d frames:\n%v\n%s", all, r, s.cli("stats"))
	}
}

// kernelEndFrames are sent by each port: fewer than any queue on their way has room
// for, so that none is lost if the generator or the switch does not run for a while.
const kernelEndFrames = 900

func checkEnds(t *testing.T, ends []pktgen.Port) *pktgen.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, cpu := cpus(t)
	r, err := pktgen.Run(ctx, pktgen.Config{
		Ports: ends, Direction: pktgen.Bidi, Sizes: []pktgen.Share{{Size: 60, Weight: 3}, {Size: 129, Weight: 2}, {Size: 1514, Weight: 1}}, Flows: 16,
		Count: kernelEndFrames, RingSize: 2048, Rate: 3000, Settle: 2 * time.Second, CPUs: []int{cpu}, Yield: true,
	})
	check(t, err)
	return r
}

// macOf is the address of end i.
func macOf(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 7, byte(i)} }

// plugVeth makes a veth from the switch's namespace to a pod's eth0. No kernel
// sends by it of itself.
func plugVeth(t *testing.T, host, pod *taptest.Namespace, name string) {
	t.Helper()
	for _, ns := range []*taptest.Namespace{host, pod} {
		ns.Run(t, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
	}
	pid := strings.Split(pod.Path, "/")[2]
	host.Run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
	host.Run(t, "ip", "link", "set", name, "up")
	pod.Run(t, "ip", "link", "set", "eth0", "up")
}
