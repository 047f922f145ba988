package tap

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/tap/taptest"
)

// exists reports whether a namespace has a device of that name.
func exists(t testing.TB, ns *taptest.Namespace, name string) bool {
	t.Helper()
	_, err := ns.Try(t, "ip", "link", "show", "dev", name)
	return err == nil
}

// carries sends one frame each way, and fails the test if one does not come.
func carries(t testing.TB, p *Port, ns *taptest.Namespace, name string) {
	t.Helper()
	up(t, p)
	w := wireTo(t, ns, name)
	defer w.close()
	f := frameOf(900, 1)
	w.send(f)
	if got := receive(t, p.RxQueues()[0], 1)[0]; !bytes.Equal(got, f) {
		t.Errorf("%s: received %d other bytes", name, len(got))
	}
	b := packet.NewBatch()
	if why := send(p.TxQueue(), b, f); why[0] != packet.ReasonNone {
		t.Fatalf("%s: not sent: %v", name, why[0])
	}
	if got := w.receive(); !bytes.Equal(got, f) {
		t.Errorf("%s: the kernel has %d other bytes", name, len(got))
	}
}

// rounds is how often tests have the same happen to a device.
func rounds() int {
	if testing.Short() {
		return 20
	}
	return 100
}

// TestDeleted: a device that somebody deletes is made anew, as it was, many
// times, and no descriptor is left open.
func TestDeleted(t *testing.T) {
	taptest.Need(t)
	k := newKernel(t)
	s := quiet(t, nil)
	p := open(t, Options{Name: "flap", Settings: s, Kernel: k, Queues: 2})
	up(t, p)
	netnsRun(t, "ip", "link", "set", "dev", "flap", "mtu", "4000")
	until(t, "the new MTU", func() bool { return p.State().Device.MTU == 4000 })
	other := open(t, Options{Name: "other", Settings: s, Kernel: k})
	carries(t, other, nil, "other")
	first := p.State().Device
	before := descriptors(t, p, other)
	for i := range rounds() {
		connects := p.State().Connects
		index := p.State().Device.Index
		netnsRun(t, "ip", "link", "del", "flap")
		until(t, "the device to be made anew", func() bool {
			st := p.State()
			return st.Link == LinkUp && st.Device.Index != index
		})
		if got := p.State().Connects; got != connects && got != connects+1 {
			t.Fatalf("%d connects after %d", got, connects)
		}
		if i%25 == 0 {
			b := packet.NewBatch()
			until(t, "frames to be sent", func() bool { return send(p.TxQueue(), b, frameOf(60, 1))[0] == packet.ReasonNone })
		}
	}
	st := p.State().Device
	if st.MAC != first.MAC || st.MTU != 4000 || !st.Up || st.Name != "flap" {
		t.Errorf("made anew as %+v, was %+v", st, first)
	}
	until(t, "as many descriptors as before", func() bool { return descriptors(t, p, other) == before })
	if list := *k.lookout.queues.Load(); len(list) != 3 {
		t.Errorf("the lookout has room for %d queues, want 3", len(list))
	}
}

// TestLateTrouble: what a worker meets at a device that is being given up is not held
// against the next one, which would be made twice.
func TestLateTrouble(t *testing.T) {
	taptest.Need(t)
	var armed atomic.Bool
	var quiesced atomic.Int32 // once to give up a device, and once to have one
	var p *Port
	p = open(t, Options{Name: "late", Settings: quiet(t, nil), Quiesce: func() {
		quiesced.Add(1)
		if armed.CompareAndSwap(true, false) {
			p.letGo(&trouble{"read", unix.EBADFD}) // by a worker that had looked before
		}
	}})
	index := up(t, p).Device.Index
	armed.Store(true)
	quiesced.Store(0)
	netnsRun(t, "ip", "link", "del", "late")
	until(t, "the device to be made anew", func() bool {
		st := p.State()
		return st.Link == LinkUp && st.Device.Index != index
	})
	until(t, "the port to have looked at all that there is to know", func() bool { return len(p.news) == 0 })
	p.wake() // and once more, behind that
	until(t, "the port to have looked again", func() bool { return len(p.news) == 0 })
	carries(t, p, nil, "late")
	if n := quiesced.Load(); armed.Load() || n != 2 {
		t.Errorf("the device was given up or made %d times, want 2", n)
	}
}

// TestFlaps: a device that goes down and up many times forwards each time.
func TestFlaps(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "updown", Settings: quiet(t, nil)})
	up(t, p)
	before := descriptors(t, p)
	b := packet.NewBatch()
	for range rounds() {
		netnsRun(t, "ip", "link", "set", "dev", "updown", "down")
		until(t, "down", func() bool { return p.State().Link == LinkWaiting })
		netnsRun(t, "ip", "link", "set", "dev", "updown", "up")
		up(t, p)
		if why := send(p.TxQueue(), b, frameOf(60, 1))[0]; why != packet.ReasonNone {
			t.Fatalf("left for %v", why)
		}
	}
	until(t, "as many descriptors as before", func() bool { return descriptors(t, p) == before })
	if c, want := p.State().Connects, uint64(rounds()+1); c != want {
		t.Errorf("%d connects, want %d", c, want)
	}
}

// TestNamespace: a port's device is in the namespace that it names, with its
// settings, and nowhere else; it goes with the namespace, which the port does not
// keep; and it comes back with one at the same path.
func TestNamespace(t *testing.T) {
	taptest.Need(t)
	path := filepath.Join(t.TempDir(), "pod")
	ns := taptest.At(t, path)
	_ = open(t, Options{Name: "first", Netns: path}).Close() // what the runtime opens once, is open now
	before := descriptors(t)
	mac, _ := net.ParseMAC("02:11:22:33:44:55")
	p := open(t, Options{Name: "eth0", Netns: path, Queues: 2, Settings: Settings{
		MTU: 4000, MAC: mac, Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd09::1/64")},
	}})
	st := up(t, p)
	if d := st.Device; d.Name != "eth0" || d.MTU != 4000 || d.MAC != mac.String() || st.Reason != "" {
		t.Errorf("device %+v: %s", d, st.Reason)
	}
	if exists(t, nil, "eth0") {
		t.Error("there is a device in our namespace")
	}
	for _, want := range []string{"10.9.0.1/24", "fd09::1/64", "02:11:22:33:44:55", "mtu 4000"} {
		if out := ns.Run(t, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, want) {
			t.Errorf("no %s: %s", want, out)
		}
	}
	ns.Delete(t)
	b := packet.NewBatch()
	until(t, "the device to go with its namespace", func() bool {
		rx(p.RxQueues()[1], b) // netlink is silent about namespaces that go: a worker notices
		return strings.Contains(p.State().Reason, path)
	})
	if st := p.State(); st.Link != LinkWaiting || st.Queues != 0 {
		t.Errorf("%+v", st)
	}
	ns = taptest.At(t, path)
	defer ns.Delete(t)
	st = up(t, p)
	var file unix.Stat_t
	if err := unix.Stat(path, &file); err != nil || st.Device.Netns != file.Ino || st.Device.MTU != 4000 || st.Device.MAC != mac.String() {
		t.Errorf("came back as %+v, to namespace %d, %v", st.Device, file.Ino, err)
	}
	if out := ns.Run(t, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, "10.9.0.1/24") {
		t.Errorf("came back without address: %s", out)
	}
	carriesQuietly(t, p, ns, "eth0")
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if exists(t, ns, "eth0") {
		t.Error("the device is left after Close")
	}
	if err := p.opts.Kernel.Close(); err != nil {
		t.Error(err)
	}
	until(t, "as many descriptors as before", func() bool { return descriptors(t) <= before })
}

// carriesQuietly is carries for a device by which the kernel sends of its own
// accord.
func carriesQuietly(t testing.TB, p *Port, ns *taptest.Namespace, name string) {
	t.Helper()
	w := wireTo(t, ns, name)
	defer w.close()
	f := frameOf(900, 1)
	w.send(f)
	b := packet.NewBatch()
	until(t, "our frame", func() bool {
		for _, q := range p.RxQueues() {
			for _, got := range rx(q, b) {
				if bytes.Equal(got, f) {
					return true
				}
			}
		}
		return false
	})
}

// TestFollow: what others do to the device is followed, told, and not undone:
// they rename it, move it, change it, and move it on to where nobody knows it.
func TestFollow(t *testing.T) {
	taptest.Need(t)
	pod, other := taptest.New(t), taptest.New(t)
	s := quiet(t, nil)
	quiet(t, pod)
	quiet(t, other)
	p := open(t, Options{Name: "fol", Settings: s})
	first := up(t, p)

	netnsRun(t, "ip", "link", "set", "dev", "fol", "down")
	netnsRun(t, "ip", "link", "set", "dev", "fol", "name", "lof")
	netnsRun(t, "ip", "link", "set", "dev", "lof", "up")
	until(t, "the new name", func() bool {
		return p.State().Link == LinkUp && strings.Contains(p.State().Reason, "renamed the device lof")
	})
	carries(t, p, nil, "lof")

	netnsRun(t, "ip", "link", "set", "dev", "lof", "netns", pod.Path)
	until(t, "the move", func() bool {
		return strings.Contains(p.State().Reason, "moved the device") && p.State().Link == LinkWaiting
	})
	pod.Run(t, "ip", "link", "set", "dev", "lof", "name", "eth0", "mtu", "2000", "address", "02:aa:00:00:00:01", "up")
	until(t, "the changes there", func() bool {
		d := p.State().Device
		return d.Name == "eth0" && d.MTU == 2000 && d.MAC == "02:aa:00:00:00:01" && d.Netns != first.Device.Netns
	})
	carries(t, p, pod, "eth0")
	if why := send(p.TxQueue(), packet.NewBatch(), frameOf(2015, 1))[0]; why != packet.ReasonTxTooLong {
		t.Errorf("a frame longer than the MTU that others have set: %v", why)
	}

	pod.Run(t, "ip", "link", "set", "dev", "eth0", "netns", other.Path)
	until(t, "the next move", func() bool { return p.State().Link == LinkWaiting })
	other.Run(t, "ip", "link", "set", "dev", "eth0", "up")
	carries(t, p, other, "eth0")

	p.Set(Settings{Up: true, MTU: 3000}) // reaches it where it is
	if out := other.Run(t, "ip", "link", "show", "dev", "eth0"); !strings.Contains(out, "mtu 3000") {
		t.Errorf("not set: %s", out)
	}
	other.Run(t, "ip", "link", "del", "eth0")
	until(t, "a new device at home", func() bool { st := p.State(); return st.Device.Name == "fol" && st.Reason == "" })
	if !exists(t, nil, "fol") {
		t.Error("it is not there")
	}
}

// TestSet: settings change while the port works, addresses are taken away that are
// not wanted any more and those of others stay, and what cannot be is told.
func TestSet(t *testing.T) {
	taptest.Need(t)
	quiet(t, nil)
	p := open(t, Options{Name: "set", Settings: Settings{Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.1/24")}}})
	up(t, p)
	netnsRun(t, "ip", "addr", "add", "10.8.7.1/24", "dev", "set")
	mac, _ := net.ParseMAC("02:00:00:00:08:01")
	p.Set(Settings{Up: true, MTU: 9000, MAC: mac, Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.1.1/24")}})
	out := netnsRun(t, "ip", "addr", "show", "dev", "set")
	for _, want := range []string{"mtu 9000", "02:00:00:00:08:01", "10.8.1.1/24", "10.8.7.1/24"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s: %s", want, out)
		}
	}
	if strings.Contains(out, "10.8.0.1/24") {
		t.Errorf("the old address is there: %s", out)
	}
	if d := p.State().Device; d.MTU != 9000 || d.MAC != mac.String() {
		t.Errorf("state is %+v", d)
	}
	carries(t, p, nil, "set")
	p.Set(Settings{MTU: 9000, MAC: mac})
	if st := p.State(); st.Link != LinkWaiting {
		t.Errorf("not down: %+v", st)
	}
	p.Set(Settings{Up: true, MTU: 9000, MAC: mac, Addresses: []netip.Prefix{netip.MustParsePrefix("fd08::1/64")}})
	if st := p.State(); st.Link != LinkUp || !strings.Contains(st.Reason, "fd08::1/64") {
		t.Errorf("an IPv6 address where there is no IPv6: %+v", st)
	}
}

// TestTaken: the device of somebody else is left alone, whatever kind it is, and
// the port has the name when it is free.
func TestTaken(t *testing.T) {
	taptest.Need(t)
	s := quiet(t, nil)
	for _, make := range [][]string{
		{"ip", "link", "add", "taken", "type", "veth", "peer", "name", "takenp"},
		{"ip", "tuntap", "add", "dev", "taken", "mode", "tap"},
		{"ip", "tuntap", "add", "dev", "taken", "mode", "tap", "multi_queue", "vnet_hdr"},
	} {
		netnsRun(t, make...)
		before := netnsRun(t, "ip", "-d", "link", "show", "dev", "taken")
		for _, queues := range []int{1, 2} {
			p := open(t, Options{Name: "taken", Settings: s, Queues: queues})
			if st := p.State(); st.Link != LinkWaiting || !strings.Contains(st.Reason, "ip link del taken") {
				t.Errorf("%v: %+v", make, st)
			}
			if after := netnsRun(t, "ip", "-d", "link", "show", "dev", "taken"); after != before {
				t.Errorf("%v: changed\n%s\n%s", make, before, after)
			}
			if queues == 2 {
				netnsRun(t, "ip", "link", "del", "taken")
				carriesQuietly(t, p, nil, upName(t, p))
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	// Another switch's device of several queues can be joined; it is not.
	p := open(t, Options{Name: "mine", Settings: s, Queues: 2})
	up(t, p)
	o := open(t, Options{Name: "mine", Settings: s, Queues: 2})
	if st := o.State(); st.Link != LinkWaiting || !strings.Contains(st.Reason, errTaken.Error()) {
		t.Errorf("the second of a name: %+v", st)
	}
}

func upName(t testing.TB, p *Port) string { return up(t, p).Device.Name }

// TestTakenElsewhere: a name that is taken in another namespace is waited for, and
// nothing is left in ours.
func TestTakenElsewhere(t *testing.T) {
	ns := taptest.New(t)
	s := quiet(t, ns)
	ns.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0p")
	links := netnsRun(t, "ip", "-br", "link")
	p := open(t, Options{Name: "eth0", Netns: ns.Path, Settings: s})
	if st := p.State(); st.Link != LinkWaiting || !strings.Contains(st.Reason, errTaken.Error()) {
		t.Errorf("%+v", st)
	}
	until(t, "nothing to be left", func() bool { return netnsRun(t, "ip", "-br", "link") == links })
	ns.Run(t, "ip", "link", "del", "eth0")
	carries(t, p, ns, "eth0")
}

// TestNoNamespace: what is not there is waited for, what is not a namespace too,
// and both are told.
func TestNoNamespace(t *testing.T) {
	taptest.Need(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), file, dir, "/proc/self/ns/mnt", "no-such-name"} {
		p := open(t, Options{Name: "nons", Netns: path})
		if st := p.State(); st.Link != LinkWaiting || !strings.Contains(st.Reason, path) {
			t.Errorf("%s: %+v", path, st)
		}
	}
	p := open(t, Options{Name: "own", Netns: "/proc/self/ns/net", Settings: quiet(t, nil)})
	carries(t, p, nil, "own")
}

// TestOptions: what no port can have is refused, in words.
func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{Name: ""}, {Name: "."}, {Name: "sixteen-bytes-xx"}, {Name: "a/b"}, {Name: "a b"}, {Name: "a%d"}, {Name: "a:1"}, {Name: "a\n"},
		{Name: "a", Queues: -1}, {Name: "a", Queues: 65},
		{Name: "a", Settings: Settings{MTU: 67}}, {Name: "a", Settings: Settings{MTU: MTUMax + 1}},
		{Name: "a", Settings: Settings{MAC: net.HardwareAddr{1, 0, 0, 0, 0, 0}}}, {Name: "a", Settings: Settings{MAC: net.HardwareAddr{2}}},
		{Name: "a", Settings: Settings{Addresses: make([]netip.Prefix, 1)}},
	} {
		o.Kernel = &Kernel{}
		if _, err := Open(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := Open(Options{Name: "a"}); !errors.Is(err, ErrOptions) {
		t.Errorf("without Kernel: %v", err)
	}
}

// TestPersist: a device that is to persist stays with its addresses, and the next
// port of that name takes it up; one that others use is left alone.
func TestPersist(t *testing.T) {
	taptest.Need(t)
	s := quiet(t, nil)
	for _, queues := range []int{1, 3} {
		p := open(t, Options{Name: "stay", Settings: s, Persist: true, Queues: queues})
		index := up(t, p).Device.Index
		netnsRun(t, "ip", "addr", "add", "10.7.0.1/24", "dev", "stay")
		o := open(t, Options{Name: "stay", Settings: s, Persist: true, Queues: queues})
		if st := o.State(); st.Link != LinkWaiting || !strings.Contains(st.Reason, errTaken.Error()) {
			t.Errorf("two ports of one device: %+v", st)
		}
		if err := errors.Join(o.Close(), p.Close()); err != nil {
			t.Fatal(err)
		}
		if !exists(t, nil, "stay") {
			t.Fatal("it did not persist")
		}
		p = open(t, Options{Name: "stay", Settings: s, Persist: true, Queues: queues})
		if st := up(t, p); st.Device.Index != index {
			t.Errorf("another device: %+v", st)
		}
		if out := netnsRun(t, "ip", "addr", "show", "dev", "stay"); !strings.Contains(out, "10.7.0.1/24") {
			t.Errorf("without its address: %s", out)
		}
		carriesQuietly(t, p, nil, "stay")
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		netnsRun(t, "ip", "link", "del", "stay")
	}
}

// TestPersistInPod: a device in another network namespace has a name of its own
// there, stays with what is on it when the port goes, and is taken up again by the
// next one; a device of others is left alone.
func TestPersistInPod(t *testing.T) {
	ns := taptest.New(t)
	for _, queues := range []int{1, 2} {
		o := Options{Name: "some-port-with-a-long-name", Device: "net1", Netns: ns.Path, Settings: quiet(t, ns), Persist: true, Queues: queues}
		p := open(t, o)
		index := up(t, p).Device.Index
		ns.Run(t, "ip", "addr", "add", "10.7.0.1/24", "dev", "net1")
		ns.Run(t, "ip", "route", "add", "10.8.0.0/16", "via", "10.7.0.9")
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p = open(t, o)
		if st := up(t, p); st.Device.Index != index || st.Device.Name != "net1" {
			t.Errorf("another device: %+v", st)
		}
		if out := ns.Run(t, "ip", "route", "show"); !strings.Contains(out, "10.8.0.0/16 via 10.7.0.9") {
			t.Errorf("without its route: %s", out)
		}
		carriesQuietly(t, p, ns, "net1")
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		ns.Run(t, "ip", "link", "del", "net1")
	}
	ns.Run(t, "ip", "link", "add", "net1", "type", "veth", "peer", "name", "other")
	p := open(t, Options{Name: "p", Device: "net1", Netns: ns.Path, Persist: true})
	if st := p.State(); st.Link != LinkWaiting || !strings.Contains(st.Reason, errTaken.Error()) {
		t.Errorf("a device of others: %+v", st)
	}
	if err := p.Close(); err != nil { // or it has the device that is for the next one
		t.Error(err)
	}
	ns.Run(t, "ip", "link", "del", "net1")
	up(t, open(t, Options{Name: "q", Device: "net1", Netns: ns.Path, Persist: true, Settings: Settings{Up: true}}))
}

// holder names the variable that makes the test binary hold a port in a network
// namespace until it is killed.
const holder = "MILLRACE_TEST_HOLD_PORT"

// holdPort is the process that TestKilled kills.
func holdPort(netns string) {
	p, err := Open(Options{Name: "killed", Netns: netns, Settings: Settings{Up: true}, Queues: 2, Kernel: &Kernel{}})
	if err != nil || p.State().Link != LinkUp {
		fmt.Fprintln(os.Stderr, err, p.State())
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

// TestKilled: a process that is killed leaves no device, wherever it was.
func TestKilled(t *testing.T) {
	ns := taptest.New(t)
	for _, where := range []*taptest.Namespace{nil, ns} {
		path := "/proc/self/ns/net"
		if where != nil {
			path = where.Path
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), holder+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		}
		if !exists(t, where, "killed") {
			t.Error("there is no device to be left")
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		until(t, "the device to go", func() bool { return !exists(t, where, "killed") })
	}
}

// TestBreak: a port that is broken comes back, and counts it.
func TestBreak(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "brk", Settings: quiet(t, nil)})
	index := up(t, p).Device.Index
	p.Break("a test says so")
	until(t, "a new device", func() bool { st := p.State(); return st.Link == LinkUp && st.Device.Index != index })
	if st := p.State(); st.Breaks != 1 {
		t.Errorf("%+v", st)
	}
	carries(t, p, nil, "brk")
}
