package pods

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/waittest"
)

// A daemon is a program that runs beside the test, and ends with it.
type daemon struct {
	cmd  *exec.Cmd
	log  *waittest.Buffer
	done chan struct{}
}

// startDaemon starts a program.
func (n *node) startDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := &daemon{cmd: exec.Command(args[0], args[1:]...), log: &waittest.Buffer{}}
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.done = n.startBeside(d.cmd, syscall.SIGKILL)
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			log := d.log.String()
			t.Logf("%s logged last:\n%s", filepath.Base(args[0]), log[max(0, len(log)-8000):])
		}
	})
	return d
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// criSocket is where containerd is spoken to.
const criSocket = "/run/containerd/containerd.sock"

// containerdConf is containerd's configuration: all of its own is below one directory.
const containerdConf = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "` + criSocket + `"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + shellImage + `"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "%[1]s/net.d"
`

// startContainerd starts a container runtime with one network for pods, and brings it images. Its containers go with the test.
func (n *node) startContainerd(t *testing.T, network []byte, images ...image) {
	t.Helper()
	dir := filepath.Join(n.dir, "containerd")
	check(t, os.MkdirAll(filepath.Join(dir, "net.d"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "net.d", "10-fast.conflist"), network, 0o644))
	conf := filepath.Join(dir, "config.toml")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, containerdConf, dir), 0o644))
	t.Cleanup(func() { endShims(); bare(t, dir) })
	n.startDaemon(t, "containerd", "--config", conf)
	t.Cleanup(func() { // before containerd ends
		for id := range strings.FieldsSeq(ctr("tasks", "ls", "-q")) {
			ctr("tasks", "rm", "--force", id)
		}
	})
	eventually(t, "containerd answers", func() bool { return exec.Command("ctr", "-a", criSocket, "version").Run() == nil })
	for i, image := range images {
		path := filepath.Join(dir, fmt.Sprint(i, ".tar"))
		check(t, os.WriteFile(path, image.archive(t), 0o644))
		if out := ctr("images", "import", path); !strings.Contains(out, image.name) {
			t.Fatalf("import of %s: %s", image.name, out)
		}
	}
}

// ctr runs containerd's own client, for what kubelet has there.
func ctr(args ...string) string {
	out, _ := exec.Command("ctr", append([]string{"-a", criSocket, "-n", "k8s.io"}, args...)...).CombinedOutput()
	return string(out)
}

// endShims ends the processes above containers that containerd has left in our mount namespace, where nobody else starts any.
func endShims() {
	ours, _ := os.Readlink("/proc/self/ns/mnt")
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, err := os.ReadFile(name)
		theirs, _ := os.Readlink(filepath.Join(filepath.Dir(name), "ns/mnt"))
		if err == nil && theirs == ours && bytes.Contains(line, []byte("containerd-shim")) {
			pid := 0
			_, _ = fmt.Sscanf(name, "/proc/%d/", &pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io")
	for _, dir := range append(groups, "/sys/fs/cgroup/k8s.io") {
		_ = os.Remove(dir) // only if nothing is in it
	}
}

// An image is a container image that consists of some programs.
type image struct {
	name  string
	files map[string]string // path in the image: of a file here
	entry []string
}

// shellImage is an image with busybox, which sleeps where nothing else is said.
const shellImage = "millrace.test/shell:1"

// archive makes the image as a file of the OCI image layout.
func (i image) archive(t *testing.T) []byte {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, from := range i.files {
		text, err := os.ReadFile(from)
		check(t, err)
		addFile(t, w, path, text, 0o755)
	}
	check(t, w.Close())
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	blob := func(kind string, text []byte) fields {
		digest := fmt.Sprintf("%x", sha256.Sum256(text))
		files["blobs/sha256/"+digest] = text
		return fields{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(text)}
	}
	object := func(v fields) []byte {
		text, err := json.Marshal(v)
		check(t, err)
		return text
	}
	content := blob("layer.v1.tar", layer.Bytes())
	config := blob("config.v1+json", object(fields{"architecture": runtime.GOARCH, "os": "linux", "config": fields{"Entrypoint": i.entry, "Env": []string{"PATH=/bin"}},
		"rootfs": fields{"type": "layers", "diff_ids": []any{content["digest"]}}}))
	manifest := blob("manifest.v1+json", object(fields{"schemaVersion": 2, "config": config, "layers": []any{content}}))
	manifest["annotations"] = fields{"io.containerd.image.name": i.name}
	files["index.json"] = object(fields{"schemaVersion": 2, "manifests": []any{manifest}})
	var out bytes.Buffer
	w = tar.NewWriter(&out)
	for path, text := range files {
		addFile(t, w, path, text, 0o644)
	}
	check(t, w.Close())
	return out.Bytes()
}

func addFile(t *testing.T, w *tar.Writer, path string, text []byte, mode int64) {
	t.Helper()
	check(t, w.WriteHeader(&tar.Header{Name: path, Mode: mode, Size: int64(len(text)), Typeflag: tar.TypeReg}))
	_, err := w.Write(text)
	check(t, err)
}
