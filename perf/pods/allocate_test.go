package pods

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kubelet "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
	"millrace/perf/peers"
)

// allocateSteps are the system calls by which the device plugin changes something or talks to somebody.
const allocateSteps = "connect,sendto,sendmsg,write,mkdirat,renameat,unlinkat,fchmod,fchmodat"

// A registry is kubelet's side of the registration of device plugins.
type registry struct {
	kubelet.UnimplementedRegistrationServer
	dir  string
	seen chan string // endpoints of those that have registered
}

// Register implements the protocol.
func (r *registry) Register(_ context.Context, q *kubelet.RegisterRequest) (*kubelet.Empty, error) {
	r.seen <- q.GetEndpoint()
	return &kubelet.Empty{}, nil
}

// newRegistry listens where the device plugin looks for kubelet.
func (n *node) newRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{dir: filepath.Join(n.dir, "plugins"), seen: make(chan string, 100)}
	check(t, os.MkdirAll(r.dir, 0o755))
	l, err := net.Listen("unix", filepath.Join(r.dir, "kubelet.sock"))
	check(t, err)
	s := grpc.NewServer()
	kubelet.RegisterRegistrationServer(s, r)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return r
}

// startPlugin starts a device plugin, and connects to it when it has registered.
func (n *node) startPlugin(t *testing.T, r *registry, info string) (*daemon, kubelet.DevicePluginClient) {
	t.Helper()
	d := n.startDaemon(t, filepath.Join(n.bin, "millrace"), "device-plugin", "--run-dir", n.run, "--bridge", "br0", "--kubelet-dir", r.dir, "--device-info-dir", info)
	c, err := grpc.NewClient("unix:"+filepath.Join(r.dir, <-r.seen), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return d, kubelet.NewDevicePluginClient(c)
}

// allocate gives a container a slot, as kubelet does.
func allocate(t *testing.T, c kubelet.DevicePluginClient, id string) (dir string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := c.Allocate(ctx, &kubelet.AllocateRequest{ContainerRequests: []*kubelet.ContainerAllocateRequest{{DevicesIds: []string{id}}}})
	if err != nil {
		return "", err
	}
	return r.GetContainerResponses()[0].GetMounts()[0].GetHostPath(), nil
}

// TestAllocateSteps kills the device plugin at each step of Allocate, and when Allocate has succeeded before its pod starts. Kubelet asks
// the next one again where it had no answer, and asks nobody where it had one. The pod's application finds an empty directory and then its
// socket, and nothing but that directory is left.
func TestAllocateSteps(t *testing.T) {
	peers.Need(t, "strace", "dpdk-testpmd")
	n := newNode(t)
	r, info := n.newRegistry(t), filepath.Join(n.dir, "devinfo")
	const id = "br0-1"
	file := filepath.Join(info, "millrace.dev-br0-"+id+"-device.json")
	list := n.network("1.0.0", attach.VhostUser, fields{"deviceID": id, "runtimeConfig": fields{"CNIDeviceInfoFile": filepath.Join(n.dir, "cni-device.json")}})
	plain, tap := n.newPod(), n.network("1.0.0", attach.TAP, nil)
	plain.mustAdd(tap)
	killed := 0
	for step, missed := 1, 0; missed < 2; step++ { // how many a thread makes is chance
		check(t, agent.MakeSlot(n.run, id))
		check(t, os.WriteFile(filepath.Join(n.run, "slots", id, "secret-of-the-last-pod"), nil, 0o600))
		d, c := n.startPlugin(t, r, info)
		stop := n.killAt("device-plugin", allocateSteps, step)
		dir, err := allocate(t, c, id)
		if stop() {
			killed++
		} else {
			missed++
		}
		d.kill()
		d, c = n.startPlugin(t, r, info)
		if err != nil {
			dir, err = allocate(t, c, id)
			check(t, err)
		}
		if found, err := os.ReadDir(dir); err != nil || len(found) > 0 {
			t.Errorf("killed at step %d: the pod finds %v, %v", step, found, err)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("killed at step %d: Multus finds nothing: %v", step, err)
		}
		n.usesSlot(t, plain, n.newPod(), list, dir, missed > 0 || step == 1)
		_ = d.cmd.Process.Signal(os.Interrupt)
		<-d.done
		if left, _ := filepath.Glob(info + "/*"); len(left) > 0 {
			t.Errorf("killed at step %d: left: %v", step, left)
		}
		if t.Failed() {
			t.Fatalf("killed at step %d", step)
		}
	}
	t.Logf("killed at %d steps", killed)
	check(t, plain.del(tap))
	n.nothingLeft(plain)
}

// usesSlot attaches a pod to what it was allocated, has its application answer if it shall, and detaches it.
func (n *node) usesSlot(t *testing.T, plain, p *pod, list *libcni.NetworkConfigList, dir string, application bool) {
	t.Helper()
	r := p.mustAdd(list)
	check(t, p.check(list))
	if application {
		app := n.startApplication(podUser, p.key().Port(), dir, readInfo(t, dir))
		to, _ := netip.AddrFromSlice(r.IPs[0].Address.IP)
		if err := plain.Ping(t, to.Unmap(), 1000, patience); err != nil {
			t.Errorf("%v\n%s", err, app.out)
		}
		app.stop()
	}
	check(t, p.del(list))
	n.nothingOf(p)
	n.nothingLeftBut(plain, p)
}
