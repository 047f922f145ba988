package pods

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
	"millrace/dataplane/sys"
	"millrace/perf/peers"
	"millrace/waittest"
)

const podUser = 12345

// TestUnprivileged: a DPDK application of an ordinary user, in user, mount and network
// namespaces of its own and without capabilities, finds its socket where the file beside
// it says, and answers the pings of a pod with a kernel's interface: with the switch in
// either role, in a directory of the device plugin, in a volume of the pod's, and in neither.
func TestUnprivileged(t *testing.T) {
	peers.Need(t, "dpdk-testpmd")
	for _, name := range []string{"setpriv", "unshare"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip("needs " + name + ": apt-get install util-linux")
		}
	}
	n := newNode(t)
	cover(t, "/var/lib")
	plain, tap := n.newPod(), n.network("1.0.0", attach.TAP, nil)
	plain.mustAdd(tap)
	check(t, agent.MakeSlot(n.run, "br0-5"))
	theirs := fields{"user": podUser, "group": podUser}
	for _, more := range []fields{
		{"mode": "client", "socket": theirs, "deviceID": "br0-5"},
		{"mode": "client", "socket": theirs},
		{"mode": "server", "socket": theirs},
		{"mode": "client", "deviceID": "br0-5"}, // whose it is nobody says
		{"mode": "client", "socket": fields{"volume": "sockets"}},
		{"mode": "server", "socket": fields{"volume": "sockets"}},
		{"mode": "client", "socket": fields{"volume": "sockets"}, "userspace": true},
		{"mode": "server", "socket": fields{"volume": "sockets"}, "userspace": true},
	} {
		n.unprivileged(t, plain, more)
	}
	check(t, plain.del(tap))
	n.nothingLeft(plain)
}

// unprivileged has an application use an interface of a network, and another pod reach it.
func (n *node) unprivileged(t *testing.T, plain *pod, more fields) {
	t.Helper()
	list, p := n.network("1.0.0", attach.VhostUser, more), n.newPod()
	volume := filepath.Join("/var/lib/kubelet/pods", p.Args[3][1], "volumes/kubernetes.io~empty-dir/sockets")
	if of := more["socket"]; of == nil || of.(fields)["volume"] == nil {
		volume = t.TempDir() // a pod without: a runtime's alone, or one with a slot
	}
	// As kubelet gives a pod with an fsGroup an emptyDir.
	check(t, os.MkdirAll(volume, 0o755))
	check(t, os.Chown(volume, 0, podUser))
	check(t, os.Chmod(volume, os.ModeSetgid|0o770))
	r := p.mustAdd(list)
	dir := filepath.Dir(r.Interfaces[0].SocketPath)
	info := readInfo(t, dir)
	if want := map[string]string{"client": "server", "server": "client"}[more["mode"].(string)]; info.Role != want || info.MAC != r.Interfaces[0].Mac {
		t.Errorf("%v: the application is told %+v", more, info)
	}
	app := n.startApplication(podUser, p.key().Port(), dir, info)
	defer app.stop()
	to, _ := netip.AddrFromSlice(r.IPs[0].Address.IP)
	if err := plain.Ping(t, to.Unmap(), 1000, patience); err != nil {
		t.Errorf("%v: %v\n%s", more, err, app.out)
	}
	if out := n.cli("port", "show", p.key().Port()); !strings.Contains(out, fmt.Sprintf("uid %d", podUser)) {
		t.Errorf("%v: the peer is not the pod's user:\n%s", more, out)
	}
	app.stop()
	check(t, p.del(list))
	if left, err := os.ReadDir(volume); err != nil || len(left) > 0 {
		t.Errorf("%v: left in the pod's volume: %v, %v", more, left, err)
	}
}

// readInfo is what an application is told of its interface.
func readInfo(t *testing.T, dir string) (info agent.Info) {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(dir, "interface*.json")) // in a directory that interfaces share, with its name
	if len(names) != 1 {
		t.Fatalf("%s has the files %v", dir, names)
	}
	text, err := os.ReadFile(names[0])
	check(t, err)
	check(t, json.Unmarshal(text, &info))
	return info
}

// An application is testpmd in a container.
type application struct {
	cmd  *exec.Cmd
	in   io.Closer
	out  *waittest.Buffer
	done chan struct{}
}

// startApplication starts testpmd as a container runtime would, for a port: its interface's
// directory is mounted where the container has it, and all rights but a user's are gone.
func (n *node) startApplication(user int, port, dir string, info agent.Info) *application {
	t := n.t
	t.Helper()
	mnt := filepath.Join(n.dir, "mnt")
	check(t, os.MkdirAll(mnt, 0o755))
	check(t, os.Chmod(n.dir, 0o711))
	cpus, err := sys.AllowedCPUs()
	check(t, err)
	server := "0"
	if info.Role == "server" {
		server = "1"
	}
	testpmd := []string{
		"dpdk-testpmd", "--no-pci", "--no-telemetry", "--no-huge", "-m", "128", "--no-shconf", "--lcores", fmt.Sprintf("0@%d,1@%d", cpus[0], cpus[0]),
		fmt.Sprintf("--vdev=net_virtio_user0,path=%s/%s,server=%s,queues=1,mac=%s", mnt, filepath.Base(info.Socket), server, info.MAC),
		"--", "-i", "--forward-mode=icmpecho", "--total-num-mbufs=4096", "--auto-start",
	}
	app := n.startConfined(user, dir, mnt, nil, testpmd...)
	eventually(t, "testpmd forwards", func() bool {
		select {
		case <-app.done:
			t.Fatalf("testpmd ended at once: %s", app.out)
		default:
		}
		return strings.Contains(app.out.String(), "testpmd> ") || strings.Contains(n.cli("port", "show", port), "forwarding")
	})
	return app
}

// startConfined starts a program with all rights but a user's gone, in namespaces of its own, where a directory is mounted.
func (n *node) startConfined(user int, dir, mnt string, env []string, program ...string) *application {
	t := n.t
	t.Helper()
	script := fmt.Sprintf("mount --bind %s %s && exec setpriv --reuid %d --regid %d --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs unshare --user --mount --net \"$@\"", dir, mnt, user, user)
	app := &application{out: &waittest.Buffer{}, done: make(chan struct{})}
	app.cmd = exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh"}, program...)...)
	app.cmd.Stdout, app.cmd.Stderr = app.out, app.out
	app.cmd.Env = append(os.Environ(), env...)
	app.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	app.cmd.WaitDelay = time.Second
	in, err := app.cmd.StdinPipe()
	check(t, err)
	app.in = in
	check(t, app.cmd.Start())
	go func() { _ = app.cmd.Wait(); close(app.done) }()
	t.Cleanup(func() {
		app.stop()
		if t.Failed() {
			t.Logf("%s: %s", program[0], app.out)
		}
	})
	return app
}

func (a *application) stop() {
	_ = a.in.Close()
	_ = syscall.Kill(-a.cmd.Process.Pid, syscall.SIGKILL)
	<-a.done
}
