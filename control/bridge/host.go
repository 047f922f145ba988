package bridge

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"millrace/control/ovsdb/model"
)

// deviceMax is the longest name of a network device in bytes (IFNAMSIZ).
const deviceMax = 15

// A Host is the network device of a tap or internal port.
type Host struct {
	Netns     string   // a path or a name; empty: the dataplane's
	MAC       string   // empty: the kernel chooses
	Addresses []string // with prefix lengths; sorted, each once
	Up        bool
	Persist   bool
}

// same reports whether one device can become the other.
func (h Host) same(o Host) bool { return h.Netns == o.Netns && h.Persist == o.Persist }

// settings reports whether what Set changes in flight is equal.
func (h Host) settings(o Host) bool {
	return h.MAC == o.MAC && h.Up == o.Up && slices.Equal(h.Addresses, o.Addresses)
}

// String is the part of Port.String that cannot be changed in flight.
func (h Host) String() string {
	s := ""
	if h.Netns != "" {
		s += " netns=" + h.Netns
	}
	if h.Persist {
		s += " persist"
	}
	return s
}

// inFlight is the part that can.
func (h Host) inFlight() string {
	s := ""
	if h.MAC != "" {
		s += " mac=" + h.MAC
	}
	if len(h.Addresses) > 0 {
		s += fmt.Sprintf(" ip=%v", h.Addresses)
	}
	if h.Up {
		s += " up"
	}
	return s
}

// Keys of Interface.options of tap and internal ports. Open vSwitch knows n_rxq
// only.
const (
	KeyNetns   = "netns"   // network namespace of the device
	KeyIP      = "ip"      // addresses of the host on it, with commas between them
	KeyUp      = "up"      // "true": take it up; the default with netns or ip
	KeyPersist = "persist" // "true": it stays when the switch goes
	KeyDevice  = "device"  // name of the device, if it is not the port's: with netns
)

// host reads a port that is a network device. Its MTU is the kernel's unless the
// row asks for one.
func (r *reader) host(f *found) {
	r.options(f, KeyNetns, KeyIP, KeyUp, KeyPersist, KeyDevice, keyOffload, keyGRO, "n_rxq", "n_rxq_desc", "n_txq_desc")
	r.choice(f, keyOffload, "true", "false")
	r.choice(f, keyGRO, "false", "true")
	if f.row.MTURequest == nil {
		f.want.MTU = 0
	}
	r.device(f)
	n, err := number(f.row.Options, "n_rxq", 0, 1, QueuesMax)
	r.warn(f, "options", err)
	f.want.Queues = n
	h := &f.want.Host
	if f.row.MAC != nil {
		if mac, err := station(*f.row.MAC); err == nil {
			h.MAC = mac.String()
		}
	}
	h.Netns, err = netnsOf(f.row)
	r.refuse(f, "options", err)
	h.Addresses, err = addressesOf(f.row)
	r.warn(f, "options", err)
	h.Up, err = yes(f.row, KeyUp, h.Netns != "" || len(h.Addresses) > 0)
	r.warn(f, "options", err)
	h.Persist, err = yes(f.row, KeyPersist, false)
	r.warn(f, "options", err)
}

// device reads what the device is called. In another network namespace it may be
// called otherwise than the port: a hundred pods have a net1.
func (r *reader) device(f *found) {
	name, given := f.row.Options[KeyDevice]
	switch {
	case !given:
		r.refuse(f, "name", badDevice(f.row.Name))
	case f.row.Options[KeyNetns] == "":
		r.refuse(f, "options", conflict("%s without %s: name the port like the device", KeyDevice, KeyNetns))
	default:
		r.refuse(f, "options", badName(name))
		r.refuse(f, "options", badDevice(name))
		f.want.option(KeyDevice, name)
	}
}

// badDevice says what is wrong with the name of a network device.
func badDevice(s string) error {
	switch {
	case len(s) > deviceMax:
		return bad("name %q has %d bytes, a network device's at most %d", short(s), len(s), deviceMax)
	case strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || strings.ContainsRune("/:%\x7f", c) }):
		return bad("name %q has a character that a network device's cannot have: a blank, colon or percent sign", short(s))
	}
	return nil
}

// netnsMax is the longest path that the kernel takes, in bytes.
const netnsMax = 4095

// netnsOf reads the network namespace of a row.
func netnsOf(row *model.Interface) (string, error) {
	s, given := row.Options[KeyNetns]
	switch {
	case !given:
		return "", nil
	case len(s) > netnsMax:
		return "", bad("%s of %d bytes is longer than %d", KeyNetns, len(s), netnsMax)
	case !strings.Contains(s, "/"):
		if err := badName(s); err != nil {
			return "", bad("%s: %v", KeyNetns, err)
		}
	case !filepath.IsAbs(s) || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return "", bad("%s=%q is neither the name of a network namespace nor an absolute path", KeyNetns, short(s))
	}
	return s, nil
}

// addressesOf reads the addresses of a row. Of those, the good ones are returned
// beside an error.
func addressesOf(row *model.Interface) ([]string, error) {
	var list []string
	var err error
	for _, s := range strings.FieldsFunc(row.Options[KeyIP], func(c rune) bool { return c == ',' || c == ' ' }) {
		a, problem := netip.ParsePrefix(s)
		if problem != nil {
			err = bad("%s: %q is not an address with the length of its prefix, like 10.0.0.1/24", KeyIP, short(s))
			continue
		}
		list = append(list, a.String())
	}
	slices.Sort(list)
	return slices.Compact(list), err
}

// yes reads an option that is true or false.
func yes(row *model.Interface, key string, unset bool) (bool, error) {
	switch s, given := row.Options[key]; {
	case !given:
		return unset, nil
	case s == "true", s == "false":
		return s == "true", nil
	default:
		return unset, bad("%s=%q is neither true nor false", key, short(s))
	}
}

// local is the host's end of a bridge, which every bridge that ovs-vsctl makes
// has. It is a device if it can be one, and told of in any case: that there is
// none is nothing that is wrong with the bridge.
func (r *reader) local(f *found) {
	f.view.Local = true
	if f.view.MAC == noMAC {
		f.view.MAC = bridgeMAC(f.bridge).String()
	}
	if f.view.Note = r.noLocal(f); f.view.Note != "" {
		return
	}
	f.hosted = true
	r.host(f)
	f.want.Host.MAC = f.view.MAC
	r.vlans(f)
	r.extras(f)
	r.limits(f)
}

// noLocal says why a bridge's own port is no device.
func (r *reader) noLocal(f *found) string {
	asked := f.bridge.OtherConfig[KeyLocal]
	switch {
	case asked == "false":
		return "other_config:" + KeyLocal + " of the bridge is false"
	case asked != "true" && !r.policy.Local:
		return "bridges of this switch have no device of their own: other_config:" + KeyLocal + "=true of the bridge or `millrace run --local-ports on` changes that"
	case r.policy.NoDevices != "":
		return r.policy.NoDevices
	}
	if err := badDevice(f.row.Name); err != nil {
		return err.Error()
	}
	return ""
}
