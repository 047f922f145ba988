package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"millrace/control/cni/attach"
)

// An interface's directory is what its pod has mounted: a directory, because a socket
// that is made anew is another file, which a mount of the file would not show.
//
//	of the device plugin   RUN-DIR/slots/ID              mounted by kubelet before ADD
//	of a volume            the pod's emptyDir, /IFNAME   RUN-DIR/pods/PORT leads there
//	of neither             RUN-DIR/pods/PORT             for who mounts it by hand, without kubelet
//
// A path of a socket has 107 bytes, and a volume's is longer than that: hence the
// link, by which the switch finds it. RUN-DIR/slots and RUN-DIR/pods are for root alone,
// so within them a directory may be open to all: its pod has nothing else of the host.
const (
	SlotsDir = "slots" // of the run directory; the device plugin makes the directories in it
	podsDir  = "pods"

	// SlotMount is where containers have the directory of a slot, by its ID.
	SlotMount = "/run/millrace"

	// SocketName is the socket of a vhost-user interface in its directory.
	SocketName = "vhost.sock"

	volumeMount = "/var/lib/cni/usrspcni" // where users of the userspace CNI plugin mount theirs
	infoName    = "interface.json"
	hidden      = ".new" // ends the name of what is being made

	socketPathMax = 107 // bytes (unix(7))
)

// A place is where an application finds its socket.
type place struct {
	dir    string // of the interface, on the host
	root   string // the part of dir that is there without us
	socket string // on the host
	short  string // the same by a path that is short enough
	inPod  string // the same in the container
	info   string // what the application is told is written there, on the host
	owner  placeOwner
	linked bool // short leads by a link
}

// A placeOwner is who shall be able to open the socket.
type placeOwner struct {
	attach.Owner
	known bool
}

// Info is what an application reads in interface.json beside its socket.
type Info struct {
	Name        string   `json:"name"`
	Network     string   `json:"network"`
	ContainerID string   `json:"container_id"`
	Kind        string   `json:"kind"`
	Role        string   `json:"role,omitempty"`   // the application's: server makes the socket, client connects
	Socket      string   `json:"socket,omitempty"` // as the container has it
	MAC         string   `json:"mac"`
	IPs         []string `json:"ips,omitempty"`
	Gateway     string   `json:"gateway,omitempty"`
	Gateways    []string `json:"gateways,omitempty"`
	MTU         int      `json:"mtu"`
	Queues      int      `json:"queues,omitempty"` // queue pairs; 0: up to 8
	VLAN        int      `json:"vlan,omitempty"`   // its frames have no tag; others see them with this one
	Trunk       []int    `json:"trunk,omitempty"`  // VLANs that it may tag its frames with
	Bridge      string   `json:"bridge"`
}

// placeOf says where an attachment's place is; it changes nothing.
func (a *agent) placeOf(at *attach.Attachment) place {
	port, name := at.Port(), SocketName
	if at.Userspace {
		name = userspaceName(at)
	}
	p := place{}
	if at.Owner != nil {
		p.owner = placeOwner{*at.Owner, true}
	}
	mount, info := "", infoName
	switch {
	case at.DeviceID != "":
		p.dir = filepath.Join(a.RunDir, SlotsDir, at.DeviceID)
		p.root, p.short, mount = p.dir, p.dir, path.Join(SlotMount, at.DeviceID)
	case a.volume(at) != "":
		p.root = a.volume(at)
		p.dir, mount = filepath.Join(p.root, at.IfName), at.Mount
		if mount == "" {
			mount = volumeMount
		}
		if at.Userspace {
			p.dir = p.root                            // its users look nowhere else
			info = "interface-" + at.IfName + ".json" // beside those of other interfaces
		} else {
			mount = path.Join(mount, at.IfName)
		}
		p.short, p.linked = filepath.Join(a.RunDir, podsDir, port), true
	default:
		p.root = filepath.Join(a.RunDir, podsDir)
		p.dir = filepath.Join(p.root, port)
		p.short, mount = p.dir, p.dir
	}
	p.info = filepath.Join(p.dir, info)
	if at.Kind == attach.VhostUser {
		p.socket, p.short, p.inPod = filepath.Join(p.dir, name), filepath.Join(p.short, name), path.Join(mount, name)
	}
	return p
}

// volume is the directory of the pod's volume, or empty if it has none of that
// name.
func (a *agent) volume(at *attach.Attachment) string {
	if at.Volume == "" || at.Pod.UID == "" {
		return ""
	}
	dir := filepath.Join(a.Kubelet, "pods", at.Pod.UID, "volumes", "kubernetes.io~empty-dir", at.Volume)
	if st, err := os.Lstat(dir); err != nil || !st.IsDir() {
		return ""
	}
	return dir
}

// let reports whether the place is one that the pod had before, and another pod, or another sandbox of this one, may have after:
// a slot or a volume.
func (p place) let() bool { return p.dir != "" && (p.root == p.dir || p.linked) }

// wanted reports whether an attachment has a directory: others have one only if the
// pod has it mounted.
func (p place) wanted(at *attach.Attachment) bool {
	return at.Kind == attach.VhostUser || at.DeviceID != "" || p.linked
}

// makePlace makes the directory, if there is to be one, and writes what the
// application is told.
func (a *agent) makePlace(at *attach.Attachment) (place, error) {
	p := a.placeOf(at)
	if !p.wanted(at) {
		return place{}, nil
	}
	if err := p.fits(); err != nil {
		return p, err
	}
	if err := a.seen(at, p); err != nil {
		return p, err
	}
	fail := func(err error) (place, error) {
		return p, attach.Errorf(attach.CodeAgain, "directory of the interface: %v", err)
	}
	if err := a.makeRoot(at); err != nil {
		return fail(err)
	}
	root, err := os.OpenRoot(p.root) // a pod may have put links into its volume
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	if !p.owner.known {
		p.owner, err = ownerOf(p)
	}
	if err == nil {
		err = p.makeDir(root)
	}
	if err == nil {
		err = p.link()
	}
	if err == nil {
		err = a.tell(root, at, p)
	}
	if err != nil {
		return fail(err)
	}
	return p, nil
}

// fits is an error if the path of a socket is longer than such paths can be.
func (p place) fits() error {
	if n := len(p.short); n > socketPathMax {
		return attach.Errorf(attach.CodeInvalid, "socket: %s has %d bytes, the path of a socket at most %d: give the switch a run directory with a shorter path", p.short, n, socketPathMax)
	}
	if n := len(p.inPod); n > socketPathMax {
		return attach.Errorf(attach.CodeInvalid, "socket: the container has it at %.120s, which has %d bytes, the path of a socket at most %d: mount the volume at a shorter path (socket.mount)", p.inPod, n, socketPathMax)
	}
	return nil
}

// seen is an error if no container of a pod of kubelet's can have the directory: its application would wait for a
// socket for ever. Where there is no kubelet, somebody mounts it by hand.
func (a *agent) seen(at *attach.Attachment, p place) error {
	if at.Kind != attach.VhostUser || at.DeviceID != "" || p.linked || at.Pod.UID == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(a.Kubelet, "pods", at.Pod.UID)); err != nil {
		return nil
	}
	return attach.Errorf(attach.CodeInvalid, "no container would find the socket: the pod has to ask for one millrace.dev/%s in its resources (and the network to have that k8s.v1.cni.cncf.io/resourceName), or to have an emptyDir %s", at.Bridge, at.Volume)
}

// makeRoot makes what must be there before the directory: ours, for root alone.
func (a *agent) makeRoot(at *attach.Attachment) error {
	if err := os.MkdirAll(filepath.Join(a.RunDir, podsDir), 0o700); err != nil {
		return err
	}
	if at.DeviceID == "" {
		return nil
	}
	return MakeSlot(a.RunDir, at.DeviceID)
}

// MakeSlot makes the directory of a slot. Again: nothing happens.
func MakeSlot(runDir, id string) error {
	if err := os.MkdirAll(filepath.Join(runDir, SlotsDir), 0o700); err != nil {
		return err
	}
	dir := filepath.Join(runDir, SlotsDir, id)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // the umask may have taken from the mode
		return err
	}
	return label(dir)
}

// containerLabel is what SELinux lets all containers use (container_selinux(8)).
const containerLabel = "system_u:object_r:container_file_t:s0"

// label gives a directory that is ours the label, on hosts with SELinux.
func label(dir string) error {
	if !selinux() {
		return nil
	}
	if err := unix.Lsetxattr(dir, labelName, []byte(containerLabel), 0); err != nil {
		return fmt.Errorf("give %s the label %s: %w (the switch and its device plugin have to run as spc_t, as deploy/ has them)", dir, containerLabel, err)
	}
	return nil
}

// selinux reports whether the kernel has SELinux on: in a container nothing is mounted at /sys/fs/selinux.
var selinux = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/filesystems")
	return err == nil && hasSELinux(string(text))
})

// hasSELinux looks for selinuxfs in /proc/filesystems, where it is if SELinux is on (is_selinux_enabled(3)).
func hasSELinux(filesystems string) bool {
	return slices.Contains(strings.Fields(filesystems), "selinuxfs")
}

const labelName = "security.selinux"

// keepLabel gives a directory in a volume the volume's label, categories and all.
func keepLabel(from, dir string) error {
	buf := make([]byte, 1024)
	n, err := unix.Lgetxattr(from, labelName, buf)
	if err != nil {
		return nil // no labels here
	}
	if err := unix.Lsetxattr(dir, labelName, buf[:n], 0); err != nil {
		return fmt.Errorf("give %s the label of %s: %w", dir, from, err)
	}
	return nil
}

// ownerOf says whose a volume is: kubelet gives it to the pod's fsGroup. Root's
// says nothing.
func ownerOf(p place) (placeOwner, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p.root, &st); err != nil || !p.linked || st.Uid == 0 {
		return placeOwner{Owner: attach.Owner{GID: st.Gid}}, err
	}
	return placeOwner{attach.Owner{UID: st.Uid, GID: st.Gid}, true}, nil
}

// makeDir makes the directory with owner, mode and label. One that is there keeps what
// is in it.
func (p place) makeDir(root *os.Root) error {
	rel, err := filepath.Rel(p.root, p.dir)
	if err != nil {
		return err
	}
	if rel != "." {
		if err := root.Mkdir(rel, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if st, err := root.Lstat(rel); err != nil || !st.IsDir() {
			return errors.Join(err, fmt.Errorf("%s is no directory", p.dir))
		}
		if err := keepLabel(p.root, p.dir); err != nil {
			return err
		}
	} else if p.linked {
		return nil // the volume itself, as kubelet has made it
	}
	mode := os.FileMode(0o777) // its parent is for root alone, and the pod's user is not known
	if p.owner.known {
		mode = 0o770
	}
	// Group and mode in this order: chown takes setgid away.
	if err := root.Lchown(rel, int(p.owner.UID), int(p.owner.GID)); err != nil {
		return err
	}
	return root.Chmod(rel, mode|fs.ModeSetgid)
}

// link has the short path lead to the directory.
func (p place) link() error {
	if !p.linked {
		return nil
	}
	short := filepath.Dir(p.short)
	if p.socket == "" {
		return nil
	}
	_ = os.Remove(short + hidden)
	if err := os.Symlink(p.dir, short+hidden); err != nil {
		return err
	}
	return os.Rename(short+hidden, short)
}

// tell writes what the application is told, in one step.
func (a *agent) tell(root *os.Root, at *attach.Attachment, p place) error {
	info := Info{
		Name: at.IfName, Network: at.Network, ContainerID: at.ContainerID, Kind: at.Kind, Role: role(at), Socket: p.inPod, MAC: at.MAC,
		IPs: at.IPs, Gateways: at.Gateways, MTU: at.MTU, Queues: at.Queues, VLAN: at.VLAN, Trunk: at.Trunk, Bridge: at.Bridge,
	}
	if len(at.Gateways) > 0 && len(at.IPs) > 0 {
		info.Gateway = cmp.Or(gatewayOf(at.IPs[0], at.Gateways), at.Gateways[0])
	}
	text, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(p.root, p.dir)
	if err != nil {
		return err
	}
	if at.Userspace {
		name, text, err := userspaceFile(at, p)
		if err != nil {
			return err
		}
		if err := write(root, filepath.Join(rel, name), text); err != nil {
			return err
		}
	}
	return write(root, filepath.Join(rel, filepath.Base(p.info)), append(text, '\n'))
}

// write writes a file that all may read, below a root.
func write(root *os.Root, name string, text []byte) error {
	if err := root.RemoveAll(name + hidden); err != nil {
		return err
	}
	f, err := root.OpenFile(name+hidden, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Rename(name+hidden, name)
}

// removePlace removes what makePlace has made, and the socket. What is there without
// us stays; so does what another attachment has, where the place is shared.
func (a *agent) removePlace(at *attach.Attachment, shared bool) error {
	p := a.placeOf(at)
	var errs []error
	if p.wanted(at) {
		if root, err := os.OpenRoot(p.root); err == nil {
			errs = append(errs, a.clear(root, at, p, shared), root.Close())
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	own := filepath.Join(a.RunDir, podsDir, at.Port()) // also of an attachment of which only the name is known
	return errors.Join(append(errs, os.RemoveAll(own), os.RemoveAll(own+hidden))...)
}

// clear empties the part of a place that is not ours to remove. A pod may have put directories there under our names.
func (a *agent) clear(root *os.Root, at *attach.Attachment, p place, shared bool) error {
	rel, err := filepath.Rel(p.root, p.dir)
	if err != nil {
		return err
	}
	if rel != "." {
		if shared {
			return nil
		}
		return root.RemoveAll(rel)
	}
	names := []string{userspaceName(at), userspaceConfig(at)}
	if info := filepath.Base(p.info); !shared || info != infoName {
		names = append(names, info)
	}
	if !shared {
		names = append(names, SocketName)
	}
	var errs []error
	for _, name := range names {
		for _, n := range []string{name, name + hidden} {
			errs = append(errs, root.RemoveAll(n))
		}
	}
	return errors.Join(errs...)
}

// checkPlace is an error if what the application needs is not there.
func (a *agent) checkPlace(at *attach.Attachment) error {
	p := a.placeOf(at)
	if !p.wanted(at) {
		return nil
	}
	_, err := os.Lstat(p.info)
	if err == nil && at.Server {
		_, err = os.Lstat(p.socket)
	}
	if err != nil {
		return attach.Errorf(attach.CodeDifferent, "directory of the interface: %v", err)
	}
	return nil
}
