package afxdp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
	"millrace/dataplane/sys"
)

// deviceOf is a port as the dataplane wants to see it, as cmd does.
type deviceOf struct{ *Port }

func (d deviceOf) Rx() []dataplane.RxQueue {
	var queues []dataplane.RxQueue
	for _, q := range d.RxQueues() {
		queues = append(queues, q)
	}
	return queues
}
func (d deviceOf) Tx() dataplane.TxQueue { return d.TxQueue() }
func (d deviceOf) State() dataplane.DeviceState {
	s := d.Port.State()
	return dataplane.DeviceState{Link: dataplane.Link(s.Link), Reason: s.Reason, Queues: s.Queues, Features: s.Features}
}

// A rig is a switch with AF_XDP ports.
type rig struct {
	t  testing.TB
	sw *dataplane.Switch
	o  Options // of ports that are added from now on

	taps dataplane.Opener // opens ports of type tap
}

func newRig(t testing.TB, poll dataplane.PollMode) *rig {
	t.Helper()
	netnstest.Need(t)
	needXDP(t)
	r := &rig{t: t, o: Options{Watcher: &Watcher{}}}
	if _, isTest := t.(*testing.T); isTest {
		r.o.Log = zaptest.NewLogger(t)
	}
	cpus, err := sys.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	r.sw, err = dataplane.New(dataplane.Options{CPUs: cpus[:1], Poll: poll, Openers: map[string]dataplane.Opener{
		"afxdp":           r.open,
		dataplane.TypeTAP: func(s dataplane.PortSpec, e dataplane.Env) (dataplane.Device, error) { return r.taps(s, e) },
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var names []string
		for _, p := range r.sw.Ports() {
			names = append(names, p.Name)
		}
		if err := r.closed(r.sw.Close(), names...); err != nil {
			t.Error(err)
		}
	})
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	return r
}

// closed is how the end of ports went, which began with err: on a machine that is busy the kernel needs more
// time for it than the switch waits.
func (r *rig) closed(err error, names ...string) error {
	if !errors.Is(err, dataplane.ErrBusy) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), netnstest.Patience)
	defer cancel()
	return r.sw.Closed(ctx, names...)
}

func (r *rig) open(s dataplane.PortSpec, env dataplane.Env) (dataplane.Device, error) {
	o := r.o
	o.Name, o.Queues, o.MTU, o.Quiesce, o.Changed = s.Name, s.Queues, s.MTU, env.Quiesce, env.Changed
	p, err := Open(o)
	if err != nil {
		return nil, err
	}
	return deviceOf{p}, nil
}

// needXDP skips a test on a machine without AF_XDP.
func needXDP(t testing.TB) {
	t.Helper()
	u, err := newUmem(chunkSmall, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	_ = u.close()
	if err := haveXDP(); err != nil {
		t.Skipf("needs AF_XDP: %v", err)
	}
}

// haveXDP reports why there are no AF_XDP sockets here.
func haveXDP() error {
	n, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("create AF_XDP socket: %w", err)
	}
	fd := sys.NewFD(n)
	return fd.Close()
}

// add adds a port to bridge br0. Its VLAN may be given.
func (r *rig) add(name string, tag ...uint16) {
	r.t.Helper()
	spec := dataplane.PortSpec{Bridge: "br0", Name: name, Type: "afxdp"}
	if len(tag) > 0 {
		spec.Tag = tag[0]
	}
	if _, err := r.sw.AddPort(context.Background(), spec); err != nil {
		r.t.Fatal(err)
	}
}

// up waits until a port forwards.
func (r *rig) up(names ...string) {
	r.t.Helper()
	for _, name := range names {
		netnstest.Wait(r.t, func() string {
			for _, p := range r.sw.Ports() {
				if p.Name == name && p.State.Link == dataplane.LinkUp {
					return ""
				} else if p.Name == name {
					return fmt.Sprintf("port %s is %s: %s", name, p.State.Link, p.State.Reason)
				}
			}
			return "there is no port " + name
		})
	}
}

// TestPing: two pods reach each other through the switch.
func TestPing(t *testing.T) {
	for name, s := range map[string]Settings{
		"native": {Mode: Native}, "generic": {Mode: Generic}, "no wakeup": {NoWakeup: true},
		"busy poll": {BusyPoll: true}, "busy poll, generic": {BusyPoll: true, Mode: Generic},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataplane.PollAdaptive)
			r.o.Settings = s
			a, _ := r.pods(1500)
			for _, size := range []int{4, 56, 1000, 1472} {
				a.Reach("10.9.0.2", size)
			}
		})
	}
}

// TestTCP sends a stream through the switch, with the checksums that the
// sender leaves to its device: the receiver finds none that is wrong.
func TestTCP(t *testing.T) {
	netnstest.Need(t, "iperf3")
	for _, mode := range []Mode{Native, Generic} {
		for _, mtu := range []int{1500, 9000} {
			t.Run(fmt.Sprintf("%s/%d", mode, mtu), func(t *testing.T) { testTCP(t, mode, mtu) })
		}
	}
}

func testTCP(t *testing.T, mode Mode, mtu int) {
	r := newRig(t, dataplane.PollAdaptive)
	r.o.Mode = mode
	a, b := r.pods(mtu)
	a.Reach("10.9.0.2", mtu-28)
	a.Reach("fd09::2", mtu-48)
	megabytes := 50
	if testing.Short() {
		megabytes = 10
	}
	for i, to := range []string{"10.9.0.2", "fd09::2"} {
		b.Start("iperf3 -s -1 -p %d", 5201+i)
		var out string
		netnstest.Wait(t, func() string {
			var err error
			if out, err = a.Try("iperf3 -c %s -p %d -n %dM -f m", to, 5201+i, megabytes); err != nil {
				return out
			}
			return ""
		})
		t.Log(out)
	}
	for _, p := range []*netnstest.Pod{a, b} {
		if n := p.Counter("Tcp", "InCsumErrors"); n != 0 {
			t.Errorf("pod %s: %d wrong checksums", p.Host, n)
		}
	}
	r.balanced()
}

// pods are two pods, pa and pb, whose ports are up: 10.9.0.1 and 10.9.0.2,
// fd09::1 and fd09::2.
func (r *rig) pods(mtu int) (a, b *netnstest.Pod) {
	r.t.Helper()
	pods := []*netnstest.Pod{netnstest.NewPod(r.t, "pa", 1), netnstest.NewPod(r.t, "pb", 1)}
	for i, p := range pods {
		netnstest.IP(r.t, "link set %s mtu %d", p.Host, mtu)
		p.Run("ip link set eth0 mtu %d", mtu)
		p.Address(i + 1)
		r.add(p.Host)
	}
	r.up("pa", "pb")
	return pods[0], pods[1]
}

// balanced finds every frame of every port accounted for.
func (r *rig) balanced() {
	r.t.Helper()
	for _, s := range r.sw.Snapshot().Ports {
		if !s.Balanced() {
			r.t.Errorf("account of port %s: %+v", s.Name, s)
		}
	}
}

// TestVLANs: a tag that a pod leaves to its veth to put in, as VLAN devices do,
// comes through, and so does one in the frame.
func TestVLANs(t *testing.T) {
	for _, mode := range []Mode{Native, Generic} {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, dataplane.PollAdaptive)
			r.o.Mode = mode
			a, b := netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)
			a.Address(1)
			b.Address(2)
			tagAll(t, a, 7)
			r.add("pa")
			r.add("pb", 7)
			r.up("pa", "pb")
			a.Reach("10.9.0.2", 56)
			a.Reach("fd09::2", 1400)
			list, err := r.sw.MACs("br0")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				if e.VLAN != 7 {
					t.Errorf("address %x of port %s in VLAN %d, want 7", e.MAC, e.Port, e.VLAN)
				}
			}
		})
	}
}

// tagAll has all that the pod sends be of a VLAN, and takes that tag from what
// it gets.
func tagAll(t *testing.T, p *netnstest.Pod, vlan int32) {
	t.Helper()
	push := asm.Instructions{
		asm.Mov.Imm(asm.R2, 0x0081), asm.Mov.Imm(asm.R3, vlan), asm.FnSkbVlanPush.Call(),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}
	pop := asm.Instructions{asm.FnSkbVlanPop.Call(), asm.Mov.Imm(asm.R0, 0), asm.Return()}
	err := p.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		for at, code := range map[ebpf.AttachType]asm.Instructions{ebpf.AttachTCXEgress: push, ebpf.AttachTCXIngress: pop} {
			prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: code, License: "GPL"})
			if err != nil {
				return err
			}
			l, err := link.AttachTCX(link.TCXOptions{Program: prog, Interface: eth0.Index, Attach: at})
			if err != nil {
				return err
			}
			t.Cleanup(func() { _, _ = l.Close(), prog.Close() })
		}
		return nil
	})
	if err != nil {
		t.Skipf("needs tcx programs: %v", err)
	}
}
