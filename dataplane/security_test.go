package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// keyed is a frame of station 1 to station 2 with fields of a key, of which
// parse.Build makes the rest.
func keyed(kind uint16, change func(k *flowtable.Key)) []byte {
	var k flowtable.Key
	k[flowtable.WordIn] = uint64(kind)
	k[flowtable.WordDst] = 0x020000000002 << 16
	k[flowtable.WordSrc] = 0x020000000001<<16 | 64
	change(&k)
	return parse.Build(k)
}

func ip4(src string, proto uint64, l4 uint64) []byte {
	return keyed(etherIPv4, func(k *flowtable.Key) {
		a := netip.MustParseAddr(src).As4()
		k[flowtable.WordIP4] = uint64(binary.BigEndian.Uint32(a[:]))<<32 | 0x0a000009
		if proto == ipUDP && l4 == portsDHCP {
			k[flowtable.WordIP4] |= 1<<32 - 1
		}
		k[flowtable.WordSrc] |= proto << 8
		k[flowtable.WordL4] = l4 << 32
	})
}

func ip6(src, dst string, kind uint64, change func(k *flowtable.Key)) []byte {
	return keyed(etherIPv6, func(k *flowtable.Key) {
		put6(k, flowtable.WordIP6Src, src)
		put6(k, flowtable.WordIP6Dst, dst)
		k[flowtable.WordSrc] |= ipICMPv6 << 8
		k[flowtable.WordL4] = kind << 48
		if change != nil {
			change(k)
		}
	})
}

func put6(k *flowtable.Key, word int, s string) {
	a := netip.MustParseAddr(s).As16()
	k[word], k[word+1] = binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(a[8:])
}

func arpFrom(sha uint64, spa string) []byte {
	return keyed(etherARP, func(k *flowtable.Key) {
		a := netip.MustParseAddr(spa).As4()
		k[flowtable.WordIP4] = uint64(binary.BigEndian.Uint32(a[:]))<<32 | 0x0a000009
		k[flowtable.WordSHA], k[flowtable.WordL4] = sha, 1<<48
	})
}

func solicit(src string, sll uint64) []byte {
	return ip6(src, "ff02::1:ff00:9", icmpSolicit, func(k *flowtable.Key) {
		put6(k, flowtable.WordND, "fd00::9")
		k[flowtable.WordSHA] = sll
	})
}

func advertise(target string, tll uint64) []byte {
	return ip6("fd00::1", "ff02::1", icmpNeighbor, func(k *flowtable.Key) {
		put6(k, flowtable.WordND, target)
		k[flowtable.WordTHA] = tll
	})
}

// long is a frame with bytes put in at an offset, and a payload as long as the IPv6 header
// then says.
func long(frame []byte, at int, more ...byte) []byte {
	f := append(append(bytes.Clone(frame[:at]), more...), frame[at:]...)
	f = append(f, make([]byte, 64)...)
	binary.BigEndian.PutUint16(f[18:], uint16(len(f)-54))
	return f
}

// twoTags is a frame with a tag behind its tag.
func twoTags() []byte {
	f := eth(2, 1, 5, 60)
	f[16], f[17] = 0x81, 0
	return f
}

const one, other = 0x020000000001, 0x020000000003

// securityFrames are frames of station 1, and which of the kinds of port security let
// them pass: M its address alone, 4 and 6 with IPv4 or IPv6 addresses.
func securityFrames() []struct {
	name  string
	frame []byte
	pass  string
} {
	deepND := solicit("fd00::1", other)
	return []struct {
		name  string
		frame []byte
		pass  string
	}{
		{"own IPv4", ip4("10.0.0.1", 1, 0), "M4"},
		{"in its range", ip4("10.1.2.3", 1, 0), "M4"},
		{"neighbour of an address with a prefix", ip4("10.0.0.2", 1, 0), "M"},
		{"another IPv4", ip4("10.2.0.1", ipUDP, portsDHCP), "M"},
		{"DHCP discover", ip4("0.0.0.0", ipUDP, portsDHCP), "M4"},
		{"no address, no DHCP", ip4("0.0.0.0", ipUDP, 68<<16|68), "M"},
		{"ARP", arpFrom(one, "10.0.0.1"), "M4"},
		{"ARP probe", arpFrom(one, "0.0.0.0"), "M46"},
		{"ARP of another address", arpFrom(one, "10.0.0.9"), "M"},
		{"ARP of another station", arpFrom(other, "10.0.0.1"), ""},
		{"own IPv6", ip6("fd00::1", "fd00::9", 128, nil), "M6"},
		{"link-local", ip6("fe80::ff:fe00:1", "fd00::9", 128, nil), "M6"},
		{"another link-local", ip6("fe80::ff:fe00:2", "fd00::9", 128, nil), "M"},
		{"another IPv6", ip6("fd00::2", "fd00::9", 128, nil), "M"},
		{"MLD from nobody", ip6("::", "ff02::16", icmpMLD2, nil), "M6"},
		{"echo from nobody", ip6("::", "ff02::1", 128, nil), "M"},
		{"solicitation", solicit("fd00::1", one), "M6"},
		{"address detection", solicit("::", 0), "M6"},
		{"solicitation for another station", solicit("fd00::1", other), ""},
		{"advertisement", advertise("fd00::1", one), "M6"},
		{"advertisement of a link-local address", advertise("fe80::ff:fe00:1", one), "M6"},
		{"advertisement of another address", advertise("fd00::7", one), "M"},
		{"advertisement of another station", advertise("fd00::1", other), ""},
		{"solicitation behind what is read", long(deepND, 78, append([]byte{14, 13}, make([]byte, 102)...)...), ""},
		{"headers behind what is read", long(append(append(bytes.Clone(deepND[:20]), 60), deepND[21:]...), 54, append([]byte{58, 12}, make([]byte, 102)...)...), ""},
		{"two tags", twoTags(), ""},
		{"something else", keyed(0x88cc, func(*flowtable.Key) {}), "M"},
		{"another station", eth(2, 3, 0, 60), ""},
	}
}

// securitySources are the kinds.
func securitySources() map[byte][]Source {
	p := netip.MustParsePrefix
	return map[byte][]Source{
		'M': {{MAC: [6]byte{2, 0, 0, 0, 0, 1}}},
		'4': {{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Addresses: []netip.Prefix{p("10.0.0.1/24"), p("10.1.0.0/16")}}},
		'6': {{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Addresses: []netip.Prefix{p("fd00::1/128")}}},
	}
}

// TestPortSecurity: a frame from a source that a port may not have is dropped and counted, the
// first time and when the switch has decided about such frames before, and a trace says why.
func TestPortSecurity(t *testing.T) {
	for kind, sources := range securitySources() {
		for _, tt := range securityFrames() {
			t.Run(string(kind)+" "+tt.name, func(t *testing.T) {
				r := newRig(t)
				a, b := r.port("a", PortSpec{Sources: sources}), r.port("b", PortSpec{})
				trace, err := r.s.Trace("a", tt.frame)
				if err != nil {
					t.Fatal(err)
				}
				want := 0
				if bytes.IndexByte([]byte(tt.pass), kind) >= 0 {
					want = 1
				}
				if (trace.Drop == packet.ReasonPortSecurity) != (want == 0) {
					t.Errorf("trace says %v", trace.Drop)
				}
				for i := range 3 {
					a.in = [][]byte{tt.frame}
					r.turn()
					if st := r.stats(); len(b.out) != want*(i+1) || st["a"].RxDrops[packet.ReasonPortSecurity] != uint64((1-want)*(i+1)) {
						t.Fatalf("frame %d: %d came out, drops %v", i, len(b.out), st["a"].RxDrops)
					}
				}
				if macs, _ := r.s.MACs("br0"); want == 0 && len(macs) != 0 {
					t.Errorf("learned %v", macs)
				}
			})
		}
	}
}

// TestPortSecurityChanges: sources come, change and go while frames do, and a bridge that runs
// flows for a while has them afterwards.
func TestPortSecurityChanges(t *testing.T) {
	r := newRig(t)
	sources := securitySources()
	a, b := r.port("a", PortSpec{Tag: 7}), r.port("b", PortSpec{Tag: 7})
	pass := func(want bool, what string) {
		t.Helper()
		b.out = nil
		a.in = [][]byte{arpFrom(one, "10.0.0.9"), arpFrom(one, "10.0.0.9")}
		r.turn()
		if got := len(b.out) == 2; got != want || len(b.out)%2 != 0 {
			t.Errorf("%s: %d frames pass", what, len(b.out))
		}
		r.stats()
	}
	set := func(s []Source) {
		t.Helper()
		if _, err := r.s.SetPort(t.Context(), PortSpec{Bridge: "br0", Name: "a", Type: TypeVhostServer, Tag: 7, Sources: s}); err != nil {
			t.Fatal(err)
		}
	}
	pass(true, "none")
	set(sources['4'])
	pass(false, "address")
	set(sources['M'])
	pass(true, "station")
	set(append(sources['6'], sources['4']...))
	pass(false, "two")
	for _, p := range []Pipeline{PipelineFlows, PipelineLearning} {
		if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: p}); err != nil {
			t.Fatal(err)
		}
	}
	pass(false, "after flows")
	set(nil)
	pass(true, "none again")
	if w := r.s.workers[0].ports[1]; w.level != parse.L2 {
		t.Errorf("its headers are read to level %v still", w.level)
	}
}
