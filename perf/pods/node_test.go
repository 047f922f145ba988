package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"millrace/control/cni/attach"
	"millrace/dataplane/sys"
	"millrace/dataplane/tap/taptest"
	"millrace/perf/peers"
	"millrace/waittest"
)

// ipamDir is where Debian's containernetworking-plugins are.
const ipamDir = "/usr/lib/cni"

const patience = time.Minute

// A node is a switch and what a container runtime has on its host.
type node struct {
	t    testing.TB
	dir  string // of the test
	run  string // run directory
	bin  string
	args []string // of `millrace run`, beside the run directory
	boot []string // what starts the switch, if it is not the program itself
	pods string   // where its pods' network namespaces are
	cmd  *exec.Cmd
	done chan struct{}
	log  *waittest.Buffer
	cni  *libcni.CNIConfig
	seq  atomic.Int32
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f reports true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waittest.Until(t, what, ok)
}

// newNode starts a switch with more arguments than it needs, for the length of the test.
func newNode(t testing.TB, args ...string) *node {
	t.Helper()
	n := bareNode(t)
	n.args = args
	n.start()
	return n
}

// bareNode is a node without a switch.
func bareNode(t testing.TB) *node {
	t.Helper()
	if testing.Short() {
		t.Skip("short run: leaves out real peers")
	}
	taptest.Need(t)
	if _, err := os.Stat(filepath.Join(ipamDir, "host-local")); err != nil {
		t.Skip("needs host-local: apt-get install containernetworking-plugins")
	}
	bin, err := programs()
	check(t, err)
	dir, err := os.MkdirTemp("", "mrp")
	check(t, err)
	n := &node{t: t, dir: dir, run: filepath.Join(dir, "run"), bin: bin, pods: filepath.Join(dir, "netns")}
	check(t, os.Mkdir(n.run, 0o755))
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{bin, ipamDir}, filepath.Join(dir, "cache"), nil)
	t.Cleanup(func() {
		n.stop()
		if t.Failed() && n.log != nil {
			log := n.log.String()
			t.Logf("the switch logged last:\n%s", log[max(0, len(log)-6000):])
		}
		os.RemoveAll(dir)
	})
	return n
}

// startBeside starts a program that gets a signal when the test binary ends. done is closed when the program has ended.
func (n *node) startBeside(cmd *exec.Cmd, death syscall.Signal) (done chan struct{}) {
	n.t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: death}
	done = make(chan struct{})
	check(n.t, peers.Start(cmd, func() { close(done) }))
	return done
}

// start starts the switch.
func (n *node) start() {
	n.t.Helper()
	boot := n.boot
	if boot == nil {
		boot = append([]string{filepath.Join(n.bin, "millrace")}, n.arguments()...)
	}
	out := &waittest.Buffer{}
	n.log = &waittest.Buffer{}
	n.cmd = exec.Command(boot[0], boot[1:]...)
	n.cmd.Stdout, n.cmd.Stderr = out, n.log
	n.done = n.startBeside(n.cmd, syscall.SIGTERM)
	eventually(n.t, "the switch is ready", func() bool {
		select {
		case <-n.done:
			n.t.Fatalf("the switch ended at once: %s", n.log)
		default:
		}
		return strings.Contains(out.String(), "ready\n")
	})
	eventually(n.t, "the agent answers", func() bool { return n.status() == nil })
}

// arguments are those of `millrace run` for this machine.
func (n *node) arguments() []string {
	cpus, err := sys.AllowedCPUs()
	check(n.t, err)
	return append([]string{"run", "--run-dir", n.run, "--cpus", fmt.Sprint(cpus[len(cpus)-1]), "--keep-dataplane=false"}, n.args...)
}

// stop ends the switch in good order.
func (n *node) stop() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.done:
	case <-time.After(patience):
		_ = n.cmd.Process.Kill()
		<-n.done
		n.t.Error("the switch did not end")
	}
	n.cmd = nil
}

// process is the pid of a child of the switch.
func (n *node) process(command string) int {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, err := os.ReadFile(name)
		words := strings.Split(string(line), "\x00")
		if err == nil && len(words) > 2 && words[1] == command && strings.Contains(string(line), n.run+"\x00") {
			pid := 0
			fmt.Sscanf(name, "/proc/%d/", &pid)
			return pid
		}
	}
	return 0
}

func (n *node) call(r *attach.Request) (*attach.Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return attach.Call(ctx, n.run, r)
}

func (n *node) status() error {
	_, err := n.call(&attach.Request{Method: attach.Status})
	return err
}

// attachments are what the agent knows.
func (n *node) attachments() []attach.Attachment {
	n.t.Helper()
	r, err := n.call(&attach.Request{Method: attach.List})
	check(n.t, err)
	return r.Attachments
}

// cli runs a command of the program.
func (n *node) cli(args ...string) string {
	n.t.Helper()
	run := func() ([]byte, error) {
		return exec.Command(filepath.Join(n.bin, "millrace"), append([]string{"--run-dir", n.run}, args...)...).CombinedOutput()
	}
	out, err := run()
	for range 5 { // its own patience is for people, not for busy machines
		if err != nil && strings.Contains(string(out), "deadline exceeded") {
			out, err = run()
		}
	}
	if err != nil {
		n.t.Fatalf("millrace %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// vsctl runs ovs-vsctl on the switch's database, which must succeed, and returns what it prints
// without the white space around it.
func (n *node) vsctl(args ...string) string {
	n.t.Helper()
	out, err := exec.Command("ovs-vsctl", append([]string{"--db=unix:" + n.run + "/db.sock", "--timeout=30"}, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("ovs-vsctl %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// fields are keys of a configuration; a value of nil takes a default away.
type fields map[string]any

// network is a network's configuration. kind may be empty.
func (n *node) network(version, kind string, more fields) *libcni.NetworkConfigList {
	n.t.Helper()
	plugin := fields{
		"type": "millrace-cni", "kind": kind, "bridge": "br0", "runDir": n.run,
		"ipam": fields{"type": "host-local", "dataDir": filepath.Join(n.dir, "ipam"),
			"ranges": []any{[]any{fields{"subnet": "10.77.0.0/16"}}, []any{fields{"subnet": "fd77::/64"}}},
			"routes": []any{fields{"dst": "10.99.0.0/16"}}},
	}
	for k, v := range more {
		plugin[k] = v
		if v == nil {
			delete(plugin, k)
		}
	}
	text, err := json.Marshal(fields{"cniVersion": version, "name": "fast", "plugins": []any{plugin}})
	check(n.t, err)
	list, err := libcni.ConfListFromBytes(text)
	check(n.t, err)
	return list
}

// A pod is a network namespace and what a runtime knows of it.
type pod struct {
	*taptest.Namespace
	*libcni.RuntimeConf
	n *node
}

// newPod makes a pod without interfaces. It goes with the test.
func (n *node) newPod() *pod {
	n.t.Helper()
	i := n.seq.Add(1)
	check(n.t, os.MkdirAll(n.pods, 0o755))
	ns := taptest.At(n.t, filepath.Join(n.pods, fmt.Sprint("pod", i)))
	n.t.Cleanup(func() {
		_ = syscall.Unmount(ns.Path, syscall.MNT_DETACH)
		_ = os.Remove(ns.Path)
	})
	return &pod{n: n, Namespace: ns, RuntimeConf: &libcni.RuntimeConf{
		ContainerID: fmt.Sprintf("c%07d%056x", i, i), NetNS: ns.Path, IfName: "net1",
		Args: [][2]string{{"IgnoreUnknown", "true"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", fmt.Sprint("pod", i)}, {"K8S_POD_UID", fmt.Sprintf("uid-%d", i)}},
	}}
}

func (p *pod) add(list *libcni.NetworkConfigList) (*types100.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := p.n.cni.AddNetworkList(ctx, list, p.RuntimeConf)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(r)
}

func (p *pod) mustAdd(list *libcni.NetworkConfigList) *types100.Result {
	p.n.t.Helper()
	r, err := p.add(list)
	check(p.n.t, err)
	return r
}

func (p *pod) del(list *libcni.NetworkConfigList) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.n.cni.DelNetworkList(ctx, list, p.RuntimeConf)
}

func (p *pod) check(list *libcni.NetworkConfigList) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.n.cni.CheckNetworkList(ctx, list, p.RuntimeConf)
}

func (p *pod) key() attach.Key {
	return attach.Key{Network: "fast", ContainerID: p.ContainerID, IfName: p.IfName}
}

// has reports whether the pod has a device of its interface's name.
func (p *pod) has() bool {
	_, err := p.Try(p.n.t, "ip", "link", "show", "dev", p.IfName)
	return err == nil
}

// nothingLeft fails the test if anything is left of pods: rows, ports, sockets,
// devices, directories, addresses, notes.
func (n *node) nothingLeft(pods ...*pod) {
	n.t.Helper()
	for _, a := range n.attachments() {
		n.t.Errorf("attachment left: %+v", a)
	}
	out := n.cli("port", "list", "--json")
	if strings.Contains(out, `"cni`) {
		n.t.Errorf("port left: %s", out)
	}
	if out, err := exec.Command("ip", "-o", "link", "show").Output(); err != nil || strings.Contains(string(out), " cni") {
		n.t.Errorf("device left on the host: %s %v", out, err)
	}
	for _, p := range pods {
		n.nothingOf(p)
	}
	left, _ := filepath.Glob(n.run + "/pods/*")
	notes, _ := filepath.Glob(n.run + "/detached/*")
	leases, _ := filepath.Glob(n.dir + "/ipam/fast/[0-9f]*")
	for _, f := range slices.Concat(left, notes, leases) {
		n.t.Errorf("left: %s", f)
	}
}

// seenName is a file of applications: the device plugin removes it when another pod gets the slot.
const seenName = "seen"

// nothingOf fails the test if a pod has something of ours in it, or the switch's run directory or the host something of its.
func (n *node) nothingOf(p *pod) {
	n.t.Helper()
	if _, err := os.Stat(p.Path); err == nil && p.has() {
		n.t.Errorf("device left in a pod")
	}
	if exec.Command("ip", "link", "show", "dev", p.key().Port()).Run() == nil {
		n.t.Errorf("device left on the host")
	}
	volume, _ := filepath.Glob(p.volume() + "/*")
	slots, _ := filepath.Glob(n.run + "/slots/*/*")
	slots = slices.DeleteFunc(slots, func(f string) bool { return filepath.Base(f) == seenName })
	own, _ := filepath.Glob(n.run + "/pods/" + p.key().Port() + "*")
	infos, _ := filepath.Glob(infoDir + "/.*") // the file itself is Multus's
	for _, f := range slices.Concat(volume, slots, own, infos) {
		n.t.Errorf("left: %s", f)
	}
}
