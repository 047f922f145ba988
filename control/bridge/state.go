package bridge

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Port types, named as in Interface.type.
const (
	TypeVhostServer = "dpdkvhostuser"
	TypeVhostClient = "dpdkvhostuserclient"
	TypePatch       = "patch"
	TypeAFXDP       = "afxdp"
	TypeSystem      = "system" // or empty: a network device, which becomes an afxdp port
	TypeInternal    = "internal"
	TypeTAP         = "tap"
	TypeGeneve      = "geneve"
	TypeVXLAN       = "vxlan"
)

// Limits and defaults of settings, as in the Open_vSwitch schema where it has
// them.
const (
	MTUMin        = 68
	MTUMax        = 9710
	MTUDefault    = 1500
	QueuesMax     = 64
	VLANMax       = 4094
	OfportLocal   = 65534 // the port that is named like its bridge
	OfportBad     = -1    // the port is not there
	ofportMax     = 65279 // largest that may be asked for
	macLimitMax   = 1 << 24
	MACAgeDefault = 300 * time.Second
	MACMaxDefault = 8192
	StatsDefault  = 5 * time.Second // stats-update-interval, and its least
)

// KeyPipeline is the key of Bridge.other_config that says what decides about
// frames: a Pipeline.
const KeyPipeline = "millrace-pipeline"

// A Pipeline is what decides about the frames of a bridge.
type Pipeline string

// The pipelines.
const (
	Learning Pipeline = "learning" // the bridge learns addresses
	Flows    Pipeline = "flows"    // rows of Flow in the Millrace database say it all
)

// Keys of Port.other_config that Open vSwitch does not know.
const (
	KeyWire     = "millrace-wire"      // name of the port that all frames of this one go to, past any bridge
	KeyMACLimit = "millrace-mac-limit" // most addresses that are learned on the port
)

// KeyLocal of Bridge.other_config says whether the bridge's own port is a device:
// "true", "false", or as the Policy has it.
const KeyLocal = "millrace-local"

// A Mode is how a port treats VLAN tags, named as in Port.vlan_mode.
type Mode string

// The modes.
const (
	Access         Mode = "access"
	Trunk          Mode = "trunk"
	NativeTagged   Mode = "native-tagged"
	NativeUntagged Mode = "native-untagged"
)

// A Port is what a port of the dataplane shall be.
type Port struct {
	Bridge, Name, Type string
	Path               string // absolute, for vhost-user
	Peer               string // for patch
	Mode               Mode
	Tag                uint16   // of access and native ports
	Trunks             []uint16 // sorted, each once; none: all
	MTU                int
	Queues             int               // queue pairs offered; 0: as many as the dataplane likes
	MACLimit           int               // most addresses learned on it; 0: no limit of its own
	Wire               string            // port that all its frames go to; empty: the bridge decides
	Options            map[string]string // what only the type of port knows
	Host               Host              // for tap and internal

	Ingress, Egress Limit
	Sources         []Source // whom frames that come in must be from; none: anybody
}

// Equal reports whether two ports are the same.
func (p Port) Equal(o Port) bool { return p.same(o) && p.settings(o) && p.Wire == o.Wire }

// same reports whether the one can become the other without losing its peer.
func (p Port) same(o Port) bool {
	return p.Bridge == o.Bridge && p.Name == o.Name && p.Type == o.Type && p.Path == o.Path && p.Peer == o.Peer &&
		maps.Equal(p.Options, o.Options) && p.Host.same(o.Host) &&
		p.Queues == o.Queues // a peer asks for their number once, when it connects
}

// settings reports whether what Set changes in flight is equal.
func (p Port) settings(o Port) bool {
	return p.Mode == o.Mode && p.Tag == o.Tag && slices.Equal(p.Trunks, o.Trunks) && p.MTU == o.MTU && p.MACLimit == o.MACLimit && p.Host.settings(o.Host) &&
		p.Ingress == o.Ingress && p.Egress == o.Egress && slices.EqualFunc(p.Sources, o.Sources, Source.equal)
}

// String is the port on one line, for logs and tests.
func (p Port) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", p.Bridge, p.Name, p.Type)
	if p.Path != "" {
		b.WriteString(" " + p.Path)
	}
	if p.Peer != "" {
		b.WriteString(" peer=" + p.Peer)
	}
	b.WriteString(" " + p.inFlight())
	if p.Queues != 0 {
		fmt.Fprintf(&b, " queues=%d", p.Queues)
	}
	for _, k := range slices.Sorted(maps.Keys(p.Options)) {
		fmt.Fprintf(&b, " %s=%s", k, p.Options[k])
	}
	b.WriteString(p.Host.String())
	return b.String()
}

// inFlight is the part of String that can be changed in flight.
func (p Port) inFlight() string {
	s := string(p.Mode)
	if p.Tag != 0 {
		s += fmt.Sprintf(" tag=%d", p.Tag)
	}
	if len(p.Trunks) > 0 {
		s += fmt.Sprintf(" trunks=%v", p.Trunks)
	}
	if p.MTU != 0 {
		s += fmt.Sprintf(" mtu=%d", p.MTU)
	}
	if p.MACLimit != 0 {
		s += fmt.Sprintf(" macs=%d", p.MACLimit)
	}
	if p.Ingress != (Limit{}) {
		s += " ingress=" + p.Ingress.String()
	}
	if p.Egress != (Limit{}) {
		s += " egress=" + p.Egress.String()
	}
	for _, o := range p.Sources {
		s += " from=" + strconv.Quote(o.String())
	}
	s += p.Host.inFlight()
	return s
}

// A Bridge is what a bridge of the dataplane shall be.
type Bridge struct {
	Name   string
	MACAge time.Duration
	MACMax int      // addresses that it can learn
	Flood  []uint16 // VLANs without learning; sorted, each once

	Pipeline Pipeline // empty: Learning
}

// Equal reports whether two bridges are the same.
func (b Bridge) Equal(o Bridge) bool {
	return b.Name == o.Name && b.MACAge == o.MACAge && b.MACMax == o.MACMax && slices.Equal(b.Flood, o.Flood) && b.RunsFlows() == o.RunsFlows()
}

// RunsFlows reports whether rows of Flow decide about the bridge's frames.
func (b Bridge) RunsFlows() bool { return b.Pipeline == Flows }

// String is the bridge on one line, for logs and tests.
func (b Bridge) String() string {
	s := fmt.Sprintf("%s age=%v max=%d", b.Name, b.MACAge, b.MACMax)
	if len(b.Flood) > 0 {
		s += fmt.Sprintf(" flood=%v", b.Flood)
	}
	if b.RunsFlows() {
		s += " pipeline=flows"
	}
	return s
}

// A State is what the rows ask for.
type State struct {
	Ports   map[string]Port
	Bridges map[string]Bridge // also those without ports
	Egress  map[string]Egress // what else egress ports need, by name

	Interfaces []InterfaceView // by name: what to tell in Interface rows
	PortErrors map[string]string
	BridgeRows []View // by name: what to tell in Bridge rows

	Stats   time.Duration // how often statistics go back
	CPUs    []int         // pmd-cpu-mask: where workers shall run; sorted; none: where the dataplane is started with
	Balance Balance
	Errors  []*RowError // in order of table, row and column
}

// RunFlows reports whether there is a bridge that runs flows.
func (s *State) RunFlows() bool {
	for _, b := range s.Bridges {
		if b.RunsFlows() {
			return true
		}
	}
	return false
}

// An InterfaceView is what an Interface row gets to know whatever the
// dataplane says.
type InterfaceView struct {
	UUID   string
	Name   string // of the interface, and of its port in the dataplane
	Type   string
	Ofport int
	MAC    string
	MTU    int
	Error  string // all that is wrong, in words; empty: nothing
	Wanted bool   // Ports has it
	Local  bool   // it stands for the host's end of its bridge
	Note   string // why a Local one is no port, in words
}

// A View is what a Bridge row gets to know.
type View struct {
	UUID       string
	Name       string
	DatapathID string
	Error      string
}
