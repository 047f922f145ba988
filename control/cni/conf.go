package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"millrace/control/cni/attach"
)

// DefaultRunDir is the run directory of the switch where nothing else is said.
const DefaultRunDir = "/run/millrace"

// Limits of values.
const (
	mtuDefault = 1500
	mtuMin     = 68
	mtuMax     = 9710
	mtuIPv6    = 1280 // RFC 8200, 5
	vlanMax    = 4094
	queuesMax  = 64
	runDirMax  = 60 // leaves room for a socket's name in 107 bytes
	pathMax    = 4095
	userMax    = 1<<32 - 2
	deviceMax  = 63 // bytes of a device plugin's ID
)

// conf is the network's configuration. Keys that it does not have are errors.
type conf struct {
	CNIVersion   string          `json:"cniVersion"`
	Name         string          `json:"name"`
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	Args         *confArgs       `json:"args"`
	DNS          json.RawMessage `json:"dns"`
	IPAM         json.RawMessage `json:"ipam"`
	Runtime      *runtimeConf    `json:"runtimeConfig"`
	PrevResult   json.RawMessage `json:"prevResult"`
	Valid        json.RawMessage `json:"cni.dev/valid-attachments"`
	ValidOld     json.RawMessage `json:"cni.dev/attachments"` // the same, as runtimes name it that read an earlier draft
	DisableCheck bool            `json:"disableCheck"`
	DisableGC    bool            `json:"disableGC"`

	DeviceID string `json:"deviceID"` // Multus puts both here
	PCIBusID string `json:"pciBusID"`

	Kind   string          `json:"kind"`
	Bridge string          `json:"bridge"`
	VLAN   int             `json:"vlan"`
	Trunk  []vlanRange     `json:"trunk"`
	MTU    int             `json:"mtu"`
	MAC    string          `json:"mac"`
	Queues json.RawMessage `json:"queues"` // a number, or "auto"
	Mode   string          `json:"mode"`
	Socket *socketConf     `json:"socket"`
	rateConf
	PortSecurity json.RawMessage `json:"portSecurity"` // true, false or "mac"
	Userspace    bool            `json:"userspace"`
	RunDir       string          `json:"runDir"`
}

// socketConf says who shall have a vhost-user socket, and where.
type socketConf struct {
	User   *int64 `json:"user"` // on the host
	Group  *int64 `json:"group"`
	Volume string `json:"volume"` // an emptyDir of the pod
	Mount  string `json:"mount"`  // where the container has it
}

// A vlanRange is one VLAN or a range, as in ovs-cni.
type vlanRange struct {
	ID    *int `json:"id"`
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
}

// confArgs are arguments of the pod's annotation (args.cni); others' are let pass.
type confArgs struct {
	CNI struct {
		MAC string `json:"mac"`
	} `json:"cni"`
}

// UnmarshalJSON reads what is ours.
func (a *confArgs) UnmarshalJSON(text []byte) error {
	type plain confArgs
	return json.Unmarshal(text, (*plain)(a))
}

// runtimeConf is what the runtime gives for capabilities.
type runtimeConf struct {
	MAC       string    `json:"mac"`
	IPs       []string  `json:"ips"` // what the IPAM plugin shall give
	DeviceID  string    `json:"deviceID"`
	InfoFile  string    `json:"CNIDeviceInfoFile"`
	Bandwidth *rateConf `json:"bandwidth"`
}

// UnmarshalJSON reads what is ours.
func (r *runtimeConf) UnmarshalJSON(text []byte) error {
	type plain runtimeConf
	return json.Unmarshal(text, (*plain)(r))
}

// A call is one operation of the plugin.
type call struct {
	conf
	args *skel.CmdArgs
	key  attach.Key
	pod  attach.Pod
	ipam string // type of the IPAM plugin; empty: none
}

// invalid is an error about the configuration.
func invalid(key, format string, a ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "network configuration: "+key+": "+fmt.Sprintf(format, a...), "")
}

// parse reads a call. A strict one is refused for what is not known.
func parse(args *skel.CmdArgs, strict bool) (*call, error) {
	c := &call{args: args}
	d := json.NewDecoder(bytes.NewReader(args.StdinData))
	if strict {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(&c.conf); err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return nil, types.NewError(types.ErrUnsupportedField, "network configuration: unknown key "+name, "see docs/kubernetes.md for those that there are")
		}
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration: "+strings.TrimPrefix(err.Error(), "json: "), "")
	}
	if c.RunDir == "" {
		c.RunDir = DefaultRunDir
	}
	if !filepath.IsAbs(c.RunDir) || filepath.Clean(c.RunDir) != c.RunDir || len(c.RunDir) > runDirMax || hasControl(c.RunDir) {
		return nil, invalid("runDir", "%.80q is not an absolute path of at most %d bytes without . and ..", c.RunDir, runDirMax)
	}
	if err := c.readIPAM(); err != nil {
		return nil, err
	}
	for _, list := range []json.RawMessage{c.Valid, c.ValidOld} {
		if _, err := decodeValid(list); err != nil {
			return nil, err
		}
	}
	c.key = attach.Key{Network: c.Name, ContainerID: args.ContainerID, IfName: args.IfName}
	return c, nil
}

// parsePod is parse of a call about one interface.
func parsePod(args *skel.CmdArgs, strict bool) (*call, error) {
	c, err := parse(args, strict)
	if err != nil {
		return nil, err
	}
	if err := c.key.Check(); err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, err.Error(), "")
	}
	if n := args.Netns; len(n) > pathMax || hasControl(n) || n != "" && !filepath.IsAbs(n) {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_NETNS: %.80q is no absolute path", n), "")
	}
	return c, c.readArgs(strict)
}

// readIPAM reads which IPAM plugin there is; the rest is its own affair.
func (c *call) readIPAM() error {
	if len(c.IPAM) == 0 || string(c.IPAM) == "null" {
		return nil
	}
	var v struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(c.IPAM, &v); err != nil {
		return types.NewError(types.ErrDecodingFailure, "network configuration: ipam: "+err.Error(), "")
	}
	if v.Type != "" && (attach.CheckName(v.Type) != nil || strings.HasPrefix(v.Type, ".")) {
		return invalid("ipam.type", "%.40q is no name of a plugin", v.Type)
	}
	c.ipam = v.Type
	return nil
}

// readArgs reads CNI_ARGS.
func (c *call) readArgs(strict bool) error {
	for pair := range strings.SplitSeq(c.args.Args, ";") {
		k, v, _ := strings.Cut(pair, "=")
		switch k {
		case "K8S_POD_NAMESPACE":
			c.pod.Namespace = v
		case "K8S_POD_NAME":
			c.pod.Name = v
		case "K8S_POD_UID":
			c.pod.UID = v
		case "MAC":
			if c.Args == nil {
				c.Args = &confArgs{}
			}
			c.Args.CNI.MAC = v
		}
	}
	for _, s := range []string{c.pod.Namespace, c.pod.Name, c.pod.UID} {
		if s == "" || attach.CheckName(s) == nil {
			continue
		}
		if strict {
			return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_ARGS: %.80q is no name", s), "")
		}
		c.pod = attach.Pod{}
	}
	return nil
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

// attachment is what the configuration asks of the switch, but for addresses.
func (c *call) attachment() (*attach.Attachment, error) {
	at := &attach.Attachment{Key: c.key, Pod: c.pod, Kind: c.Kind, Netns: c.args.Netns, Bridge: c.Bridge, VLAN: c.VLAN, MTU: c.MTU, Userspace: c.Userspace}
	if at.MTU == 0 {
		at.MTU = mtuDefault
	}
	for _, step := range []func(*attach.Attachment) error{c.checkKind, c.checkBridge, c.checkTrunk, c.checkMAC, c.checkIPs, c.checkSocket, c.checkDevice, c.checkLimits, c.checkQueues} {
		if err := step(at); err != nil {
			return nil, err
		}
	}
	return at, nil
}

func (c *call) checkKind(at *attach.Attachment) error {
	kinds := []string{attach.VhostUser, attach.TAP, attach.Veth}
	if !slices.Contains(kinds, c.Kind) {
		return invalid("kind", "%.40q is none of %s", c.Kind, strings.Join(kinds, ", "))
	}
	switch {
	case c.Mode != "" && c.Kind != attach.VhostUser:
		return invalid("mode", "it is for kind %s only", attach.VhostUser)
	case c.Mode == "server":
		at.Server = true
	case c.Mode != "" && c.Mode != "client":
		return invalid("mode", "%.40q is neither client (the switch connects) nor server (the switch makes the socket)", c.Mode)
	case c.Userspace && c.Kind != attach.VhostUser:
		return invalid("userspace", "it is for kind %s only", attach.VhostUser)
	}
	return nil
}

func (c *call) checkBridge(*attach.Attachment) error {
	if c.Bridge == "" {
		return invalid("bridge", "it is missing: it names the bridge of the switch")
	}
	if err := attach.CheckName(c.Bridge); err != nil {
		return invalid("bridge", "%v", err)
	}
	if c.MTU != 0 && (c.MTU < mtuMin || c.MTU > mtuMax) {
		return invalid("mtu", "%d is not in %d..%d", c.MTU, mtuMin, mtuMax)
	}
	if c.VLAN < 0 || c.VLAN > vlanMax {
		return invalid("vlan", "%d is not in 0..%d", c.VLAN, vlanMax)
	}
	return nil
}

func (c *call) checkTrunk(at *attach.Attachment) error {
	if len(c.Trunk) > 0 && c.VLAN != 0 {
		return invalid("trunk", "it contradicts vlan")
	}
	if len(c.Trunk) > vlanMax+1 {
		return invalid("trunk", "%d ranges are more than there are VLANs", len(c.Trunk))
	}
	in := map[int]bool{}
	for _, r := range c.Trunk {
		lo, hi, err := r.bounds()
		if err != nil {
			return err
		}
		for v := lo; v <= hi; v++ {
			in[v] = true
		}
	}
	for v := range in {
		at.Trunk = append(at.Trunk, v)
	}
	slices.Sort(at.Trunk)
	return nil
}

// bounds are the first and the last VLAN of a range.
func (r vlanRange) bounds() (lo, hi int, err error) {
	switch {
	case r.ID != nil && r.MinID == nil && r.MaxID == nil:
		lo, hi = *r.ID, *r.ID
	case r.ID == nil && r.MinID != nil && r.MaxID != nil:
		lo, hi = *r.MinID, *r.MaxID
	default:
		return 0, 0, invalid("trunk", "each entry has either id, or minID and maxID")
	}
	if lo < 0 || hi > vlanMax || lo > hi {
		return 0, 0, invalid("trunk", "%d to %d is no range within 0..%d", lo, hi, vlanMax)
	}
	return lo, hi, nil
}

// checkMAC takes the most particular address that is asked for: the runtime's, the
// pod's, the network's, or one that follows from the key.
func (c *call) checkMAC(at *attach.Attachment) error {
	where, s := "mac", c.MAC
	if c.Args != nil && c.Args.CNI.MAC != "" {
		where, s = "args.cni.mac", c.Args.CNI.MAC
	}
	if c.Runtime != nil && c.Runtime.MAC != "" {
		where, s = "runtimeConfig.mac", c.Runtime.MAC
	}
	if s == "" {
		at.MAC = c.key.MAC().String()
		return nil
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || slices.Max(mac) == 0 {
		return invalid(where, "%.40q is not an Ethernet address of one station, like 02:00:00:00:00:01", s)
	}
	at.MAC = mac.String()
	return nil
}

// checkIPs refuses addresses that nobody would give the pod.
func (c *call) checkIPs(*attach.Attachment) error {
	if c.Runtime != nil && len(c.Runtime.IPs) > 0 && c.ipam == "" {
		return invalid("runtimeConfig.ips", "the pod asks for %.80q, and the network has no IPAM plugin to give it: add ipam, such as {\"type\": \"static\"}", c.Runtime.IPs)
	}
	return nil
}

func (c *call) checkSocket(at *attach.Attachment) error {
	s := c.Socket
	if s == nil {
		s = &socketConf{}
	}
	if (s.User == nil) != (s.Group == nil) {
		return invalid("socket", "user and group are given together")
	}
	if s.User != nil {
		if *s.User < 0 || *s.User > userMax || *s.Group < 0 || *s.Group > userMax {
			return invalid("socket", "user %d, group %d: they are numbers from 0 to %d", *s.User, *s.Group, int64(userMax))
		}
		at.Owner = &attach.Owner{UID: uint32(*s.User), GID: uint32(*s.Group)}
	}
	at.Volume, at.Mount = s.Volume, s.Mount
	if at.Volume == "" {
		at.Volume = "shared-dir" // as users of the userspace CNI plugin call it
	}
	if err := attach.CheckName(at.Volume); err != nil {
		return invalid("socket.volume", "%v", err)
	}
	if at.Mount != "" && (!filepath.IsAbs(at.Mount) || len(at.Mount) > pathMax || hasControl(at.Mount)) {
		return invalid("socket.mount", "%.80q is no absolute path", at.Mount)
	}
	return nil
}

func (c *call) checkDevice(at *attach.Attachment) error {
	id := c.DeviceID
	if c.Runtime != nil && c.Runtime.DeviceID != "" {
		id = c.Runtime.DeviceID
	}
	if id == "" {
		return nil
	}
	if err := attach.CheckName(id); err != nil || len(id) > deviceMax || !isSlot(id) {
		return invalid("deviceID", "%.80q is none of `millrace device-plugin`, like br0-7: the network's k8s.v1.cni.cncf.io/resourceName has to be millrace.dev/BRIDGE", id)
	}
	at.DeviceID = id
	return nil
}

// isSlot reports whether an ID is BRIDGE-NUMBER, as the device plugin makes them.
func isSlot(id string) bool {
	i := strings.LastIndexByte(id, '-')
	if i < 1 {
		return false
	}
	_, err := strconv.ParseUint(id[i+1:], 10, 16)
	return err == nil
}

func (c *call) checkQueues(at *attach.Attachment) error {
	text := string(c.Queues)
	switch text {
	case "", "null":
		return nil
	case `"auto"`:
		at.Queues = queuesOf(os.DirFS("/sys/fs/cgroup"), os.DirFS(kubeletDir), c.pod.UID)
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > queuesMax {
		return invalid("queues", "%.40s is neither a number from 1 to %d nor \"auto\"", text, queuesMax)
	}
	at.Queues = n
	return nil
}
