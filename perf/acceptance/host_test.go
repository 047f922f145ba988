package acceptance

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/dataplane/tap/taptest"
)

// TestHostPorts is a node: a switch in a network namespace of its own, two pods
// with devices in theirs, and the host itself on the bridge's own port. All reach
// each other, also after the dataplane was killed, which leaves no device behind.
func TestHostPorts(t *testing.T) {
	need(t)
	needRoot(t)
	s := beginIn(t, syscall.CLONE_NEWNET, "run", "--local-ports", "on")
	host := netnsOf(s.cmd.Process.Pid)
	pods := []*taptest.Namespace{pause(t), pause(t)}
	s.cli("bridge", "add", "br0")
	for i, kind := range []string{"tap", "internal"} {
		s.cli("port", "add", "br0", fmt.Sprint("eth", i), "--type", kind, "--netns", pods[i].Path, "--ip", fmt.Sprintf("10.4.0.%d/24,fd04::%d/64", i+1, i+1), "--mtu", "9000", "--wait=10s")
	}
	configureHost(t, host)
	everybody := func() {
		t.Helper()
		for i, ns := range append(pods, host) {
			for j := range 3 {
				if i == j {
					continue
				}
				for _, to := range []netip.Addr{netip.AddrFrom4([4]byte{10, 4, 0, byte(j + 1)}), netip.MustParseAddr(fmt.Sprintf("fd04::%d", j+1))} {
					if err := ns.Ping(t, to, 1500, patience); err != nil {
						t.Errorf("from %d: %v", i, err)
					}
				}
			}
		}
	}
	everybody()
	if err := pods[0].Ping(t, netip.MustParseAddr("10.4.0.2"), 9000, patience); err != nil {
		t.Error(err)
	}

	check(t, s.api.Close())
	old := s.dataplane()
	check(t, syscall.Kill(s.cmd.Process.Pid, syscall.SIGSTOP)) // who would start the next one
	check(t, syscall.Kill(old, syscall.SIGKILL))
	for i, ns := range pods {
		eventually(t, func() bool {
			_, err := ns.Try(t, "ip", "link", "show", "dev", fmt.Sprint("eth", i))
			return err != nil
		}, "no device in pod %d", i)
	}
	check(t, syscall.Kill(s.cmd.Process.Pid, syscall.SIGCONT))
	s.api = nil
	s.dial()
	eventually(t, func() bool { return s.dataplane() != old }, "another dataplane")
	for _, port := range []string{"eth0", "eth1"} {
		s.awaitLink(port, api.Link_LINK_UP)
	}
	configureHost(t, host) // its addresses went with the device: it does not persist
	everybody()

	s.cli("port", "del", "eth0")
	if out, err := pods[0].Try(t, "ip", "link", "show", "dev", "eth0"); err == nil {
		t.Errorf("the device of a deleted port is there: %s", out)
	}
}

// configureHost does what the administrator of the node does with a bridge's own
// device.
func configureHost(t *testing.T, host *taptest.Namespace) {
	t.Helper()
	eventually(t, func() bool { _, err := host.Try(t, "ip", "link", "set", "dev", "br0", "up"); return err == nil }, "a device br0")
	host.Run(t, "sysctl", "-qw", "net.ipv6.conf.br0.accept_dad=0")
	host.Run(t, "ip", "addr", "replace", "10.4.0.3/24", "dev", "br0")
	host.Run(t, "ip", "addr", "replace", "fd04::3/64", "dev", "br0")
}

// TestNoDevices: without the right to make devices a bridge works, and its row
// says what is missing; so does a port that was asked for.
func TestNoDevices(t *testing.T) {
	need(t)
	needRoot(t)
	s := beginIn(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWUSER, "run", "--local-ports", "on")
	s.cli("bridge", "add", "br0")
	s.add("vm1", listens, 0)
	s.cli("port", "add", "br0", "pod", "--type", "tap")
	p := s.port("pod")
	if r := p.GetState().GetReason(); p.GetState().GetLink() != api.Link_LINK_WAITING || !strings.Contains(r, "CAP_NET_ADMIN") {
		t.Errorf("port is %v: %s", p.GetState().GetLink(), r)
	}
	var info struct {
		Info struct {
			NoDevices string `json:"no_devices"`
		}
	}
	if err := json.Unmarshal(s.cli("show", "--json"), &info); err != nil || !strings.Contains(info.Info.NoDevices, "CAP_NET_ADMIN") {
		t.Errorf("%v: %+v", err, info)
	}
	if list, err := s.api.ListPorts(t.Context(), &api.ListPortsRequest{}); err != nil || len(list.GetPorts()) != 2 {
		t.Errorf("ports %v, %v", list, err)
	}
}

// TestIdleHost has 50 ports to the kernel that are up, and no traffic: they cost
// next to nothing, and a frame still gets through at once.
func TestIdleHost(t *testing.T) {
	need(t)
	needRoot(t)
	const (
		ports   = 50
		span    = 5 * time.Second
		mostCPU = span / 100
	)
	s := beginIn(t, syscall.CLONE_NEWNET, "run", "--poll", "adaptive")
	host := netnsOf(s.cmd.Process.Pid)
	host.Run(t, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1") // devices send nothing by themselves
	for i := range ports - 1 {
		s.cli("port", "add", "br0", fmt.Sprint("t", i), "--type", "tap", "--up")
	}
	pod := pause(t)
	s.cli("port", "add", "br0", "eth0", "--type", "tap", "--netns", pod.Path, "--ip", "10.6.0.2/24", "--wait=10s")
	host.Run(t, "ip", "addr", "add", "10.6.0.1/24", "dev", "t7")
	if used := s.idle(span, mostCPU); used >= mostCPU {
		t.Errorf("an idle switch used %v in %v, want less than %v", used, span, mostCPU)
	}
	if err := pod.Ping(t, netip.MustParseAddr("10.6.0.1"), 60, patience); err != nil {
		t.Error(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// netnsOf is the network namespace of a process.
func netnsOf(pid int) *taptest.Namespace {
	return &taptest.Namespace{Path: fmt.Sprintf("/proc/%d/ns/net", pid)}
}

// pause starts a process that does nothing in a network namespace of its own, as a
// pod's pause container does.
func pause(t *testing.T) *taptest.Namespace {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	done := make(chan struct{})
	check(t, startChild(cmd, done))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	ns := netnsOf(cmd.Process.Pid)
	ns.Run(t, "ip", "link", "set", "dev", "lo", "up")
	ns.Run(t, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	return ns
}
