package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"millrace/control/ovsdb/model"
)

// A Limit is the most that goes through a port in one direction.
type Limit struct {
	Bytes, Burst       uint64 // a second, and at once, of packets without their Ethernet header; 0: any number
	Frames, FrameBurst uint64 // likewise, frames
}

// String is the limit for logs and tests.
func (l Limit) String() string {
	var parts []string
	if l.Bytes != 0 {
		parts = append(parts, fmt.Sprintf("%dB/s+%dB", l.Bytes, l.Burst))
	}
	if l.Frames != 0 {
		parts = append(parts, fmt.Sprintf("%d/s+%d", l.Frames, l.FrameBurst))
	}
	return strings.Join(parts, ",")
}

// A Source is a station that frames which come in by a port may be from.
type Source struct {
	MAC       string
	Addresses []string // of its packets; none: any
}

// String is the source as KeySecurity has it.
func (s Source) String() string { return strings.Join(append([]string{s.MAC}, s.Addresses...), " ") }

func (s Source) equal(o Source) bool { return s.MAC == o.MAC && slices.Equal(s.Addresses, o.Addresses) }

// KeySecurity is the key of Interface.other_config that names the stations from which
// frames may come in, with commas between them: each is "MAC [ADDRESS[/LENGTH]]...", as
// Logical_Switch_Port.port_security of ovn-nb(5).
const KeySecurity = "port-security"

// QoS types: egress-policer is that of OVS-DPDK (vswitch: other_config:cir and cbs, in
// bytes). Open vSwitch takes no QoS and the empty one for none.
const (
	QoSPolicer = "egress-policer"
	qosNone    = "linux-noop"
)

// Bursts where there is a rate and none is given (ovs-vswitchd.conf.db(5)), and bounds.
const (
	burstDefault      = 8000 // kilobits
	frameBurstDefault = 16   // thousands of frames
	rateMax           = 1 << 40
	sourcesMax        = 64 // stations of a port, and addresses of one
)

// limits reads how much may go through the port, and from whom.
func (r *reader) limits(f *found) {
	i := f.row
	if i.BFD["enable"] == "true" {
		r.warn(f, "bfd", notYet("bfd"))
	}
	if i.CFMMpid != nil {
		r.warn(f, "cfm_mpid", notYet("cfm_mpid"))
	}
	policed := i.IngressPolicingRate != 0 || i.IngressPolicingKpktsRate != 0
	security, secured := i.OtherConfig[KeySecurity]
	if i.Type == TypePatch || IsTunnel(i.Type) {
		for _, c := range []struct { // in one order: the row has it
			column string
			set    bool
		}{{"ingress_policing_rate", policed}, {"other_config", secured}, {"qos", f.port.QOS != nil}} {
			if c.set {
				r.warn(f, c.column, notYet("limits of a port of type %s", i.Type))
			}
		}
		return
	}
	f.want.Ingress = Limit{
		Bytes: scaled(i.IngressPolicingRate, 125), Burst: scaled(i.IngressPolicingBurst, 125),
		Frames: scaled(i.IngressPolicingKpktsRate, 1000), FrameBurst: scaled(i.IngressPolicingKpktsBurst, 1000),
	}.withBursts()
	if f.port.QOS != nil {
		egress, err := egressOf(r.rows.QoS[*f.port.QOS])
		r.warn(f, "qos", err)
		f.want.Egress = egress
	}
	if secured {
		r.sources(f, security)
	}
}

// scaled is a column of bigger units in small ones.
func scaled(n int, by uint64) uint64 { return uint64(min(max(n, 0), rateMax/1000)) * by }

// withBursts gives rates their default bursts, and takes those away that have no rate.
func (l Limit) withBursts() Limit {
	if l.Burst == 0 {
		l.Burst = burstDefault * 125
	}
	if l.FrameBurst == 0 {
		l.FrameBurst = frameBurstDefault * 1000
	}
	if l.Bytes == 0 {
		l.Burst = 0
	}
	if l.Frames == 0 {
		l.FrameBurst = 0
	}
	return l
}

// egressOf reads a QoS row, which may be none that we know.
func egressOf(q *model.QoS) (Limit, error) {
	if q == nil || q.Type == "" || q.Type == qosNone {
		return Limit{}, nil
	}
	if q.Type != QoSPolicer {
		return Limit{}, notYet("QoS of type %s: %s is there", short(q.Type), QoSPolicer)
	}
	var l Limit
	for _, c := range []struct {
		key string
		to  *uint64
	}{{"cir", &l.Bytes}, {"cbs", &l.Burst}} {
		text := q.OtherConfig[c.key]
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 || n > rateMax {
			return Limit{}, bad("%s: %s=%q is not a number of bytes from 1 to %d", QoSPolicer, c.key, short(text), rateMax)
		}
		*c.to = n
	}
	return l, nil
}

// sources reads KeySecurity. What cannot be followed is refused: others would be let in.
func (r *reader) sources(f *found, text string) {
	list, err := ParseSources(text)
	switch {
	case err != nil:
	case r.state.Bridges[f.bridge.Name].RunsFlows():
		err = conflict("%s: the bridge runs flows, which say whom they let in", KeySecurity)
	case f.want.Wire != "":
		err = conflict("%s: frames of a port with %s are looked at by nobody", KeySecurity, KeyWire)
	}
	r.refuse(f, "other_config", err)
	f.want.Sources = list
}

// ParseSources reads the value of KeySecurity.
func ParseSources(text string) ([]Source, error) {
	var list []Source
	for entry := range strings.SplitSeq(text, ",") {
		words := strings.Fields(entry)
		if len(words) == 0 || len(words) > 1+sourcesMax || len(list) == sourcesMax {
			return nil, bad("%s=%q is not a list of MAC [ADDRESS]..., at most %d of either", KeySecurity, short(text), sourcesMax)
		}
		mac, err := net.ParseMAC(words[0])
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return nil, bad("%s: %q is not an Ethernet address of one station", KeySecurity, short(words[0]))
		}
		s := Source{MAC: mac.String()}
		for _, w := range words[1:] {
			a, err := sourceAddress(w)
			if err != nil {
				return nil, err
			}
			s.Addresses = append(s.Addresses, a)
		}
		list = append(list, s)
	}
	return list, nil
}

// sourceAddress reads an address, with the length of its prefix or without.
func sourceAddress(s string) (string, error) {
	p, err := netip.ParsePrefix(s)
	if a, alone := netip.ParseAddr(s); alone == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err != nil || p.Addr().Zone() != "" || p.Addr().Is4In6() {
		return "", bad("%s: %q is not an IP address, nor one with the length of its prefix", KeySecurity, short(s))
	}
	return p.String(), nil
}
