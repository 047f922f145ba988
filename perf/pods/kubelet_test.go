package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"millrace/control/cni/attach"
	"millrace/control/cni/slots"
	"millrace/perf/peers"
)

// kubeletVariable names a program kubelet, built by whoever wants this test: its module cannot be required. It is 1.34, the last one that
// runs with control groups of either version. In an empty directory:
//
//	go mod init kubelet.build && go mod edit -require=k8s.io/kubernetes@v1.34.4
//	for each line `k8s.io/M => ./staging/...` of its go.mod: go mod edit -replace=k8s.io/M=k8s.io/M@v0.34.4
//	(sample-cli-plugin and sample-controller, which it does not need: a directory with an empty module)
//	CGO_ENABLED=0 go build -mod=mod -o kubelet k8s.io/kubernetes/cmd/kubelet
//
// and KUBELET=$PWD/kubelet go test ./perf/pods -run TestKubeletItself, as root, with containerd, runc and busybox-static of Debian.
const kubeletVariable = "KUBELET"

// TestKubeletItself: kubelet and containerd run the DaemonSet's pod from an image. Its device plugin makes a resource of the node; a pod that
// asks for one has the slot's directory and a device that our plugin has made for containerd. Kubelet, the device plugin and
// the switch are killed: what pods have stays, new pods get other slots, and nothing is left when they go.
func TestKubeletItself(t *testing.T) {
	n := newKubeNode(t)
	n.startContainerd(t, n.network("1.0.0", attach.TAP, nil).Bytes, n.images(t)...)
	k, began := n.startKubelet(t), time.Now()
	n.runPod(t, n.switchPod(t))
	eventually(t, "kubelet has the switch running", func() bool { return n.status() == nil })
	n.offered(t)
	a, b := n.startPod(t, "pod-a", "uid-a"), n.newPod()
	list := n.network("1.0.0", attach.TAP, nil)
	b.mustAdd(list)
	n.reaches(t, b, a)
	t.Logf("from kubelet's start to the first packet: %.1f s", time.Since(began).Seconds())

	k.kill()
	n.startKubelet(t)
	n.offered(t)
	c := n.startPod(t, "pod-b", "uid-b")
	if got := n.deviceOf("pod-a"); got != a.slot || c.slot == a.slot {
		t.Errorf("after a restart of kubelet the pods have slots %s (had %s) and %s", got, a.slot, c.slot)
	}
	n.survives(t, "device-plugin", a, b)
	n.offered(t)
	n.survives(t, "run", a, b)
	n.offered(t)
	n.reaches(t, b, c)

	for _, p := range []*slotPod{a, c} {
		check(t, os.Remove(n.manifest(p.name)))
	}
	eventually(t, "the pods' ports are gone", func() bool { return len(n.attachments()) == 1 })
	check(t, b.del(list))
	n.nothingLeft(b)
	check(t, os.Remove(n.manifest("millrace")))
	eventually(t, "the switch has ended", func() bool { return n.process("run") == 0 })
}

// TestKubeletAndMultus is all of it together: a pod with an annotation and a slot, which kubelet, containerd and Multus make, has a
// socket's directory of its own and is told of it in both ways, and its DPDK application answers pings.
func TestKubeletAndMultus(t *testing.T) {
	multus := os.Getenv(multusVariable)
	if multus == "" {
		t.Skip("needs a built Multus: its path in " + multusVariable)
	}
	n := newKubeNode(t)
	peers.Need(t, "dpdk-testpmd")
	api := newAPIServer(t)
	check(t, os.Symlink(multus, "/opt/cni/bin/multus"))
	conf, err := json.Marshal(fields{"cniVersion": "1.0.0", "name": "multus", "plugins": []any{fields{
		"cniVersion": "1.0.0", "name": "multus", "type": "multus", "kubeconfig": api.kubeconfig(t, n.dir), "delegates": []any{json.RawMessage(n.network("1.0.0", attach.TAP, nil).Bytes)},
	}}})
	check(t, err)
	n.startContainerd(t, conf, n.images(t)...)
	n.startKubelet(t)
	n.runPod(t, n.switchPod(t))
	eventually(t, "kubelet has the switch running", func() bool { return n.status() == nil })
	n.offered(t)
	api.addNetwork("fast", slotResource, string(n.conf(n.network("1.0.0", attach.VhostUser, fields{"capabilities": fields{"CNIDeviceInfoFile": true, "deviceID": true}}))))
	const name, uid = "pod-m", "0958c887-1b32-4c2f-9a3e-0123456789ab"
	api.addPod(name+"-node", uid, map[string]string{"k8s.v1.cni.cncf.io/networks": "fast"})
	p := n.startPod(t, name, uid)
	status, socket := statusOf(t, api.annotations(name+"-node"), "default/fast"), "/run/millrace/"+p.slot+"/vhost.sock"
	if want := `{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"` + socket + `"}}`; string(status.Info) != want || status.Interface != "net1" {
		t.Errorf("network-status %+v with device-info %s, want %s", status, status.Info, want)
	}
	dir := filepath.Dir(p.file)
	info := readInfo(t, dir)
	if info.Socket != socket || info.Role != "server" || info.MAC != status.MAC {
		t.Errorf("the application is told %+v", info)
	}
	plain, list := n.newPod(), n.network("1.0.0", attach.TAP, nil)
	plain.mustAdd(list)
	app := n.startApplication(podUser, "", dir, info)
	to := netip.MustParseAddr(status.IPs[0])
	if err := plain.Ping(t, to, 1000, patience); err != nil {
		t.Errorf("%v\n%s", err, app.out)
	}
	n.reaches(t, plain, p)
	app.stop()
	check(t, os.Remove(n.manifest(name)))
	eventually(t, "the pod's ports are gone", func() bool { return len(n.attachments()) == 1 })
	check(t, plain.del(list))
	n.nothingLeft(plain)
}

// A kubeNode is a node with a container runtime.
type kubeNode struct {
	*node
	kubelet string // the program
}

// newKubeNode is a node for kubelet, where there is one. All that kubelet has of a host is the test's.
func newKubeNode(t *testing.T) *kubeNode {
	t.Helper()
	program := os.Getenv(kubeletVariable)
	if program == "" {
		t.Skip("needs a built kubelet: its path in " + kubeletVariable)
	}
	for _, name := range []string{"containerd", "ctr", "runc"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s: apt-get install containerd runc", name)
		}
	}
	peers.Need(t, "busybox", "root")
	n := bareNode(t)
	for _, dir := range []string{"/run", "/var/lib", "/var/log", "/opt"} {
		bare(t, dir)
		cover(t, dir)
		check(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	}
	n.run, n.pods = "/run/millrace", "/run/netns"
	for _, dir := range []string{"/opt/cni/bin", n.pods, filepath.Join(n.dir, "manifests")} {
		check(t, os.MkdirAll(dir, 0o755))
	}
	for _, name := range []string{"host-local", "loopback"} {
		check(t, os.Symlink(filepath.Join(ipamDir, name), filepath.Join("/opt/cni/bin", name)))
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("loopback: %v: %s", err, out)
	}
	settings(t, n.dir)
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin", ipamDir}, filepath.Join(n.dir, "cache"), nil)
	return &kubeNode{n, program}
}

// images are those of its pods.
func (n *kubeNode) images(t *testing.T) []image {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	check(t, err)
	shell := image{name: shellImage, files: map[string]string{}, entry: []string{"/bin/sleep", "100000"}}
	for _, name := range []string{"sh", "sleep", "ip", "id", "mv"} {
		shell.files["bin/"+name] = busybox
	}
	ours := image{name: switchImage, files: map[string]string{}, entry: []string{"/bin/millrace"}}
	for _, name := range []string{"millrace", "millrace-cni"} {
		ours.files["bin/"+name] = filepath.Join(n.bin, name)
	}
	return []image{shell, ours}
}

// bare takes away what is mounted below a directory: containerd takes the table of mounts by its word, hidden ones and all.
func bare(t *testing.T, dir string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

const switchImage = "millrace.test/millrace:1"

// settings has kubelet find the settings of the kernel that it wants. It would change them for all of the machine.
func settings(t *testing.T, dir string) {
	t.Helper()
	for name, value := range map[string]string{"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1", "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"} {
		file, path := filepath.Join(dir, filepath.Base(name)), filepath.Join("/proc/sys", name)
		check(t, os.WriteFile(file, []byte(value), 0o644))
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue // this kernel has none
			}
			t.Fatalf("cover %s: %v", path, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	}
}

// startKubelet starts kubelet without an API server.
func (n *kubeNode) startKubelet(t *testing.T) *daemon {
	t.Helper()
	conf, err := json.Marshal(fields{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"staticPodPath": filepath.Join(n.dir, "manifests"), "fileCheckFrequency": "1s", "syncFrequency": "5s", "podLogsDir": "/var/log/pods",
		"containerRuntimeEndpoint": "unix://" + criSocket, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": []string{"none"},
		"failSwapOn": false, "makeIPTablesUtilChains": false, "protectKernelDefaults": true, "localStorageCapacityIsolation": false,
		"volumePluginDir": filepath.Join(n.dir, "volume-plugins"), "imageGCHighThresholdPercent": 100,
		"evictionHard":   fields{"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%"},
		"authentication": fields{"anonymous": fields{"enabled": true}, "webhook": fields{"enabled": false}}, "authorization": fields{"mode": "AlwaysAllow"},
	})
	check(t, err)
	path := filepath.Join(n.dir, "kubelet.json")
	check(t, os.WriteFile(path, conf, 0o644))
	return n.startDaemon(t, n.kubelet, "--config", path, "--hostname-override", "node", "--node-labels", "millrace.dev/switch=yes", "--v", "2")
}

func (n *kubeNode) manifest(name string) string {
	return filepath.Join(n.dir, "manifests", name+".json")
}

// runPod has kubelet run a pod. It ends a pod that a failed test leaves.
func (n *kubeNode) runPod(t *testing.T, p *corev1.Pod) {
	t.Helper()
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	p.Namespace = "default"
	text, err := json.Marshal(p)
	check(t, err)
	hidden := filepath.Join(n.dir, p.Name+".json")
	check(t, os.WriteFile(hidden, text, 0o644))
	check(t, os.Rename(hidden, n.manifest(p.Name)))
}

// switchPod is the DaemonSet's pod, but for what names the API server.
func (n *kubeNode) switchPod(t *testing.T) *corev1.Pod {
	t.Helper()
	template := deployment(t)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "millrace", Labels: template.Labels}, Spec: template.Spec}
	p.Spec.ServiceAccountName = ""
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			list[i].Image, list[i].ImagePullPolicy = switchImage, corev1.PullNever
		}
	}
	c := container(t, &p.Spec, "switch")
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == c.Name {
			p.Spec.Containers[i].Args = append(c.Args, n.arguments()[3:]...) // workers where this machine has CPUs for tests
		}
	}
	return p
}

// podResourcesOf asks kubelet, once it answers.
func podResourcesOf[R any](ask func(context.Context, podapi.PodResourcesListerClient) (R, error)) (R, error) {
	var none R
	c, err := grpc.NewClient("unix:/var/lib/kubelet/pod-resources/kubelet.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return none, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return ask(ctx, podapi.NewPodResourcesListerClient(c))
}

const slotResource = slots.Domain + "/br0"

// offered waits until kubelet has all of the device plugin's slots to give.
func (n *kubeNode) offered(t *testing.T) {
	t.Helper()
	eventually(t, "kubelet has slots", func() bool {
		r, err := podResourcesOf(func(ctx context.Context, c podapi.PodResourcesListerClient) (*podapi.AllocatableResourcesResponse, error) {
			return c.GetAllocatableResources(ctx, &podapi.AllocatableResourcesRequest{})
		})
		if err != nil {
			return false
		}
		count := 0
		for _, d := range r.GetDevices() {
			if d.GetResourceName() == slotResource {
				count += len(d.GetDeviceIds())
			}
		}
		return count == slots.DefaultSlots
	})
}

// deviceOf is the slot that a pod has, by kubelet's word.
func (n *kubeNode) deviceOf(pod string) string {
	r, err := podResourcesOf(func(ctx context.Context, c podapi.PodResourcesListerClient) (*podapi.ListPodResourcesResponse, error) {
		return c.List(ctx, &podapi.ListPodResourcesRequest{})
	})
	if err != nil {
		return ""
	}
	for _, p := range r.GetPodResources() {
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				if p.GetName() == pod+"-node" && d.GetResourceName() == slotResource {
					return strings.Join(d.GetDeviceIds(), ",")
				}
			}
		}
	}
	return ""
}

// A slotPod is a pod that has a slot.
type slotPod struct {
	name, slot string
	addr       netip.Addr
	file       string // that its process has made in the slot, on the host
}

// startPod has kubelet run a pod of an ordinary user with a slot, whose process writes into it what it has.
func (n *kubeNode) startPod(t *testing.T, name, uid string) *slotPod {
	t.Helper()
	one, user, grace := resource.MustParse("1"), int64(podUser), int64(1)
	n.runPod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name: "c", Image: shellImage, ImagePullPolicy: corev1.PullNever,
			Command:         []string{"/bin/sh", "-c", "d=/run/millrace/$MILLRACE_SLOTS; { id -u; ip -o addr show dev eth0; } > $d/seen.new && mv $d/seen.new $d/seen && exec sleep 100000"},
			Resources:       corev1.ResourceRequirements{Limits: corev1.ResourceList{slotResource: one}},
			SecurityContext: &corev1.SecurityContext{RunAsUser: &user, RunAsGroup: &user},
		}},
	}})
	p := &slotPod{name: name}
	eventually(t, "kubelet has given "+name+" a slot", func() bool { p.slot = n.deviceOf(name); return p.slot != "" })
	p.file = filepath.Join(n.run, "slots", p.slot, seenName)
	seen := ""
	eventually(t, name+" has written into its slot", func() bool { text, err := os.ReadFile(p.file); seen = string(text); return err == nil })
	for word := range strings.FieldsSeq(seen) {
		if prefix, err := netip.ParsePrefix(word); err == nil && prefix.Addr().Is4() {
			p.addr = prefix.Addr()
		}
	}
	if !strings.HasPrefix(seen, fmt.Sprint(podUser, "\n")) || !p.addr.IsValid() {
		t.Fatalf("%s sees %s", name, seen)
	}
	have := n.attachments()
	if !slices.ContainsFunc(have, func(at attach.Attachment) bool {
		return at.Pod.Name == name+"-node" && at.Pod.UID == uid && at.IfName == "eth0"
	}) {
		t.Errorf("the agent knows %+v", have)
	}
	return p
}

// reaches fails the test unless a pod of the test reaches one of kubelet's.
func (n *kubeNode) reaches(t *testing.T, from *pod, to *slotPod) {
	t.Helper()
	if err := from.Ping(t, to.addr, 1000, patience); err != nil {
		t.Errorf("%s: %v", to.name, err)
	}
}

// survives kills a process of the switch's pod, waits until kubelet has started another one, and looks whether pods have what they
// had.
func (n *kubeNode) survives(t *testing.T, command string, a *slotPod, from *pod) {
	t.Helper()
	old := n.process(command)
	if old == 0 {
		t.Fatalf("no process millrace %s", command)
	}
	killProcess(t, old)
	eventually(t, "kubelet has started another millrace "+command, func() bool { p := n.process(command); return p != 0 && p != old && n.status() == nil })
	if _, err := os.Stat(a.file); err != nil {
		t.Errorf("%s was killed: %v", command, err)
	}
	n.reaches(t, from, a)
}
