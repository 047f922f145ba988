package dataplane

import (
	"net/netip"
	"slices"
	"time"

	"millrace/dataplane/packet"
)

// A RxQueue is what one worker receives from. Only that worker calls it.
type RxQueue interface {
	// Rx fills b, which is empty, with what the device has received, and does
	// not block. Segments are borrowed until Release.
	Rx(b *packet.Batch)

	// Release ends the loan of the last Rx and lets the peer have its
	// buffers back.
	Release()

	// Arm asks the device to make WakeFD readable for the next frame, and
	// reports whether frames are waiting already. Disarm takes it back.
	Arm() bool
	Disarm()

	// WakeFD is the descriptor that wakes the queue, or -1 when there is
	// none now (no peer: nothing will come), or -2 when the peer gave none
	// (it must be polled). It changes only inside Env.Quiesce.
	WakeFD() int

	// Signal tells the peer that buffers came back, if it wants to know. The
	// worker calls it once a turn in which Release was called.
	Signal()
}

// A TxQueue is what workers send to. Tx, Commit or Abort, and Signal are called
// in this order by one worker; a queue that several workers share locks from
// Tx to Commit or Abort.
type TxQueue interface {
	// Tx copies the frames of list to the device, which does not show them to
	// its peer yet. A frame that it leaves has Why set; the others are taken.
	Tx(b *packet.Batch, list []packet.Ref)

	// Commit shows the peer what Tx took, and adds it to b.Sent and
	// b.SentBytes. What the peer does not take even then has Why set, in the
	// list of Tx. Abort forgets it.
	Commit(b *packet.Batch)
	Abort()

	// Signal wakes the peer if it wants to know of what was committed. The
	// worker calls it once a turn in which Commit was called.
	Signal()
}

// A Device is the control side of an open port. Its queues are fixed for its
// life, whatever its peer does: a queue without a peer receives nothing and
// takes nothing.
type Device interface {
	Rx() []RxQueue
	Tx() TxQueue
	State() DeviceState

	// Owns reports whether address a is memory of the device's peer, and
	// Break marks the device broken for a reason: its peer took that memory
	// away. Both are called by workers, never in the usual course.
	Owns(a uintptr) bool
	Break(reason string)

	// Close ends the device. No worker has its queues any more. It may take
	// as long as the peer likes, and waits for nothing but that and Quiesce.
	Close() error
}

// An MTUSetter is a Device whose largest payload can be changed while it works.
type MTUSetter interface {
	// SetMTU is PortSpec.MTU from now on. It does not wait for workers.
	SetMTU(mtu int)
}

// A HostSetter is a Device whose MAC, Addresses and Up can be changed while it
// works.
type HostSetter interface {
	// SetHost is PortSpec.Host from now on. It does not wait for workers.
	SetHost(HostSpec)
}

// Env is what a device asks of the dataplane.
type Env interface {
	// Quiesce returns when every worker has ended the turn it was in, and
	// has taken note of queues' WakeFD. What workers could reach before and
	// cannot reach now may be freed.
	Quiesce()

	// Changed says that State is different now.
	Changed()
}

// An Opener opens the device of one port type. It does not wait for a peer.
type Opener func(PortSpec, Env) (Device, error)

// Link says how far a port has come.
type Link string

// The links, from nothing to forwarding.
const (
	LinkWaiting Link = "waiting" // no peer: Reason says what is missing
	LinkSetup   Link = "setup"   // peer connected, rings not all there
	LinkUp      Link = "up"      // forwards
	LinkBroken  Link = "broken"  // peer misbehaved: Reason says how
)

// DeviceState is a device's own account of itself.
type DeviceState struct {
	Link     Link
	Reason   string // in words: which side is missing, or what is broken
	Since    time.Time
	Queues   int        // queue pairs in use now
	Features []string   // what was negotiated, by the names of the specification
	Regions  int        // memory regions of the peer
	Connects uint64     // times that a peer connected
	Breaks   uint64     // times that a peer was cut off for misbehaving
	Peer     string     // process id and user id of the peer, when known
	How      string     // how the port works and why so, where there was a choice
	Device   *NetDevice // network device behind the port; nil: there is none, or not now
	Host     HostState  // device of a tap or internal port
}

// A HostState is the network device of a tap or internal port, as it was last
// seen: others may rename, move and change it. It is zero for other types, and
// before there was one.
type HostState struct {
	Name  string
	Index int
	MAC   string
	MTU   int
	Up    bool   // it was taken up
	Netns uint64 // inode number of its network namespace; 0: not known
}

// A NetDevice is a network device of the kernel as it is.
type NetDevice struct {
	Index   int
	MAC     [6]byte
	MTU     int
	Up      bool // by the administrator
	Carrier bool
	Driver  string
}

// VLANMode is how a port treats VLAN tags, as Port.vlan_mode in the Open_vSwitch
// schema.
type VLANMode string

// The modes. The zero value means VLANAccess when there is a tag, VLANTrunk
// otherwise.
const (
	VLANAccess         VLANMode = "access"
	VLANTrunk          VLANMode = "trunk"
	VLANNativeTagged   VLANMode = "native-tagged"
	VLANNativeUntagged VLANMode = "native-untagged"
)

// Port types, named as in the Open_vSwitch database.
const (
	TypeVhostServer = "dpdkvhostuser"       // the switch listens
	TypeVhostClient = "dpdkvhostuserclient" // the switch connects, and tries again
	TypePatch       = "patch"               // the other end is a port of another bridge
	TypeAFXDP       = "afxdp"               // a network device of the kernel, by AF_XDP
	TypeTAP         = "tap"                 // a network device of the kernel, for a pod or the host
	TypeInternal    = "internal"            // the same; what Open vSwitch calls the host's ports, and a bridge's own
	TypeGeneve      = "geneve"              // a tunnel to another host (RFC 8926)
	TypeVXLAN       = "vxlan"               // a tunnel to another host (RFC 7348)
)

// IsHost reports whether the ports of a type are network devices that the switch
// makes.
func IsHost(portType string) bool { return portType == TypeTAP || portType == TypeInternal }

// OptionOffload is a key of PortSpec.Options for vhost-user and kernel ports:
// whether the peer may leave checksums and segmentation to the switch, and has them left
// to itself. It is "true", the default, or "false".
const OptionOffload = "offload"

// OptionGRO is a key of PortSpec.Options for vhost-user and kernel ports: whether segments of
// TCP that come in one batch are merged into super-frames, if the peer takes those. It is
// "true", or "false", the default.
const OptionGRO = "gro"

// OptionDevice is a key of PortSpec.Options for kernel ports: what the device is
// called, if not as the port.
const OptionDevice = "device"

// Keys of PortSpec.Options for vhost-user ports.
const (
	OptionPeerUID  = "peer-uid"     // the only user whose process may be the peer, as a number
	OptionOwner    = "socket-owner" // UID:GID that a socket that we make belongs to
	OptionMode     = "socket-mode"  // of such a socket, in octal; 0660 otherwise
	OptionNoFollow = "no-follow"    // "true": a symbolic link is no socket, and none leads to one in the place of its directory
)

// A PortSpec says what a port shall be.
type PortSpec struct {
	Bridge string
	Name   string
	Type   string
	Path   string // socket, for vhost-user ports; below the run directory by default
	Peer   string // name of the other end, for patch ports

	Tag    uint16   // VLAN of an access or native port; 0 is none
	Trunks []uint16 // VLANs that a trunk carries; none means all
	Mode   VLANMode

	MTU      int // largest payload of an outgoing frame in bytes; 0: up to FrameMax, or as the kernel likes
	Queues   int // queue pairs that are offered to the peer; 0: DefaultQueues, or one of a kernel's device
	MACLimit int // most addresses learned on the port; 0: no limit of its own

	Ingress Limit    // of what comes in by the port
	Egress  Limit    // of what leaves by it
	Sources []Source // whom frames that come in must be from; none: anybody

	// Options are what only ports of this type know, by the keys of
	// Interface.options.
	Options map[string]string

	Host HostSpec // of tap and internal ports
}

// A HostSpec says what the network device of a tap or internal port shall be. Its
// name is the port's.
type HostSpec struct {
	Netns     string         // its network namespace: a path, or a name below /run/netns; empty: the dataplane's
	MAC       [6]byte        // zero: the kernel chooses
	Addresses []netip.Prefix // of the host on it
	Up        bool           // take it up
	Persist   bool           // it stays when the port or the dataplane goes
}

// equal reports whether two devices shall be the same.
func (h HostSpec) equal(o HostSpec) bool { return h.same(o) && h.settings(o) }

// same reports whether one device can become the other.
func (h HostSpec) same(o HostSpec) bool { return h.Netns == o.Netns && h.Persist == o.Persist }

// settings reports whether what a HostSetter changes is equal.
func (h HostSpec) settings(o HostSpec) bool {
	return h.MAC == o.MAC && h.Up == o.Up && slices.Equal(h.Addresses, o.Addresses)
}

// DefaultQueues is the number of queue pairs offered where a port says nothing.
const DefaultQueues = 8

// PortInfo is a port as it is.
type PortInfo struct {
	PortSpec
	Number  uint32 // from 1, never used again while the dataplane lives
	State   DeviceState
	Created time.Time
	Workers []int  // CPUs that poll its receive queues, by queue
	Wire    string // name of the port that all its frames go to, if wired
}

// PortStats counts a port's frames since it was added. The counts of one
// snapshot belong together: Balanced holds.
type PortStats struct {
	Name              string
	Number            uint32
	RxFrames, RxBytes uint64
	TxFrames, TxBytes uint64
	Copies            uint64 // outputs of its frames beyond the first of each
	RxDrops           Drops  // frames that came from it and went nowhere
	TxDrops           Drops  // outputs to it that it could not take
	Outputs           uint64 // outputs that frames from it caused
	Offered           uint64 // outputs to it
	Finished          Finished
}

// Drops counts dropped frames by reason.
type Drops [packet.ReasonCount]uint64

// Total is the number of dropped frames.
func (d *Drops) Total() uint64 {
	var n uint64
	for _, c := range d {
		n += c
	}
	return n
}

// Balanced reports whether every frame of the port is accounted for: what it
// received was output or dropped, what was output to it was sent, cut into segments
// that were sent, merged into a super-frame that was, or dropped.
func (s *PortStats) Balanced() bool {
	return s.RxFrames+s.Copies == s.Outputs+s.RxDrops.Total() && s.Offered+s.Finished.Segments == s.TxFrames+s.TxDrops.Total()+s.Finished.Joined
}

// WorkerStats counts what a worker did. Times are in ticks of the time stamp
// counter.
type WorkerStats struct {
	CPU       int
	Turns     uint64 // turns of the loop
	Busy      uint64 // ticks in turns that carried frames
	Idle      uint64 // ticks in turns that did not
	Asleep    uint64 // ticks asleep
	Sleeps    uint64
	Frames    uint64             // frames received
	Batches   uint64             // receive batches that were not empty
	Queues    int                // receive queues polled
	GapMax    uint64             // longest time between two turns in ticks, sleeping aside
	GapMinute uint64             // the longest of the last 60 seconds
	Gaps      [GapBuckets]uint64 // gaps by size: bucket i counts those of up to GapBase<<i ticks
	Faults    uint64             // memory faults taken and survived
	Walks     uint64             // frames that went through the tables of rules, since nothing cached was right for them
}

// GapBuckets and GapBase are the scale of WorkerStats.Gaps: from about half a
// microsecond to seconds.
const (
	GapBuckets = 24
	GapBase    = 1024
)

// A MACEntry is an address that a bridge has learned or was given.
type MACEntry struct {
	Bridge string
	VLAN   uint16
	MAC    [6]byte
	Port   string
	Static bool
	Age    time.Duration
	Hits   uint64
}
