package tap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/dataplane/tap/taptest"
	"millrace/vhost"
	"millrace/vhost/frontend"
	"millrace/waittest"
)

// A switchPort is a port as the dataplane wants to see it, as in cmd/millrace.
type switchPort struct{ *Port }

func (d switchPort) Rx() (queues []dataplane.RxQueue) {
	for _, q := range d.RxQueues() {
		queues = append(queues, q)
	}
	return queues
}
func (d switchPort) Tx() dataplane.TxQueue { return d.TxQueue() }
func (d switchPort) State() dataplane.DeviceState {
	s := d.Port.State()
	return dataplane.DeviceState{Link: dataplane.Link(s.Link), Reason: s.Reason, Host: dataplane.HostState{Name: s.Device.Name, MAC: s.Device.MAC, MTU: s.Device.MTU}}
}

// A guestPort is the same for a vhost-user port.
type guestPort struct{ *vhost.Port }

func (d guestPort) Rx() (queues []dataplane.RxQueue) {
	for _, q := range d.RxQueues() {
		queues = append(queues, q)
	}
	return queues
}
func (d guestPort) Tx() dataplane.TxQueue { return d.TxQueue() }
func (d guestPort) State() dataplane.DeviceState {
	return dataplane.DeviceState{Link: dataplane.Link(d.Port.State().Link)}
}

// A bench is a switch with a worker, and pods on it.
type bench struct {
	t    testing.TB
	sw   *dataplane.Switch
	dir  string // of sockets
	pods []*pod
}

// A pod is a namespace with a device of the switch, or with one that is behind a
// vhost-user port, as in a virtual machine.
type pod struct {
	ns   *taptest.Namespace
	port string
	v4   netip.Addr
	v6   netip.Addr
}

// newBench starts a switch.
func newBench(t testing.TB) *bench {
	t.Helper()
	taptest.Need(t)
	kernel := newKernel(t)
	log := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	dir := t.TempDir()
	openers := map[string]dataplane.Opener{
		dataplane.TypeTAP: func(s dataplane.PortSpec, env dataplane.Env) (dataplane.Device, error) {
			p, err := Open(Options{
				Name: s.Name, Netns: s.Host.Netns, Queues: s.Queues, Kernel: kernel, Log: log, Quiesce: env.Quiesce, Changed: env.Changed,
				Settings: Settings{MTU: s.MTU, MAC: s.Host.MAC[:], Addresses: s.Host.Addresses, Up: s.Host.Up},
			})
			return switchPort{p}, err
		},
		dataplane.TypeVhostServer: func(s dataplane.PortSpec, env dataplane.Env) (dataplane.Device, error) {
			p, err := vhost.Open(vhost.Options{Name: s.Name, Path: filepath.Join(dir, s.Name), Quiesce: env.Quiesce, Changed: env.Changed})
			return guestPort{p}, err
		},
	}
	cpus, err := sys.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	sw, err := dataplane.New(dataplane.Options{CPUs: cpus[:1], Openers: openers, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var names []string
		for _, p := range sw.Ports() {
			names = append(names, p.Name)
		}
		err := sw.Close()
		if errors.Is(err, dataplane.ErrBusy) { // on a machine that is busy the kernel needs more time than the switch waits
			ctx, cancel := context.WithTimeout(context.Background(), waittest.Most)
			defer cancel()
			err = sw.Closed(ctx, names...)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return &bench{t: t, sw: sw, dir: dir}
}

// addresses gives a new pod its addresses and a MAC.
func (b *bench) addresses() (p *pod, prefixes []netip.Prefix, mac [6]byte) {
	n := len(b.pods) + 1
	p = &pod{
		port: fmt.Sprint("eth", n),
		v4:   netip.AddrFrom4([4]byte{10, 5, 0, byte(n)}), v6: netip.MustParseAddr(fmt.Sprintf("fd05::%x", n)),
	}
	b.pods = append(b.pods, p)
	return p, []netip.Prefix{netip.PrefixFrom(p.v4, 24), netip.PrefixFrom(p.v6, 64)}, [6]byte{2, 5, 0, 0, 0, byte(n)}
}

// pod adds a pod with a TAP port.
func (b *bench) pod(tag uint16, mtu, queues int) *pod {
	b.t.Helper()
	p, prefixes, mac := b.addresses()
	p.ns = taptest.New(b.t)
	p.ns.Run(b.t, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0") // addresses serve at once
	b.add(dataplane.PortSpec{
		Name: p.port, Type: dataplane.TypeTAP, Tag: tag, MTU: mtu, Queues: queues,
		Host: dataplane.HostSpec{Netns: p.ns.Path, MAC: mac, Addresses: prefixes, Up: true},
	})
	return p
}

func (b *bench) add(s dataplane.PortSpec) {
	b.t.Helper()
	s.Bridge = "br"
	info, err := b.sw.AddPort(b.t.Context(), s)
	if err != nil {
		b.t.Fatal(err)
	}
	if s.Type == dataplane.TypeTAP && info.State.Link != dataplane.LinkUp {
		b.t.Fatalf("port %s: %+v", s.Name, info.State)
	}
}

// guest adds a pod behind a vhost-user port: its device is a TAP device of ours,
// whose frames a goroutine carries to and from the rings.
func (b *bench) guest(mtu int) *pod {
	b.t.Helper()
	p, prefixes, mac := b.addresses()
	p.ns = taptest.New(b.t)
	p.ns.Run(b.t, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	b.add(dataplane.PortSpec{Name: p.port, Type: dataplane.TypeVhostServer})
	dev := open(b.t, Options{Name: "eth0", Netns: p.ns.Path, Plain: true, Settings: Settings{MTU: mtu, MAC: mac[:], Addresses: prefixes, Up: true}})
	front, err := frontend.Open(frontend.Config{Path: filepath.Join(b.dir, p.port)})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := front.Run(ctx); err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := front.Close(); err != nil {
			b.t.Error(err)
		}
	})
	if err := front.Wait(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	running.Go(func() { carryBetween(ctx, dev, front) })
	return p
}

// carryBetween is the guest: frames of its device go to the ring, and back.
func carryBetween(ctx context.Context, dev *Port, front *frontend.Port) {
	in, out := packet.NewBatch(), packet.NewBatch()
	pair := front.Pairs()[0]
	for ctx.Err() == nil {
		moved := false
		for _, f := range rx(dev.RxQueues()[0], in) {
			if pair.Tx.Room(1) == 0 {
				continue
			}
			b := pair.Tx.Buffer(0)
			pair.Tx.SetLen(b, copy(pair.Tx.Frame(b), f))
			pair.Tx.Send(1)
			moved = true
		}
		if moved && pair.Tx.ShouldKick() {
			_ = sys.Signal(pair.TxRing.Kick)
		}
		for range packet.BatchMax {
			f, ok := pair.Rx.Next()
			if !ok {
				break
			}
			send(dev.TxQueue(), out, f)
			moved = true
		}
		if pair.Rx.Release(); pair.Rx.ShouldKick() {
			_ = sys.Signal(pair.RxRing.Kick)
		}
		if !moved {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// checkBalance fails the test if a frame of a port is not accounted for, or the
// kernel's count of what went by a TAP port's device is not ours.
func (b *bench) checkBalance() {
	b.t.Helper()
	var problem error
	until(b.t, "all frames to be accounted for, as the kernel counts them", func() bool { problem = b.balance(); return problem == nil })
}

func (b *bench) balance() error {
	snap := b.sw.Snapshot()
	for i := range snap.Ports {
		if p := &snap.Ports[i]; !p.Balanced() {
			return fmt.Errorf("port %+v", p)
		}
		for _, p := range b.pods {
			s := &snap.Ports[i]
			if info, err := b.sw.Port(s.Name); p.port != s.Name || err != nil || info.Type != dataplane.TypeTAP {
				continue
			}
			rx, tx := counters(b.t, p.ns, p.port)
			if rx != int64(s.TxFrames) || tx != int64(s.RxFrames) {
				return fmt.Errorf("port %s: the kernel has received %d and sent %d, the switch sent %d and received %d", s.Name, rx, tx, s.TxFrames, s.RxFrames)
			}
		}
	}
	return nil
}

// TestPing: pods on TAP ports and in a guest reach each other by IPv4 and IPv6,
// with packets of 60 to 9,000 bytes; pods of another VLAN they do not. Every frame
// is accounted for, and the kernel has counted as many.
func TestPing(t *testing.T) {
	b := newBench(t)
	one, two := b.pod(0, 9000, 1), b.pod(0, 9000, 3)
	guest := b.guest(9000)
	far, farther := b.pod(7, 9000, 1), b.pod(7, 9000, 1)
	for _, pair := range [][2]*pod{{one, two}, {two, one}, {one, guest}, {guest, two}, {far, farther}} {
		for _, to := range []netip.Addr{pair[1].v4, pair[1].v6} {
			for _, size := range []int{60, 576, 1500, 4096, 9000} {
				if err := pair[0].ns.Ping(t, to, size, waittest.Most); err != nil {
					t.Errorf("from %s: %v", pair[0].port, err)
				}
			}
		}
	}
	for _, to := range []netip.Addr{far.v4, far.v6} {
		if err := one.ns.Ping(t, to, 60, 300*time.Millisecond); err == nil {
			t.Errorf("%s of another VLAN answers", to)
		}
	}
	b.checkBalance()
}

// TestIperf runs TCP and UDP between pods, in both directions and by several
// queues: data arrives, and no checksum is wrong at either end.
func TestIperf(t *testing.T) {
	b := newBench(t)
	one, two := b.pod(0, 1500, 1), b.pod(0, 1500, 2)
	guest := b.guest(1500)
	for _, server := range []*pod{two, guest} {
		for _, args := range []string{"-n 8M", "-n 8M -R", "-n 8M -P 4", "-n 8M -6", "-n 2M -u -b 50M -l 1400", "-n 2M -u -b 50M -l 9000 -R"} {
			got := iperf(t, one, server, strings.Fields(args)...)
			if got == 0 { // of 8 MB, those are counted that came before the sender's last word did
				t.Errorf("iperf3 %s: nothing arrived", args)
			}
		}
	}
	for _, p := range b.pods {
		for _, file := range []string{"/proc/net/snmp", "/proc/net/netstat", "/proc/net/snmp6"} {
			if n := csumErrors(p.ns.Run(t, "cat", file)); n != 0 {
				t.Errorf("%s of %s counts %d checksum errors", file, p.port, n)
			}
		}
	}
	b.checkBalance()
}

// TestOffload has TCP go between two pods in super-frames, and to a guest that takes none in
// segments with checksums, in both directions. A port without offloads sees nothing of them.
func TestOffload(t *testing.T) {
	b := newBench(t)
	one, three := b.pod(0, 1500, 1), b.pod(0, 1500, 1)
	guest := b.guest(1500)
	for _, to := range []*pod{three, guest} {
		for _, args := range []string{"-n 4M", "-n 4M -R", "-n 4M -6"} {
			if iperf(t, one, to, strings.Fields(args)...) == 0 {
				t.Errorf("iperf3 %s: nothing arrived", args)
			}
		}
	}
	by := map[string]dataplane.PortStats{}
	for _, s := range b.sw.Snapshot().Ports {
		by[s.Name] = s
	}
	if s := by[three.port]; s.TxBytes/s.TxFrames < 3000 || s.Finished != (dataplane.Finished{}) {
		t.Errorf("to a pod: %d bytes in %d frames, finished %+v", s.TxBytes, s.TxFrames, s.Finished)
	}
	if s := by[guest.port]; s.Finished.TCP == 0 || s.Finished.Sums <= s.Finished.TCP || s.Finished.Segments < s.Finished.TCP {
		t.Errorf("to the guest: %+v", s)
	}
	for _, p := range b.pods {
		for _, file := range []string{"/proc/net/snmp", "/proc/net/netstat", "/proc/net/snmp6"} {
			if n := csumErrors(p.ns.Run(t, "cat", file)); n != 0 {
				t.Errorf("%s of %s counts %d checksum errors", file, p.port, n)
			}
		}
	}
	b.checkBalance()
}

// iperf runs iperf3 from one pod to another, and returns the bytes that arrived.
func iperf(t testing.TB, from, to *pod, args ...string) int64 {
	t.Helper()
	srv := to.ns.Command(t, "iperf3", "-s", "-1", "-J")
	if err := srv.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = srv.Process.Kill()
		_ = srv.Wait()
	}()
	addr := to.v4
	for i, a := range args {
		if a == "-6" {
			addr, args = to.v6, append(args[:i:i], args[i+1:]...)
			break
		}
	}
	var out string
	until(t, "iperf3 to run", func() bool {
		var err error
		out, err = from.ns.Try(t, append([]string{"iperf3", "-J", "-c", addr.String()}, args...)...)
		return err == nil && !strings.Contains(out, `"error"`) // the server listens
	})
	var result struct {
		End struct {
			Received struct{ Bytes float64 } `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(out[max(strings.IndexByte(out, '{'), 0):]), &result); err != nil {
		t.Fatalf("iperf3: %v: %s", err, out)
	}
	return int64(result.End.Received.Bytes)
}

// csumErrors adds up the counters of checksum errors in one of the kernel's lists:
// lines of names with lines of numbers below, or a name and a number in a line.
func csumErrors(list string) (sum int) {
	var names []string
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		if len(words) == 2 && strings.Contains(words[0], "Csum") {
			var n int
			_, _ = fmt.Sscan(words[1], &n)
			sum += n
		}
		for i, w := range words {
			if i < len(names) && strings.Contains(names[i], "Csum") {
				var n int
				_, _ = fmt.Sscan(w, &n) // a name is none
				sum += n
			}
		}
		names = words
	}
	return sum
}

// TestChurn flaps, deletes, resizes and moves the device of a port, and deletes
// its namespace, many times under traffic: forwarding is back each time, and
// nothing leaks.
func TestChurn(t *testing.T) {
	b := newBench(t)
	one := b.pod(0, 1500, 1)
	path := filepath.Join(t.TempDir(), "victim")
	victim := taptest.At(t, path)
	defer func() { victim.Delete(t) }()
	mac := [6]byte{2, 5, 0, 0, 9, 9}
	b.add(dataplane.PortSpec{Name: "victim", Type: dataplane.TypeTAP, MTU: 1500, Host: dataplane.HostSpec{Netns: path, MAC: mac, Up: true}})
	stop := traffic(t, one, mac)
	defer stop()
	forwards := func() { // since now
		t.Helper()
		from := b.sent("victim")
		until(t, "frames to the device", func() bool { return b.sent("victim") > from+10 })
	}
	forwards()
	before := descriptors(t)
	r := rand.New(rand.NewPCG(1, 2))
	var worst time.Duration
	for i := range rounds() {
		began := time.Now()
		switch what := r.IntN(4); what {
		case 0:
			victim.Run(t, "ip", "link", "set", "dev", "victim", "down")
			victim.Run(t, "ip", "link", "set", "dev", "victim", "up")
		case 1:
			victim.Run(t, "ip", "link", "del", "victim")
		case 2:
			victim.Run(t, "ip", "link", "set", "dev", "victim", "mtu", fmt.Sprint(1000+i))
		case 3:
			victim.Delete(t)
			victim = taptest.At(t, path)
			began = time.Now()
		}
		until(t, "the device", func() bool { return exists(t, victim, "victim") })
		forwards()
		worst = max(worst, time.Since(began))
	}
	t.Logf("forwarding was back after %v at most", worst)
	stop()
	until(t, "as many descriptors as before", func() bool { return descriptors(t) <= before })
	snap := b.sw.Snapshot()
	for i := range snap.Ports {
		if p := &snap.Ports[i]; !p.Balanced() {
			t.Errorf("port %+v", p)
		}
	}
}

// sent is how many frames have gone out by a port.
func (b *bench) sent(port string) uint64 {
	snap := b.sw.Snapshot()
	for i := range snap.Ports {
		if snap.Ports[i].Name == port {
			return snap.Ports[i].TxFrames
		}
	}
	return 0
}

// traffic sends frames from a pod to an address until stop is called.
func traffic(t testing.TB, from *pod, to [6]byte) (stop func()) {
	t.Helper()
	w := wireTo(t, from.ns, from.port)
	f := frameOf(200, 1)
	copy(f, to[:])
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			_, err := unix.Write(w.fd, f)
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
				t.Errorf("send: %v", err)
				return
			}
			time.Sleep(50 * time.Microsecond)
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		running.Wait()
		w.close()
	})
}
