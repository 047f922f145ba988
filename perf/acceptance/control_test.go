package acceptance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	libovsdb "github.com/ovn-kubernetes/libovsdb/ovsdb"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
	"millrace/dataplane/api"
	"millrace/dataplane/sys"
)

// schemaFile is where Debian's openvswitch-common has the stock schema.
const schemaFile = "/usr/share/openvswitch/vswitch.ovsschema"

// A node is a dataplane, a control process and a stock ovsdb-server, all of them
// processes, and a client of the database.
type node struct {
	*switchRun // as far as guests need it

	control      *exec.Cmd
	controlEnded chan struct{} // closed when it has
	db           *ovsdb.Client
	rows         map[string]*model.Interface // by name, as the client knows them
	br0          string                      // UUID of the bridge
}

// runNode starts a node with one bridge, br0, and one worker.
func runNode(t *testing.T, flags ...string) *node {
	t.Helper()
	need(t)
	for _, tool := range []string{"ovsdb-server", "ovsdb-tool", "ovs-vsctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	dir := runDir(t)
	n := &node{switchRun: &switchRun{t: t, dir: dir}, rows: map[string]*model.Interface{}}
	worker, _ := cpus(t)
	check(t, exec.Command("ovsdb-tool", "create", n.path("conf.db"), schemaFile).Run())
	n.start("ovsdb-server", "--remote=p"+n.endpoint(), "--unixctl="+n.path("ovs.ctl"), "--no-chdir", "-vconsole:warn", n.path("conf.db"))
	n.start(program, append([]string{"dataplane", "--run-dir", dir, "--cpus", fmt.Sprint(worker)}, flags...)...)
	eventually(t, func() bool { return strings.Contains(n.log.String(), "ready\n") }, "dataplane: %s", &n.log)
	n.startControl()
	c, err := api.Dial(t.Context(), dir, api.Patience(patience))
	check(t, err)
	n.api = c
	t.Cleanup(func() { c.Close() })
	n.vsctl("add-br", "br0")
	n.connect()
	return n
}

// runDir makes a run directory on a tmpfs, as /run is. To make a socket takes
// ten microseconds there, and up to a millisecond on a disk's file system.
func runDir(t *testing.T) string {
	t.Helper()
	const short = "mr-node-" // a socket's path has 107 bytes
	dir, err := os.MkdirTemp("/dev/shm", short)
	if err != nil {
		dir, err = os.MkdirTemp("", short)
	}
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (n *node) startControl() {
	n.control, n.controlEnded = n.start(program, "control", "--run-dir", n.dir, "--db", n.endpoint())
}

func (n *node) endpoint() string { return "unix:" + n.path("ovs.sock") }

// start starts a process for the length of the test.
func (n *node) start(name string, args ...string) (cmd *exec.Cmd, done chan struct{}) {
	n.t.Helper()
	cmd, done = exec.Command(name, args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = &n.log, &n.log // one for all processes
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(n.t, startChild(cmd, done))
	n.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-done:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-done
		}
		if n.t.Failed() {
			n.t.Logf("%s: %s", name, tail(n.log.String()))
		}
	})
	return cmd, done
}

// vsctl runs ovs-vsctl, which waits for control.
func (n *node) vsctl(args ...string) string {
	n.t.Helper()
	out, err := exec.Command("ovs-vsctl", append([]string{"--db=" + n.endpoint(), "--timeout=20"}, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("ovs-vsctl %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// connect makes the client of the database.
func (n *node) connect() {
	n.t.Helper()
	db, err := ovsdb.New(ovsdb.Config{Endpoints: []string{n.endpoint()}, Schema: model.Schema(), Tables: []ovsdb.Table{
		{Name: model.InterfaceTable, Row: &model.Interface{}, Watch: []string{"name", "ofport"}},
	}})
	check(n.t, err)
	n.db = db
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { db.Run(ctx); close(ended) }()
	n.t.Cleanup(func() { cancel(); <-ended })
	n.br0 = n.vsctl("get", "bridge", "br0", "_uuid")
	n.await("bridge's own row", func() bool { return n.rows["br0"] != nil })
}

// await takes what the database tells until ok.
func (n *node) await(what string, ok func() bool) {
	n.t.Helper()
	for late := time.After(patience); !ok(); {
		select {
		case <-n.db.Ready():
		case <-late:
			n.t.Fatalf("not in %v: %s", patience, what)
		}
		for _, c := range n.db.Take().Changes {
			if row, _ := c.Row.(*model.Interface); row != nil {
				n.rows[row.Name] = row
			}
		}
	}
}

// add makes the rows of ports in one transaction, as CNI plugins do.
func (n *node) add(names ...string) { n.addOf("dpdkvhostuser", names...) }

// addOf is add for a type of interface.
func (n *node) addOf(kind string, names ...string) {
	n.t.Helper()
	var ops []libovsdb.Operation
	var ports []any
	for i, name := range names {
		iface, port := fmt.Sprint("i", i), fmt.Sprint("p", i)
		ops = append(ops,
			libovsdb.Operation{Op: "insert", Table: "Interface", UUIDName: iface, Row: libovsdb.Row{"name": name, "type": kind}},
			libovsdb.Operation{Op: "insert", Table: "Port", UUIDName: port, Row: libovsdb.Row{"name": name, "interfaces": libovsdb.UUID{GoUUID: iface}}},
		)
		ports = append(ports, libovsdb.UUID{GoUUID: port})
	}
	n.mutate(ops, "insert", ports)
}

// mutate makes ops, and gives the bridge ports or takes them.
func (n *node) mutate(ops []libovsdb.Operation, mutator libovsdb.Mutator, ports []any) {
	n.t.Helper()
	ops = append(ops, libovsdb.Operation{
		Op: "mutate", Table: "Bridge", Where: []libovsdb.Condition{libovsdb.NewCondition("_uuid", libovsdb.ConditionEqual, libovsdb.UUID{GoUUID: n.br0})},
		Mutations: []libovsdb.Mutation{{Column: "ports", Mutator: mutator, Value: libovsdb.OvsSet{GoSet: ports}}},
	})
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	check(n.t, n.db.Transact(ctx, ops...))
}

// inForce waits until all the rows have a port number, and their sockets are
// there.
func (n *node) inForce(names ...string) {
	n.t.Helper()
	n.await(fmt.Sprint(len(names), " ports in force"), func() bool {
		return !slices.ContainsFunc(names, func(name string) bool {
			row := n.rows[name]
			return row == nil || row.Ofport == nil
		})
	})
	for _, name := range names {
		if o := *n.rows[name].Ofport; o <= 0 {
			n.t.Fatalf("%s: ofport %d", name, o)
		}
		if _, err := os.Stat(n.path(name)); err != nil {
			n.t.Fatalf("%s has its number, and no socket: %v", name, err)
		}
	}
}

// portsEnv is how many ports TestPorts adds in one transaction; 1,000 is the
// full measurement.
const portsEnv = "MILLRACE_PORTS"

// TestPorts measures the time from the commit of a transaction to the numbers
// of its ports in the rows, with real sockets: many ports in one transaction,
// and one more port, with few and with many there. The bounds are those that a
// node must hold; on a machine that others use, only the large number of ports
// is judged by them.
func TestPorts(t *testing.T) {
	n := runNode(t)
	many := int(number(t, portsEnv, 100))
	ten := names("few", 10)
	n.add(ten...)
	n.inForce(ten...)
	few := n.single("a", 40)
	list := names("many", many)
	began := time.Now()
	n.add(list...)
	committed := time.Now()
	n.inForce(list...)
	took := time.Since(committed)
	t.Logf("%d ports in one transaction: commit %v, in force %v later", many, committed.Sub(began), took)
	more := n.single("b", 40)
	t.Logf("one port, of 10 and of %d: median %v and %v", 50+many, few, more)
	if many < 1000 {
		return
	}
	for _, b := range []struct {
		what      string
		got, most time.Duration
	}{{"all ports", took, 500 * time.Millisecond}, {"one port with 10", few, 10 * time.Millisecond}, {"one port with many", more, 15 * time.Millisecond}} {
		if b.got > b.most {
			t.Errorf("%s: %v, want at most %v", b.what, b.got, b.most)
		}
	}
}

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint(prefix, i)
	}
	return list
}

// single adds ports one by one, and returns the median of the times from the
// commit to the number in the row.
func (n *node) single(prefix string, count int) time.Duration {
	n.t.Helper()
	var took []time.Duration
	for _, name := range names(prefix, count) {
		began := time.Now()
		n.add(name)
		n.inForce(name)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// TestWorkersMove changes pmd-cpu-mask as an operator does, and mtu_request,
// while two guests send to each other: workers move, none of the guests loses
// its connection or a frame, and control keeps off the workers' CPUs.
func TestWorkersMove(t *testing.T) {
	all, err := sys.AllowedCPUs()
	check(t, err)
	if len(all) < 2 {
		t.Skip("needs two CPUs")
	}
	n := runNode(t)
	guests := n.guests()
	resume(t, guests, 1)
	lost := guests[0].page.lost.Load() + guests[1].page.lost.Load()
	before := n.stats("a", "b") // with what was dropped while one guest was there alone
	worker, _ := cpus(t)
	for i, tt := range []struct{ mask, want string }{
		{fmt.Sprintf("%x", 1<<all[0]), fmt.Sprint(all[:1])},
		{fmt.Sprintf("0x%x", 1<<all[0]|1<<all[1]), fmt.Sprint(all[:2])},
		{"f00000000000000000000000000000", fmt.Sprint(all[:2])}, // not there: as it was
		{fmt.Sprintf("0x%x", 1<<all[1]), fmt.Sprint(all[1:2])},
		{"", fmt.Sprint([]int{worker})},
	} {
		if tt.mask == "" {
			n.vsctl("remove", "Open_vSwitch", ".", "other_config", "pmd-cpu-mask")
		} else {
			n.vsctl("set", "Open_vSwitch", ".", "other_config:pmd-cpu-mask="+tt.mask)
		}
		n.vsctl("set", "interface", "a", fmt.Sprint("mtu_request=", 9000+i))
		info, err := n.api.GetInfo(t.Context(), &api.GetInfoRequest{})
		check(t, err)
		if got := fmt.Sprint(info.GetWorkers()); got != tt.want {
			t.Errorf("mask %q: workers on %s, want %s", tt.mask, got, tt.want)
		}
		problem := strings.HasPrefix(tt.mask, "f")
		eventually(t, func() bool {
			b, err := os.ReadFile(n.path("control.json"))
			return err == nil && strings.Contains(string(b), "workers stay on CPUs") == problem
		}, "problem in control.json with mask %q: %v", tt.mask, problem)
		resume(t, guests, uint64(i)+2)
		beside := slices.DeleteFunc(slices.Clone(all), func(c int) bool { return slices.Contains(info.GetWorkers(), uint32(c)) })
		if len(beside) == 0 {
			beside = all
		}
		eventually(t, func() bool { return fmt.Sprint(n.places()) == fmt.Sprint(beside) }, "control is on CPUs %v", beside)
	}
	for _, name := range []string{"a", "b"} {
		if p := n.port(name); p.GetState().GetConnects() != 1 {
			t.Errorf("%s has had %d connections", name, p.GetState().GetConnects())
		}
	}
	drops := func(s *api.PortStats) uint64 {
		return dropped(s.GetRxDrops()) + dropped(s.GetTxDrops(), "tx_ring_full", "tx_busy")
	}
	for i, s := range n.stats("a", "b") {
		if d := drops(s) - drops(before[i]); d > 0 {
			t.Errorf("%s: %d drops: %v, %v", s.GetName(), d, s.GetRxDrops(), s.GetTxDrops())
		}
	}
	t.Logf("%d and %d frames received, %d numbers left out", guests[0].page.received.Load(), guests[1].page.received.Load(),
		guests[0].page.lost.Load()+guests[1].page.lost.Load()-lost)
}

// guests adds ports a and b, with room for the guests' longest frames, and a
// guest to each.
func (n *node) guests() [2]*guestProcess {
	n.t.Helper()
	var args []string
	for _, name := range []string{"a", "b"} {
		args = append(args, "--", "add-port", "br0", name, "--", "set", "interface", name, "type=dpdkvhostuser", "mtu_request=9000")
	}
	n.vsctl(args[1:]...)
	return [2]*guestProcess{newGuest(n.t, n.switchRun, "a", listens, 1, 2), newGuest(n.t, n.switchRun, "b", listens, 2, 1)}
}

// places are the CPUs that threads of control may run on.
func (n *node) places() []int {
	n.t.Helper()
	var cpus []int
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", n.control.Process.Pid))
	check(n.t, err)
	for _, file := range files {
		b, _ := os.ReadFile(file) // the thread may have ended
		_, rest, _ := strings.Cut(string(b), "Cpus_allowed_list:")
		list, _, _ := strings.Cut(rest, "\n")
		if part, err := sys.ParseCPUs(strings.TrimSpace(list)); err == nil {
			cpus = append(cpus, part...)
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus)
}
