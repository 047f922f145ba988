package bridge

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"millrace/control/ovsdb/model"
)

// iface reads one interface.
func (r *reader) iface(f *found) {
	f.want = Port{Bridge: f.bridge.Name, Name: f.row.Name, Type: f.row.Type, MTU: MTUDefault}
	if err := badName(f.row.Name); err != nil {
		r.refuse(f, "name", err)
		return
	}
	r.mac(f)
	r.mtu(f)
	f.view.MTU = f.want.MTU
	switch {
	case f.row.Type == TypeInternal && (f.row.Name == f.bridge.Name || f.port.FakeBridge):
		r.local(f)
		return
	case f.row.Type == TypeVhostClient || f.row.Type == TypeVhostServer:
		r.vhost(f)
	case f.row.Type == TypePatch:
		r.patch(f)
	case f.row.Type == TypeTAP || f.row.Type == TypeInternal:
		r.host(f)
	case f.row.Type == TypeAFXDP || f.row.Type == TypeSystem || f.row.Type == "":
		r.afxdp(f)
	case IsTunnel(f.row.Type):
		r.tunnel(f)
	case f.row.Type == TypeEgress:
		r.egress(f)
	default:
		r.refuse(f, "type", r.otherType(f.row))
	}
	r.vlans(f)
	r.extras(f)
	r.limits(f)
}

// otherType says why there is no port of that type.
func (r *reader) otherType(row *model.Interface) error {
	switch row.Type {
	case "afxdp-nonpmd", "dpdk":
		return notYet("type %s: a NIC that has its kernel driver is a port of type %s", row.Type, TypeAFXDP)
	case "dpdkr", "gre", "ip6gre", "erspan", "ip6erspan", "lisp", "stt", "gtpu", "bareudp", "srv6":
		return notYet("type %s", row.Type)
	}
	return unknown("type %q: choose one of %s", short(row.Type), strings.Join([]string{TypeVhostServer, TypeVhostClient, TypeAFXDP, TypeTAP, TypeInternal, TypePatch, TypeGeneve, TypeVXLAN, TypeEgress}, ", "))
}

// noMAC is told of an interface whose address is not known: a guest's is the guest's affair.
const noMAC = "00:00:00:00:00:00"

// mac reads the address that the row asks for.
func (r *reader) mac(f *found) {
	f.view.MAC = noMAC
	if f.row.MAC != nil {
		mac, err := station(*f.row.MAC)
		r.warn(f, "mac", err)
		if err == nil {
			f.view.MAC = mac.String()
		}
	}
}

func (r *reader) mtu(f *found) {
	if f.row.MTURequest == nil {
		return
	}
	n := *f.row.MTURequest
	if n < MTUMin || n > MTUMax {
		r.warn(f, "mtu_request", bad("%d is not in %d..%d, %d is used", n, MTUMin, MTUMax, MTUDefault))
		return
	}
	f.want.MTU = n
}

// keyOffload is the option of vhost-user, tap and internal ports that says whether
// checksums and segmentation may be left to the next one who has a frame.
const keyOffload = "offload"

// keyGRO is the option of the same ports that says whether segments of TCP are put together
// for a peer that takes super-frames.
const keyGRO = "gro"

// strangersMax is how many options that a type does not know are named: a row
// may have any number.
const strangersMax = 8

// options refuses options that the type does not know.
func (r *reader) options(f *found, known ...string) {
	strangers := slices.Sorted(maps.Keys(f.row.Options))
	strangers = slices.DeleteFunc(strangers, func(key string) bool { return slices.Contains(known, key) })
	for _, key := range strangers[:min(len(strangers), strangersMax)] {
		r.warn(f, "options", unknown("option %q for type %s", short(key), f.row.Type))
	}
	if more := len(strangers) - strangersMax; more > 0 {
		r.warn(f, "options", unknown("options for type %s: %d more", f.row.Type, more))
	}
}

// vhost reads a vhost-user port. Options that tune what this switch does not
// have are let pass: they ask for nothing that a packet could show.
func (r *reader) vhost(f *found) {
	r.options(f, "vhost-server-path", "n_rxq", "n_rxq_desc", "n_txq_desc", "tx-retries-max", "tx-steering", keyOffload, keyGRO, KeyPeerUID, KeyOwner, KeyMode, KeyNoFollow)
	r.choice(f, keyOffload, "true", "false")
	r.choice(f, keyGRO, "false", "true")
	r.choice(f, KeyNoFollow, "false", "true")
	r.choice(f, KeyMode, "0660", "0600", "0666")
	r.owner(f)
	path, err := r.policy.socket(f.row, r.rows.Root.OtherConfig["vhost-sock-dir"])
	r.refuse(f, "options", err)
	f.want.Path = path
	n, err := number(f.row.Options, "n_rxq", 0, 1, QueuesMax)
	r.warn(f, "options", err)
	f.want.Queues = n
}

// Options of vhost-user ports that say who may have the socket.
const (
	KeyPeerUID  = "peer-uid"     // the only user whose process may be the peer
	KeyOwner    = "socket-owner" // UID:GID that a listening socket belongs to
	KeyMode     = "socket-mode"  // of such a socket
	KeyNoFollow = "no-follow"    // "true": a symbolic link is no socket, and none leads to one in the place of its directory
)

// owner reads who may have the socket. What is not understood is refused: others
// would have it.
func (r *reader) owner(f *found) {
	if s, given := f.row.Options[KeyPeerUID]; given {
		if _, err := userID(s); err != nil {
			r.refuse(f, "options", bad("%s=%q is not the number of a user", KeyPeerUID, short(s)))
		}
		f.want.option(KeyPeerUID, s)
	}
	if s, given := f.row.Options[KeyOwner]; given {
		if _, _, err := ParseOwner(s); err != nil {
			r.refuse(f, "options", err)
		}
		f.want.option(KeyOwner, s)
	}
}

// userID reads the number of a user or group; the largest stands for none
// (chown(2)).
func userID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// ParseOwner reads the value of KeyOwner.
func ParseOwner(s string) (uid, gid uint32, err error) {
	u, g, _ := strings.Cut(s, ":")
	uid, err = userID(u)
	if err == nil {
		gid, err = userID(g)
	}
	if err != nil {
		return 0, 0, bad("%s=%q is not UID:GID in numbers", KeyOwner, short(s))
	}
	return uid, gid, nil
}

// patch reads one end of a patch. Its other end is looked at when all are
// read.
func (r *reader) patch(f *found) {
	r.options(f, "peer")
	f.want.Peer = f.row.Options["peer"]
	f.want.MTU = 0
	switch f.want.Peer {
	case "":
		r.refuse(f, "options", bad("peer is missing: it names the patch port at the other end"))
	case f.row.Name:
		r.refuse(f, "options", conflict("the port is its own peer"))
	default:
		r.refuse(f, "options", badName(f.want.Peer))
	}
}

// vlans reads the port's VLANs. What cannot be followed is refused: the port
// would carry more than it may.
func (r *reader) vlans(f *found) {
	p := f.port
	tag, mode := 0, Trunk
	if p.Tag != nil {
		tag, mode = *p.Tag, Access
	}
	if p.VLANMode != nil {
		mode = Mode(*p.VLANMode)
	}
	if tag < 0 || tag > VLANMax {
		r.refuse(f, "tag", bad("%d is not a VLAN: they are 1 to %d", tag, VLANMax))
		return
	}
	trunks := slices.Sorted(slices.Values(p.Trunks))
	for _, v := range trunks {
		if v < 0 || v > VLANMax {
			r.refuse(f, "trunks", bad("%d is not a VLAN: they are 0 to %d", v, VLANMax))
			return
		}
		f.want.Trunks = append(f.want.Trunks, uint16(v))
	}
	f.want.Trunks = slices.Compact(f.want.Trunks)
	f.want.setMode(mode, uint16(tag))
	if mode == "dot1q-tunnel" {
		r.refuse(f, "vlan_mode", notYet("dot1q-tunnel"))
	}
}

// setMode gives a port its mode and tag. VLAN 0 is that of frames without a
// tag: an access port of it is a trunk of nothing else.
func (p *Port) setMode(mode Mode, tag uint16) {
	p.Mode, p.Tag = mode, tag
	switch {
	case mode == Trunk:
		p.Tag = 0
	case mode == Access && tag == 0:
		p.Mode, p.Trunks = Trunk, []uint16{0}
	case mode == Access:
		p.Trunks = nil
	case tag == 0:
		p.Mode = Trunk
		if len(p.Trunks) > 0 && p.Trunks[0] != 0 {
			p.Trunks = slices.Insert(p.Trunks, 0, 0)
		}
	}
}
