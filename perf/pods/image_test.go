package pods

import (
	"context"
	"debug/elf"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kubelet "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"millrace/control/cni/attach"
	"millrace/perf/peers"
)

// TestImage builds the image as deploy/Containerfile says, and runs what the DaemonSet runs of it, with the rights that the DaemonSet gives
// it: the plugin is installed, the device plugin empties slots, and pods with a device of each kind and an
// application with a socket reach each other.
func TestImage(t *testing.T) {
	for _, name := range []string{"buildah", "runc"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s: apt-get install %s", name, name)
		}
	}
	peers.Need(t, "busybox", "dpdk-testpmd", "root")
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil || st.Flags&unix.ST_RDONLY != 0 {
		t.Skip("needs control groups that can be made: not in a container without rights")
	}
	n := bareNode(t)
	root := n.buildImage(t)
	for _, dir := range []string{"/run", "/var/lib", "/opt"} {
		cover(t, dir)
	}
	shared(t, "/run/netns")
	n.run, n.pods = "/run/millrace", "/run/netns"
	spec := &deployment(t).Spec
	install := n.runContainer(t, root, spec, container(t, spec, "install"))
	if out, err := exec.Command(install[0], install[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("container install: %v\n%s", err, out)
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin", ipamDir}, filepath.Join(n.dir, "cache"), nil)
	c := container(t, spec, "switch")
	c.Args = append(c.Args, n.arguments()[3:]...) // workers where this machine has CPUs for tests
	n.boot = n.runContainer(t, root, spec, c)
	n.start()
	n.usesImage(t)
	n.emptiesSlots(t, n.runContainer(t, root, spec, container(t, spec, "device-plugin")))
}

// usesImage has pods of each kind talk through the switch in its container.
func (n *node) usesImage(t *testing.T) {
	var pods []*pod
	var lists []*libcni.NetworkConfigList
	var to []netip.Addr
	for _, more := range []fields{{"kind": attach.TAP}, {"kind": attach.Veth}, {"kind": attach.VhostUser, "deviceID": "br0-5", "socket": fields{"user": podUser, "group": podUser}}} {
		p, list := n.newPod(), n.network("1.0.0", more["kind"].(string), more)
		r := p.mustAdd(list)
		ip, _ := netip.AddrFromSlice(r.IPs[0].Address.IP)
		pods, lists, to = append(pods, p), append(lists, list), append(to, ip.Unmap())
		if more["kind"] == attach.VhostUser {
			dir := filepath.Dir(r.Interfaces[0].SocketPath)
			defer n.startApplication(podUser, p.key().Port(), dir, readInfo(t, dir)).stop()
		}
	}
	for i, p := range pods[:2] {
		for j := range to {
			if err := p.Ping(t, to[j], 1000, patience); i != j && err != nil {
				t.Error(err)
			}
		}
	}
	for i, p := range pods {
		check(t, p.check(lists[i]))
		check(t, p.del(lists[i]))
	}
	n.nothingLeft(pods...)
}

// emptiesSlots runs the device plugin's container, and looks whether it can do what it is for: a slot has a
// directory of another user's, which is gone when the next pod has it.
func (n *node) emptiesSlots(t *testing.T, command []string) {
	t.Helper()
	registered := make(chan *kubelet.RegisterRequest, 10)
	l, err := net.Listen("unix", kubelet.KubeletSocket)
	check(t, err)
	s := grpc.NewServer()
	kubelet.RegisterRegistrationServer(s, registration{made: registered})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	cmd := exec.Command(command[0], command[1:]...)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Signal(unix.SIGTERM); _ = cmd.Wait() })
	r := <-registered
	c, err := grpc.NewClient("unix:"+filepath.Join(kubelet.DevicePluginPath, r.GetEndpoint()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 2 {
		reply, err := kubelet.NewDevicePluginClient(c).Allocate(ctx, &kubelet.AllocateRequest{ContainerRequests: []*kubelet.ContainerAllocateRequest{{DevicesIds: []string{"br0-6"}}}})
		check(t, err)
		dir := reply.GetContainerResponses()[0].GetMounts()[0].GetHostPath()
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("slot %s has %v, %v", dir, left, err)
		}
		theirs := filepath.Join(dir, "theirs")
		check(t, os.Mkdir(theirs, 0o700))
		check(t, os.WriteFile(filepath.Join(theirs, "file"), nil, 0o600))
		check(t, os.Chown(theirs, podUser, podUser))
	}
}

// A registration is kubelet's side of the protocol.
type registration struct {
	kubelet.UnimplementedRegistrationServer
	made chan<- *kubelet.RegisterRequest
}

// Register implements the protocol.
func (r registration) Register(_ context.Context, request *kubelet.RegisterRequest) (*kubelet.Empty, error) {
	r.made <- request
	return &kubelet.Empty{}, nil
}

// shared makes a directory in which mounts come to containers that have it already.
func shared(t *testing.T, dir string) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	check(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	check(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// goImage is the image that the Containerfile begins with, as far as it needs it: a shell. Go, its modules and what it has
// compiled already are mounted, so that neither a registry nor half an hour is needed.
const goImage = `FROM scratch
COPY busybox /bin/sh
COPY empty /tmp/
ENV PATH=/usr/local/go/bin:/bin HOME=/tmp GOTOOLCHAIN=local GOMODCACHE=/modules GOCACHE=/compiled GOPROXY=%s GOSUMDB=off
`

// buildImage builds the image and unpacks it. Modules that are not there come by the network of the test binary's parent.
func (n *node) buildImage(t *testing.T) (root string) {
	t.Helper()
	store := filepath.Join(n.dir, "images")
	buildah := func(command string, args ...string) string {
		t.Helper()
		args = append([]string{"--net=/proc/" + fmt.Sprint(os.Getppid()) + "/ns/net", "--", "buildah", "--root", store, "--runroot", store + ".run", "--storage-driver", "vfs", command}, args...)
		cmd := exec.Command("nsenter", args...)
		var log strings.Builder
		cmd.Stderr = &log
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("buildah %s: %v\n%s%s", command, err, out, log.String())
		}
		return strings.TrimSpace(string(out))
	}
	goEnv := func(name string) string {
		out, err := exec.Command("go", "env", name).Output()
		check(t, err)
		return strings.TrimSpace(string(out))
	}
	base := filepath.Join(n.dir, "base")
	check(t, os.MkdirAll(filepath.Join(base, "empty", "x"), 0o755))
	busybox, err := exec.LookPath("busybox")
	check(t, err)
	text, err := os.ReadFile(busybox)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(base, "busybox"), text, 0o755))
	check(t, os.WriteFile(filepath.Join(base, "Containerfile"), fmt.Appendf(nil, goImage, goEnv("GOPROXY")), 0o644))
	top, err := filepath.Abs("../..")
	check(t, err)
	buildah("build", "--isolation", "chroot", "-t", firstImage(t, filepath.Join(top, "deploy/Containerfile")), base)
	args := []string{"--isolation", "chroot", "--pull-never", "--build-arg", "VERSION=test", "-t", "millrace:test",
		"-v", goEnv("GOROOT") + ":/usr/local/go:ro", "-v", goEnv("GOMODCACHE") + ":/modules", "-v", goEnv("GOCACHE") + ":/compiled"}
	if _, err := os.Stat("/etc/ssl/certs"); err == nil {
		args = append(args, "-v", "/etc/ssl/certs:/etc/ssl/certs:ro")
	}
	buildah("build", append(args, "-f", filepath.Join(top, "deploy/Containerfile"), top)...)
	if entry := buildah("inspect", "--type", "image", "--format", "{{.OCIv1.Config.Entrypoint}}", "millrace:test"); entry != "[/bin/millrace]" {
		t.Errorf("entry point %s", entry)
	}
	root = buildah("mount", buildah("from", "--pull-never", "millrace:test"))
	staticOnly(t, root)
	return root
}

// firstImage is the image that a Containerfile begins with.
func firstImage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "FROM" {
			return f[1]
		}
	}
	t.Fatalf("%s begins with no image", path)
	return ""
}

// staticOnly fails the test unless a directory has the two programs and nothing else, and they need nothing else.
func staticOnly(t *testing.T, root string) {
	t.Helper()
	var files []string
	check(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, root))
		}
		return err
	}))
	if strings.Join(files, " ") != "/bin/millrace /bin/millrace-cni" {
		t.Errorf("the image has %v", files)
	}
	for _, name := range files {
		f, err := elf.Open(filepath.Join(root, name))
		check(t, err)
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is not static", name)
			}
		}
		f.Close()
	}
}
