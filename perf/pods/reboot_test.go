package pods

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
	"millrace/perf/peers"
)

// killAll kills all of the switch at once, as a host does that loses its power.
func (n *node) killAll() {
	n.t.Helper()
	_ = n.cmd.Process.Signal(syscall.SIGSTOP) // it starts none of the others again
	for _, name := range []string{"control", "dataplane", "db"} {
		if pid := n.process(name); pid != 0 {
			killProcess(n.t, pid)
		}
	}
	_ = n.cmd.Process.Kill()
	<-n.done
	n.cmd = nil
}

// setBoot has the test's kernel say that it was started another time.
func (n *node) setBoot(id string) {
	n.t.Helper()
	const path = "/proc/sys/kernel/random/boot_id"
	file := filepath.Join(n.dir, "boot-id-"+id)
	check(n.t, os.WriteFile(file, []byte(id+"\n"), 0o644))
	check(n.t, unix.Mount(file, path, "", unix.MS_BIND, ""))
	n.t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

// vanish takes a pod's network namespace away.
func (p *pod) vanish() {
	p.n.t.Helper()
	check(p.n.t, syscall.Unmount(p.Path, syscall.MNT_DETACH))
	check(p.n.t, os.Remove(p.Path))
}

// successor is the pod's next sandbox: all is as before, but the container's ID and the network namespace.
func (p *pod) successor() *pod {
	next := p.n.newPod()
	next.Args = p.Args
	return next
}

// TestRebooted: the host is started anew. The database is as before, the run directory is empty, and network namespaces are gone. Kubelet
// gives its pods new sandboxes, with the slots and volumes that they had, and only afterwards has the old ones deleted: each pod has
// its socket and its file, and its application answers; nothing is left of what was.
func TestRebooted(t *testing.T) {
	peers.Need(t, "dpdk-testpmd")
	n := bareNode(t)
	cover(t, "/var/lib")
	n.args = []string{"--state-dir", filepath.Join(n.dir, "state")}
	n.setBoot("first")
	n.start()
	type one struct {
		more fields
		pod  *pod
		next *pod
	}
	all := []*one{
		{more: fields{"mode": "client", "deviceID": "br0-1"}},
		{more: fields{"mode": "server", "deviceID": "br0-2"}},
		{more: fields{"mode": "client", "socket": fields{"volume": "sockets"}}},
		{more: fields{"mode": "server", "socket": fields{"volume": "sockets"}}},
	}
	for _, o := range all {
		o.pod = n.newPod()
		check(t, os.MkdirAll(o.pod.volume(), 0o777))
		check(t, os.Chmod(o.pod.volume(), 0o777))
		o.pod.mustAdd(n.network("1.0.0", attach.VhostUser, o.more))
	}
	tap, before, after := n.network("1.0.0", attach.TAP, nil), n.newPod(), n.newPod()
	before.mustAdd(tap)

	n.killAll()
	check(t, os.RemoveAll(n.run))
	check(t, os.Mkdir(n.run, 0o755)) // kubelet makes directories of the host
	for _, o := range all {
		o.pod.vanish()
	}
	before.vanish()
	n.setBoot("second")
	n.start()

	after.mustAdd(tap)
	old := []*pod{before}
	for _, o := range all {
		old = append(old, o.pod)
		o.next = o.pod.successor()
		o.next.mustAdd(n.network("1.0.0", attach.VhostUser, o.more))
	}
	works := func(when string) {
		t.Helper()
		for _, o := range all {
			n.answers(t, when, after, o.next, n.network("1.0.0", attach.VhostUser, o.more))
		}
	}
	for range 3 { // by itself it takes a minute and a half
		n.cli("agent", "reconcile")
	}
	if have := n.attachments(); len(have) != len(all)+1 {
		t.Errorf("%d attachments of %d pods: %+v", len(have), len(all)+1, have)
	}
	works("after looks for what no pod has")
	check(t, before.del(tap))
	for _, o := range all {
		check(t, o.pod.del(n.network("1.0.0", attach.VhostUser, o.more)))
	}
	works("after DEL of the old sandboxes")
	check(t, after.del(tap))
	for _, o := range all {
		check(t, o.next.del(n.network("1.0.0", attach.VhostUser, o.more)))
	}
	n.nothingLeft(append(old, after)...)
}

// volume is where kubelet has the pod's emptyDir "sockets".
func (p *pod) volume() string {
	return filepath.Join("/var/lib/kubelet/pods", p.Args[3][1], "volumes/kubernetes.io~empty-dir/sockets")
}

// answers fails the test unless the application of a pod's interface has what it needs, and answers pings of another pod.
func (n *node) answers(t *testing.T, when string, from, p *pod, list *libcni.NetworkConfigList) {
	t.Helper()
	check(t, p.check(list))
	at := n.attachment(p)
	dir := filepath.Join(n.run, "slots", at.DeviceID)
	if at.DeviceID == "" {
		dir = filepath.Join(p.volume(), p.IfName)
	}
	info := readInfo(t, dir)
	if info.ContainerID != p.ContainerID {
		t.Errorf("%s: the application is told of another sandbox: %+v", when, info)
	}
	socket := filepath.Join(dir, agent.SocketName)
	if _, err := os.Lstat(socket); info.Role == "client" && err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if info.Role == "server" {
		_ = os.Remove(socket) // of the last application, which was killed
	}
	app := n.startApplication(podUser, p.key().Port(), dir, info)
	defer app.stop()
	to := netip.MustParsePrefix(at.IPs[0]).Addr()
	if err := from.Ping(t, to, 1000, patience); err != nil {
		t.Errorf("%s: %s: %v\n%s", when, info.Role, err, app.out)
	}
}

// attachment is what the agent knows of a pod's interface.
func (n *node) attachment(p *pod) attach.Attachment {
	n.t.Helper()
	for _, at := range n.attachments() {
		if at.Key == p.key() {
			return at
		}
	}
	n.t.Fatalf("the agent knows nothing of %+v", p.key())
	return attach.Attachment{}
}

// TestDatabaseLost: the switch loses its database while pods run. CHECK says so, ADD makes the port again, and DEL removes all that
// a pod has, in slots and volumes as well.
func TestDatabaseLost(t *testing.T) {
	n := bareNode(t)
	cover(t, "/var/lib")
	state := filepath.Join(n.dir, "state")
	n.args = []string{"--state-dir", state}
	n.start()
	for _, net := range steppedNetworks {
		list, again, deleted := n.network("1.0.0", net.kind, net.more), n.newPod(), n.newPod()
		pods := []*pod{again, deleted}
		if net.more["deviceID"] != nil {
			pods = pods[1:] // a slot is one pod's
		}
		for _, p := range pods {
			p.makeVolume(net)
			p.mustAdd(list)
		}
		n.killAll()
		check(t, os.RemoveAll(state))
		n.start()
		for _, p := range pods {
			if err := p.check(list); err == nil || !strings.Contains(err.Error(), "the switch has no port for it") {
				t.Errorf("%s: CHECK: %v", net.name, err)
			}
		}
		check(t, deleted.del(list))
		if pods[0] == again {
			again.mustAdd(list)
			check(t, again.check(list))
			check(t, again.del(list))
		}
		n.nothingLeft(pods...)
	}
}

// TestSupervisorKilled kills the supervisor at moments of ADD and DEL, with a dataplane that goes on without it and with one that does
// not. The next supervisor finds either: an ADD succeeds, and a DEL leaves nothing.
func TestSupervisorKilled(t *testing.T) {
	moments := 2
	if os.Getenv("MILLRACE_TEST_LONG") != "" {
		moments = 20
	}
	cover(t, "/var/lib")
	for _, keep := range []string{"true", "false"} {
		n := newNode(t, "--keep-dataplane="+keep)
		for i := range moments {
			net := steppedNetworks[i%len(steppedNetworks)]
			list, p := n.network("1.0.0", net.kind, net.more), n.newPod()
			p.makeVolume(net)
			usual := n.usual(net.kind)
			run := func(verb string) {
				supervisor := n.cmd.Process
				killed := time.AfterFunc(usual*time.Duration(2*i+1)/time.Duration(2*moments), func() { _ = supervisor.Kill() })
				_, _ = n.plugin(p.env(n, verb), n.conf(list)) // whatever comes of it
				killed.Stop()
				_ = supervisor.Kill()
				eventually(t, "the supervisor is gone", func() bool { return syscall.Kill(supervisor.Pid, 0) != nil }) // n.done: and the dataplane that has its log
				n.start()
				n.settled()
			}
			run("ADD")
			if _, err := p.add(list); err != nil {
				t.Fatalf("%s, keep-dataplane=%s: the next ADD: %v", net.name, keep, err)
			}
			check(t, p.check(list))
			run("DEL")
			check(t, p.del(list))
			n.settled()
			n.nothingLeft(p)
		}
		n.stop()
	}
}
