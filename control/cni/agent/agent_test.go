package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/control/cni/attach"
)

// TestGone: a pod is gone if the host was started anew, or if its namespace, which was
// seen, is not there; what cannot be seen is no reason.
func TestGone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ours := inodeOf("/proc/self/ns/net")
	if ours == 0 {
		t.Skip("needs /proc")
	}
	for _, tt := range []struct {
		name, netns, boot string
		seen              uint64
		gone              bool
	}{
		{"there", "/proc/self/ns/net", "b", ours, false},
		{"another one at its path", "/proc/self/ns/net", "b", ours + 1, true},
		{"path is gone", filepath.Join(dir, "missing"), "b", 7, true},
		{"never seen", filepath.Join(dir, "missing"), "b", 0, false},
		{"mount does not get here", file, "b", 7, false},
		{"directory does not get here", filepath.Join(dir, "no", "such"), "b", 7, false},
		{"process is gone", "/proc/4294967295/ns/net", "b", 7, true},
		{"another boot", "/proc/self/ns/net", "a", ours, true},
		{"boot not known", "/proc/self/ns/net", "", ours, false},
	} {
		r := &record{netns: tt.seen, boot: tt.boot, Attachment: attach.Attachment{Netns: tt.netns}}
		if got := r.gone("b"); got != tt.gone {
			t.Errorf("%s: gone %v, want %v", tt.name, got, tt.gone)
		}
	}
}

// TestSameNetns: a path at which we see another namespace than the plugin is refused; what we do not see is not.
func TestSameNetns(t *testing.T) {
	const path = "/proc/self/ns/net"
	ours := inodeOf(path)
	if ours == 0 {
		t.Skip("needs /proc")
	}
	for _, tt := range []struct {
		path  string
		inode uint64
		good  bool
	}{{path, ours, true}, {path, 0, true}, {path, ours + 1, false}, {"/proc/4294967295/ns/net", ours, true}} {
		err := sameNetns(&attach.Attachment{Netns: tt.path, NetnsInode: tt.inode})
		if (err == nil) != tt.good {
			t.Errorf("%s with inode %d: %v", tt.path, tt.inode, err)
		}
	}
}

// volumeAgent is an agent with a pod that has an emptyDir shared-dir of fsGroup 2000.
func volumeAgent(t *testing.T) (a *agent, at *attach.Attachment, volume string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	a = &agent{Config: Config{RunDir: filepath.Join(dir, "run"), Kubelet: filepath.Join(dir, "kubelet"), Log: zap.NewNop()}}
	volume = filepath.Join(a.Kubelet, "pods/u1/volumes/kubernetes.io~empty-dir/shared-dir")
	err := errors.Join(os.MkdirAll(volume, 0o755), os.Chown(volume, 0, 2000), os.Chmod(volume, 0o777|os.ModeSetgid), os.Mkdir(a.RunDir, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	return a, &attach.Attachment{Key: attach.Key{Network: "n", ContainerID: "0958c8871b32ffff", IfName: "net1"}, Pod: attach.Pod{UID: "u1"}, Kind: attach.VhostUser, Volume: "shared-dir", MAC: "02:00:00:00:00:01", MTU: 1500}, volume
}

// TestVolume: a directory in a pod's volume has the volume's group and label, a short
// path leads there, and nothing is left of it afterwards.
func TestVolume(t *testing.T) {
	a, at, volume := volumeAgent(t)
	labelled := unix.Lsetxattr(volume, labelName, []byte("system_u:object_r:container_file_t:s0:c1,c2"), 0) == nil
	for range 2 { // again: nothing happens
		p, err := a.makePlace(at)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(volume, "net1"), &st); err != nil || st.Gid != 2000 || st.Mode&0o2777 != 0o2777 {
			t.Errorf("group %d, mode %o, %v", st.Gid, st.Mode, err)
		}
		if target, err := os.Readlink(filepath.Dir(p.short)); err != nil || target != filepath.Join(volume, "net1") || len(p.short) > 107 {
			t.Errorf("%s leads to %s, %v", p.short, target, err)
		}
		if p.inPod != "/var/lib/cni/usrspcni/net1/vhost.sock" || p.owner.known {
			t.Errorf("%+v", p)
		}
		buf := make([]byte, 200)
		n, err := unix.Lgetxattr(filepath.Join(volume, "net1"), labelName, buf)
		if labelled && (err != nil || !strings.HasPrefix(string(buf[:max(n, 0)]), "system_u:object_r:container_file_t:s0:c1,c2")) {
			t.Errorf("label %q, %v", buf[:max(n, 0)], err)
		}
	}
	if err := a.removePlace(at, false); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{volume, filepath.Join(a.RunDir, podsDir)} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

// TestVolumeTricks: links that a pod has put into its volume lead nowhere else.
func TestVolumeTricks(t *testing.T) {
	a, at, volume := volumeAgent(t)
	other := t.TempDir()
	if err := os.Symlink(other, filepath.Join(volume, "net1")); err != nil {
		t.Fatal(err)
	}
	if p, err := a.makePlace(at); err == nil {
		t.Errorf("made %+v", p)
	}
	if err := a.removePlace(at, false); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(volume, "net1"), 0o777), os.Symlink(filepath.Join(other, "x"), filepath.Join(volume, "net1", infoName+".new"))); err != nil {
		t.Fatal(err)
	}
	if _, err := a.makePlace(at); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(other); len(left) != 0 {
		t.Errorf("written elsewhere: %v", left)
	}
}

// TestUserspace: an application that was written for the userspace CNI plugin finds the names
// and the file that it looks for, in the volume itself.
func TestUserspace(t *testing.T) {
	a, at, volume := volumeAgent(t)
	at.Userspace, at.IPs, at.Gateways = true, []string{"10.0.0.2/24"}, []string{"10.0.0.1"}
	p, err := a.makePlace(at)
	if err != nil {
		t.Fatal(err)
	}
	if p.socket != filepath.Join(volume, "0958c8871b32-net1") || p.inPod != "/var/lib/cni/usrspcni/0958c8871b32-net1" {
		t.Errorf("%+v", p)
	}
	want := `{"containerId":"0958c8871b32ffff","ifName":"net1","name":"n","config":{"engine":"ovs-dpdk","iftype":"vhostuser","netType":"interface","vhost":{"mode":"server","socketfile":"0958c8871b32-net1"},"bridge":{}},` +
		`"ipResult":{"interfaces":[{"name":"net1","mac":"02:00:00:00:00:01"}],"ips":[{"interface":0,"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"dns":{}}}`
	if text, err := os.ReadFile(filepath.Join(volume, "configData-0958c8871b32-net1.json")); err != nil || string(text) != want {
		t.Errorf("%s, %v\nwant\n%s", text, err, want)
	}
	if err := a.removePlace(at, false); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(volume); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestShared: what another attachment has in a slot or a volume stays; names of one's own go.
func TestShared(t *testing.T) {
	a, at, volume := volumeAgent(t)
	for _, tt := range []struct {
		name        string
		device      string
		userspace   bool
		gone, stays []string
	}{
		{"volume", "", false, nil, []string{"net1/interface.json", "net1/vhost.sock"}},
		{"volume of the userspace plugin", "", true, []string{"configData-0958c8871b32-net1.json", "0958c8871b32-net1", "interface-net1.json"}, nil},
		{"slot", "br0-1", false, nil, []string{"interface.json", "vhost.sock"}},
		{"slot of the userspace plugin", "br0-2", true, []string{"configData-0958c8871b32-net1.json", "0958c8871b32-net1"}, []string{"interface.json"}},
	} {
		at.DeviceID, at.Userspace = tt.device, tt.userspace
		p, err := a.makePlace(at)
		if err != nil {
			t.Fatal(err)
		}
		if !p.let() {
			t.Errorf("%s: %s is the attachment's alone", tt.name, p.dir)
		}
		root := volume
		if tt.device != "" {
			root = p.dir
		}
		if err := os.WriteFile(p.socket, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		have := func(f string) bool { _, err := os.Lstat(filepath.Join(root, f)); return err == nil }
		for _, f := range append(tt.gone, tt.stays...) {
			if !have(f) {
				t.Errorf("%s: there is no %s", tt.name, f)
			}
		}
		if err := a.removePlace(at, true); err != nil {
			t.Error(err)
		}
		for _, f := range tt.gone {
			if have(f) {
				t.Errorf("%s: %s is left", tt.name, f)
			}
		}
		for _, f := range tt.stays {
			if !have(f) {
				t.Errorf("%s: %s is gone", tt.name, f)
			}
		}
		if err := a.removePlace(at, false); err != nil {
			t.Error(err)
		}
		for _, f := range tt.stays {
			if have(f) {
				t.Errorf("%s: %s is left by the last one", tt.name, f)
			}
		}
	}
}

// TestSELinux: it is on where its file system is known to the kernel, also in a container.
func TestSELinux(t *testing.T) {
	const others = "nodev\tsysfs\nnodev\ttmpfs\n\text4\n"
	if hasSELinux(others) || !hasSELinux(others+"nodev\tselinuxfs\n") {
		t.Error("SELinux is not seen, or where it is not")
	}
}

// TestSharedVolume: two interfaces of a pod that share a directory, as those of the userspace CNI plugin do, have each a file
// of its own there, with gateways of the addresses' families, and one leaves what the other has.
func TestSharedVolume(t *testing.T) {
	a, one, volume := volumeAgent(t)
	one.Userspace, one.IPs, one.Gateways = true, []string{"10.0.0.2/24", "fd00::2/64"}, []string{"fd00::1"}
	two := *one
	two.IfName = "net2"
	for _, at := range []*attach.Attachment{one, &two} {
		if _, err := a.makePlace(at); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(volume, "configData-0958c8871b32-net1.json"))
	if want := `"ips":[{"interface":0,"address":"10.0.0.2/24"},{"interface":0,"address":"fd00::2/64","gateway":"fd00::1"}]`; err != nil || !strings.Contains(string(text), want) {
		t.Errorf("%s, %v; want %s", text, err, want)
	}
	if err := a.removePlace(one, false); err != nil {
		t.Fatal(err)
	}
	if err := a.checkPlace(&two); err != nil {
		t.Errorf("the other interface after DEL of one: %v", err)
	}
	if a.checkPlace(one) == nil {
		t.Error("nothing is missed of an interface that is gone")
	}
	if err := a.removePlace(&two, false); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(volume); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNotMounted: an interface whose directory no container of kubelet's can have is refused with what the pod lacks.
func TestNotMounted(t *testing.T) {
	a, at, _ := volumeAgent(t)
	at.Volume, at.Bridge = "another", "br0"
	var refused *attach.Error
	if _, err := a.makePlace(at); !errors.As(err, &refused) || refused.Code != attach.CodeInvalid || !strings.Contains(refused.Msg, "millrace.dev/br0") || !strings.Contains(refused.Msg, "emptyDir another") {
		t.Errorf("a pod without: %v", err)
	}
	if left, err := os.ReadDir(a.RunDir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	at.Pod.UID = "u2" // which kubelet does not have
	if p, err := a.makePlace(at); err != nil || p.dir != filepath.Join(a.RunDir, podsDir, at.Port()) {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestSocketPath: a path that is too long for a socket, on the host or in the container, is refused and changes
// nothing; one of 107 bytes is not.
func TestSocketPath(t *testing.T) {
	a, at, volume := volumeAgent(t)
	at.Mount = "/" + strings.Repeat("m", socketPathMax-len("//net1/vhost.sock"))
	if p, err := a.makePlace(at); err != nil || len(p.inPod) != socketPathMax {
		t.Errorf("%d bytes: %v", len(p.inPod), err)
	}
	if err := a.removePlace(at, false); err != nil {
		t.Fatal(err)
	}
	var refused *attach.Error
	at.Mount += "m"
	if _, err := a.makePlace(at); !errors.As(err, &refused) || refused.Code != attach.CodeInvalid || !strings.Contains(refused.Msg, "socket.mount") {
		t.Errorf("108 bytes in the container: %v", err)
	}
	at.Mount = ""
	a.RunDir += "/" + strings.Repeat("r", 100)
	if _, err := a.makePlace(at); !errors.As(err, &refused) || refused.Code != attach.CodeInvalid || !strings.Contains(refused.Msg, "run directory") {
		t.Errorf("too many on the host: %v", err)
	}
	if left, err := os.ReadDir(volume); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestRowsFollowNoLinks: the port of a socket in a pod's directory follows no link there, whoever makes the socket.
func TestRowsFollowNoLinks(t *testing.T) {
	for _, server := range []bool{false, true} {
		_, options := interfaceOf(&attach.Attachment{Kind: attach.VhostUser, Server: server}, place{short: "/r/s"})
		if options["no-follow"] != "true" || options["vhost-server-path"] != "/r/s" {
			t.Errorf("the switch makes the socket: %v: %v", server, options)
		}
	}
}

// TestSweep: a directory that no port has goes when it is old; one that an attach has made anew meanwhile stays.
func TestSweep(t *testing.T) {
	a := &agent{Config: Config{RunDir: t.TempDir()}}
	old := time.Now().Add(-2 * sweepAge)
	dir := func(port string) string { return filepath.Join(a.RunDir, podsDir, port) }
	for _, port := range []string{"cni1", "cni2", "cni3"} {
		if err := errors.Join(os.MkdirAll(dir(port), 0o700), os.Chtimes(dir(port), old, old)); err != nil {
			t.Fatal(err)
		}
	}
	attached := a.calls.lock("cni2")
	done := make(chan error)
	go func() {
		done <- a.sweep([]*record{{Attachment: attach.Attachment{}}})
	}()
	for uses := 0; uses < 2; time.Sleep(time.Millisecond) { // until it waits for the attach
		a.calls.mu.Lock()
		uses = a.calls.locks["cni2"].uses
		a.calls.mu.Unlock()
	}
	if err := os.WriteFile(filepath.Join(dir("cni2"), infoName), nil, 0o444); err != nil {
		t.Error(err)
	}
	attached()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for port, stays := range map[string]bool{"cni1": false, "cni2": true, "cni3": false} {
		if _, err := os.Lstat(dir(port)); (err == nil) != stays {
			t.Errorf("%s: %v", port, err)
		}
	}
}

// TestClear: whatever a pod has put in the place of what is ours goes.
func TestClear(t *testing.T) {
	a, at, volume := volumeAgent(t)
	for _, device := range []string{"", "br0-1"} {
		at.DeviceID, at.Userspace = device, device == ""
		for range 2 { // also what is there when an interface is made again
			p, err := a.makePlace(at)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{p.socket, p.info + hidden} {
				if err := errors.Join(os.RemoveAll(name), os.MkdirAll(filepath.Join(name, "x"), 0o777)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := a.removePlace(at, false); err != nil {
			t.Error(err)
		}
		for _, dir := range []string{volume, filepath.Join(a.RunDir, SlotsDir, "br0-1")} {
			if left, err := os.ReadDir(dir); len(left) != 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left in %s: %v, %v", dir, left, err)
			}
		}
	}
}
