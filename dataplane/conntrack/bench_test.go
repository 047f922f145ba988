package conntrack

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quiet runs do b.N times and reports the tenth percentile of the time that a
// run of 1,024 took, for each: what it costs when nobody else has the core.
func quiet(b *testing.B, do func(i int)) {
	const run = 1024
	var times []float64
	b.ReportAllocs()
	for i := 0; b.Loop(); {
		begin := time.Now()
		for range run {
			do(i)
			i++
		}
		times = append(times, float64(time.Since(begin).Nanoseconds())/run)
	}
	slices.Sort(times)
	b.ReportMetric(times[len(times)/10], "ns/each")
	b.ReportMetric(0, "ns/op")
}

// benchTuple is the tuple of connection i.
func benchTuple(i int) Tuple {
	return Tuple{Src: Addr{1: 10<<24 + uint64(i>>14)}, Dst: Addr{1: 10<<24 | 1<<23}, SrcPort: uint16(1024 + i&0x3fff), DstPort: 80, Proto: ProtoTCP}
}

// benchTable makes a table with n established connections.
func benchTable(b *testing.B, n int) (*Table, *Worker) {
	o := DefaultOptions(24 << 30)
	o.Capacity = max(n, 1<<16)
	if n > 1<<16 {
		o.Capacity = n * 5 / 4
	}
	table, w := newTable(b, o)
	for i := range n {
		establish(w, benchTuple(i), start)
		if i%64 == 0 {
			w.Quiet()
		}
	}
	return table, w
}

// establish makes a connection.
func establish(w *Worker, t Tuple, now uint64) Result {
	_, r := commit(w, 1, packetOf(t, FlagSYN), Terms{}, now)
	track(w, 1, packetOf(t.Inverse(), FlagSYN|FlagACK), now)
	track(w, 1, packetOf(t, FlagACK), now)
	return r
}

// BenchmarkTrack looks up established connections in random order.
func BenchmarkTrack(b *testing.B) {
	for _, n := range []int{1 << 10, 1 << 16, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			_, w := benchTable(b, n)
			r := rand.New(rand.NewPCG(1, 2))
			packets := make([]Packet, 1<<15)
			for i := range packets {
				packets[i] = packetOf(benchTuple(r.IntN(n)), FlagACK)
			}
			var v Verdict
			quiet(b, func(i int) { w.Track(1, &packets[i%len(packets)], start, &v) })
			if v.State != StateTracked|StateEstablished {
				b.Fatal(v.State)
			}
		})
	}
}

// BenchmarkCreate makes connections that nobody answers, in a table of two million
// that is emptied when it is half full, and in one of a million
// that is full: each also evicts one.
func BenchmarkCreate(b *testing.B) {
	for _, tt := range []struct {
		name string
		nat  *NAT
	}{{"plain", nil}, {"SNAT", &NAT{Src: Range{Set: true, Min: Addr{1: 5}, Max: Addr{1: 5 + 255}}}}} {
		for _, full := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/full=%v", tt.name, full), func(b *testing.B) {
				o := DefaultOptions(24 << 30)
				o.Capacity = 1 << 20
				if !full {
					o.Capacity = 2 << 20
				}
				_, w := newTable(b, o)
				terms := Terms{NAT: tt.nat}
				var v Verdict
				i := 0
				create := func() {
					p := packetOf(benchTuple(i), FlagSYN)
					w.Track(1, &p, start, &v)
					w.Commit(1, &p, &terms, start, &v)
					if i++; i%64 == 0 {
						w.Quiet()
					}
				}
				for full && i < 1<<20 {
					create()
				}
				quiet(b, func(int) {
					create()
					if !full && i >= 1<<20 {
						w.t.Flush(1)
						i = 0
					}
				})
			})
		}
	}
}

// BenchmarkLife is a TCP connection from SYN to its last ACK, and its expiry.
func BenchmarkLife(b *testing.B) {
	o := DefaultOptions(24 << 30)
	o.Capacity = 1 << 20
	_, w := newTable(b, o)
	now := start
	var v Verdict
	quiet(b, func(i int) {
		t := benchTuple(i & (1<<20 - 1))
		back := t.Inverse()
		p := packetOf(t, FlagSYN)
		w.Track(1, &p, now, &v)
		w.Commit(1, &p, &Terms{}, now, &v)
		q := packetOf(back, FlagSYN|FlagACK)
		w.Track(1, &q, now, &v)
		for _, flags := range []uint16{FlagACK, FlagACK | FlagFIN} {
			p.Flags = flags
			w.Track(1, &p, now, &v)
		}
		q.Flags = FlagACK | FlagFIN
		w.Track(1, &q, now, &v)
		p.Flags = FlagACK
		w.Track(1, &p, now, &v)
		now += 1000
		if i%64 == 0 {
			w.Expire(now, 4096)
			w.Quiet()
		}
	})
}

// BenchmarkExpire is one call with the budget of a worker's turn, in a table of a
// million connections of which none is over.
func BenchmarkExpire(b *testing.B) {
	_, w := benchTable(b, 1<<20)
	var times []float64
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		begin := threadTime(b)
		w.Expire(start, 4096)
		times = append(times, threadTime(b)-begin)
	}
	reportPauses(b, times)
}

// BenchmarkExpired is one such call when all it looks at are over.
func BenchmarkExpired(b *testing.B) {
	table, w := benchTable(b, 1<<20)
	later := start + 500000*second
	sweep(table, later)
	later += 3 * second
	var times []float64
	gone := 0
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		begin := threadTime(b)
		_, n := w.Expire(later, 4096)
		times = append(times, threadTime(b)-begin)
		w.Quiet()
		if gone += n; n == 0 {
			break
		}
	}
	b.ReportMetric(float64(gone)/float64(len(times)), "removed/each")
	reportPauses(b, times)
}

// threadTime is the time in nanoseconds that the thread has had: others may have the core in
// between.
func threadTime(b *testing.B) float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return float64(t.Nano())
}

// reportPauses reports how long single calls took.
func reportPauses(b *testing.B, times []float64) {
	slices.Sort(times)
	b.ReportMetric(times[len(times)/2], "median-ns")
	b.ReportMetric(times[len(times)*99/100], "p99-ns")
	b.ReportMetric(times[len(times)*999/1000], "p99.9-ns")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTouch is what a connection costs once a second.
func BenchmarkTouch(b *testing.B) {
	table, w := benchTable(b, 1<<20)
	var refs []Ref
	for c := range table.Dump(start) {
		refs = append(refs, c.Ref)
	}
	quiet(b, func(i int) { w.Touch(refs[i%len(refs)], false, 100, 6400, start+uint64(i/len(refs)+1)*second) })
}
