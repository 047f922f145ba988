package acceptance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
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

// TestHostKeepsItsConnection: the host's only device becomes a port, in a switch that
// starts, works, is killed in each of its processes, and goes. A TCP session of the host goes on
// all the time, and what is killed leaves no program at the device.
func TestHostKeepsItsConnection(t *testing.T) {
	need(t)
	needRoot(t)
	dir := t.TempDir()
	host, client := taptest.At(t, filepath.Join(dir, "host")), taptest.At(t, filepath.Join(dir, "client"))
	t.Cleanup(func() { host.Delete(t); client.Delete(t) })
	host.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", client.Path)
	for i, ns := range []*taptest.Namespace{host, client} {
		ns.Run(t, "ip", "addr", "add", fmt.Sprintf("10.8.0.%d/24", i+1), "dev", "eth0")
		ns.Run(t, "ip", "link", "set", "dev", "eth0", "up")
	}
	talk := openSession(t, host, client, "10.8.0.1")
	talk.goesOn("before there is a switch")

	s := beginAs(t, &syscall.SysProcAttr{}, []string{"nsenter", "--net=" + host.Path, "--"}, "run")
	s.cli("port", "add", "br0", "eth0", "--type", "afxdp", "--wait=20s")
	if out := host.Run(t, "ip", "link", "show", "dev", "eth0"); !strings.Contains(out, "xdp") {
		t.Errorf("no program is at the device: %s", out)
	}
	talk.goesOn("with the port")

	old := s.dataplane()
	check(t, s.api.Close())
	s.api = nil
	check(t, syscall.Kill(old, syscall.SIGKILL))
	talk.goesOn("while the dataplane is dead or starts")
	s.dial()
	if got := s.dataplane(); got == old {
		t.Fatalf("dataplane %d is the one that was killed", got)
	}
	s.awaitLink("eth0", api.Link_LINK_UP)
	talk.goesOn("with the next dataplane")

	last := s.dataplane()
	check(t, s.api.Close())
	s.api, s.killed = nil, true
	check(t, syscall.Kill(s.cmd.Process.Pid, syscall.SIGKILL)) // control and database go with it
	talk.goesOn("without a supervisor")
	check(t, syscall.Kill(last, syscall.SIGKILL))
	eventually(t, func() bool { return !strings.Contains(host.Run(t, "ip", "link", "show", "dev", "eth0"), "xdp") }, "no program at the device")
	talk.goesOn("after the switch")
	longest := time.Duration(talk.longest.Load())
	if longest > stallMost {
		t.Errorf("the session stood still for %v, want at most %v", longest, stallMost)
	}
	t.Logf("%d messages there and back, the longest took %v", talk.count.Load(), longest)
}

// stallMost is how long the host's session may stand still: for two packets that are lost and sent again, one after the other.
const stallMost = time.Second

// A session is a connection of TCP by which messages go and come back all the time.
type session struct {
	t       *testing.T
	count   atomic.Int64
	longest atomic.Int64 // ns for a message there and back
	failed  atomic.Pointer[error]
}

// openSession has a client connect to the host, which sends back all that it gets.
func openSession(t *testing.T, host, client *taptest.Namespace, address string) *session {
	t.Helper()
	var l net.Listener
	host.Do(t, func() (err error) { l, err = net.Listen("tcp", address+":0"); return err })
	var c net.Conn
	accepted := make(chan net.Conn, 1)
	go func() {
		peer, err := l.Accept()
		if err == nil {
			accepted <- peer
			_, _ = io.Copy(peer, peer) // until it is closed
		}
	}()
	client.Do(t, func() (err error) { c, err = net.DialTimeout("tcp", l.Addr().String(), patience); return err })
	s := &session{t: t}
	stopped := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		_ = c.Close()
		_ = (<-accepted).Close()
		<-stopped
	})
	go func() {
		defer close(stopped)
		s.run(c)
	}()
	return s
}

// run exchanges messages until the connection is closed.
func (s *session) run(c net.Conn) {
	message, back := make([]byte, 2000), make([]byte, 2000)
	for n := byte(0); ; n++ {
		message[0] = n
		began := time.Now()
		_, err := c.Write(message)
		if err == nil {
			_, err = io.ReadFull(c, back)
		}
		if err == nil && !bytes.Equal(message, back) {
			err = errors.New("what came back is different")
		}
		if err != nil {
			s.failed.Store(&err)
			return
		}
		s.longest.Store(max(s.longest.Load(), int64(time.Since(began))))
		s.count.Add(1)
		time.Sleep(time.Millisecond)
	}
}

// goesOn waits until some more messages have come back.
func (s *session) goesOn(when string) {
	s.t.Helper()
	from := s.count.Load()
	eventually(s.t, func() bool { return s.failed.Load() != nil || s.count.Load() >= from+20 }, "the session goes on %s", when)
	if err := s.failed.Load(); err != nil {
		s.t.Fatalf("the session %s: %v", when, *err)
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

// TestIdleHost has 50 ports to the kernel that are up, half of them TAP and half
// AF_XDP, and no traffic: they cost next to nothing, and a frame still gets through at
// once.
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
		if i%2 == 0 {
			s.cli("port", "add", "br0", fmt.Sprint("t", i), "--type", "tap", "--up")
			continue
		}
		name := fmt.Sprint("x", i)
		host.Run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", name+"p")
		host.Run(t, "ip", "link", "set", "dev", name+"p", "up")
		host.Run(t, "ip", "link", "set", "dev", name, "up")
		s.cli("port", "add", "br0", name, "--type", "afxdp", "--wait=20s")
	}
	pod := pause(t)
	s.cli("port", "add", "br0", "eth0", "--type", "tap", "--netns", pod.Path, "--ip", "10.6.0.2/24", "--wait=10s")
	host.Run(t, "ip", "addr", "add", "10.6.0.1/24", "dev", "t8")
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
