package pktgen

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/packet"
)

// someClient is client n of the tests.
func someClient(n uint32) Header {
	return Header{Src: 10<<24 | n>>8, Dst: 172<<24 | 16<<16 | n&15, SrcPort: 1024 + uint16(n&0xff), DstPort: 80}
}

// talkThrough has a talk through the forwarder, which changes frames by mangle.
func talkThrough(t *testing.T, k Talk, mangle func(*packet.Batch, []packet.Ref) []packet.Ref) *Talked {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	k.Client = someClient
	cfg := Config{Ports: make([]Port, 2), PeerCPU: -1, Duration: 200 * time.Millisecond, RingSize: 256}
	r, err := converse(ctx, cfg, k, func(f *forwarder) { f.mangle = mangle })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTalk: all connections come to their end, with as many frames as they take, and
// the server sees the clients as they are.
func TestTalk(t *testing.T) {
	for _, tt := range []struct {
		name   string
		talk   Talk
		frames uint64 // of a connection
	}{
		{"UDP", Talk{Proto: ProtoUDP}, 2},
		{"TCP", Talk{Proto: ProtoTCP}, 3},
		{"TCP with its end", Talk{Proto: ProtoTCP, End: true}, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.talk.First, tt.talk.Count, tt.talk.See, tt.talk.Patience = 77, 3001, true, 30*time.Second
			r := talkThrough(t, tt.talk, nil)
			if r.Connections != 3001 || r.Sent != 3001*tt.frames || r.Received != r.Sent+1 && r.Received != r.Sent+2 && r.Received != r.Sent || r.Failed+r.Repeated+r.Wrong+r.Late != 0 {
				t.Errorf("%+v", *r)
			}
			for i, h := range r.Seen {
				if h != someClient(77+uint32(i)) {
					t.Fatalf("the server sees client %d as %+v", i, h)
				}
			}
			if r.PerSecond <= 0 {
				t.Error("no rate")
			}
		})
	}
}

// TestTalkOn goes on until its time is over.
func TestTalkOn(t *testing.T) {
	r := talkThrough(t, Talk{Proto: ProtoTCP, End: true, Patience: 30 * time.Second}, nil)
	if r.Connections == 0 || r.Failed+r.Wrong != 0 || r.Seconds < 0.2 {
		t.Errorf("%+v", *r)
	}
}

// eachFrame has change look at each frame of ours, which it may change or, by false,
// take away.
func eachFrame(change func(toServer bool, p *layers.IPv4, l4 gopacket.SerializableLayer, f []byte) bool) func(*packet.Batch, []packet.Ref) []packet.Ref {
	return func(b *packet.Batch, list []packet.Ref) (kept []packet.Ref) {
		for _, ref := range list {
			f := b.Slot(int(ref.Frame))[packet.HeadRoom:][:b.Frames[ref.Frame].Len]
			p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
			ip, _ := p.NetworkLayer().(*layers.IPv4)
			if ip == nil {
				kept = append(kept, ref)
				continue
			}
			l4, _ := p.TransportLayer().(gopacket.SerializableLayer)
			if change(f[11] == 1, ip, l4, f) {
				kept = append(kept, ref)
			}
		}
		return kept
	}
}

// translate gives the server another address and port, and hides the client's, as a
// load balancer with SNAT does.
func translate(toServer bool, ip *layers.IPv4, l4 gopacket.SerializableLayer, f []byte) bool {
	src, dst := ip.SrcIP.To4(), ip.DstIP.To4()
	if toServer {
		src[0], dst[0] = src[0]^0x40, dst[0]^0x08
	} else {
		src[0], dst[0] = src[0]^0x08, dst[0]^0x40
	}
	switch l := l4.(type) {
	case *layers.TCP:
		if toServer {
			l.DstPort ^= 0x1000
		} else {
			l.SrcPort ^= 0x1000
		}
		_ = l.SetNetworkLayerForChecksum(ip)
		l.Padding = nil
		put(f, ip, l, nil)
	case *layers.UDP:
		if toServer {
			l.DstPort ^= 0x1000
		} else {
			l.SrcPort ^= 0x1000
		}
		copy(f[26:34], append(append([]byte(nil), src...), dst...))
		f[34], f[35], f[36], f[37] = byte(l.SrcPort>>8), byte(l.SrcPort), byte(l.DstPort>>8), byte(l.DstPort)
		f[24], f[25] = 0, 0
		sum := fold(halves(f[14:34]))
		f[24], f[25] = byte(sum>>8), byte(sum)
	}
	return true
}

// put writes headers into f, with their checksums.
func put(f []byte, ip *layers.IPv4, l4 gopacket.SerializableLayer, payload []byte) {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, l4, gopacket.Payload(payload)); err != nil {
		panic(err)
	}
	copy(f[14:], buf.Bytes())
}

// TestTalkTranslated: servers answer to the addresses that they see, and clients know
// the answers by those that they asked.
func TestTalkTranslated(t *testing.T) {
	for _, proto := range []uint8{ProtoTCP, ProtoUDP} {
		r := talkThrough(t, Talk{Proto: proto, Count: 1000, See: true, Patience: 30 * time.Second}, eachFrame(translate))
		if r.Connections != 1000 || r.Wrong+r.Late+r.Repeated != 0 {
			t.Errorf("protocol %d: %+v", proto, *r)
		}
		for i, h := range r.Seen {
			want := someClient(uint32(i))
			want.Src, want.Dst, want.DstPort = want.Src^0x40<<24, want.Dst^0x08<<24, want.DstPort^0x1000
			if h != want {
				t.Fatalf("protocol %d: the server sees client %d as %+v, want %+v", proto, i, h, want)
			}
		}
	}
}

// TestTalkWrong: a switch that damages frames, or translates one way only, does not
// pass.
func TestTalkWrong(t *testing.T) {
	for name, change := range map[string]func(bool, *layers.IPv4, gopacket.SerializableLayer, []byte) bool{
		"TCP checksum": func(_ bool, _ *layers.IPv4, _ gopacket.SerializableLayer, f []byte) bool { f[50] ^= 1; return true },
		"IP checksum":  func(_ bool, _ *layers.IPv4, _ gopacket.SerializableLayer, f []byte) bool { f[24] ^= 1; return true },
		"one way": func(toServer bool, ip *layers.IPv4, l4 gopacket.SerializableLayer, f []byte) bool {
			return !toServer || translate(toServer, ip, l4, f)
		},
	} {
		r := talkThrough(t, Talk{Proto: ProtoTCP, End: true, Count: 100, Patience: 100 * time.Millisecond}, eachFrame(change))
		if r.Connections != 0 || r.Wrong == 0 || r.Failed != 100 {
			t.Errorf("%s: %+v", name, *r)
		}
	}
}

// TestTalkLoss: connections that shall last begin again when a frame is lost; others are
// given up, and all are accounted for.
func TestTalkLoss(t *testing.T) {
	n := 0
	lose := eachFrame(func(bool, *layers.IPv4, gopacket.SerializableLayer, []byte) bool { n++; return n%50 != 0 })
	r := talkThrough(t, Talk{Proto: ProtoTCP, Count: 1000, See: true, Patience: 20 * time.Millisecond}, lose)
	if r.Connections != 1000 || r.Repeated == 0 || r.Failed != 0 {
		t.Errorf("%+v", *r)
	}
	r = talkThrough(t, Talk{Proto: ProtoTCP, Count: 1000, End: true, Patience: 20 * time.Millisecond}, lose)
	if r.Connections+r.Failed != 1000 || r.Failed == 0 || r.Connections == 0 {
		t.Errorf("%+v", *r)
	}
}

// TestTalkHasty: answers to a connection that is about to begin again are taken, and
// none is counted twice.
func TestTalkHasty(t *testing.T) {
	r := talkThrough(t, Talk{Proto: ProtoTCP, Count: 3000, See: true, Patience: time.Nanosecond}, nil)
	if r.Connections != 3000 || r.Failed+r.Wrong != 0 {
		t.Errorf("%+v", *r)
	}
}

// TestTalkRefuses what cannot be.
func TestTalkRefuses(t *testing.T) {
	for name, k := range map[string]Talk{
		"protocol": {Proto: 1, Client: someClient}, "clients": {Proto: ProtoTCP}, "end of UDP": {Proto: ProtoUDP, End: true, Client: someClient},
		"window": {Proto: ProtoTCP, Client: someClient, Window: 100}, "wide": {Proto: ProtoTCP, Client: someClient, Window: 256},
		"numbers": {Proto: ProtoTCP, Client: someClient, First: 1 << 29, Count: 1}, "see": {Proto: ProtoTCP, Client: someClient, See: true},
	} {
		if _, err := Converse(t.Context(), Config{Ports: make([]Port, 2)}, k); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Converse(t.Context(), Config{Ports: make([]Port, 4)}, Talk{Proto: ProtoTCP, Client: someClient}); err == nil {
		t.Error("four ports: no error")
	}
}

// TestSegment: gopacket reads what was said, finds the checksums right, and no damage
// of a single bit goes unheard.
func TestSegment(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, proto := range []uint8{ProtoTCP, ProtoUDP} {
		s := newSpeaker([6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}, proto)
		for range 200 {
			g := segment{Header{r.Uint32(), r.Uint32(), uint16(r.Uint32()), uint16(r.Uint32())}, uint8(r.Uint32() & 0x1f), r.Uint32(), r.Uint32()}
			f := make([]byte, segmentBytes)
			s.say(f, &g)
			var got segment
			if !s.hear(f, &got) || got != g {
				t.Fatalf("heard %+v, said %+v", got, g)
			}
			checkSegment(t, f, g, proto)
			bit := 8*14 + r.IntN(8*20)
			f[bit/8] ^= 1 << (bit % 8)
			if s.hear(f, &got) {
				t.Fatalf("bit %d damaged, and heard %+v", bit, got)
			}
		}
	}
}

// checkSegment compares a frame with what gopacket makes of the same fields.
func checkSegment(t *testing.T, f []byte, g segment, proto uint8) {
	t.Helper()
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	ip, _ := p.NetworkLayer().(*layers.IPv4)
	if ip == nil || ip.Protocol != layers.IPProtocol(proto) {
		t.Fatalf("gopacket reads %v", p)
	}
	want := bytes.Clone(f)
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		if l.Seq != g.seq || l.Ack != g.ack || l.SYN != (g.flags&flagSYN != 0) || l.FIN != (g.flags&flagFIN != 0) || l.ACK != (g.flags&flagACK != 0) || len(l.Payload) != 0 {
			t.Fatalf("gopacket reads %+v, said %+v", l, g)
		}
		_ = l.SetNetworkLayerForChecksum(ip)
		put(want, ip, l, nil)
	case *layers.UDP:
		if uint16(l.SrcPort) != g.SrcPort || uint16(l.DstPort) != g.DstPort || l.Checksum != 0 || len(l.Payload) != segmentBytes-udpPayload {
			t.Fatalf("gopacket reads %+v, said %+v", l, g)
		}
		return
	default:
		t.Fatalf("gopacket reads %v", p)
	}
	if !bytes.Equal(f, want) {
		t.Fatalf("wrote\n% x, gopacket\n% x", f, want)
	}
}

// FuzzHear: no bytes are too bad to be read, and what is heard is what would be said.
func FuzzHear(f *testing.F) {
	s := newSpeaker([6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}, ProtoTCP)
	frame := make([]byte, segmentBytes)
	s.say(frame, &segment{Header{1, 2, 3, 4}, flagSYN, 5, 6})
	f.Add(frame)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, proto := range []uint8{ProtoTCP, ProtoUDP} {
			s := newSpeaker([6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}, proto)
			var g, again segment
			if !s.hear(b, &g) {
				continue
			}
			out := make([]byte, segmentBytes)
			if s.say(out, &g); !s.hear(out, &again) || again != g {
				t.Fatalf("% x is %+v, which is % x and %+v", b, g, out, again)
			}
		}
	})
}
