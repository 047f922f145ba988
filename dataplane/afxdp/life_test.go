package afxdp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
)

// waits waits until a port says that it waits, and why.
func (r *rig) waits(name, why string) {
	r.t.Helper()
	netnstest.Wait(r.t, func() string {
		for _, p := range r.sw.Ports() {
			if p.Name == name && p.State.Link == dataplane.LinkWaiting && strings.Contains(p.State.Reason, why) {
				return ""
			} else if p.Name == name {
				return fmt.Sprintf("port %s is %s: %q, want it to wait: %q", name, p.State.Link, p.State.Reason, why)
			}
		}
		return "there is no port " + name
	})
}

// TestFollow has a device go down and up, lose its carrier, go away and come
// back, and go to another network namespace and back. The port says so, and
// forwards each time that it can.
func TestFollow(t *testing.T) {
	for _, mode := range []Mode{Native, Generic} {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, dataplane.PollAdaptive)
			r.o.Mode = mode
			a, b := r.pods(1500)
			forwards := func() {
				t.Helper()
				r.up("pa", "pb")
				a.Reach("10.9.0.2", 1000)
			}
			forwards()

			netnstest.IP(t, "link set pa down")
			r.waits("pa", "the device is down")
			netnstest.IP(t, "link set pa up")
			forwards()

			a.Run("ip link set eth0 down")
			r.waits("pa", "no carrier")
			a.Run("ip link set eth0 up")
			forwards()

			netnstest.IP(t, "link del pa")
			r.waits("pa", "no such device")
			a.Plug(1)
			a.Address(1)
			forwards()

			netnstest.IP(t, "link set pa netns %d", b.PID())
			r.waits("pa", "moved to another network namespace")
			b.Run("ip link set pa netns %d", os.Getpid())
			netnstest.IP(t, "link set pa up")
			forwards()
			r.balanced()
		})
	}
}

// TestMTU: the port follows the device's MTU, and the device the port's.
func TestMTU(t *testing.T) {
	r := newRig(t, dataplane.PollAdaptive)
	a, b := r.pods(1500)
	a.Reach("10.9.0.2", 1472)
	for _, p := range []*netnstest.Pod{a, b} {
		netnstest.IP(t, "link set %s mtu 9000", p.Host)
		p.Run("ip link set eth0 mtu 9000")
	}
	a.Reach("10.9.0.2", 8972)

	spec := dataplane.PortSpec{Bridge: "br0", Name: "pb", Type: "afxdp", MTU: 4000}
	if _, err := r.sw.SetPort(context.Background(), spec); err != nil {
		t.Fatal(err)
	}
	netnstest.Wait(t, func() string {
		if d, err := look("pb"); err != nil || d.mtu != 4000 {
			return fmt.Sprintf("device has MTU %d (%v), want 4000", d.mtu, err)
		}
		return ""
	})
	a.Reach("10.9.0.2", 3972)
	netnstest.Wait(t, func() string { // the device has it a moment before the port
		before := r.drops("pb")
		if err := a.Ping("10.9.0.2", 8000, 50*time.Millisecond); err == nil {
			return "a frame of 8042 bytes came through an MTU of 4000"
		}
		if r.drops("pb") > before {
			return ""
		}
		return "the frame that is too long is not counted"
	})
}

// drops are the outputs to a port that it did not take.
func (r *rig) drops(name string) uint64 {
	for _, s := range r.sw.Snapshot().Ports {
		if s.Name == name {
			return s.TxDrops.Total()
		}
	}
	return 0
}

// setChannels gives a device a number of queues of each kind.
func setChannels(name string, n uint32) error {
	return withControl(name, func(c *control, name string) error {
		v := channels{cmd: unix.ETHTOOL_GCHANNELS}
		if err := ethtool(c.fd.Int(), name, &v); err != nil {
			return err
		}
		v.cmd, v.rx, v.tx = unix.ETHTOOL_SCHANNELS, n, n
		if err := ethtool(c.fd.Int(), name, &v); err != nil {
			return fmt.Errorf("give %s %d queues: %w", name, n, err)
		}
		return nil
	})
}

// TestQueues: the port uses all queues of its device, as many as there are, and
// refuses to have more than there are.
func TestQueues(t *testing.T) {
	r := newRig(t, dataplane.PollAdaptive)
	a, b := netnstest.NewPod(t, "pa", 4), netnstest.NewPod(t, "pb", 4)
	a.Address(1)
	b.Address(2)
	// A veth's end sends on no more queues than the other receives on.
	if err := a.Do(func() error { return setChannels("eth0", 2) }); err != nil {
		t.Fatal(err)
	}
	if err := setChannels("pa", 2); err != nil {
		t.Fatal(err)
	}
	r.add("pa")
	if _, err := r.sw.AddPort(context.Background(), dataplane.PortSpec{Bridge: "br0", Name: "pb", Type: "afxdp", Queues: 5}); err == nil || !strings.Contains(err.Error(), "fewer receive queues than n_rxq") {
		t.Errorf("five queues of a device that has four: %v", err)
	}
	r.add("pb")
	r.up("pa", "pb")
	queues := func(n int) {
		t.Helper()
		netnstest.Wait(t, func() string {
			for _, p := range r.sw.Ports() {
				if p.Name == "pa" && (p.State.Link != dataplane.LinkUp || p.State.Queues != n) {
					return fmt.Sprintf("port is %s with %d queues: %s; want %d", p.State.Link, p.State.Queues, p.State.Reason, n)
				}
			}
			return ""
		})
		b.Reach("10.9.0.1", 200)
		a.Reach("fd09::2", 200)
	}
	queues(2)
	if err := setChannels("pa", 4); err != nil {
		t.Fatal(err)
	}
	queues(4)
	// The kernel takes no queue away that has a socket.
	if err := setChannels("pa", 3); err == nil {
		queues(3)
	}
}

// nothing is a program that does nothing, of somebody else.
func nothing(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: ebpf.XDP, License: "GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestForeign: a device that has somebody else's program is refused, and keeps
// it, however it is attached.
func TestForeign(t *testing.T) {
	netnstest.Need(t)
	needXDP(t)
	netnstest.NewPod(t, "pa", 1)
	d, err := look("pa")
	if err != nil {
		t.Fatal(err)
	}
	prog := nothing(t)
	refused := func(how string) {
		t.Helper()
		for _, mode := range []Mode{BestEffort, Generic} {
			_, err := Open(Options{Name: "pa", Settings: Settings{Mode: mode}})
			if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "theirs") {
				t.Errorf("%s, %s: %v, want ErrForeign with the program's name", how, mode, err)
			}
		}
		if what, err := attached(d.index); err != nil || !strings.Contains(what, "theirs") {
			t.Errorf("%s: afterwards the device has %q (%v)", how, what, err)
		}
	}
	for _, flags := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: d.index, Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		refused(fmt.Sprintf("link, flags %d", flags))
		l.Close()
		dev, err := netlink.LinkByIndex(d.index)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetXdpFdWithFlags(dev, prog.FD(), int(flags)); err != nil {
			t.Fatal(err)
		}
		refused(fmt.Sprintf("netlink, flags %d", flags))
		if err := netlink.LinkSetXdpFdWithFlags(dev, -1, int(flags)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Open(Options{Name: "pa"})
	if err != nil {
		t.Fatalf("the device is free again: %v", err)
	}
	defer p.Close()
	if _, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: d.index}); err == nil {
		t.Error("a second program can be attached beside ours")
	}
}

// TestTheirsGoes: a port whose device is taken by somebody else when it comes
// back waits, and says for what.
func TestTheirsGoes(t *testing.T) {
	r := newRig(t, dataplane.PollAdaptive)
	a := netnstest.NewPod(t, "pa", 1)
	r.add("pa")
	r.up("pa")
	prog := nothing(t)
	netnstest.IP(t, "link del pa")
	r.waits("pa", "no such device")
	a.Do(func() error { return nil })
	netnstest.IP(t, "link add pa type veth peer name other")
	d, err := look("pa")
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: d.index})
	if err != nil {
		t.Skipf("needs to be faster than the port: %v", err)
	}
	netnstest.IP(t, "link set other up")
	netnstest.IP(t, "link set pa up")
	r.waits("pa", "theirs")
	l.Close()
	r.up("pa")
}

// TestBroken: a port whose rings are broken says so, and takes its device anew.
func TestBroken(t *testing.T) {
	netnstest.Need(t)
	needXDP(t)
	netnstest.NewPod(t, "pa", 1)
	var was atomic.Value
	was.Store("")
	var p *Port
	opened := make(chan struct{})
	p, err := Open(Options{Name: "pa", Changed: func() {
		select {
		case <-opened:
			if st := p.State(); st.Link == LinkBroken {
				was.Store(st.Reason)
			}
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	close(opened)
	defer p.Close()
	p.rx[0].sock.Load().broke(broken("for a test"))
	netnstest.Wait(t, func() string {
		st := p.State()
		if reason := was.Load(); st.Link != LinkUp || st.Breaks != 1 || !strings.Contains(reason.(string), "for a test") {
			return fmt.Sprintf("port is %s, broken %d times, said %q", st.Link, st.Breaks, reason)
		}
		return ""
	})
}

// childPort is set in the environment of TestKilled's child.
const childPort = "MILLRACE_TEST_AFXDP_CHILD"

// TestKilled: nothing of a process that is killed stays at its device.
func TestKilled(t *testing.T) {
	netnstest.Need(t)
	needXDP(t)
	if name := os.Getenv(childPort); name != "" {
		if _, err := Open(Options{Name: name}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open")
		select {}
	}
	netnstest.NewPod(t, "pa", 1)
	d, err := look("pa")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), childPort+"=pa")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if what, _ := attached(d.index); line != "open\n" || what == "" {
			t.Errorf("child says %q (%v), the device has %q", line, err, what)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		netnstest.Wait(t, func() string {
			if what, err := attached(d.index); what != "" || err != nil {
				return fmt.Sprintf("the device still has %q (%v)", what, err)
			}
			return ""
		})
	}
}

// TestHost: the host keeps a connection on a device that becomes a port, while
// the port starts, works and goes; and pods reach each other through the switch
// meanwhile.
func TestHost(t *testing.T) {
	r := newRig(t, dataplane.PollAdaptive)
	a, b := netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)
	a.Address(1)
	b.Address(2)
	netnstest.IP(t, "addr add 10.9.0.100/24 dev pa")
	netnstest.IP(t, "addr add fd09::100/64 dev pa nodad")

	server, err := net.Listen("tcp", "10.9.0.100:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go echoAll(server)
	var c net.Conn
	if err := a.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", server.Addr().String(), netnstest.Patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	goesOn := func(when string) {
		t.Helper()
		if err := talk(c); err != nil {
			t.Fatalf("%s: the host's connection: %v", when, err)
		}
	}
	goesOn("before")
	r.add("pa")
	r.add("pb")
	r.up("pa", "pb")
	goesOn("with the port")
	a.Reach("10.9.0.2", 1000)
	b.Reach("fd09::1", 1000)
	a.Run("ip neigh flush dev eth0") // who has the host's address is asked again
	netnstest.Wait(t, func() string {
		if err := a.Ping("fd09::100", 56, time.Second); err != nil {
			return "the host by IPv6: " + err.Error()
		}
		return ""
	})
	goesOn("after neighbours were forgotten")
	if err := r.closed(r.sw.DelPort(context.Background(), "pa"), "pa"); err != nil {
		t.Fatal(err)
	}
	goesOn("after the port")

	// An address that comes later is the host's, too.
	r.add("pa")
	netnstest.IP(t, "addr add 10.9.0.101/24 dev pa")
	a.Reach("10.9.0.101", 56)
	// One that the host gives up may be somebody else's, behind the switch.
	netnstest.IP(t, "addr flush dev pa")
	b.Run("ip addr add 10.9.0.101/24 dev eth0")
	a.Run("ip neigh flush dev eth0")
	a.Reach("10.9.0.101", 56)
}

func echoAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// talk says something and expects it to come back.
func talk(c net.Conn) error {
	msg := []byte(strings.Repeat("the host keeps its device. ", 400))
	if err := c.SetDeadline(time.Now().Add(netnstest.Patience)); err != nil {
		return err
	}
	if _, err := c.Write(msg); err != nil {
		return err
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != string(msg) {
		return errors.New("what came back is different")
	}
	return nil
}

// TestImpossible: a mode that the device does not have is refused, with the
// reason, and nothing stays at the device.
func TestImpossible(t *testing.T) {
	netnstest.Need(t)
	needXDP(t)
	netnstest.NewPod(t, "pa", 1)
	_, err := Open(Options{Name: "pa", Settings: Settings{Mode: ZeroCopy}})
	if err == nil {
		t.Skip("needs a veth without zero-copy")
	}
	if !strings.Contains(err.Error(), "native-with-zerocopy") || !strings.Contains(err.Error(), "zero-copy") {
		t.Errorf("error does not say what is impossible: %v", err)
	}
	d, err := look("pa")
	if err != nil {
		t.Fatal(err)
	}
	if what, err := attached(d.index); what != "" || err != nil {
		t.Errorf("the device has %q (%v)", what, err)
	}
}
