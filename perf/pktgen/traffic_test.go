package pktgen

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/packet"
)

// someHeaders are n different headers.
func someHeaders(n int) []Header {
	r := rand.New(rand.NewPCG(7, 7))
	hs := make([]Header, n)
	for i := range hs {
		hs[i] = Header{Src: r.Uint32(), Dst: r.Uint32(), SrcPort: uint16(i), DstPort: uint16(r.Uint32())}
	}
	return hs
}

// TestTraffic sends each kind of traffic, and each frame comes as it was sent.
func TestTraffic(t *testing.T) {
	for _, tt := range []struct {
		name    string
		traffic Traffic
	}{
		{"own", Traffic{Flows: 3000}},
		{"shuffled", Traffic{Flows: 3000, Shuffle: true}},
		{"Zipf", Traffic{Flows: 3000, Zipf: 1.1}},
		{"given", Traffic{Headers: someHeaders(3000)}},
		{"given, in buffers of their own", Traffic{Headers: someHeaders(100)}},
		{"given, Zipf", Traffic{Headers: someHeaders(3000), Zipf: 1.2}},
		{"fresh", Traffic{Fresh: true, First: 1<<32 - 500}},
	} {
		for _, mode := range []Mode{Verify, Fast} {
			t.Run(tt.name+"/"+string(mode), func(t *testing.T) {
				tt.traffic.Rate = 200_000
				r := local(t, Config{Mode: mode, Ports: []Port{{Traffic: &tt.traffic}, {}}, Count: 10_000, RingSize: 1024, Warmup: 10 * time.Millisecond}, nil)
				if !r.Total.Clean() || r.Total.Sent != 10_000 {
					t.Errorf("%v%+v", r, r.Total)
				}
			})
		}
	}
}

// TestWrap sends frames in others, all of which come; the frame inside is as it would be.
func TestWrap(t *testing.T) {
	outer := []byte{2, 9, 9, 9, 9, 9, 2, 9, 9, 9, 9, 8, 0x88, 0xb6, 1, 2, 3, 4}
	wrap := func(frame []byte) []byte { return slices.Concat(outer, frame) }
	var inside, wrapped int
	check := func(b *packet.Batch, list []packet.Ref) []packet.Ref {
		for _, ref := range list {
			frame := b.Slot(int(ref.Frame))[packet.HeadRoom:][:b.Frames[ref.Frame].Len]
			if len(frame) != 60+len(outer) {
				continue // an announcement
			}
			p := gopacket.NewPacket(frame[len(outer):], layers.LayerTypeEthernet, gopacket.Default)
			if ip, ok := p.NetworkLayer().(*layers.IPv4); ok && slices.Equal(frame[:len(outer)], outer) && ip.SrcIP[0] == 10 {
				inside++
			}
			wrapped++
		}
		return list
	}
	r := local(t, Config{Mode: Fast, Ports: []Port{{Traffic: &Traffic{Flows: 3000, Rate: 200_000, Wrap: wrap}}, {}}, Count: 5000, RingSize: 1024}, check)
	if r.Total.Received != 5000 || wrapped != 5000 || inside != 5000 {
		t.Errorf("%d received, %d in others, %d as they should be", r.Total.Received, wrapped, inside)
	}
	for _, bad := range []Config{{Mode: Verify}, {Mode: Fast, LatencyEvery: 8}} {
		bad.Ports, bad.Count = []Port{{Traffic: &Traffic{Wrap: wrap}}, {}}, 1
		if _, err := Run(t.Context(), bad); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// headersOnTheWire sends n frames and returns what gopacket sees of each.
func headersOnTheWire(t *testing.T, mode Mode, traffic Traffic, n uint64) []Header {
	t.Helper()
	var got []Header
	traffic.Rate = 200_000
	local(t, Config{Mode: mode, Ports: []Port{{Traffic: &traffic}, {}}, Count: n, RingSize: 1024}, func(b *packet.Batch, list []packet.Ref) []packet.Ref {
		for _, ref := range list {
			frame := b.Slot(int(ref.Frame))[packet.HeadRoom:][:b.Frames[ref.Frame].Len]
			p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
			ip, _ := p.NetworkLayer().(*layers.IPv4)
			udp, _ := p.TransportLayer().(*layers.UDP)
			if ip == nil || udp == nil {
				continue // an announcement
			}
			src, dst := ip.SrcIP.To4(), ip.DstIP.To4()
			sum := uint32(0)
			for i := 0; i < 20; i += 2 {
				sum += uint32(ip.Contents[i])<<8 | uint32(ip.Contents[i+1])
			}
			if fold(sum) != 0 {
				t.Errorf("bad IPv4 checksum in % x", frame)
			}
			got = append(got, Header{
				Src: uint32(src[0])<<24 | uint32(src[1])<<16 | uint32(src[2])<<8 | uint32(src[3]),
				Dst: uint32(dst[0])<<24 | uint32(dst[1])<<16 | uint32(dst[2])<<8 | uint32(dst[3]),

				SrcPort: uint16(udp.SrcPort), DstPort: uint16(udp.DstPort),
			})
		}
		return list
	})
	if uint64(len(got)) != n {
		t.Fatalf("%d frames on the wire, want %d", len(got), n)
	}
	return got
}

func distinct(hs []Header) int {
	seen := map[Header]bool{}
	for _, h := range hs {
		seen[h] = true
	}
	return len(seen)
}

// TestTrafficOnTheWire decodes frames with gopacket: given headers are those
// that were given, new flows are new, and so many flows are so many.
func TestTrafficOnTheWire(t *testing.T) {
	given := someHeaders(2000)
	for _, mode := range []Mode{Verify, Fast} {
		if got := headersOnTheWire(t, mode, Traffic{Headers: given}, 4000); !slices.Equal(got[:2000], given) || !slices.Equal(got[2000:], given) {
			t.Errorf("%s: given headers are not those on the wire", mode)
		}
		if n := distinct(headersOnTheWire(t, mode, Traffic{Fresh: true}, 5000)); n != 5000 {
			t.Errorf("%s: %d new flows in 5000 frames", mode, n)
		}
		shuffled := headersOnTheWire(t, mode, Traffic{Flows: 3000, Shuffle: true}, 6000)
		if n := distinct(shuffled[:3000]); n != 3000 || distinct(shuffled) != 3000 {
			t.Errorf("%s: %d flows in the first round, want 3000", mode, n)
		}
		inOrder := 0
		for i := 1; i < 3000; i++ {
			if shuffled[i].SrcPort == shuffled[i-1].SrcPort+1 {
				inOrder++
			}
		}
		if inOrder > 30 {
			t.Errorf("%s: %d of 3000 flows come after their neighbour", mode, inOrder)
		}
	}
}

// TestFresh: no two new flows are the same, among any numbers: mix is a
// permutation, which its inverse shows.
func TestFresh(t *testing.T) {
	inverse := func(odd uint32) uint32 { // by Newton's iteration
		x := odd
		for range 5 {
			x *= 2 - odd*x
		}
		return x
	}
	unshift := func(y uint32, by int) uint32 { // the inverse of x ^ x>>by
		x := y
		for range 32/by + 1 {
			x = y ^ x>>by
		}
		return x
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		n := r.Uint32()
		back := unshift(unshift(mix(n), 13)*inverse(0x85ebca77), 15) * inverse(0x9e3779b1)
		if back != n {
			t.Fatalf("number %d comes back as %d", n, back)
		}
	}
}

// TestTrafficByPort has two pairs of ports with rates and flows of their own,
// and one port that is silent.
func TestTrafficByPort(t *testing.T) {
	cfg := Config{Direction: Bidi, Duration: 300 * time.Millisecond, RingSize: 1024, Ports: []Port{
		{Traffic: &Traffic{Rate: 10_000}},
		{Silent: true},
		{Traffic: &Traffic{Rate: 40_000, Headers: someHeaders(300)}},
		{Traffic: &Traffic{Rate: 20_000, Fresh: true}},
	}}
	r := local(t, cfg, nil)
	if !r.Total.Clean() || len(r.Streams) != 3 {
		t.Fatalf("%v%+v", r, r.Total)
	}
	for i, want := range []float64{10_000, 40_000, 20_000} {
		s := r.Streams[i]
		if due := float64(s.Sent+s.Missed) / r.Seconds; due < 0.98*want || due > 1.02*want {
			t.Errorf("stream %d: %v frames a second due, want %v", i, due, want)
		}
	}
	if r.Ports[0].Received != 0 || r.Ports[1].RxMpps == 0 || r.Ports[3].RxMpps == 0 {
		t.Errorf("ports %+v", r.Ports)
	}
}

// TestWatch turns a stream from one port to another in the middle, and the
// watch sees when.
func TestWatch(t *testing.T) {
	for _, mode := range []Mode{Verify, Fast} {
		t.Run(string(mode), func(t *testing.T) {
			w := NewWatch(4)
			cfg := Config{Mode: mode, Watch: w, Yield: true, Count: 2000, PeerCPU: -1, RingSize: 4096, Settle: 100 * time.Millisecond, Ports: []Port{
				{Traffic: &Traffic{Rate: 50_000}}, {}, {Silent: true}, {},
			}}
			left, before := 1000, uint64(0)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, err := run(ctx, cfg, func(f *forwarder) {
				f.mangle = func(b *packet.Batch, list []packet.Ref) []packet.Ref {
					if left -= len(list); left < 0 {
						for w.Frames(1) < before && ctx.Err() == nil { // they are found before the first of the others is there
							runtime.Gosched()
						}
						f.queues[0].to[0] = f.queues[2].to[0]
					} else if b.Slot(0)[packet.HeadRoom+12] != announceType>>8 {
						before += uint64(len(list))
					}
					return list
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			a, b := w.Frames(1), w.Frames(3)
			firstA, lastA := w.Came(1)
			firstB, lastB := w.Came(3)
			if a < 900 || a > 1010 || b < 900 || firstA == 0 || firstB < firstA || lastA > lastB {
				t.Errorf("%d frames from %d to %d at the first port, %d frames from %d to %d at the second", a, firstA, lastA, b, firstB, lastB)
			}
			if mode == Fast {
				return
			}
			_, sentA := w.Sent(1)
			sentB, _ := w.Sent(3)
			if sentA > lastA || sentB > firstB || sentA == 0 || sentB == 0 || sentA > sentB {
				t.Errorf("the last frame before was made at %d, the first after at %d; they came at %d and %d", sentA, sentB, lastA, firstB)
			}
			w.Arm(3)
			if first, _ := w.Came(3); first != 0 {
				t.Errorf("armed, and there is a first frame")
			}
		})
	}
}
