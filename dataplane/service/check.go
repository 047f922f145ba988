package service

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// Limits of what a client may ask for.
const (
	nameMax     = 255 // bytes, as a file name has
	vlanMax     = 4094
	mtuMin      = 68 // RFC 791: every IPv4 link carries that
	queuesMax   = 64
	macLimitMax = 1 << 24
	macAgeMax   = 1_000_000 // seconds
	macsMaxMax  = 1 << 20   // 48 MB of table with two workers
)

// A checker collects what is wrong with a request. It keeps the first error,
// so that checks can be written one below the other.
type checker struct{ err error }

// fail notes that field is wrong.
func (c *checker) fail(field, format string, args ...any) {
	if c.err == nil {
		c.err = api.Invalid(field, field+": "+fmt.Sprintf(format, args...))
	}
}

// name checks a bridge's or a port's name.
func (c *checker) name(field, s string) {
	switch {
	case s == "":
		c.fail(field, "a name is needed")
	case len(s) > nameMax:
		c.fail(field, "name of %d bytes is longer than %d", len(s), nameMax)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r == '/' || unicode.IsControl(r) }):
		c.fail(field, "name %q has a slash, a control character or no valid UTF-8", s)
	case s == "." || s == "..":
		c.fail(field, "%q is a directory, not a name", s)
	}
}

// number checks that n is 0 (not set) or between lo and hi.
func (c *checker) number(field string, n, lo, hi uint32) int {
	if n != 0 && (n < lo || n > hi) {
		c.fail(field, "%d is not in %d..%d", n, lo, hi)
	}
	return int(n)
}

// vlan checks a VLAN id.
func (c *checker) vlan(field string, n uint32) uint16 {
	if n > vlanMax {
		c.fail(field, "%d is not a VLAN: they are 0..%d", n, vlanMax)
	}
	return uint16(n)
}

// mac reads an address, which must be one station's.
func (c *checker) mac(field, s string) (mac [6]byte) {
	hw, err := net.ParseMAC(s)
	switch {
	case err != nil || len(hw) != len(mac):
		c.fail(field, "%q is not an Ethernet address like 02:00:00:00:00:01", s)
	case hw[0]&1 != 0:
		c.fail(field, "%s is a group's address, not one station's", hw)
	case [6]byte(hw) == mac:
		c.fail(field, "the zero address is nobody's")
	default:
		mac = [6]byte(hw)
	}
	return mac
}

// spec checks what a client wants a port to be, and fills in its defaults.
func (s *Server) spec(p *api.PortSpec) (dataplane.PortSpec, error) {
	var c checker
	if p == nil {
		return dataplane.PortSpec{}, api.Invalid("spec", "spec: a port is needed")
	}
	c.name("spec.bridge", p.GetBridge())
	c.name("spec.name", p.GetName())
	spec := dataplane.PortSpec{
		Bridge: p.GetBridge(), Name: p.GetName(), Type: p.GetType(), Peer: p.GetPeer(),
		Tag:      c.vlan("spec.tag", p.GetTag()),
		Trunks:   c.trunks(p.GetTrunks()),
		Mode:     modes()[p.GetVlanMode()],
		MTU:      c.number("spec.mtu", p.GetMtu(), mtuMin, dataplane.MTUMax),
		Queues:   c.number("spec.queues", p.GetQueues(), 1, queuesMax),
		MACLimit: c.number("spec.mac_limit", p.GetMacLimit(), 1, macLimitMax),
		Options:  c.options(p.GetOptions()),
	}
	if _, known := modes()[p.GetVlanMode()]; !known {
		c.fail("spec.vlan_mode", "%d is not a mode that this release knows", p.GetVlanMode())
	}
	c.mode(&spec)
	s.checkType(&c, &spec)
	c.device(&spec)
	spec.Path = s.checkPath(&c, &spec, p.GetPath())
	spec.Host = c.host(&spec, p.GetHost())
	spec.Ingress, spec.Egress = c.limit("spec.ingress", p.GetIngress()), c.limit("spec.egress", p.GetEgress())
	spec.Sources = c.sources(p.GetSources())
	return spec, c.err
}

// optionsMax and optionMax bound what a port is told besides: how many options,
// and how many bytes each has.
const (
	optionsMax = 64
	optionMax  = 16 << 10
)

// options checks what only the type of port knows: the port itself judges what
// it means.
func (c *checker) options(m map[string]string) map[string]string {
	if len(m) > optionsMax {
		c.fail("spec.options", "%d options are more than %d", len(m), optionsMax)
	}
	for k, v := range m {
		if len(k)+len(v) > optionMax {
			c.fail("spec.options", "option %.40q of %d bytes is longer than %d", k, len(k)+len(v), optionMax)
		}
	}
	return m
}

// deviceNameMax is the longest name of a network device (IFNAMSIZ).
const deviceNameMax = 15

// device checks the name of a port that is named like its network device.
func (c *checker) device(spec *dataplane.PortSpec) {
	if spec.Type == dataplane.TypeAFXDP && len(spec.Name) > deviceNameMax {
		c.fail("spec.name", "port %q is named like its network device, whose name has at most %d bytes", spec.Name, deviceNameMax)
	}
	known := optionsOf(spec.Type)
	for _, k := range slices.Sorted(maps.Keys(spec.Options)) {
		if known != nil && !slices.Contains(known, k) {
			c.fail("spec.options", "ports of type %s have no option %.40q", spec.Type, k)
		}
	}
}

// optionsOf are the options of a type of port; nil: the port judges that itself.
func optionsOf(portType string) []string {
	switch {
	case portType == dataplane.TypeAFXDP, dataplane.IsTunnel(portType):
		return nil
	case dataplane.IsHost(portType):
		return []string{dataplane.OptionOffload, dataplane.OptionGRO, dataplane.OptionDevice}
	case portType == dataplane.TypeVhostServer, portType == dataplane.TypeVhostClient:
		return []string{dataplane.OptionOffload, dataplane.OptionGRO, dataplane.OptionPeerUID, dataplane.OptionOwner, dataplane.OptionMode, dataplane.OptionNoFollow}
	}
	return []string{}
}

// trunks sorts a list of VLANs and drops what is twice.
func (c *checker) trunks(list []uint32) []uint16 {
	var vlans []uint16
	for _, n := range list {
		vlans = append(vlans, c.vlan("spec.trunks", n))
	}
	slices.Sort(vlans)
	return slices.Compact(vlans)
}

// mode checks that the port's mode and its VLANs fit.
func (c *checker) mode(spec *dataplane.PortSpec) {
	switch spec.Mode {
	case dataplane.VLANAccess, dataplane.VLANNativeTagged, dataplane.VLANNativeUntagged:
		if spec.Tag == 0 {
			c.fail("spec.tag", "VLAN mode %s needs a tag", spec.Mode)
		}
	}
	access := spec.Mode == dataplane.VLANAccess || spec.Mode == "" && spec.Tag != 0
	if access && len(spec.Trunks) > 0 {
		c.fail("spec.trunks", "an access port carries its tag only: leave out trunks, or choose VLAN mode native-tagged or native-untagged")
	}
}

// checkType checks that the type is known and has what it needs.
func (s *Server) checkType(c *checker, spec *dataplane.PortSpec) {
	switch {
	case !slices.Contains(s.Types, spec.Type):
		c.fail("spec.type", "%q is not a port type: choose one of %s", spec.Type, strings.Join(s.Types, ", "))
	case spec.Type != dataplane.TypePatch:
		if spec.Peer != "" {
			c.fail("spec.peer", "only patch ports have a peer")
		}
	case spec.Peer == spec.Name:
		c.fail("spec.peer", "a patch port cannot be its own peer")
	default:
		c.name("spec.peer", spec.Peer)
	}
}

// checkPath returns the absolute path of the port's socket.
func (s *Server) checkPath(c *checker, spec *dataplane.PortSpec, path string) string {
	switch {
	case spec.Type == dataplane.TypePatch || spec.Type == dataplane.TypeAFXDP || dataplane.IsHost(spec.Type) || dataplane.IsTunnel(spec.Type):
		if path != "" {
			c.fail("spec.path", "%s ports have no socket", spec.Type)
		}
		return ""
	case path == "" && spec.Type == dataplane.TypeVhostClient:
		c.fail("spec.path", "a %s port connects to a socket: say which one", dataplane.TypeVhostClient)
		return ""
	case path == "":
		path = spec.Name
	}
	abs, err := s.Dir.resolve(path)
	if err != nil {
		c.fail("spec.path", "%v", err)
	}
	return abs
}

// resolve makes a socket's path absolute. A relative one stays in the run
// directory.
func (d *Dir) resolve(path string) (string, error) {
	if strings.ContainsFunc(path, unicode.IsControl) {
		return "", fmt.Errorf("%q has a control character", path)
	}
	if !filepath.IsAbs(path) {
		if !filepath.IsLocal(path) {
			return "", fmt.Errorf("%q leaves the run directory: give an absolute path", path)
		}
		path = filepath.Join(d.path, path)
	}
	path = filepath.Clean(path)
	if len(path) > socketPathMax {
		return "", fmt.Errorf("%q has %d bytes, and a socket's path at most %d: choose a shorter name or --path", path, len(path), socketPathMax)
	}
	if filepath.Dir(path) == d.path && reserved(filepath.Base(path)) {
		return "", fmt.Errorf("%q is a file of the switch: choose another name or --path", path)
	}
	if path == d.path {
		return "", errors.New("that is the run directory itself")
	}
	return path, nil
}

// reserved reports whether a file of the run directory is the switch's own.
func reserved(name string) bool {
	name = strings.TrimSuffix(name, newSuffix)
	return slices.Contains([]string{api.SocketName, lockName, stateName, RunLock, "run.json", "control.lock", "control.json", "desired.json", "db.sock", "conf.db", ".conf.db.~lock~"}, name)
}

// bridgeSettings checks what a client wants a bridge to be.
func bridgeSettings(req *api.SetBridgeRequest) (bridgeState, error) {
	var c checker
	c.name("name", req.GetName())
	age := req.GetMacAgeSeconds()
	if !(age == 0 || age >= 1 && age <= macAgeMax) {
		c.fail("mac_age_seconds", "%v is not in 1..%d", age, macAgeMax)
	}
	set := bridgeState{
		Name: req.GetName(), MACAge: age, MACsMax: c.number("macs_max", req.GetMacsMax(), 1, macsMaxMax),
		Pipeline: c.pipeline("pipeline", req.GetPipeline()),
	}
	for _, n := range req.GetFloodVlans() {
		set.Flood = append(set.Flood, c.vlan("flood_vlans", n))
	}
	return set, c.err
}

// entry checks a static forwarding entry.
func entry(e *api.Entry) (dataplane.MACEntry, error) {
	var c checker
	if e == nil {
		return dataplane.MACEntry{}, api.Invalid("entry", "entry: an entry is needed")
	}
	c.name("entry.bridge", e.GetBridge())
	c.name("entry.port", e.GetPort())
	m := dataplane.MACEntry{Bridge: e.GetBridge(), Port: e.GetPort(), VLAN: c.vlan("entry.vlan", e.GetVlan()), MAC: c.mac("entry.mac", e.GetMac()), Static: true}
	return m, c.err
}
