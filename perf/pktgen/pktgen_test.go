package pktgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"millrace/dataplane/packet"
)

// local runs cfg through the forwarder of this process, not pinned: tests run
// on machines that have other things to do.
func local(t *testing.T, cfg Config, mangle func(*packet.Batch, []packet.Ref) []packet.Ref) *Result {
	t.Helper()
	if cfg.Ports == nil {
		cfg.Ports = make([]Port, 2)
	}
	cfg.PeerCPU = -1
	if cfg.Settle == 0 {
		cfg.Settle = 100 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	r, err := run(ctx, cfg, func(f *forwarder) { f.mangle = mangle })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestExact sends a number of frames in every way and gets all of them back.
// The rate is low enough for a machine that is busy with other things: a
// receive ring is never full.
func TestExact(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"one flow", Config{}},
		{"flows", Config{Flows: 100}},
		{"more flows than buffers", Config{Flows: 5000}},
		{"imix", Config{Sizes: IMIX()}},
		{"jumbo", Config{Sizes: []Share{{9728, 1}}}},
		{"smallest", Config{Sizes: []Share{{56, 1}}}},
		{"both ways", Config{Direction: Bidi}},
		{"four ports", Config{Direction: Bidi, Ports: make([]Port, 4)}},
		{"broadcast", Config{Direction: Broadcast, Ports: make([]Port, 4)}},
		{"tagged", Config{Ports: []Port{{VLAN: 5}, {VLAN: 5}}, Sizes: []Share{{64, 1}}}},
		{"queues", Config{Ports: []Port{{Queues: 4}, {Queues: 4}}, Flows: 40}},
		{"queues, one flow", Config{Ports: []Port{{Queues: 2}, {Queues: 2}}}},
		{"warm-up", Config{Warmup: 20 * time.Millisecond, Flows: 3}},
		{"fast", Config{Mode: Fast}},
		{"fast, timed", Config{Mode: Fast, LatencyEvery: 100}},
		{"fast, imix, timed", Config{Mode: Fast, Sizes: IMIX(), LatencyEvery: 7}},
		{"fast, more flows than buffers", Config{Mode: Fast, Flows: 3000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.cfg
			cfg.Count, cfg.Rate, cfg.RingSize = 20_000, 200_000, 1024
			r := local(t, cfg, nil)
			dests := uint64(1)
			if cfg.Direction == Broadcast {
				dests = 3
			}
			want := uint64(len(r.Streams)) * cfg.Count * dests
			if !r.Total.Clean() || r.Total.Sent != want {
				t.Errorf("%d frames wanted:\n%v%+v", want, r, r.Total)
			}
			for _, p := range r.Ports {
				if p.Corrupted+p.Misdelivered+p.Unknown != 0 {
					t.Errorf("port %+v", p)
				}
			}
			if (cfg.LatencyEvery > 0 || r.Mode == Verify) && (r.Latency == nil || r.Latency.Min <= 0 || r.Latency.P50 > 1e6) {
				t.Errorf("latency %+v", r.Latency)
			}
			if cfg.Mode == Fast && cfg.LatencyEvery > 0 {
				if got, want := float64(r.Latency.Samples), float64(cfg.Count)/float64(cfg.LatencyEvery); got < want/2 || got > want*1.1 {
					t.Errorf("%v frames timed, want about %v", got, want)
				}
			}
		})
	}
}

// TestDamage has a switch do each kind of wrong to known frames and finds
// exactly these in the counts.
func TestDamage(t *testing.T) {
	type totals struct{ lost, duplicated, reordered, corrupted uint64 }
	every := func(n int, do func(b *packet.Batch, list []packet.Ref, i int) []packet.Ref) func(*packet.Batch, []packet.Ref) []packet.Ref {
		seen := 0
		return func(b *packet.Batch, list []packet.Ref) []packet.Ref {
			if b.Frames[0].Len == announceBytes && b.Slot(0)[packet.HeadRoom+12] == announceType>>8 {
				return list
			}
			for i := 0; i < len(list); i++ {
				if seen++; seen%n == 0 {
					before := len(list)
					list = do(b, list, i)
					i += len(list) - before
				}
			}
			return list
		}
	}
	flip := func(off int) func(b *packet.Batch, list []packet.Ref, i int) []packet.Ref {
		return func(b *packet.Batch, list []packet.Ref, i int) []packet.Ref {
			b.Slot(int(list[i].Frame))[packet.HeadRoom+off] ^= 0x10
			return list
		}
	}
	drop := func(b *packet.Batch, list []packet.Ref, i int) []packet.Ref {
		return append(list[:i], list[i+1:]...)
	}
	twice := func(b *packet.Batch, list []packet.Ref, i int) []packet.Ref {
		list = append(list[:i+1], list[i:]...)
		return list
	}
	swap := func(b *packet.Batch, list []packet.Ref, i int) []packet.Ref {
		if i > 0 {
			list[i], list[i-1] = list[i-1], list[i]
		}
		return list
	}
	for _, tt := range []struct {
		name   string
		mangle func(*packet.Batch, []packet.Ref) []packet.Ref
		want   totals
		flows  int
	}{
		{"loss", every(100, drop), totals{lost: 100}, 1},
		{"loss, flows", every(100, drop), totals{lost: 100}, 16},
		{"duplicates", every(100, twice), totals{duplicated: 100}, 1},
		{"duplicates, flows", every(50, twice), totals{duplicated: 200}, 16},
		{"damaged filler", every(1000, flip(70)), totals{corrupted: 10}, 1},
		{"damaged address", every(1000, flip(3)), totals{corrupted: 10}, 1},
		{"damaged flow", every(1000, flip(45)), totals{corrupted: 10}, 1},
		{"damaged sequence", every(1000, flip(49)), totals{corrupted: 10}, 1},
		{"damaged port", every(1000, flip(35)), totals{corrupted: 10}, 1},
		{"damaged header", every(1000, flip(24)), totals{corrupted: 10}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := local(t, Config{Count: 10_000, Rate: 200_000, RingSize: 1024, Flows: tt.flows, Sizes: []Share{{100, 1}}}, tt.mangle)
			got := totals{r.Total.Lost, r.Total.Duplicated, r.Total.Reordered, r.Total.Corrupted}
			if got != tt.want || r.Total.Sent != 10_000 || r.Total.Received != 10_000-tt.want.lost-tt.want.corrupted {
				t.Errorf("got %+v, want %+v\n%v", got, tt.want, r)
			}
		})
	}
	t.Run("reordered", func(t *testing.T) {
		// Flooding fills batches, so that there is a frame before to swap with.
		r := local(t, Config{Count: 10_000, RingSize: 1024}, every(100, swap))
		if r.Total.Reordered == 0 || r.Total.Reordered > 100 || r.Total.Lost+r.Total.Duplicated+r.Total.Corrupted != 0 {
			t.Errorf("got %+v, want up to 100 reordered", r.Total)
		}
	})
}

// TestMisdelivered has a switch send to the wrong port.
func TestMisdelivered(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cfg := Config{Ports: make([]Port, 4), Count: 1000, Rate: 100_000, PeerCPU: -1}
	r, err := run(ctx, cfg, func(f *forwarder) {
		f.queues[0].to, f.queues[2].to = f.queues[2].to, f.queues[0].to
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Ports[1].Misdelivered != 1000 || r.Ports[3].Misdelivered != 1000 || r.Total.Lost != 2000 || r.Total.Received != 0 {
		t.Errorf("got %v", r)
	}
}

// slowTracker is tracker with all numbers kept.
type slowTracker struct {
	seen                          map[uint32]bool
	top                           uint32
	unique, duplicated, reordered uint64
}

func (s *slowTracker) see(seq uint32) {
	switch {
	case s.seen[seq]:
		s.duplicated++
		return
	case seq < s.top:
		s.reordered++
	default:
		s.top = seq + 1
	}
	s.seen[seq] = true
	s.unique++
}

// TestTracker follows random losses, copies and delays, and the wrap of
// numbers, beside a tracker that forgets nothing.
func TestTracker(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		start := uint32(math.MaxUint32 - 500)
		fast, slow := newTracker(1), slowTracker{seen: map[uint32]bool{}}
		fast.restart([]uint32{start})
		seq := uint32(0)
		for range 3000 {
			switch r.IntN(10) {
			case 0:
				seq += uint32(r.IntN(20))
			case 1:
				seq -= min(seq, uint32(r.IntN(100)))
			case 2:
				seq += uint32(r.IntN(2)) * uint32(r.IntN(5000))
			}
			if slow.top > seq && slow.top-seq > 10_000 {
				continue
			}
			fast.see(0, start+seq)
			slow.see(seq)
			seq++
		}
		if fast.unique != slow.unique || fast.duplicated != slow.duplicated || fast.reordered != slow.reordered || fast.stale != 0 {
			t.Fatalf("seed %d: got %d unique, %d duplicated, %d reordered, %d stale; want %d, %d, %d", seed,
				fast.unique, fast.duplicated, fast.reordered, fast.stale, slow.unique, slow.duplicated, slow.reordered)
		}
	}
	f := newTracker(1)
	f.see(0, 100_000)
	if f.see(0, 100_000-windowMost-1); f.stale != 1 {
		t.Errorf("stale %d, want 1", f.stale)
	}
}

// TestMix counts frames of each size.
func TestMix(t *testing.T) {
	for _, size := range []uint16{256, 1024} {
		counts := map[int]int{}
		for i, k := range spread(IMIX(), int(size)) {
			counts[k]++
			if i == 11 && (counts[0] != 7 || counts[1] != 4 || counts[2] != 1) {
				t.Errorf("first twelve frames: %v", counts)
			}
		}
		for k, s := range IMIX() {
			if got, want := float64(counts[k]), float64(s.Weight)/12*float64(size); math.Abs(got-want) > 1 {
				t.Errorf("ring %d: %v frames of %d bytes, want %.1f", size, got, s.Size, want)
			}
		}
	}
	r := local(t, Config{Sizes: IMIX(), Count: 12 * 1024, Rate: 200_000, RingSize: 1024}, nil)
	want := float64(7*60+4*590+1514) / 12 * 12 * 1024
	if got := float64(r.Ports[1].ReceivedBytes); math.Abs(got/want-1) > 0.01 {
		t.Errorf("%v bytes, want %v within 1 %%", got, want)
	}
}

// TestSchedule: every flow once a round, or by Zipf's law.
func TestSchedule(t *testing.T) {
	if got := fmt.Sprint(schedule(Traffic{Flows: 7}, 1, 3)); got != "[1 4]" {
		t.Errorf("lane 1 of 3, 7 flows: %s", got)
	}
	count := make(map[uint32]int)
	for _, f := range schedule(Traffic{Flows: 1000, Zipf: 1.1}, 0, 1) {
		count[f]++
	}
	by := slices.Sorted(maps.Values(count))
	slices.Reverse(by)
	// With shares k^-1.1 the first flow has 2^1.1 = 2.14 times the second's.
	if len(by) < 990 || float64(by[0])/float64(by[1]) < 2.0 || float64(by[0])/float64(by[1]) > 2.3 {
		t.Errorf("%d flows, the first %d times, the second %d", len(by), by[0], by[1])
	}
}

// TestRate holds a rate within one part in a hundred.
func TestRate(t *testing.T) {
	for _, rate := range []float64{1000, 100_000, 1_000_000} {
		r := local(t, Config{Rate: rate, Duration: 300 * time.Millisecond, RingSize: 1024}, nil)
		due := float64(r.Total.Sent+r.Total.Missed) / r.Seconds
		if math.Abs(due/rate-1) > 0.01 {
			t.Errorf("rate %v: %v sent and %d missed in %v s", rate, r.Total.Sent, r.Total.Missed, r.Seconds)
		}
		if float64(r.Total.Missed) > 0.01*float64(r.Total.Sent) {
			t.Logf("rate %v: %d frames missed beside %d sent: the machine is busy", rate, r.Total.Missed, r.Total.Sent)
		}
	}
}

// TestPace compares the pace with arithmetic, without a clock.
func TestPace(t *testing.T) {
	p := newPace(1e6, 1e9)
	p.begin(5000)
	sent := 0
	for now := uint64(5000); now <= 5000+1e9; now += 777 {
		n := p.due(now, 64)
		p.sent(n)
		sent += n
	}
	if sent < 999_999 || sent > 1_000_000 || p.missed != 0 {
		t.Errorf("sent %d in a second, missed %d", sent, p.missed)
	}
	p.begin(0)
	if n := p.due(1e9, 64); n != 64 || p.missed != 1_000_000-2000 {
		t.Errorf("after a second's pause: %d due, %d missed", n, p.missed)
	}
}

// FuzzEnd: what is read as an end is written as it was.
func FuzzEnd(f *testing.F) {
	for _, s := range []string{"afxdp:eth0", "packet:eth0@pod", "tap:t0@/proc/1/ns/net", "tap:@", "tap:a@b@c", "/run/p1.sock", "afxdp", ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, ok := ParseEnd(s)
		if ok == (e == End{}) {
			t.Fatalf("%q is %+v, %v", s, e, ok)
		}
		if ok && e.String() != s && e.String()+"@" != s {
			t.Fatalf("%q became %q", s, e)
		}
	})
}

func writePcap(t *testing.T, frames [][]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "replay.pcap")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, b := range frames {
		if err := w.WritePacket(gopacket.CaptureInfo{CaptureLength: len(b), Length: len(b)}, b); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestReplay sends a capture round and round, and finds a frame that is not
// from it.
func TestReplay(t *testing.T) {
	var frames [][]byte
	total := 0
	for i := range 37 {
		frames = append(frames, bytes.Repeat([]byte{byte(i)}, 60+i*30))
		total += 60 + i*30
	}
	cfg := Config{Pcap: writePcap(t, frames), Count: 370, Rate: 50_000}
	r := local(t, cfg, nil)
	if !r.Total.Clean() || r.Total.Sent != 370 || r.Ports[1].ReceivedBytes != uint64(10*total) {
		t.Errorf("%v%+v", r, r.Total)
	}
	n := 0
	r = local(t, cfg, func(b *packet.Batch, list []packet.Ref) []packet.Ref {
		for i := range list {
			if n++; n%50 == 0 {
				b.Slot(int(list[i].Frame))[packet.HeadRoom+30]++
			}
		}
		return list
	})
	if r.Total.Corrupted != 7 {
		t.Errorf("%d corrupted, want 7", r.Total.Corrupted)
	}
}

// TestFrames decodes what is sent with gopacket, which knows nothing of us.
func TestFrames(t *testing.T) {
	for _, vlan := range []uint16{0, 100} {
		tpl, err := newTemplate(frameSpec{src: []byte{2, 0, 0, 0, 0, 1}, dst: []byte{2, 0, 0, 0, 0, 2}, vlan: vlan, stream: 3}, 590)
		if err != nil {
			t.Fatal(err)
		}
		for _, flow := range []uint32{0, 1, 65535, 65536, 1 << 23} {
			tpl.setFlow(tpl.frame, flow)
			p := gopacket.NewPacket(tpl.frame, layers.LayerTypeEthernet, gopacket.Default)
			ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
			if !ok || len(tpl.frame) != 590 {
				t.Fatalf("not an IPv4 frame: %v", p)
			}
			sum := uint32(0)
			for i := 0; i < 20; i += 2 {
				sum += uint32(ip.Contents[i])<<8 | uint32(ip.Contents[i+1])
			}
			if sum = sum>>16 + sum&0xffff; sum != 0xffff {
				t.Errorf("flow %d: header sum %#x", flow, sum)
			}
			udp, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
			if !ok || int(udp.Length) != len(udp.Payload)+8 || uint32(udp.SrcPort) != firstSrcPort+flow%srcPorts || udp.DstPort != udpPort {
				t.Errorf("flow %d: %v", flow, udp)
			}
		}
	}
}

// TestTag flips each bit of a tag.
func TestTag(t *testing.T) {
	b := make([]byte, tagLen)
	tag{0x3000123, 77, 0xdeadbeef}.put(b)
	if got, ok := readTag(b); !ok || got != (tag{0x3000123, 77, 0xdeadbeef}) {
		t.Fatalf("read %+v, %v", got, ok)
	}
	for i := range 8 * tagLen {
		b[i/8] ^= 1 << (i % 8)
		if _, ok := readTag(b); ok {
			t.Errorf("bit %d changed, not seen", i)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

// TestBadConfig refuses settings that do not go together.
func TestBadConfig(t *testing.T) {
	two := make([]Port, 2)
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"no ports", Config{}},
		{"odd ports", Config{Ports: make([]Port, 3)}},
		{"direction", Config{Ports: two, Direction: "up"}},
		{"mode", Config{Ports: two, Mode: "slow"}},
		{"too small", Config{Ports: two, Sizes: []Share{{55, 1}}}},
		{"too small with tag", Config{Ports: []Port{{VLAN: 1}, {}}, Sizes: []Share{{59, 1}}}},
		{"too long", Config{Ports: two, Sizes: []Share{{9729, 1}}}},
		{"odd size in fast mode", Config{Ports: two, Mode: Fast, LatencyEvery: 10, Sizes: []Share{{61, 1}}}},
		{"multicast source", Config{Ports: []Port{{MAC: []byte{1, 0, 0, 0, 0, 0}}, {}}}},
		{"one socket of two", Config{Ports: []Port{{Path: "x"}, {}}}},
		{"flows", Config{Ports: two, Flows: 1<<24 + 1}},
		{"zipf", Config{Ports: two, Flows: 10, Zipf: 0.9}},
		{"batch", Config{Ports: two, Batch: 512}},
		{"rate", Config{Ports: two, Rate: -1}},
		{"ring", Config{Ports: two, RingSize: 300}},
		{"no such file", Config{Ports: two, Pcap: "/nonexistent.pcap"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r, err := Run(context.Background(), tt.cfg); err == nil || r != nil {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	nobody := filepath.Join(t.TempDir(), "sock")
	if _, err := Run(ctx, Config{Ports: []Port{{Path: nobody}, {Path: nobody}}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want that time is over", err)
	}
}

// TestStop ends a run early, when something has come, and gets what there is.
func TestStop(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w := NewWatch(2)
	go func() {
		for ; w.Frames(1) < 100 && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		}
		cancel()
	}()
	r, err := run(ctx, Config{Ports: make([]Port, 2), Rate: 10_000, Duration: time.Hour, PeerCPU: -1, Watch: w}, nil)
	if err != nil || !r.Total.Clean() || r.Total.Sent == 0 || r.Seconds > 30 {
		t.Errorf("%v, %v", r, err)
	}
}

// TestCeilingBeside measures the ceiling after a run, and shows it. A machine that
// is busy gets more time for it.
func TestCeilingBeside(t *testing.T) {
	var told []Progress
	cfg := Config{Ports: make([]Port, 2), Mode: Fast, Rate: 10_000, Duration: 1100 * time.Millisecond, PeerCPU: -1, CeilingFor: 50 * time.Millisecond}
	cfg.Progress = func(p Progress) { told = append(told, p) }
	r, err := Run(context.Background(), cfg)
	for ; err == nil && (r.CeilingMpps == 0 || len(told) == 0) && cfg.CeilingFor < 30*time.Second; cfg.CeilingFor *= 4 {
		cfg.Duration += cfg.CeilingFor
		r, err = Run(context.Background(), cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.CeilingMpps <= 0 || !strings.Contains(r.String(), "ceiling") || r.Total.RxMpps > 0.011 {
		t.Errorf("%v", r)
	}
	if len(told) == 0 || told[len(told)-1].Received == 0 || told[0].TxPPS > 13_000 {
		t.Errorf("progress %+v", told)
	}
}

// TestTwoThreads sends on one CPU and receives on another, where there are two. However long
// the one that receives is held up, there is room for all.
func TestTwoThreads(t *testing.T) {
	r := local(t, Config{Count: 5000, Rate: 50_000, RingSize: 8192, CPUs: []int{-1, -1}}, nil)
	if !r.Total.Clean() || r.Total.Sent != 5000 {
		t.Errorf("%v", r)
	}
}

// TestJSON pins the names of the result's fields.
func TestJSON(t *testing.T) {
	r := local(t, Config{Count: 100, Rate: 10_000}, nil)
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"total", "sent", "received", "lost", "duplicated", "reordered", "corrupted", "tx_mpps", "rx_mpps", "latency_us", "p99", "streams", "ports", "seconds"} {
		if !strings.Contains(string(b), `"`+name+`":`) {
			t.Errorf("no field %q in %s", name, b)
		}
	}
	if s := r.String(); !strings.Contains(s, "port0 > port1") || !strings.Contains(s, "latency") {
		t.Errorf("table:\n%s", s)
	}
}

// BenchmarkCeiling is the generator through its own forwarder, on two CPUs.
func BenchmarkCeiling(b *testing.B) {
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"fast/60", Config{Mode: Fast}},
		{"fast/1500", Config{Mode: Fast, Sizes: []Share{{1500, 1}}}},
		{"fast/imix", Config{Mode: Fast, Sizes: IMIX()}},
		{"verify/60", Config{LatencyEvery: 16}},
		{"fast/60/bidi", Config{Mode: Fast, Direction: Bidi}},
	} {
		for _, ring := range []uint16{256, 512, 1024} {
			b.Run(tt.name+"/"+map[uint16]string{256: "256", 512: "512", 1024: "1024"}[ring], func(b *testing.B) {
				cfg := tt.cfg
				cfg.Ports, cfg.RingSize, cfg.Duration, cfg.Warmup = make([]Port, 2), ring, time.Second, 100*time.Millisecond
				for b.Loop() {
					r, err := Ceiling(context.Background(), cfg)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(r.Total.RxMpps, "Mpps")
					b.ReportMetric(float64(r.Total.Lost)/float64(r.Total.Sent)*100, "%lost")
				}
			})
		}
	}
}
