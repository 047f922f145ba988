package main

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

// A packetField is a field that a packet on the command line can have, and what
// it implies.
type packetField struct {
	field flowtable.Field
	kind  string // symbol of the packets that have it: ip4, tcp, ...
}

// Ethernet types and IP protocols.
const (
	etherIP4, etherIP6, etherARP, etherRARP           = 0x800, 0x86dd, 0x806, 0x8035
	protoICMP, protoTCP, protoUDP, protoICMP6, protoS = 1, 6, 17, 58, 132
)

// packetKinds are the symbols that say what a packet is: its Ethernet type or its
// protocol, and the symbol that it implies.
var packetKinds = map[string]struct {
	etherType, proto uint64 // 0: not said
}{
	"ip4": {etherIP4, 0}, "ip6": {etherIP6, 0}, "arp": {etherARP, 0}, "rarp": {etherRARP, 0}, "ip": {},
	"tcp": {0, protoTCP}, "udp": {0, protoUDP}, "sctp": {0, protoS}, "icmp4": {etherIP4, protoICMP}, "icmp6": {etherIP6, protoICMP6}, "nd": {etherIP6, protoICMP6},
}

// packetFields are the fields by their names.
var packetFields = sync.OnceValue(func() map[string]packetField {
	out := map[string]packetField{}
	for _, f := range flowtable.Fields() {
		if f.Word >= flowtable.KeyWords || f.Word == flowtable.WordTunnel || f.Name == "in_port" {
			continue
		}
		kind, rest, _ := strings.Cut(f.Name, ".")
		switch kind {
		case "eth", "vlan":
			kind = ""
		case "tp":
			for _, p := range []string{"tcp", "udp", "sctp"} {
				out[p+"."+rest] = packetField{f, p}
			}
			continue
		case "icmp":
			out["icmp4."+rest], out["icmp6."+rest] = packetField{f, "icmp4"}, packetField{f, "icmp6"}
			continue
		case "arp":
			out["rarp."+rest] = packetField{f, "rarp"}
		}
		out[f.Name] = packetField{f, kind}
	}
	tci := flowtable.Field{Word: flowtable.WordIn, Shift: 16, Width: 12}
	out["vlan.vid"] = packetField{tci, ""}
	tci.Shift, tci.Width = 16+13, 3
	out["vlan.pcp"] = packetField{tci, ""}
	return out
})

// A packetText is a packet as it is told on the command line.
type packetText struct {
	key    flowtable.Key
	given  flowtable.Key // bits that were told
	kinds  map[string]bool
	length int // of the frame; 0: as short as it can be
}

// parsePacket reads a packet: fields as in "tcp ip4.dst=10.0.0.2 tcp.dst=80", and
// returns its frame.
func parsePacket(text string) ([]byte, error) {
	p := packetText{kinds: map[string]bool{}}
	words := strings.FieldsFunc(strings.ReplaceAll(text, "&&", " "), func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' })
	for _, w := range words {
		if err := p.word(w); err != nil {
			return nil, err
		}
	}
	if err := p.settle(); err != nil {
		return nil, err
	}
	return p.frame()
}

// word reads one word: a field with a value, or what the packet is.
func (p *packetText) word(w string) error {
	name, v, ok := strings.Cut(w, "=")
	v = strings.TrimPrefix(v, "=")
	_, isKind := packetKinds[name]
	f, isField := packetFields()[name]
	switch {
	case !ok && isKind:
		p.kinds[name] = true
		return nil
	case name == "length":
		n, err := strconv.Atoi(v)
		if err != nil || n < packet.FrameMin || n > packet.FrameMax {
			return fmt.Errorf("length: %q is not in %d..%d", v, packet.FrameMin, packet.FrameMax)
		}
		p.length = n
		return nil
	case !isField:
		return unknownWord(name, ok)
	case v == "":
		return fmt.Errorf("%s: write %s=VALUE", name, name)
	}
	if f.kind != "" {
		p.kinds[f.kind] = true
	}
	return p.set(name, f.field, v)
}

// unknownWord says what a word could have been.
func unknownWord(name string, withValue bool) error {
	known := slices.Sorted(maps.Keys(packetFields()))
	what := "field"
	if !withValue {
		known, what = slices.Sorted(maps.Keys(packetKinds)), "kind of packet"
		if _, ok := packetFields()[name]; ok {
			return fmt.Errorf("%s: write %s=VALUE", name, name)
		}
	}
	return fmt.Errorf("%q is no %s: there are %s", name, what, strings.Join(known, " "))
}

// set sets a field.
func (p *packetText) set(name string, f flowtable.Field, text string) error {
	high, low, err := parseValue(f.Width, text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	maskHigh, maskLow := f.Bits()
	if f.Width == 128 {
		p.key[f.Word], p.key[f.Word+1] = high, low
		p.given[f.Word], p.given[f.Word+1] = maskHigh, maskLow
		return nil
	}
	if p.given[f.Word]&maskHigh != 0 {
		return fmt.Errorf("%s: told twice, or by another name", name)
	}
	p.key[f.Word] |= low << f.Shift
	p.given[f.Word] |= maskHigh
	if strings.HasPrefix(name, "vlan.") && name != "vlan.tci" {
		p.key[flowtable.WordIn] |= flowtable.TagPresent << 16
	}
	return nil
}

// parseValue reads a number, or an address of a width.
func parseValue(width uint8, text string) (high, low uint64, err error) {
	if width == 128 {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is6() {
			return 0, 0, fmt.Errorf("%q is not an IPv6 address", text)
		}
		b := a.As16()
		for i := range 8 {
			high, low = high<<8|uint64(b[i]), low<<8|uint64(b[8+i])
		}
		return high, low, nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Is4() && width == 32 {
		b := a.As4()
		return 0, uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3]), nil
	}
	if hw, err := net.ParseMAC(text); err == nil && len(hw) == 6 && width == 48 {
		for _, b := range hw {
			low = low<<8 | uint64(b)
		}
		return 0, low, nil
	}
	low, err = strconv.ParseUint(text, 0, 64)
	if err != nil || bits.Len64(low) > int(width) {
		what := map[uint8]string{32: ", and no IPv4 address", 48: ", and no Ethernet address"}[width]
		return 0, 0, fmt.Errorf("%q is not a number of %d bits%s", text, width, what)
	}
	return 0, low, nil
}

// byDefault sets a field that was not told.
func (p *packetText) byDefault(name string, value uint64) {
	f := packetFields()[name].field
	if f.Width == 128 {
		if p.given[f.Word] == 0 {
			p.key[f.Word], p.key[f.Word+1] = 0x20010db8<<32, value
		}
		return
	}
	if mask, _ := f.Bits(); p.given[f.Word]&mask == 0 {
		p.key[f.Word] |= value << f.Shift
	}
}

// get returns a field of up to 64 bits.
func (p *packetText) get(name string) uint64 {
	f := packetFields()[name].field
	mask, _ := f.Bits()
	return p.key[f.Word] & mask >> f.Shift
}

// settle finds out what the packet is, and fills in what was not told.
func (p *packetText) settle() error {
	if err := p.identify(); err != nil {
		return err
	}
	p.byDefault("eth.src", 0x020000000001)
	p.byDefault("eth.dst", 0x020000000002)
	switch p.get("eth.type") {
	case etherARP, etherRARP:
		p.byDefault("arp.op", 1)
		p.byDefault("arp.spa", 10<<24|1)
		p.byDefault("arp.tpa", 10<<24|2)
		p.byDefault("arp.sha", p.get("eth.src"))
	case etherIP4:
		p.byDefault("ip4.src", 10<<24|1)
		p.byDefault("ip4.dst", 10<<24|2)
		p.settleIP()
	case etherIP6:
		p.byDefault("ip6.src", 1)
		p.byDefault("ip6.dst", 2)
		p.settleIP()
	}
	return nil
}

// settleIP fills in what is above the addresses.
func (p *packetText) settleIP() {
	if p.kinds["nd"] {
		kind := uint64(135) // neighbour solicitation
		if p.given[flowtable.WordTHA] != 0 {
			kind = 136 // advertisement
		}
		p.byDefault("icmp6.type", kind)
		p.byDefault("ip.ttl", 255)
	}
	p.byDefault("ip.ttl", 64)
	switch p.get("ip.proto") {
	case protoTCP:
		p.byDefault("tcp.flags", 2) // SYN
		fallthrough
	case protoUDP, protoS:
		p.byDefault("tcp.src", 49152)
		p.byDefault("tcp.dst", 80)
	case protoICMP:
		p.byDefault("icmp4.type", 8) // echo request
	case protoICMP6:
		p.byDefault("icmp6.type", 128)
	}
}

// identify finds the Ethernet type and the protocol from what was told, and what
// contradicts itself.
func (p *packetText) identify() error {
	var etherType, proto [2]string // what says so, and its value
	note := func(slot *[2]string, name string, v uint64) error {
		text := fmt.Sprintf("%#x", v)
		if slot[0] != "" && slot[1] != text {
			return fmt.Errorf("%s and %s are of different packets", slot[0], name)
		}
		*slot = [2]string{name, text}
		return nil
	}
	told := func(name string) bool {
		f := packetFields()[name].field
		mask, _ := f.Bits()
		return p.given[f.Word]&mask != 0
	}
	if told("eth.type") {
		_ = note(&etherType, "eth.type", p.get("eth.type")) // the first
	}
	if told("ip.proto") {
		_ = note(&proto, "ip.proto", p.get("ip.proto")) // the first
	}
	for _, k := range slices.Sorted(maps.Keys(p.kinds)) {
		var err error
		if v := packetKinds[k].etherType; v != 0 {
			err = errors.Join(err, note(&etherType, k, v))
		}
		if v := packetKinds[k].proto; v != 0 {
			err = errors.Join(err, note(&proto, k, v))
		}
		if err != nil {
			return err
		}
	}
	return p.assume(etherType, proto)
}

// assume makes the packet IPv4 and UDP, as far as nothing else was told.
func (p *packetText) assume(etherType, proto [2]string) error {
	t, _ := strconv.ParseUint(etherType[1], 0, 16)
	n, _ := strconv.ParseUint(proto[1], 0, 8)
	isIP := t == etherIP4 || t == etherIP6
	switch {
	case etherType[0] == "":
		t, isIP = etherIP4, true
	case !isIP && (proto[0] != "" || p.kinds["ip"]):
		return fmt.Errorf("%s is not for packets of Ethernet type %#x", cmpName(proto[0], "ip"), t)
	}
	if isIP && proto[0] == "" {
		n = protoUDP
	}
	p.byDefault("eth.type", t)
	if isIP {
		p.byDefault("ip.proto", n)
	}
	return nil
}

// cmpName is the first name, or the second if there is none.
func cmpName(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// frame makes the frame, and makes sure that it is read as what was told.
func (p *packetText) frame() ([]byte, error) {
	frame := parse.Build(p.key)
	if p.length > 0 && p.length < len(frame) && !allZero(frame[p.length:]) {
		return nil, fmt.Errorf("length: the headers alone take more than %d bytes", p.length)
	}
	if p.length > 0 {
		frame = append(frame, make([]byte, max(0, p.length-len(frame)))...)[:p.length]
	}
	got, flaw := parse.Inspect(frame[:min(len(frame), packet.HeadMax)], uint32(len(frame)), 0)
	if flaw != 0 {
		return nil, errors.New("length: the headers do not fit")
	}
	for w := range got {
		if diff := (got[w] ^ p.key[w]) & p.given[w]; diff != 0 {
			m := []flowtable.Masked{{Word: flowtable.WordIn, Value: p.key[0] & 0xffff, Mask: 0xffff}, {Word: flowtable.WordSrc, Value: p.key[2] & 0xff00, Mask: 0xff00}, {Word: uint8(w), Mask: diff}}
			if w == flowtable.WordIn || w == flowtable.WordSrc {
				m = m[2:]
			}
			names := flowtext.Consulted(m, nil)
			return nil, fmt.Errorf("no packet has these fields: %s cannot be what it is told to be beside the others", names[len(names)-1])
		}
	}
	return frame, nil
}

func allZero(b []byte) bool { return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) }
