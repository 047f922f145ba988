package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/netnstest"
	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/dataplane/tap"
	"millrace/vhost/frontend"
	"millrace/waittest"
)

// Kinds of ports by which a pod is reached.
const (
	byTAP   = "tap"
	byPlain = "plain" // tap without offloads: the pod's kernel finishes what it sends, and gets nothing unfinished
	byVeth  = "afxdp"
	byVhost = "dpdkvhostuser"
)

// A labPod is a pod behind a port of some kind of a switch.
type labPod struct {
	*netnstest.Pod
	kind, dev string
	v4, v6    string
	mac       string
}

// newLabPod adds pod number n, with addresses of that number and an MTU, to bridge br of the
// switch of dir, which is in the pod host, or in the test's namespace if that is nil. args
// are further flags of port add.
func newLabPod(t *testing.T, dir string, host *netnstest.Pod, br, kind string, n, mtu int, args ...string) *labPod {
	t.Helper()
	name := fmt.Sprintf("p%d", n)
	p := &labPod{netnstest.NewPod(t, name, 1), kind, "eth0", fmt.Sprintf("10.9.0.%d", n), fmt.Sprintf("fd09::%x", n), fmt.Sprintf("02:09:00:00:00:%02x", n)}
	netns := fmt.Sprintf("/proc/%d/ns/net", p.PID())
	prefixes := []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(p.v4), 24), netip.PrefixFrom(netip.MustParseAddr(p.v6), 64)}
	p.Run("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0")
	if kind == byPlain {
		args = append(args, "--option", "offload=false")
	}
	add := append([]string{"port", "add", br, name, "--type", typeOf(kind)}, args...)
	if kind != byVhost { // it waits for its guest, which waits for it
		add = append(add, "--wait=20s")
	}
	if kind == byVeth {
		p.Run("ip link set eth0 address %s mtu %d", p.mac, mtu)
		p.Run("ip addr add %s dev eth0", prefixes[0])
		p.Run("ip addr add %s dev eth0 nodad", prefixes[1])
		netnstest.IP(t, "link set %s mtu %d", name, mtu)
		if host != nil {
			netnstest.IP(t, "link set %s netns %d", name, host.PID())
			host.Run("ip link set %s up", name)
		}
		must(t, dir, add...)
		return p
	}
	netnstest.IP(t, "link del %s", name)
	if typeOf(kind) == byTAP {
		p.dev = name
		must(t, dir, append(add, "--netns", netns, "--mtu", fmt.Sprint(mtu), "--mac", p.mac, "--ip", prefixes[0].String(), "--ip", prefixes[1].String())...)
		return p
	}
	must(t, dir, append(add, "--mtu", fmt.Sprint(mtu))...)
	p.guest(filepath.Join(dir, name), netns, mtu, prefixes)
	return p
}

// typeOf is the type of a kind's ports.
func typeOf(kind string) string {
	if kind == byPlain {
		return byTAP
	}
	return kind
}

// guest makes the pod one behind a vhost-user socket: its device is a TAP device
// without offloads, whose frames a goroutine carries to and from the rings.
func (p *labPod) guest(path, netns string, mtu int, prefixes []netip.Prefix) {
	t := p.T()
	t.Helper()
	kernel := &tap.Kernel{}
	mac := netMAC(t, p.mac)
	dev, err := tap.Open(tap.Options{Name: p.dev, Netns: netns, Plain: true, Kernel: kernel, Settings: tap.Settings{MTU: mtu, MAC: mac, Addresses: prefixes, Up: true}})
	if err != nil {
		t.Fatal(err)
	}
	front := runFrontend(t, path, func(ctx context.Context, front *frontend.Port) { carryTAP(ctx, dev, front) })
	t.Cleanup(func() {
		front()
		for _, err := range []error{dev.Close(), kernel.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// netMAC reads an Ethernet address.
func netMAC(t testing.TB, s string) []byte {
	mac := make([]byte, 6)
	if _, err := fmt.Sscanf(s, "%x:%x:%x:%x:%x:%x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]); err != nil {
		t.Fatal(err)
	}
	return mac
}

// runFrontend connects to a vhost-user socket as a guest does, whose driver is work. It
// returns what ends both.
func runFrontend(t testing.TB, path string, work func(context.Context, *frontend.Port)) (stop func()) {
	t.Helper()
	front, err := frontend.Open(frontend.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := front.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := front.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	if err := front.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	running.Go(func() { work(ctx, front) })
	return stop
}

// give puts a frame into the guest's transmit ring, if there is room.
func give(pair *frontend.Pair, f []byte) {
	if pair.Tx.Room(1) == 0 {
		return
	}
	b := pair.Tx.Buffer(0)
	pair.Tx.SetLen(b, copy(pair.Tx.Frame(b), f))
	pair.Tx.Send(1)
	if pair.Tx.ShouldKick() {
		_ = sys.Signal(pair.TxRing.Kick)
	}
}

// take calls fn for the frames that have come for the guest, and returns how many they were.
func take(pair *frontend.Pair, fn func(f []byte)) (n int) {
	for ; n < packet.BatchMax; n++ {
		f, ok := pair.Rx.Next()
		if !ok {
			break
		}
		fn(f)
	}
	if pair.Rx.Release(); pair.Rx.ShouldKick() {
		_ = sys.Signal(pair.RxRing.Kick)
	}
	return n
}

// carryTAP carries frames between a device and a guest's rings.
func carryTAP(ctx context.Context, dev *tap.Port, front *frontend.Port) {
	in, out := packet.NewBatch(), packet.NewBatch()
	pair, rx, tx := front.Pairs()[0], dev.RxQueues()[0], dev.TxQueue()
	for ctx.Err() == nil {
		in.Reset()
		rx.Rx(in)
		for i := range in.N {
			give(pair, in.AppendTo(nil, i))
		}
		rx.Release()
		rx.Signal()
		n := take(pair, func(f []byte) {
			head := min(len(f), packet.HeadMax)
			out.Reset()
			if tail := f[head:]; len(tail) > 0 {
				out.Add(f[:head], packet.Seg{Addr: packet.Addr(tail), Len: uintptr(len(tail))})
			} else {
				out.Add(f[:head])
			}
			tx.Tx(out, []packet.Ref{{}})
			tx.Commit(out)
			tx.Signal()
		})
		if in.N+n == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// iperf runs iperf3 from one pod to an address of another, and returns what its client printed.
func (p *labPod) iperf(to *labPod, port int, address, args string) {
	t := p.T()
	t.Helper()
	to.Start("iperf3 -s -p %d", port)
	netnstest.Wait(t, func() string {
		if out, err := p.Try("iperf3 -c %s -p %d %s", address, port, args); err != nil {
			return fmt.Sprintf("iperf3 %s from %s by %s to %s by %s: %s", args, p.Host, p.kind, to.Host, to.kind, out)
		}
		return ""
	})
}

// sendSegments has a pod's kernel send datagrams to another pod as one super-frame
// (UDP_SEGMENT): all of them arrive as they were meant.
func sendSegments(from, to *labPod) {
	const size, n = 1000, 16
	t := from.T()
	t.Helper()
	for _, address := range []string{to.v4, to.v6} {
		var in *net.UDPConn
		err := to.Do(func() (err error) {
			in, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(address)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, n*size-300) // the last one is shorter
		for i := range data {
			data[i] = byte(i / size * 7)
			if i%size > 0 {
				data[i] = byte(i)
			}
		}
		netnstest.Wait(t, func() string { // datagrams may be lost
			if err := from.Do(func() error { return writeSegments(in.LocalAddr().(*net.UDPAddr), data, size) }); err != nil {
				return err.Error()
			}
			got := []byte{}
			buf := make([]byte, 2*size)
			for range n {
				_ = in.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				m, err := in.Read(buf)
				if err != nil {
					return fmt.Sprintf("%d bytes came from %s to %s: %v", len(got), from.Host, to.Host, err)
				}
				got = append(got, buf[:m]...)
			}
			if !bytes.Equal(got, data) {
				return fmt.Sprintf("%d other bytes came from %s to %s", len(got), from.Host, to.Host)
			}
			return ""
		})
		_ = in.Close()
	}
}

// writeSegments sends data in datagrams of size bytes by one call.
func writeSegments(to *net.UDPAddr, data []byte, size int) error {
	out, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return err
	}
	defer out.Close()
	raw, err := out.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	}); err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("set UDP_SEGMENT: %w", inner)
	}
	_, err = out.Write(data)
	return err
}

// checkCounters fails the test if the kernel of a pod has counted wrong checksums.
func checkCounters(pods ...*netnstest.Pod) {
	for _, p := range pods {
		p.T().Helper()
		for _, file := range []string{"/proc/net/snmp", "/proc/net/netstat", "/proc/net/snmp6"} {
			if n := wrongSums(p.Run("cat %s", file)); n != 0 {
				p.T().Errorf("%s of %s counts %d wrong checksums", file, p.Host, n)
			}
		}
	}
}

// wrongSums adds up the counters of checksum errors in one of the kernel's lists:
// lines of names with lines of numbers below, or a name and a number in a line.
func wrongSums(list string) (sum int) {
	var names []string
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		for i, w := range words {
			var n int
			if i < len(names) && strings.Contains(names[i], "Csum") || i == 1 && len(words) == 2 && strings.Contains(words[0], "Csum") {
				_, _ = fmt.Sscan(w, &n) // a name is none
				sum += n
			}
		}
		names = words
	}
	return sum
}

// A capture is tshark that writes down what a pod's device sends and receives.
type capture struct {
	pod  *labPod
	file string
	cmd  *exec.Cmd
	log  waittest.Buffer
}

// startCapture begins a capture, which ends with the test at the latest.
func startCapture(p *labPod) *capture {
	t := p.T()
	t.Helper()
	c := &capture{pod: p, file: filepath.Join(t.TempDir(), "pcap")}
	c.cmd = p.Command("tshark -q -Q -i %s -w %s", p.dev, c.file)
	c.cmd.Stderr = &c.log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	netnstest.Wait(t, func() string {
		if s, err := os.Stat(c.file); err != nil || s.Size() < pcapHeader {
			return "tshark: " + c.log.String()
		}
		return ""
	})
	return c
}

// pcapHeader is the least that a file has when tshark has begun: a section header block (pcapng).
const pcapHeader = 28

func (c *capture) end() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Signal(syscall.SIGINT)
		_ = c.cmd.Wait()
	}
}

// What tshark says of a checksum.
const (
	sumBad  = "0"
	sumGood = "1"
	sumNone = "3" // a zero instead
)

// A heard is how many frames with right checksums a pod has sent or received.
type heard struct{ tcp, udp int }

// finishes reports whether the pod's own kernel computes all checksums of what it sends.
func (p *labPod) finishes() bool { return p.kind == byPlain || p.kind == byVhost }

// check ends the capture, and fails the test if a checksum is wrong in what the pod has received: in what it
// has sent, too, if its device has no offloads. finished are the addresses of pods whose kernels finish what they send.
func (c *capture) check(finished map[string]bool) (sent, received heard) {
	t := c.pod.T()
	t.Helper()
	c.end()
	out, err := exec.Command("tshark", "-n", "-r", c.file, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
		"-T", "fields", "-e", "frame.number", "-e", "eth.src", "-e", "eth.dst", "-e", "ip.checksum.status", "-e", "tcp.checksum.status", "-e", "udp.checksum.status", "-e", "tcp.checksum", "-e", "udp.checksum").Output()
	if err != nil {
		t.Fatalf("tshark -r of %s: %v\n%s", c.pod.Host, err, c.log.String())
	}
	wrong := 0
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 3+5 {
			continue
		}
		n := &received
		switch {
		case f[2] == c.pod.mac:
		case f[1] == c.pod.mac && c.pod.kind != byVeth:
			n = &sent
		default:
			continue
		}
		if f[6] == "0xffff" && finished[f[1]] { // Linux writes zero of TCP in its other form, which tshark does not like
			f[4] = sumGood
		}
		if bad := f[3:6]; slices.Contains(bad, sumBad) || bad[2] == sumNone {
			if wrong++; wrong < 10 {
				t.Errorf("%s by %s: tshark finds a wrong checksum: frame %s from %s to %s, ip, tcp and udp %q", c.pod.Host, c.pod.kind, f[0], f[1], f[2], f[3:])
			}
			continue
		}
		if f[4] == sumGood {
			n.tcp++
		}
		if f[5] == sumGood {
			n.udp++
		}
	}
	return sent, received
}

// wire joins two vhost-user sockets: what one guest receives the other one sends.
func wire(t testing.TB, a, b string) {
	t.Helper()
	ports := make(chan *frontend.Port, 2)
	hold := func(_ context.Context, front *frontend.Port) { ports <- front }
	runFrontend(t, a, hold)
	stop := runFrontend(t, b, hold)
	ends := [2]*frontend.Port{<-ports, <-ports}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		x, y := ends[0].Pairs()[0], ends[1].Pairs()[0]
		for ctx.Err() == nil {
			if take(x, func(f []byte) { give(y, f) })+take(y, func(f []byte) { give(x, f) }) == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		stop()
	})
}
