package acceptance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"millrace/dataplane/api"
	"millrace/dataplane/tap/taptest"
)

// flapsEnv says how many times each kind of trouble shall come.
const flapsEnv = "MILLRACE_FLAPS"

// flapBack is how soon frames go both ways again after a device is there.
const flapBack = 500 * time.Millisecond

// TestFlaps has devices of an afxdp and of a tap port go through what devices go through,
// under traffic: links flap at either end, devices are deleted and made anew, so are their
// network namespaces, and MTUs change.
//
//	far ─ veth ─ afxdp port ─┐              ┌─ afxdp port ─ veth ─ pod 1
//	                         ├─ bridge br0 ─┤
//	                         └              └─ tap port ────────── pod 2
//
// Frames go again soon after each. The dataplane is the same in the end, and has neither more
// descriptors, mappings and memory, nor more BPF objects than before; when its ports are
// deleted, the kernel has none of the programs any more that it ever had.
//
// MILLRACE_FLAPS=100 is the full run: each time counts. Otherwise one that was late
// is tried again, for the machine may be busy.
func TestFlaps(t *testing.T) {
	need(t)
	needRoot(t)
	rounds := number(t, flapsEnv, 1)
	r := newFlapRig(t)
	pid := r.s.dataplane()
	for _, p := range r.pods {
		r.back(p, time.Now()) // warm
	}
	r.round(nil) // once before counting: what is made when it is first needed is there
	before := settledHoldings(t, pid)
	took := map[string][]time.Duration{}
	for range rounds {
		r.round(took)
	}
	var after holdings
	eventually(t, func() bool { after = holdingsOf(t, pid); return after.within(before) },
		"holds no more than before: %v", lazy(func() string { return fmt.Sprintf("%+v, before %+v", after, before) }))
	if grown := after.resident - before.resident; grown > 16<<10 {
		t.Errorf("%d KiB resident, %d before", after.resident, before.resident)
	}
	for _, name := range slices.Sorted(maps.Keys(took)) {
		list := slices.Sorted(slices.Values(took[name]))
		t.Logf("%-28s %3d times, forwards again after %v, worst %v", name, len(list), list[len(list)/2], list[len(list)-1])
	}
	t.Logf("before %+v, after %+v", before, after)
	if got := r.s.dataplane(); got != pid {
		t.Errorf("dataplane %d, it was %d", got, pid)
	}
	for _, name := range []string{"far", "pod1", "pod2"} {
		r.s.cli("port", "del", name)
	}
	eventually(t, func() bool { return holdingsOf(t, pid).bpf == 0 }, "no BPF objects without ports")
	for id := range r.programs {
		eventually(t, func() bool {
			p, err := ebpf.NewProgramFromID(id)
			if err == nil {
				_ = p.Close()
			}
			return errors.Is(err, fs.ErrNotExist)
		}, "program %d is gone", id)
	}
	if len(r.programs) < 2 {
		t.Errorf("%d programs were ever seen", len(r.programs))
	}
}

// A lazy is a text that is made when it is printed.
type lazy func() string

func (l lazy) String() string { return l() }

// A flapPod is a pod that answers from behind one port.
type flapPod struct {
	port, dev string // of the switch; name of the pod's device in its namespace
	ip, mac   string
	ns        *taptest.Namespace
	echo      *net.UDPConn
}

// flapRig is a switch with three pods, of which one sends all the time.
type flapRig struct {
	t        *testing.T
	s        *switchRun
	host     *taptest.Namespace
	far      *flapPod
	pods     []*flapPod
	beacon   *beacon
	programs map[ebpf.ProgramID]bool // that the dataplane ever had
}

func newFlapRig(t *testing.T) *flapRig {
	r := &flapRig{t: t, s: beginIn(t, syscall.CLONE_NEWNET, "run"), programs: map[ebpf.ProgramID]bool{}}
	r.host = netnsOf(r.s.cmd.Process.Pid)
	dir := t.TempDir()
	r.far = &flapPod{port: "far", ip: "10.7.0.9", mac: "02:07:00:00:00:09"}
	r.pods = []*flapPod{{port: "pod1", ip: "10.7.0.1", mac: "02:07:00:00:00:01"}, {port: "pod2", ip: "10.7.0.2", mac: "02:07:00:00:00:02"}}
	for _, p := range append(r.pods, r.far) {
		p.dev = "eth0"
		p.ns = &taptest.Namespace{Path: filepath.Join(dir, p.port)}
		r.namespace(p)
		t.Cleanup(func() { r.unmount(p) })
	}
	r.plug(r.far)
	r.plug(r.pods[0])
	r.s.cli("port", "add", "br0", "far", "--type", "afxdp", "--wait=20s")
	r.s.cli("port", "add", "br0", "pod1", "--type", "afxdp", "--wait=20s")
	r.pods[1].dev = "pod2"
	r.s.cli("port", "add", "br0", "pod2", "--type", "tap", "--netns", r.pods[1].ns.Path, "--ip", "10.7.0.2/24", "--mac", r.pods[1].mac, "--wait=20s")
	for _, p := range r.pods {
		r.knows(r.far, p)
		r.knows(p, r.far)
		r.answer(p)
	}
	r.beacon = newBeacon(t, r.far.ns, r.pods)
	return r
}

// namespace makes the pod's namespace.
func (r *flapRig) namespace(p *flapPod) {
	r.t.Helper()
	p.ns = taptest.At(r.t, p.ns.Path)
	p.ns.Run(r.t, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
}

func (r *flapRig) unmount(p *flapPod) {
	if p.echo != nil {
		_ = p.echo.Close()
	}
	if _, err := os.Stat(p.ns.Path); err == nil {
		p.ns.Delete(r.t)
	}
}

// plug makes the veth of a pod.
func (r *flapRig) plug(p *flapPod) {
	r.t.Helper()
	r.host.Run(r.t, "ip", "link", "add", p.port, "type", "veth", "peer", "name", "eth0", "address", p.mac, "netns", p.ns.Path)
	r.host.Run(r.t, "ip", "link", "set", "dev", p.port, "up")
	p.ns.Run(r.t, "ip", "addr", "add", p.ip+"/24", "dev", "eth0")
	p.ns.Run(r.t, "ip", "link", "set", "dev", "eth0", "up")
}

// knows gives a pod the address of another: what is measured is not how it is found out.
func (r *flapRig) knows(p, other *flapPod) {
	r.t.Helper()
	p.ns.Run(r.t, "ip", "neigh", "replace", other.ip, "lladdr", other.mac, "dev", p.dev, "nud", "permanent")
}

// answer has a pod send back what comes to it.
func (r *flapRig) answer(p *flapPod) {
	r.t.Helper()
	p.ns.Do(r.t, func() (err error) {
		p.echo, err = net.ListenUDP("udp4", &net.UDPAddr{Port: beaconPort})
		return err
	})
	go func(c *net.UDPConn) {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDP(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n == beaconLen {
				_, _ = c.WriteToUDP(b[:n], from) // lost while the device is not there
			}
		}
	}(p.echo)
}

// back returns how long after since frames went to a pod and back.
func (r *flapRig) back(p *flapPod, since time.Time) time.Duration {
	r.t.Helper()
	last := &r.beacon.last[r.index(p)]
	eventually(r.t, func() bool { return last.Load() >= since.UnixNano() }, "frames to %s and back", p.port)
	return time.Duration(r.beacon.came[r.index(p)].Load() - since.UnixNano())
}

func (r *flapRig) index(p *flapPod) int {
	for i, o := range r.pods {
		if o == p {
			return i
		}
	}
	panic("no such pod")
}

// round has each kind of trouble come once, and notes how long each took to be over.
func (r *flapRig) round(took map[string][]time.Duration) {
	r.t.Helper()
	veth, tap := r.pods[0], r.pods[1]
	for _, e := range []struct {
		name string
		pod  *flapPod
		do   func() // returns when the device is there
	}{
		{"veth: down and up", veth, func() {
			r.host.Run(r.t, "ip", "link", "set", "dev", veth.port, "down")
			r.host.Run(r.t, "ip", "link", "set", "dev", veth.port, "up")
		}},
		{"veth: the pod's end", veth, func() { r.flap(veth) }},
		{"veth: MTU", veth, func() { r.mtu(r.host, veth.port) }},
		{"veth: deleted", veth, func() {
			r.host.Run(r.t, "ip", "link", "del", "dev", veth.port)
			r.plug(veth)
		}},
		{"veth: its namespace deleted", veth, func() {
			r.away(veth)
			eventually(r.t, func() bool { _, err := r.host.Try(r.t, "ip", "link", "show", "dev", veth.port); return err != nil }, "no %s", veth.port)
			r.namespace(veth)
			r.plug(veth)
		}},
		{"tap: down and up", tap, func() { r.flap(tap) }},
		{"tap: MTU", tap, func() { r.mtu(tap.ns, tap.dev) }},
		{"tap: deleted", tap, func() {
			tap.ns.Run(r.t, "ip", "link", "del", "dev", tap.dev)
			r.awaitTap(tap)
		}},
		{"tap: its namespace deleted", tap, func() {
			r.away(tap)
			eventually(r.t, func() bool { return r.s.port(tap.port).GetState().GetLink() == api.Link_LINK_WAITING }, "port %s waits", tap.port)
			r.namespace(tap)
			r.awaitTap(tap)
		}},
	} {
		each(r.t, flapsEnv, flapBack, func() time.Duration {
			e.do()
			there := time.Now()
			if e.pod.echo == nil {
				r.answer(e.pod)
			}
			r.knows(e.pod, r.far)
			d := r.back(e.pod, there)
			if took != nil {
				took[e.name] = append(took[e.name], d)
			}
			return d
		})
		programsOf(r.t, r.s.dataplane(), r.programs)
	}
}

// flap takes the pod's device down and up.
func (r *flapRig) flap(p *flapPod) {
	p.ns.Run(r.t, "ip", "link", "set", "dev", p.dev, "down")
	p.ns.Run(r.t, "ip", "link", "set", "dev", p.dev, "up")
}

// mtu changes the MTU of a device, and changes it back.
func (r *flapRig) mtu(ns *taptest.Namespace, dev string) {
	ns.Run(r.t, "ip", "link", "set", "dev", dev, "mtu", "1400")
	ns.Run(r.t, "ip", "link", "set", "dev", dev, "mtu", "1500")
}

// away deletes the pod's namespace with all that is in it.
func (r *flapRig) away(p *flapPod) {
	_ = p.echo.Close()
	p.echo = nil
	p.ns.Delete(r.t)
}

// awaitTap waits until the switch has made a pod's device anew.
func (r *flapRig) awaitTap(p *flapPod) {
	eventually(r.t, func() bool {
		out, err := p.ns.Try(r.t, "ip", "addr", "show", "dev", p.dev, "up")
		return err == nil && strings.Contains(out, p.ip)
	}, "a device in the namespace of %s", p.port)
}

// Beacon frames carry the time when they were sent.
const (
	beaconPort  = 7 // echo, RFC 862
	beaconLen   = 64
	beaconEvery = 2 * time.Millisecond
	beaconBurst = 16 // frames sent at once, of which one is to be answered
)

// A beacon sends frames to pods all the time.
type beacon struct {
	last []atomic.Int64 // when the last frame was sent that was answered, of each pod: Unix time in ns
	came []atomic.Int64 // when its answer came
}

func newBeacon(t *testing.T, ns *taptest.Namespace, pods []*flapPod) *beacon {
	b := &beacon{last: make([]atomic.Int64, len(pods)), came: make([]atomic.Int64, len(pods))}
	var c *net.UDPConn
	ns.Do(t, func() (err error) { c, err = net.ListenUDP("udp4", nil); return err })
	t.Cleanup(func() { _ = c.Close() })
	to := make([]*net.UDPAddr, len(pods))
	for i, p := range pods {
		to[i] = &net.UDPAddr{IP: net.ParseIP(p.ip), Port: beaconPort}
	}
	go b.send(c, to)
	go b.receive(c, to)
	return b
}

func (b *beacon) send(c *net.UDPConn, to []*net.UDPAddr) {
	frame, load := make([]byte, beaconLen), make([]byte, beaconLen+1)
	for ; ; time.Sleep(beaconEvery) {
		for _, a := range to {
			for range beaconBurst - 1 {
				_, _ = c.WriteToUDP(load, a) // lost while there is no way
			}
			binary.BigEndian.PutUint64(frame, uint64(time.Now().UnixNano()))
			if _, err := c.WriteToUDP(frame, a); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}
}

func (b *beacon) receive(c *net.UDPConn, from []*net.UDPAddr) {
	frame := make([]byte, 2048)
	for {
		n, a, err := c.ReadFromUDP(frame)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != beaconLen {
			continue
		}
		for i := range from {
			if from[i].IP.Equal(a.IP) {
				b.came[i].Store(time.Now().UnixNano())
				b.last[i].Store(int64(binary.BigEndian.Uint64(frame)))
			}
		}
	}
}

// holdings are what a process has.
type holdings struct {
	fds, bpf int // descriptors; those of them that are BPF objects
	mappings int // of sockets' rings
	resident int // KiB
}

// within reports whether h has no more of the kernel's than another.
func (h holdings) within(o holdings) bool {
	return h.fds <= o.fds && h.bpf <= o.bpf && h.mappings <= o.mappings
}

// settledHoldings are what a process has when that has not changed for a while: what it had before
// goes a moment after the new things are there.
func settledHoldings(t *testing.T, pid int) (h holdings) {
	t.Helper()
	same := 0
	eventually(t, func() bool {
		now := holdingsOf(t, pid)
		now.resident = 0
		if same++; now != h {
			h, same = now, 0
		}
		return same == 20
	}, "what it holds stays the same: %v", lazy(func() string { return fmt.Sprintf("%+v", h) }))
	return holdingsOf(t, pid)
}

func holdingsOf(t *testing.T, pid int) (h holdings) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	check(t, err)
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		h.fds++
		if strings.Contains(target, "bpf") {
			h.bpf++
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	check(t, err)
	h.mappings = strings.Count(string(maps), "socket:[")
	h.resident = residentOf(t, pid).all
	return h
}

// programsOf adds the BPF programs that a process has.
func programsOf(t *testing.T, pid int, seen map[ebpf.ProgramID]bool) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	check(t, err)
	for _, name := range infos {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(b)) {
			var id ebpf.ProgramID
			if n, _ := fmt.Sscanf(line, "prog_id: %d", &id); n == 1 {
				seen[id] = true
			}
		}
	}
}
