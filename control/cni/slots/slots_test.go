package slots

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kubelet "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const patience = time.Minute

// A fakeKubelet speaks kubelet's side of the protocol, with its own messages.
type fakeKubelet struct {
	kubelet.UnimplementedRegistrationServer
	dir        string
	server     *grpc.Server
	registered chan *kubelet.RegisterRequest
}

// Register implements the protocol.
func (k *fakeKubelet) Register(_ context.Context, r *kubelet.RegisterRequest) (*kubelet.Empty, error) {
	k.registered <- r
	return &kubelet.Empty{}, nil
}

// startKubelet starts a kubelet as it does: all sockets in its directory go first.
func startKubelet(t *testing.T, dir string) *fakeKubelet {
	t.Helper()
	names, err := filepath.Glob(dir + "/*.sock")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		_ = os.Remove(n)
	}
	k := &fakeKubelet{dir: dir, server: grpc.NewServer(), registered: make(chan *kubelet.RegisterRequest, 10)}
	kubelet.RegisterRegistrationServer(k.server, k)
	l, err := net.Listen("unix", filepath.Join(dir, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = k.server.Serve(l) }()
	t.Cleanup(k.server.Stop)
	return k
}

// plugin waits for a plugin and connects to it.
func (k *fakeKubelet) plugin(t *testing.T) kubelet.DevicePluginClient {
	t.Helper()
	select {
	case r := <-k.registered:
		if r.GetVersion() != "v1beta1" || r.GetResourceName() != "millrace.dev/br0" {
			t.Fatalf("registered as %v", r)
		}
		c, err := grpc.NewClient("unix:"+filepath.Join(k.dir, r.GetEndpoint()), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return kubelet.NewDevicePluginClient(c)
	case <-time.After(patience):
		t.Fatalf("no plugin has registered in %v", patience)
	}
	return nil
}

// TestKubelet is the plugin's life beside kubelet: it registers, tells of its slots and
// of their health, prepares those that a container gets, and does all of it again for
// each new kubelet, and when its socket is removed.
func TestKubelet(t *testing.T) {
	dir, err := os.MkdirTemp("", "mrk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run, info := filepath.Join(dir, "run"), filepath.Join(dir, "info")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	var sick atomic.Bool
	p, err := New(Config{RunDir: run, Bridge: "br0", Slots: 3, KubeletDir: dir, InfoDir: info, Look: 10 * time.Millisecond, Health: func(context.Context) error {
		if sick.Load() {
			return errors.New("the switch is not running")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }() // before kubelet
	for life := range 3 {
		k := startKubelet(t, dir)
		c := k.plugin(t)
		list, err := c.ListAndWatch(t.Context(), &kubelet.Empty{})
		if err != nil {
			t.Fatal(err)
		}
		awaitHealth(t, list, 3, kubelet.Healthy)
		sick.Store(true)
		awaitHealth(t, list, 3, kubelet.Unhealthy)
		sick.Store(false)
		awaitHealth(t, list, 3, kubelet.Healthy)
		allocate(t, c, run, info)
		if life == 0 {
			_ = os.Remove(filepath.Join(dir, "millrace-br0.sock"))
			k.plugin(t)
		}
		k.server.Stop()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(info + "/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestSickAtFirst: a plugin whose switch is not running says so in its first list; kubelet would let pods in meanwhile.
func TestSickAtFirst(t *testing.T) {
	dir, err := os.MkdirTemp("", "mrk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	k := startKubelet(t, dir)
	p, err := New(Config{RunDir: dir, Bridge: "br0", Slots: 3, KubeletDir: dir, InfoDir: dir, Look: time.Hour, Health: func(context.Context) error { return errors.New("the switch is not running") }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	list, err := k.plugin(t).ListAndWatch(t.Context(), &kubelet.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := list.Recv(); err != nil || len(r.GetDevices()) != 3 || r.GetDevices()[0].GetHealth() != kubelet.Unhealthy {
		t.Errorf("first list %v, %v", r, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// awaitHealth reads the stream until n devices are as healthy as h says.
func awaitHealth(t *testing.T, list grpc.ServerStreamingClient[kubelet.ListAndWatchResponse], n int, h string) {
	t.Helper()
	for {
		r, err := list.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(r.GetDevices()) != n {
			t.Fatalf("%d devices", len(r.GetDevices()))
		}
		if r.GetDevices()[0].GetHealth() == h {
			return
		}
	}
}

// allocate gives a container two slots.
func allocate(t *testing.T, c kubelet.DevicePluginClient, run, info string) {
	t.Helper()
	old := filepath.Join(run, "slots/br0-1/secret-of-the-last-pod")
	_ = os.WriteFile(old, nil, 0o600) // in the first life there is no directory yet
	r, err := c.Allocate(t.Context(), &kubelet.AllocateRequest{ContainerRequests: []*kubelet.ContainerAllocateRequest{{DevicesIds: []string{"br0-1", "br0-2"}}}})
	if err != nil {
		t.Fatal(err)
	}
	got := r.GetContainerResponses()[0]
	if len(got.GetMounts()) != 2 || got.GetMounts()[0].GetContainerPath() != "/run/millrace/br0-1" || got.GetEnvs()["MILLRACE_SLOTS"] != "br0-1,br0-2" {
		t.Errorf("allocated %v", got)
	}
	for _, m := range got.GetMounts() {
		if st, err := os.Stat(m.GetHostPath()); err != nil || !st.IsDir() || st.Mode().Perm() != 0o777 {
			t.Errorf("%s: %v, %v", m.GetHostPath(), st, err)
		}
	}
	if st, err := os.Stat(filepath.Join(run, "slots")); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("slots are open to others: %v, %v", st, err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("a pod finds what another one has left")
	}
	text, err := os.ReadFile(filepath.Join(info, "millrace.dev-br0-br0-1-device.json"))
	var d map[string]any
	if err := errors.Join(err, json.Unmarshal(text, &d)); err != nil || d["type"] != "vhost-user" || d["version"] != "1.1.0" || d["vhost-user"].(map[string]any)["path"] != "/run/millrace/br0-1/vhost.sock" || d["vhost-user"].(map[string]any)["mode"] != "server" {
		t.Errorf("device-info %s: %v", text, err)
	}
	for _, id := range []string{"../x", "br0-3", "br1-0", ""} {
		if _, err := c.Allocate(t.Context(), &kubelet.AllocateRequest{ContainerRequests: []*kubelet.ContainerAllocateRequest{{DevicesIds: []string{id}}}}); err == nil {
			t.Errorf("slot %q was allocated", id)
		}
	}
}

// TestBadPlugin: what cannot be a resource is refused.
func TestBadPlugin(t *testing.T) {
	for _, c := range []Config{{}, {Bridge: "a/b"}, {Bridge: "-a"}, {Bridge: "a b"}, {Bridge: "br0", Slots: -1}, {Bridge: "br0", Slots: SlotsMax + 1}, {Bridge: "br0", Role: "master"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
