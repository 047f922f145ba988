package message

import (
	"math/bits"
	"strconv"
	"strings"
)

// Features is the set of virtio feature bits of a network device, exchanged by
// GET_FEATURES and SET_FEATURES (virtio 5.1.3 and 6; VHOST_F_LOG_ALL and
// VHOST_USER_F_PROTOCOL_FEATURES are vhost's own).
type Features uint64

// The specification's VIRTIO_NET_F_, VIRTIO_RING_F_ and VIRTIO_F_ bits.
const (
	NetFCsum              Features = 1 << 0  // device takes packets with partial checksum
	NetFGuestCsum         Features = 1 << 1  // driver takes packets with partial checksum
	NetFCtrlGuestOffloads Features = 1 << 2  // offloads change over the control queue
	NetFMTU               Features = 1 << 3  // device tells its maximum MTU
	NetFMAC               Features = 1 << 5  // device has a MAC address
	NetFGSO               Features = 1 << 6  // legacy: any GSO
	NetFGuestTSO4         Features = 1 << 7  // driver takes TSOv4
	NetFGuestTSO6         Features = 1 << 8  // driver takes TSOv6
	NetFGuestECN          Features = 1 << 9  // driver takes TSO with ECN
	NetFGuestUFO          Features = 1 << 10 // driver takes UFO
	NetFHostTSO4          Features = 1 << 11 // device takes TSOv4
	NetFHostTSO6          Features = 1 << 12 // device takes TSOv6
	NetFHostECN           Features = 1 << 13 // device takes TSO with ECN
	NetFHostUFO           Features = 1 << 14 // device takes UFO
	NetFMrgRxbuf          Features = 1 << 15 // a received packet may span chains
	NetFStatus            Features = 1 << 16 // configuration has a link status
	NetFCtrlVQ            Features = 1 << 17 // a control queue exists
	NetFCtrlRX            Features = 1 << 18 // receive modes over the control queue
	NetFCtrlVLAN          Features = 1 << 19 // VLAN filters over the control queue
	NetFCtrlRXExtra       Features = 1 << 20 // more receive modes
	NetFGuestAnnounce     Features = 1 << 21 // driver announces itself after migration
	NetFMQ                Features = 1 << 22 // several queue pairs
	NetFCtrlMACAddr       Features = 1 << 23 // MAC address over the control queue
	FNotifyOnEmpty        Features = 1 << 24 // legacy: notify when the ring runs empty
	FLogAll               Features = 1 << 26 // vhost: log every write to guest memory
	FAnyLayout            Features = 1 << 27 // legacy: no fixed descriptor layout
	RingFIndirectDesc     Features = 1 << 28 // indirect descriptors
	RingFEventIdx         Features = 1 << 29 // used_event and avail_event
	FProtocolFeatures     Features = 1 << 30 // vhost-user: protocol features exist
	FVersion1             Features = 1 << 32 // virtio 1.0 or later
	FAccessPlatform       Features = 1 << 33 // addresses go through an IOMMU
	FRingPacked           Features = 1 << 34 // packed rings
	FInOrder              Features = 1 << 35 // buffers are used in order
	FOrderPlatform        Features = 1 << 36 // stronger barriers
	FSRIOV                Features = 1 << 37 // single root I/O virtualization
	FNotificationData     Features = 1 << 38 // notifications carry data
	FNotifConfigData      Features = 1 << 39 // notifications carry an identifier
	FRingReset            Features = 1 << 40 // one ring can be reset
	FAdminVQ              Features = 1 << 41 // an administration queue exists
	NetFHashTunnel        Features = 1 << 51 // hash of inner headers
	NetFVQNotfCoal        Features = 1 << 52 // coalescing of one queue's notifications
	NetFNotfCoal          Features = 1 << 53 // coalescing of notifications
	NetFGuestUSO4         Features = 1 << 54 // driver takes USOv4
	NetFGuestUSO6         Features = 1 << 55 // driver takes USOv6
	NetFHostUSO           Features = 1 << 56 // device takes USO
	NetFHashReport        Features = 1 << 57 // header carries a hash
	NetFGuestHdrLen       Features = 1 << 59 // driver gives an exact header length
	NetFRSS               Features = 1 << 60 // receive-side scaling
	NetFRSCExt            Features = 1 << 61 // header tells coalesced segments
	NetFStandby           Features = 1 << 62 // stands by for another device
	NetFSpeedDuplex       Features = 1 << 63 // configuration has speed and duplex
)

// Has reports whether every feature of want is in f.
func (f Features) Has(want Features) bool { return f&want == want }

// String lists the names of f in the order of their bits, without the VIRTIO_
// prefix: "NET_F_MRG_RXBUF|VERSION_1".
func (f Features) String() string {
	return bitNames(uint64(f), func(bit int) string {
		return featureName(1 << bit)
	})
}

// bitNames joins the names of the bits of v, lowest first. A bit without a name
// shows as its number, and no bits as "none".
func bitNames(v uint64, name func(bit int) string) string {
	if v == 0 {
		return "none"
	}
	var names []string
	for ; v != 0; v &= v - 1 {
		bit := bits.TrailingZeros64(v)
		s := name(bit)
		if s == "" {
			s = "bit" + strconv.Itoa(bit)
		}
		names = append(names, s)
	}
	return strings.Join(names, "|")
}

// featureName returns the name of f, which has one bit, or "". It is long
// because the specification's list is; it decides nothing.
func featureName(f Features) string {
	switch f {
	case NetFCsum:
		return "NET_F_CSUM"
	case NetFGuestCsum:
		return "NET_F_GUEST_CSUM"
	case NetFCtrlGuestOffloads:
		return "NET_F_CTRL_GUEST_OFFLOADS"
	case NetFMTU:
		return "NET_F_MTU"
	case NetFMAC:
		return "NET_F_MAC"
	case NetFGSO:
		return "NET_F_GSO"
	case NetFGuestTSO4:
		return "NET_F_GUEST_TSO4"
	case NetFGuestTSO6:
		return "NET_F_GUEST_TSO6"
	case NetFGuestECN:
		return "NET_F_GUEST_ECN"
	case NetFGuestUFO:
		return "NET_F_GUEST_UFO"
	case NetFHostTSO4:
		return "NET_F_HOST_TSO4"
	case NetFHostTSO6:
		return "NET_F_HOST_TSO6"
	case NetFHostECN:
		return "NET_F_HOST_ECN"
	case NetFHostUFO:
		return "NET_F_HOST_UFO"
	case NetFMrgRxbuf:
		return "NET_F_MRG_RXBUF"
	case NetFStatus:
		return "NET_F_STATUS"
	case NetFCtrlVQ:
		return "NET_F_CTRL_VQ"
	case NetFCtrlRX:
		return "NET_F_CTRL_RX"
	case NetFCtrlVLAN:
		return "NET_F_CTRL_VLAN"
	case NetFCtrlRXExtra:
		return "NET_F_CTRL_RX_EXTRA"
	case NetFGuestAnnounce:
		return "NET_F_GUEST_ANNOUNCE"
	case NetFMQ:
		return "NET_F_MQ"
	case NetFCtrlMACAddr:
		return "NET_F_CTRL_MAC_ADDR"
	case FNotifyOnEmpty:
		return "NOTIFY_ON_EMPTY"
	case FLogAll:
		return "LOG_ALL"
	case FAnyLayout:
		return "ANY_LAYOUT"
	case RingFIndirectDesc:
		return "RING_INDIRECT_DESC"
	case RingFEventIdx:
		return "RING_EVENT_IDX"
	case FProtocolFeatures:
		return "PROTOCOL_FEATURES"
	case FVersion1:
		return "VERSION_1"
	case FAccessPlatform:
		return "ACCESS_PLATFORM"
	case FRingPacked:
		return "RING_PACKED"
	case FInOrder:
		return "IN_ORDER"
	case FOrderPlatform:
		return "ORDER_PLATFORM"
	case FSRIOV:
		return "SR_IOV"
	case FNotificationData:
		return "NOTIFICATION_DATA"
	case FNotifConfigData:
		return "NOTIF_CONFIG_DATA"
	case FRingReset:
		return "RING_RESET"
	case FAdminVQ:
		return "ADMIN_VQ"
	case NetFHashTunnel:
		return "NET_F_HASH_TUNNEL"
	case NetFVQNotfCoal:
		return "NET_F_VQ_NOTF_COAL"
	case NetFNotfCoal:
		return "NET_F_NOTF_COAL"
	case NetFGuestUSO4:
		return "NET_F_GUEST_USO4"
	case NetFGuestUSO6:
		return "NET_F_GUEST_USO6"
	case NetFHostUSO:
		return "NET_F_HOST_USO"
	case NetFHashReport:
		return "NET_F_HASH_REPORT"
	case NetFGuestHdrLen:
		return "NET_F_GUEST_HDRLEN"
	case NetFRSS:
		return "NET_F_RSS"
	case NetFRSCExt:
		return "NET_F_RSC_EXT"
	case NetFStandby:
		return "NET_F_STANDBY"
	case NetFSpeedDuplex:
		return "NET_F_SPEED_DUPLEX"
	}
	return ""
}
