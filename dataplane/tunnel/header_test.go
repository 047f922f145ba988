package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"millrace/dataplane/packet"
)

// config parses options given as KEY=VALUE words.
func config(t testing.TB, kind Kind, words string) Config {
	t.Helper()
	options := map[string]string{}
	for _, w := range strings.Fields(words) {
		k, v, _ := strings.Cut(w, "=")
		options[k] = v
	}
	c, err := Parse(kind, options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pathTo is a path for a port.
func pathTo(c Config) Path {
	p := Path{Local: netip.MustParseAddr("10.0.0.1"), MTU: 1500, Source: [6]byte{2, 0, 0, 0, 0, 1}, Next: [6]byte{2, 0, 0, 0, 0, 2}}
	if !c.Remote.Is4() {
		p.Local = netip.MustParseAddr("fd00::1")
	}
	return p
}

// innerFrame makes an inner frame of an IP version with n bytes of payload.
func innerFrame(t testing.TB, version, n int, tos uint8) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: []byte{2, 1, 0, 0, 0, 1}, DstMAC: []byte{2, 1, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 1000, DstPort: 2000}
	list := []gopacket.SerializableLayer{eth}
	if version == 4 {
		ip := &layers.IPv4{Version: 4, TTL: 33, TOS: tos, Protocol: layers.IPProtocolUDP, SrcIP: []byte{10, 1, 0, 1}, DstIP: []byte{10, 1, 0, 2}}
		_ = udp.SetNetworkLayerForChecksum(ip)
		list = append(list, ip)
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: 33, TrafficClass: tos, NextHeader: layers.IPProtocolUDP, SrcIP: netip.MustParseAddr("fd01::1").AsSlice(), DstIP: netip.MustParseAddr("fd01::2").AsSlice()}
		_ = udp.SetNetworkLayerForChecksum(ip)
		list = append(list, ip)
	}
	buf := gopacket.NewSerializeBuffer()
	payload := gopacket.Payload(bytes.Repeat([]byte{0xa5, 1, 2}, n/3+1)[:n])
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(list, udp, payload)...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// batchOf is a batch of one frame, its tail in pieces of odd lengths.
func batchOf(t testing.TB, frame []byte) *packet.Batch {
	t.Helper()
	b := packet.NewBatch()
	head := frame[:min(len(frame), packet.HeadMax)]
	var tail []packet.Seg
	for rest := frame[len(head):]; len(rest) > 0; {
		n := min(len(rest), 333)
		tail = append(tail, packet.Seg{Addr: packet.Addr(rest[:n]), Len: uintptr(n)})
		rest = rest[n:]
	}
	if !b.Add(head, tail...) {
		t.Fatal("no room in the batch")
	}
	return b
}

// pushed is a frame with the outer headers of a port.
func pushed(t testing.TB, c Config, word uint64, frame []byte) []byte {
	t.Helper()
	h := NewHeader(c, pathTo(c))
	b := batchOf(t, frame)
	if !h.Fits(b, 0, word) || !h.Room(b, 0) {
		t.Fatal("frame does not fit")
	}
	h.Push(b, 0, word)
	if h.Checksum() {
		h.PutChecksum(b, 0)
	}
	return b.AppendTo(nil, 0)
}

// TestGopacket: an independent reader finds in frames what a port was told, with
// right lengths and checksums.
func TestGopacket(t *testing.T) {
	for _, kind := range []Kind{Geneve, VXLAN} {
		for _, remote := range []string{"10.0.0.2", "fd00::2"} {
			for _, sum := range []string{"true", "false"} {
				for _, version := range []int{4, 6} {
					t.Run(fmt.Sprint(kind, remote, sum, version), func(t *testing.T) {
						c := config(t, kind, fmt.Sprintf("remote_ip=%s csum=%s key=flow tos=0x20 ttl=9", remote, sum))
						checkPushed(t, c, innerFrame(t, version, 1300, 2))
					})
				}
			}
		}
	}
}

func checkPushed(t *testing.T, c Config, frame []byte) {
	word := wordOf(0xabcdef)
	if c.Kind == Geneve {
		word |= HasData<<flagsShift | 0x11223344
	}
	out := pushed(t, c, word, frame)
	p := gopacket.NewPacket(out, layers.LayerTypeEthernet, gopacket.Default)
	if p.ErrorLayer() != nil {
		t.Fatal(p.ErrorLayer().Error())
	}
	for _, l := range p.Layers()[1:2] {
		switch ip := l.(type) {
		case *layers.IPv4:
			if ip.TOS != 0x22 || ip.TTL != 9 || ip.Flags != layers.IPv4DontFragment || int(ip.Length) != len(out)-14 || ip.DstIP.String() != c.Remote.String() {
				t.Errorf("%+v", ip)
			}
		case *layers.IPv6:
			if ip.TrafficClass != 0x22 || ip.HopLimit != 9 || int(ip.Length) != len(out)-54 || ip.DstIP.String() != c.Remote.String() {
				t.Errorf("%+v", ip)
			}
		default:
			t.Fatalf("layer 2 is %T", l)
		}
	}
	udp := p.Layers()[2].(*layers.UDP)
	if udp.SrcPort < sourceFirst || udp.SrcPort >= 61000 || uint16(udp.DstPort) != c.Port || int(udp.Length) != len(udp.Payload)+8 {
		t.Errorf("%+v", udp)
	}
	if hasSum := udp.Checksum != 0; hasSum != (c.Checksum || !c.Remote.Is4()) {
		t.Errorf("UDP checksum %#x", udp.Checksum)
	}
	switch l := p.Layers()[3].(type) {
	case *layers.Geneve:
		if l.VNI != 0xabcdef || len(l.Options) != 1 || l.Options[0].Class != ovnClass || !bytes.Equal(l.Options[0].Data, []byte{0x11, 0x22, 0x33, 0x44}) || !l.CriticalOption {
			t.Errorf("%+v", l)
		}
	case *layers.VXLAN:
		if l.VNI != 0xabcdef || !l.ValidIDFlag {
			t.Errorf("%+v", l)
		}
	default:
		t.Fatalf("layer 4 is %T", l)
	}
	if got := p.Layers()[3].LayerPayload(); !bytes.Equal(got, frame) {
		t.Errorf("inner frame has changed:\n%x\n%x", got, frame)
	}
	checkRead(t, c.Kind, out, word, frame)
}

// checkRead reads outer headers and takes them off.
func checkRead(t *testing.T, kind Kind, out []byte, word uint64, frame []byte) {
	t.Helper()
	b := batchOf(t, append(out, 0, 0, 0)) // with padding
	var o Outer
	if fragment, ok := o.To(b.Head(0)); !ok || fragment {
		t.Fatal("is not for a tunnel")
	}
	if why := o.Read(kind, b.Head(0), b.Frames[0].Len); why != packet.ReasonNone {
		t.Fatal(why)
	}
	if o.Word != word || o.Sum && !o.SumRight(b, 0) {
		t.Errorf("word %#x, checksum right: %v", o.Word, o.SumRight(b, 0))
	}
	if !b.Trim(0, o.End) {
		t.Fatal("no room")
	}
	b.Shrink(0, o.Len)
	if !b.Pull(0) {
		t.Fatal("no room")
	}
	if got := b.AppendTo(nil, 0); !bytes.Equal(got, frame) || b.Frames[0].HeadLen != uint16(min(len(frame), packet.HeadMax)) {
		t.Errorf("inner frame, head of %d bytes:\n%x\nwant\n%x", b.Frames[0].HeadLen, got, frame)
	}
}

// TestTshark has Wireshark's dissectors find nothing wrong with checksums and
// lengths.
func TestTshark(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("needs tshark")
	}
	name := filepath.Join(t.TempDir(), "a.pcap")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []Kind{Geneve, VXLAN} {
		for _, remote := range []string{"10.0.0.2", "fd00::2"} {
			for _, n := range []int{0, 1, 600, 1301} {
				c := config(t, kind, "csum=true key=77 remote_ip="+remote)
				frame := pushed(t, c, HasData<<flagsShift, innerFrame(t, 4, n, 0))
				if err := w.WritePacket(gopacket.CaptureInfo{CaptureLength: len(frame), Length: len(frame)}, frame); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-r", name, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields",
		"-e", "udp.checksum.status", "-e", "ip.checksum.status", "-e", "vxlan.vni", "-e", "geneve.vni", "-e", "_ws.malformed", "-e", "_ws.expert.message").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(lines) != 16 {
		t.Fatalf("%d lines:\n%s", len(lines), out)
	}
	for _, l := range lines {
		v := strings.Split(l, "\t")
		if v[0] != "1,1" || strings.Contains(v[1], "0") || v[2]+v[3] != "77" && v[2]+v[3] != "0x00004d" || v[4] != "" || v[5] != "" {
			t.Errorf("%q", l)
		}
	}
}

// TestInherit: TOS and TTL of the frame inside, ECN in any case.
func TestInherit(t *testing.T) {
	frame := innerFrame(t, 4, 10, 0xb9)
	out := pushed(t, config(t, VXLAN, "remote_ip=10.0.0.2 tos=inherit ttl=inherit df_default=false"), 0, frame)
	if out[15] != 0xb9 || out[22] != 33 || out[20] != 0 {
		t.Errorf("TOS %#x, TTL %d, flags %#x", out[15], out[22], out[20])
	}
	if out := pushed(t, config(t, VXLAN, "remote_ip=10.0.0.2 tos=255"), 0, frame); out[15] != 0xfd {
		t.Errorf("TOS %#x", out[15])
	}
}

// TestEntropy: flows are spread over source ports, frames of a flow are not.
func TestEntropy(t *testing.T) {
	c := config(t, Geneve, "remote_ip=10.0.0.2")
	for _, version := range []int{4, 6} {
		seen := map[string]bool{}
		for i := range 256 {
			f := innerFrame(t, version, 10, 0)
			at := 14 + 20
			if version == 6 {
				at += 20
			}
			f[at+1] = byte(i)
			out := pushed(t, c, 0, f)
			seen[string(out[34:36])] = true
			f[len(f)-1] = byte(i)
			if again := pushed(t, c, 0, f); !bytes.Equal(again[34:36], out[34:36]) {
				t.Fatal("frames of one flow have different source ports")
			}
		}
		if len(seen) < 250 {
			t.Errorf("IPv%d: 256 flows have %d source ports", version, len(seen))
		}
	}
}

// TestMost: the longest frame that fits makes a packet of just the MTU.
func TestMost(t *testing.T) {
	for _, remote := range []string{"10.0.0.2", "fd00::2"} {
		c := config(t, Geneve, "remote_ip="+remote)
		h := NewHeader(c, pathTo(c))
		for _, word := range []uint64{0, HasData << flagsShift} {
			n := int(h.Most(word))
			b := batchOf(t, make([]byte, n))
			if !h.Fits(b, 0, word) {
				t.Fatal("does not fit")
			}
			h.Push(b, 0, word)
			if got := b.Frames[0].Len - 14; got != 1500 {
				t.Errorf("packet of %d bytes", got)
			}
			if h.Fits(batchOf(t, make([]byte, n+1)), 0, word) {
				t.Error("one byte more fits, too")
			}
		}
	}
}

// TestRefused: what is wrong with outer headers is found.
func TestRefused(t *testing.T) {
	geneve := pushed(t, config(t, Geneve, "remote_ip=10.0.0.2 csum=true"), HasData<<flagsShift, innerFrame(t, 4, 100, 0))
	vxlan := pushed(t, config(t, VXLAN, "remote_ip=10.0.0.2"), 0, innerFrame(t, 4, 100, 0))
	for _, c := range []struct {
		name  string
		kind  Kind
		frame []byte
		at    int
		to    byte
		fixed bool // give it a right IPv4 checksum
	}{
		{"IPv4 checksum", Geneve, geneve, 24, 0xff, false},
		{"total length", Geneve, geneve, 16, 0x7f, true},
		{"UDP longer than IP", Geneve, geneve, 38, 0x7f, false},
		{"UDP shorter than its header", Geneve, geneve, 38, 0, false},
		{"Geneve version", Geneve, geneve, 42, 0x42, false},
		{"Geneve options longer than the packet", Geneve, geneve, 42, 0x3f, false},
		{"Geneve control packet", Geneve, geneve, 43, 0xc0, false},
		{"Geneve protocol", Geneve, geneve, 44, 8, false},
		{"critical option", Geneve, geneve, 51, 3, false},
		{"length of an option", Geneve, geneve, 53, 2, false},
		{"VXLAN without identifier", VXLAN, vxlan, 42, 0, false},
		{"VXLAN with group policy", VXLAN, vxlan, 42, 0x88, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := bytes.Clone(c.frame)
			f[c.at] = c.to
			if c.name == "UDP shorter than its header" {
				f[39] = 7
			}
			if c.fixed {
				f[24], f[25] = 0, 0
				sum := ^fold(sumWords(f[14:34]))
				f[24], f[25] = byte(sum>>8), byte(sum)
			}
			var o Outer
			if _, ok := o.To(f); !ok {
				t.Fatal("is not for a tunnel")
			}
			if why := o.Read(c.kind, f, uint32(len(f))); why != packet.ReasonTunnelHeader {
				t.Error(why)
			}
		})
	}
	var o Outer
	geneve[len(geneve)-1]++
	if _, ok := o.To(geneve); !ok || o.Read(Geneve, geneve, uint32(len(geneve))) != packet.ReasonNone || o.SumRight(batchOf(t, geneve), 0) {
		t.Error("a wrong UDP checksum is right")
	}
}

// TestOptions: options that nobody needs to know are skipped.
func TestOptions(t *testing.T) {
	var o Outer
	if !o.options([]byte{0xff, 0xff, 1, 1, 1, 2, 3, 4, 1, 2, 0x80, 1, 9, 8, 7, 6, 0, 0, 0, 0}) || o.Word != HasData<<flagsShift|0x09080706 {
		t.Errorf("%#x", o.Word)
	}
	if o.options([]byte{0, 0, 0}) || o.options([]byte{0, 0, 0, 1}) {
		t.Error("cut options are good")
	}
}

// TestCongest: RFC 6040 4.2.
func TestCongest(t *testing.T) {
	for _, version := range []int{4, 6} {
		for inner := range uint8(4) {
			for outer := range uint8(4) {
				f := innerFrame(t, version, 10, 0x40|inner)
				want := inner
				if outer == ecnCE && inner != 0 {
					want = ecnCE
				}
				if ok := Congest(f, 0x80|outer); ok != (outer != ecnCE || inner != 0) {
					t.Errorf("IPv%d, %d in %d goes on: %v", version, inner, outer, ok)
				} else if !ok {
					continue
				}
				p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
				got := uint8(0)
				if ip, is := p.NetworkLayer().(*layers.IPv4); is {
					got = ip.TOS
					if fold(sumWords(f[14:34])) != 0xffff {
						t.Error("wrong checksum")
					}
				} else {
					got = p.NetworkLayer().(*layers.IPv6).TrafficClass
				}
				if got != 0x40|want {
					t.Errorf("IPv%d, %d in %d becomes %#x", version, inner, outer, got)
				}
			}
		}
	}
}

// TestAddressWords: addresses are what they were after a way through a flow's context, and those
// that no end can have are none.
func TestAddressWords(t *testing.T) {
	for text, want := range map[string]bool{"192.0.2.1": true, "fd00::1": true, "2001:db8::c000:201": true, "127.0.0.1": false, "ff02::1": false, "fe80::1": false} {
		a := netip.MustParseAddr(text)
		x := AddressOf(a)
		if got := FromWords(x.Words()); got != x || x.Addr().IsValid() != want || want && x.Addr() != a {
			t.Errorf("%s: %+v, %+v, %s", text, x, got, x.Addr())
		}
	}
	if got := FromWords(0, 0); got != (Address{}) || got.Addr().IsValid() {
		t.Errorf("nothing: %+v", got)
	}
}

func TestParse(t *testing.T) {
	c := config(t, Geneve, "remote_ip=192.0.2.1 local_ip=192.0.2.2 key=flow in_key=5 csum=true tos=8 ttl=1 df_default=false dst_port=9")
	want := Config{Kind: Geneve, Remote: netip.MustParseAddr("192.0.2.1"), Local: netip.MustParseAddr("192.0.2.2"), Port: 9, In: Key{ID: 5}, Out: Key{Flow: true}, Checksum: true, TOS: 8, TTL: 1}
	if c != want {
		t.Errorf("%+v", c)
	}
	for options, want := range map[string]Config{
		"remote_ip=flow":                    {Kind: VXLAN, Port: 4789, TTL: 64, DF: true, RemoteFlow: true},
		"remote_ip=flow local_ip=flow":      {Kind: VXLAN, Port: 4789, TTL: 64, DF: true, RemoteFlow: true, LocalFlow: true},
		"remote_ip=192.0.2.1 local_ip=flow": {Kind: VXLAN, Port: 4789, TTL: 64, DF: true, LocalFlow: true, Remote: netip.MustParseAddr("192.0.2.1")},
	} {
		if c := config(t, VXLAN, options); c != want || !c.Named() {
			t.Errorf("%s: %+v", options, c)
		}
	}
	for _, bad := range []string{
		"", "local_ip=flow", "remote_ip=x", "remote_ip=127.0.0.1", "remote_ip=224.0.0.1", "remote_ip=::", "remote_ip=::ffff:1.2.3.4", "remote_ip=fe80::1",
		"remote_ip=192.0.2.1 local_ip=fd00::1", "remote_ip=192.0.2.1 local_ip=192.0.2.1", "remote_ip=192.0.2.1 key=16777216", "remote_ip=192.0.2.1 key=-1",
		"remote_ip=192.0.2.1 ttl=0", "remote_ip=192.0.2.1 ttl=256", "remote_ip=192.0.2.1 tos=256", "remote_ip=192.0.2.1 csum=yes", "remote_ip=192.0.2.1 dst_port=0",
		"remote_ip=192.0.2.1 exts=gbp", "remote_ip=192.0.2.1 in_key=x",
	} {
		options := map[string]string{}
		for _, w := range strings.Fields(bad) {
			k, v, _ := strings.Cut(w, "=")
			options[k] = v
		}
		if c, err := Parse(VXLAN, options); !errors.Is(err, ErrOption) {
			t.Errorf("%q: %+v, %v", bad, c, err)
		}
	}
}

// FuzzOuter: reading does not fail on any frame, and what is found is in the frame.
func FuzzOuter(f *testing.F) {
	for _, remote := range []string{"10.0.0.2", "fd00::2"} {
		for _, kind := range []Kind{Geneve, VXLAN} {
			f.Add(pushed(f, config(f, kind, "csum=true remote_ip="+remote), HasData<<flagsShift, innerFrame(f, 4, 20, 1)))
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > packet.FrameMax {
			return
		}
		for _, kind := range []Kind{Geneve, VXLAN} {
			b := batchOf(t, frame)
			var o Outer
			if _, ok := o.To(b.Head(0)); !ok {
				return
			}
			if o.Read(kind, b.Head(0), b.Frames[0].Len) != packet.ReasonNone {
				continue
			}
			o.SumRight(b, 0)
			if int(o.End) > len(frame) || uint32(o.Len)+packet.FrameMin > o.End || int(o.Len) > len(b.Head(0)) {
				t.Fatalf("%+v in a frame of %d bytes", o, len(frame))
			}
			want := bytes.Clone(frame[o.Len:o.End])
			b.Trim(0, o.End)
			b.Shrink(0, o.Len)
			b.Pull(0)
			if got := b.AppendTo(nil, 0); !bytes.Equal(got, want) {
				t.Fatalf("%x\nwant\n%x", got, want)
			}
			Congest(b.Head(0), o.TOS)
			look(b.Head(0))
		}
	})
}

// FuzzParse: no option makes Parse fail otherwise than by an error.
func FuzzParse(f *testing.F) {
	f.Add("10.0.0.1", "10.0.0.2", "flow", "0x10")
	f.Fuzz(func(t *testing.T, remote, local, key, tos string) {
		c, err := Parse(Geneve, map[string]string{keyRemote: remote, keyLocal: local, keyKey: key, keyTOS: tos})
		if err != nil {
			return
		}
		if !c.Remote.IsValid() || c.In.ID >= 1<<24 {
			t.Fatalf("%+v", c)
		}
		NewHeader(c, Path{Local: c.Local, MTU: 10})
	})
}

// wordOf is the tunnel word of a key without data.
func wordOf(key uint32) uint64 { return uint64(key) << keyShift }
