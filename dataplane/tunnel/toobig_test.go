package tunnel

import (
	"bytes"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestTooBig has an independent reader look at the messages.
func TestTooBig(t *testing.T) {
	for _, tag := range []bool{false, true} {
		for _, version := range []int{4, 6} {
			f := innerFrame(t, version, 1500, 0)
			most := uint32(1450)
			if tag {
				f = append(append(bytes.Clone(f[:12]), 0x81, 0, 0, 7), f[12:]...)
			}
			var dst [128]byte
			n := TooBig(dst[:], f[:128], uint32(len(f)), most)
			p := gopacket.NewPacket(dst[:n], layers.LayerTypeEthernet, gopacket.Default)
			if p.ErrorLayer() != nil || n == 0 {
				t.Fatalf("IPv%d: %v in %x", version, p.ErrorLayer(), dst[:n])
			}
			mtu := 1436
			if tag {
				mtu -= 4
				if q, ok := p.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); !ok || q.VLANIdentifier != 7 {
					t.Error("the tag is not there")
				}
			}
			if e := p.LinkLayer().(*layers.Ethernet); !bytes.Equal(e.DstMAC, f[6:12]) || !bytes.Equal(e.SrcMAC, f[:6]) {
				t.Errorf("%+v", e)
			}
			l3 := p.NetworkLayer()
			if version == 4 {
				ip, icmp := l3.(*layers.IPv4), p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
				if ip.SrcIP.String() != "10.1.0.2" || ip.DstIP.String() != "10.1.0.1" || icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || int(icmp.Seq) != mtu {
					t.Errorf("%+v\n%+v", ip, icmp)
				}
				if fold(sumWords(ip.Contents)) != 0xffff || fold(sumAll(append(icmp.Contents, icmp.Payload...))) != 0xffff {
					t.Error("a checksum is wrong")
				}
				continue
			}
			ip, icmp := l3.(*layers.IPv6), p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
			if ip.SrcIP.String() != "fd01::2" || icmp.TypeCode != layers.CreateICMPv6TypeCode(2, 0) || int(icmp.Payload[2])<<8|int(icmp.Payload[3]) != mtu {
				t.Errorf("%+v\n%+v", ip, icmp)
			}
			if fold(sumAll(append(icmp.Contents, icmp.Payload...))+pseudo(ip.Contents, false, uint32(ip.Length))-protoUDP+protoICMPv6) != 0xffff {
				t.Error("a checksum is wrong")
			}
		}
	}
}

// TestNotAnswered: what must not be answered is not.
func TestNotAnswered(t *testing.T) {
	var dst [128]byte
	four, six := innerFrame(t, 4, 1500, 0), innerFrame(t, 6, 1500, 0)
	for name, c := range map[string]struct {
		frame []byte
		at    int
		to    []byte
	}{
		"group's address": {four, 0, []byte{1}}, "IPv4 group": {four, 30, []byte{224}}, "later fragment": {four, 21, []byte{1}}, "ICMP error": {four, 23, []byte{1, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2, 3}},
		"IPv6 group": {six, 38, []byte{0xff}}, "ICMPv6 error": {six, 20, []byte{58}}, "no IP": {four, 12, []byte{9}},
	} {
		f := bytes.Clone(c.frame)
		copy(f[c.at:], c.to)
		if name == "ICMPv6 error" {
			f[54] = 1
		}
		if n := TooBig(dst[:], f[:128], uint32(len(f)), 1450); n != 0 {
			t.Errorf("%s is answered", name)
		}
	}
}

func FuzzTooBig(f *testing.F) {
	f.Add(innerFrame(f, 4, 100, 0), uint32(90))
	f.Add(innerFrame(f, 6, 100, 0), uint32(1400))
	f.Fuzz(func(t *testing.T, frame []byte, most uint32) {
		var dst [128]byte
		if n := TooBig(dst[:], frame[:min(len(frame), 128)], uint32(len(frame)), most); n > len(dst) {
			t.Fatal(n)
		}
	})
}
