package attach

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kinds of interface.
const (
	VhostUser = "vhost-user" // a socket for a DPDK application
	TAP       = "tap"        // a device that the switch makes in the pod
	Veth      = "veth"       // a pair of devices; the switch has the host's end by AF_XDP
)

// A Key is what tells one attachment from all others (CNI specification, section 2).
type Key struct {
	Network     string `json:"network"` // name of the network's configuration
	ContainerID string `json:"container_id"`
	IfName      string `json:"ifname"`
}

// sum is a digest of the key: its parts have no NUL in them.
func (k Key) sum() [sha256.Size]byte {
	return sha256.Sum256([]byte(k.Network + "\x00" + k.ContainerID + "\x00" + k.IfName))
}

// Port is the name of the switch's port, and of the host's end of a veth: 15 bytes,
// as much as a network device's may have.
func (k Key) Port() string {
	sum := k.sum()
	return "cni" + hex.EncodeToString(sum[:6])
}

// MAC is the address of the pod's end where nobody says another: a local one that
// follows from the key, so that a device that is made anew has it again.
func (k Key) MAC() net.HardwareAddr {
	sum := k.sum()
	mac := net.HardwareAddr(sum[8:14])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// nameMax bounds the parts of a key in bytes.
const nameMax = 255

// Check says what is wrong with a key.
func (k Key) Check() error {
	for _, p := range []struct{ what, s string }{{"network", k.Network}, {"container ID", k.ContainerID}, {"interface name", k.IfName}} {
		if err := CheckName(p.s); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
	}
	return nil
}

// CheckName refuses what is no single part of a path.
func CheckName(s string) error {
	switch {
	case s == "" || s == "." || s == "..":
		return fmt.Errorf("%q is no name", s)
	case len(s) > nameMax:
		return fmt.Errorf("%d bytes are more than %d", len(s), nameMax)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c == '/' || unicode.IsControl(c) }):
		return fmt.Errorf("%.40q has a slash or a control character", s)
	}
	return nil
}

// A Pod is whose interface it is, as the runtime says (CNI_ARGS); all may be empty.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// An Owner is who may have a socket, in numbers of the host.
type Owner struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// A Rate is the most that a pod may send or receive.
type Rate struct {
	Bits  int64 `json:"bits"`  // a second
	Burst int64 `json:"burst"` // bits at once
}

// What port security lets a pod be the source of.
const (
	SecureMAC       = "mac"       // frames of its address
	SecureAddresses = "addresses" // and of these, packets of its addresses; of any, if it has none
)

// An Attachment is what a pod's interface asks of the switch.
type Attachment struct {
	Key
	Pod   Pod    `json:"pod"`
	Kind  string `json:"kind"`
	Netns string `json:"netns,omitempty"`
	// NetnsInode is the inode of what the plugin has found at Netns; 0: not known. The switch may see another one there.
	NetnsInode uint64 `json:"netns_inode,omitempty"`

	Bridge string `json:"bridge"`
	VLAN   int    `json:"vlan,omitempty"`  // access port of it; 0: a trunk
	Trunk  []int  `json:"trunk,omitempty"` // VLANs of a trunk; none: all
	MTU    int    `json:"mtu"`
	MAC    string `json:"mac"`
	Queues int    `json:"queues,omitempty"` // 0: as many as the switch likes

	Send     *Rate  `json:"send,omitempty"`     // nil: any
	Receive  *Rate  `json:"receive,omitempty"`  // nil: any
	Security string `json:"security,omitempty"` // as whom it may send; empty: as anybody

	IPs      []string `json:"ips,omitempty"` // with the lengths of their prefixes
	Gateways []string `json:"gateways,omitempty"`

	Server   bool   `json:"server,omitempty"`    // the switch makes the socket, and the application connects
	Owner    *Owner `json:"owner,omitempty"`     // nil: as the volume has it, or unknown
	DeviceID string `json:"device_id,omitempty"` // of the device plugin: the directory is in the container already
	Volume   string `json:"volume,omitempty"`    // name of an emptyDir of the pod; used if the pod has it
	Mount    string `json:"mount,omitempty"`     // where the container has Volume

	Userspace bool `json:"userspace,omitempty"` // names and files of the userspace CNI plugin
}

// An Attached is what came of an Attachment.
type Attached struct {
	Port      string `json:"port"`
	Socket    string `json:"socket,omitempty"`    // on the host
	InPod     string `json:"in_pod,omitempty"`    // the same in the container
	Role      string `json:"role,omitempty"`      // the application's: server or client
	Directory string `json:"directory,omitempty"` // of the interface, on the host
}

// CheckNames says what is wrong with the names of an attachment: most of them become parts of paths.
func (a *Attachment) CheckNames() error {
	if err := a.Key.Check(); err != nil {
		return err
	}
	for _, p := range []struct{ what, s string }{{"device ID", a.DeviceID}, {"volume", a.Volume}, {"UID of the pod", a.Pod.UID}} {
		if p.s == "" {
			continue
		}
		if err := CheckName(p.s); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
	}
	return nil
}

// Role is the application's role.
func (a *Attachment) Role() string {
	if a.Server {
		return "client"
	}
	return "server"
}

// Methods of the agent.
const (
	Attach = "attach" // makes the port; returns when it is in force. Again: nothing happens
	Detach = "detach" // removes it, and its socket and directory. None: nothing happens. Attachment, if known, says where they are should the switch not know
	Check  = "check"  // an error if the port is not as it was asked for
	Find   = "find"   // Attachments of Key
	List   = "list"   // all Attachments
	GC     = "gc"     // removes those of Key.Network that are not in Valid
	Status = "status" // an error if Attach could not succeed

	Reconcile = "reconcile" // looks for what no pod has, now
)

// A Request is a call.
type Request struct {
	Version    int         `json:"version"`
	Method     string      `json:"method"`
	Key        Key         `json:"key,omitzero"`
	Attachment *Attachment `json:"attachment,omitempty"`
	Valid      []Key       `json:"valid,omitempty"` // Network is not looked at
}

// A Reply is its answer.
type Reply struct {
	Error       *Error       `json:"error,omitempty"`
	Attached    *Attached    `json:"attached,omitempty"`
	Attachments []Attachment `json:"attachments,omitempty"`
	Removed     []string     `json:"removed,omitempty"` // ports
}

// Codes of errors (CNI specification, section 5, and our own from 100 on).
const (
	CodeInvalid   = 7   // what is asked for makes no sense
	CodeAgain     = 11  // try again later
	CodeAway      = 50  // no ADD can succeed now
	CodeLimited   = 51  // and the pods that there are do not have all they need
	CodeRefused   = 100 // the switch does not have it
	CodeDifferent = 101 // CHECK: the port is not as it was asked for
)

// An Error is why a call did not succeed.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// Error implements error.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// Errorf is an Error of that code.
func Errorf(code uint, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}
