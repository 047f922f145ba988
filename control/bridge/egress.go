package bridge

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// TypeEgress is a port whose peer is a process of the switch: the control plane's
// requests come out of it. For the dataplane it is a vhost-user or a tap port.
const TypeEgress = "egress"

// Keys of Interface.options of egress ports. All others are the agent's.
const (
	KeyStack   = "stack"   // whose TCP/IP the agent uses
	KeyGateway = "gateway" // ways to other networks, with commas between them
	keyServer  = "server"  // without one there is no agent
)

// The stacks.
const (
	StackOwn    = "netstack" // of the port's process
	StackKernel = "kernel"   // of a network namespace
)

// An Egress is what the process of an egress port shall be.
type Egress struct {
	Name      string            `json:"name"`
	Stack     string            `json:"stack"`
	Socket    string            `json:"socket,omitempty"` // of the vhost-user port, for StackOwn
	Netns     string            `json:"netns,omitempty"`  // a path or a name, for StackKernel
	Own       bool              `json:"own,omitempty"`    // nobody else makes that namespace
	MAC       string            `json:"mac"`
	MTU       int               `json:"mtu"` // 0: the kernel's
	Addresses []string          `json:"addresses,omitempty"`
	Gateways  []string          `json:"gateways,omitempty"`
	Options   map[string]string `json:"options,omitempty"` // of the agent, as the row has them; none: there is no agent
}

// Equal reports whether two are the same.
func (e Egress) Equal(o Egress) bool {
	return e.Same(o) && maps.Equal(e.Options, o.Options)
}

// Same reports whether two are the same but for the agent's options.
func (e Egress) Same(o Egress) bool {
	return e.Name == o.Name && e.Stack == o.Stack && e.Socket == o.Socket && e.Netns == o.Netns && e.Own == o.Own && e.MAC == o.MAC && e.MTU == o.MTU &&
		slices.Equal(e.Addresses, o.Addresses) && slices.Equal(e.Gateways, o.Gateways)
}

// Agent reports whether it has an agent.
func (e Egress) Agent() bool { return len(e.Options) > 0 }

// egress reads an egress port. An option that cannot be followed is refused: the
// control plane would reach more than it may, or less than somebody counts on.
func (r *reader) egress(f *found) {
	e := Egress{Name: f.row.Name, Stack: cmp.Or(f.row.Options[KeyStack], StackOwn), MAC: localMAC(f.row.UUID).String(), Options: maps.Clone(f.row.Options)}
	if f.row.MAC != nil {
		mac, err := station(*f.row.MAC)
		f.fatal = f.fatal || err != nil // as the reader of all ports' addresses has said
		e.MAC = mac.String()
	}
	f.view.MAC = e.MAC
	var err error
	e.Addresses, err = addressesOf(f.row)
	r.refuse(f, "options", err)
	e.Gateways, err = gatewaysOf(f.row.Options[KeyGateway], e.Addresses)
	r.refuse(f, "options", err)
	if strings.HasPrefix(f.row.Name, "-") {
		r.refuse(f, "name", bad("%q begins with a dash, as the flags of its process do", short(f.row.Name)))
	}
	_, err = r.policy.resolve(filepath.Join("egress", f.row.Name+".sock")) // where its agent is asked
	r.refuse(f, "name", err)
	switch e.Stack {
	case StackOwn:
		r.ownStack(f, &e)
	case StackKernel:
		r.kernelStack(f, &e)
	default:
		r.refuse(f, "options", bad("%s=%q is neither %s nor %s", KeyStack, short(e.Stack), StackOwn, StackKernel))
	}
	for _, key := range []string{KeyStack, KeyGateway, KeyIP, KeyNetns} {
		delete(e.Options, key)
	}
	r.agent(f, &e)
	f.egress = &e
}

// ownStack is an egress port whose peer is a TCP/IP stack in a process, by shared
// memory as with any guest.
func (r *reader) ownStack(f *found, e *Egress) {
	path, err := r.policy.resolve(f.row.Name)
	r.refuse(f, "name", err)
	f.want.Type, f.want.Path, f.want.Queues = TypeVhostServer, path, 1
	f.want.option(KeyMode, "0600")
	e.Socket, e.MTU = path, f.want.MTU
	if len(e.Addresses) == 0 {
		r.refuse(f, "options", bad("%s is missing: the addresses of the port's TCP/IP stack, with the lengths of their prefixes, like 10.0.0.2/24", KeyIP))
	}
	r.refuse(f, "options", badOwn(e.Addresses))
	if f.row.Options[KeyNetns] != "" {
		r.refuse(f, "options", conflict("%s goes with %s=%s only", KeyNetns, KeyStack, StackKernel))
	}
}

// kernelStack is an egress port that is a tap device in a network namespace, one of
// its own unless the row names one.
func (r *reader) kernelStack(f *found, e *Egress) {
	r.refuse(f, "name", badDevice(f.row.Name))
	var err error
	e.Netns, err = netnsOf(f.row)
	r.refuse(f, "options", err)
	if e.Netns == "" {
		e.Netns, e.Own = "egress-"+f.row.Name, true
	}
	f.want.Type, f.want.Queues = TypeTAP, 1
	if f.row.MTURequest == nil {
		f.want.MTU = 0
	}
	e.MTU = f.want.MTU
	f.want.Host = Host{Netns: e.Netns, MAC: e.MAC, Addresses: e.Addresses, Up: true}
}

// agent has the options judged that are the agent's. A port of the kernel's stack
// may go without one: others may use its namespace.
func (r *reader) agent(f *found, e *Egress) {
	if e.Stack == StackKernel && len(e.Options) == 0 {
		return
	}
	if r.policy.Agent == nil {
		r.refuse(f, "type", notYet("type %s by this program", TypeEgress))
		return
	}
	for _, err := range r.policy.Agent(e.Options) {
		r.refuse(f, "options", bad("%v", err))
	}
	if e.Options[keyServer] == "" && !f.fatal {
		r.refuse(f, "options", bad("%s is missing: where a proxy-server takes agents", keyServer))
	}
}

// badOwn says which of a stack's addresses no host can have, or is there with two
// lengths: the process could not start, and nobody would read why. The kernel judges
// those of its devices itself.
func badOwn(addresses []string) error {
	seen := map[netip.Addr]bool{}
	for _, s := range addresses {
		switch a := netip.MustParsePrefix(s).Addr(); {
		case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.Is4In6(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return bad("%s: %s is no address of a host", KeyIP, a)
		case seen[a]:
			return conflict("%s: %s is there twice", KeyIP, a)
		default:
			seen[a] = true
		}
	}
	return nil
}

// gatewaysOf reads the gateways of a row. Each is in the network of an address: there
// would be no way to it.
func gatewaysOf(list string, addresses []string) ([]string, error) {
	var found []string
	families := map[bool]bool{}
	for _, s := range strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' }) {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			return nil, bad("%s: %q is not an address", KeyGateway, short(s))
		case families[a.Is4()]:
			return nil, conflict("%s: %s is the second of its family", KeyGateway, a)
		case !slices.ContainsFunc(addresses, func(p string) bool { return netip.MustParsePrefix(p).Contains(a) }):
			return nil, bad("%s: %s is in no network of the addresses in %s", KeyGateway, a, KeyIP)
		case slices.ContainsFunc(addresses, func(p string) bool { return netip.MustParsePrefix(p).Addr() == a }):
			return nil, bad("%s: %s is the port's own address", KeyGateway, a)
		}
		families[a.Is4()] = true
		found = append(found, a.String())
	}
	return found, nil
}

// localMAC is an address that follows from a row's identity, and stays the same.
func localMAC(uuid string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(uuid))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}
