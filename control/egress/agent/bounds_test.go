package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

	"millrace/control/egress/konntest"
)

// TestBound: links together never have more than the bound, one has never more than what is
// one's, and each has its part whatever others have.
func TestBound(t *testing.T) {
	a := New(Config{})
	a.places.Store(2)
	mean, good := &address{}, &address{}
	mean.links.Store(128)
	good.links.Store(2)
	b := &bound{most: 1000, each: 400}
	enterAll := func(ad *address) (links []*link, n []int) {
		for range ad.links.Load() {
			l := &link{agent: a, addr: ad}
			links, n = append(links, l), append(n, 0)
			for b.enter(l, &l.dialing) {
				n[len(n)-1]++
			}
		}
		return links, n
	}
	taken, n := enterAll(mean)
	if n[0] != 400 {
		t.Errorf("the first link has %d, want what one may have", n[0])
	}
	if n[127] != 1 { // 1000 / 2 / 2 addresses / 128 links
		t.Errorf("the last link of many has %d, want its part", n[127])
	}
	more, parts := enterAll(good)
	if parts[0] < 125 || parts[1] < 125 { // 1000 / 2 / 2 addresses / 2 links
		t.Errorf("links of another address have %v, want their part at least", parts)
	}
	if all := b.all.Load(); all > b.most {
		t.Errorf("%d are under way, which is more than %d", all, b.most)
	}
	for _, l := range append(taken, more...) {
		for l.dialing.Load() > 0 {
			b.leave(&l.dialing)
		}
	}
	if all := b.all.Load(); all != 0 {
		t.Errorf("%d are under way when all have ended", all)
	}
}

// A flooder is a server that sends packets as fast as they are taken, on every stream.
type flooder struct {
	make  func(i int64) *konn.Packet
	deaf  bool // it reads nothing
	sent  atomic.Int64
	read  atomic.Int64
	limit atomic.Int64 // of what it sends
	grpc  *grpc.Server
	where string
}

func (f *flooder) start(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.where = l.Addr().String()
	f.grpc = grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error { return f.serve(st) }))
	go f.grpc.Serve(l)
	t.Cleanup(f.grpc.Stop)
}

func (f *flooder) serve(st grpc.ServerStream) error {
	if err := st.SendHeader(metadata.Pairs("serverID", "flood", "serverCount", "1")); err != nil {
		return err
	}
	if !f.deaf {
		go func() {
			for st.RecvMsg(new(konn.Packet)) == nil {
				f.read.Add(1)
			}
		}()
	}
	for st.Context().Err() == nil {
		if f.sent.Load() >= f.limit.Load() {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := st.SendMsg(f.make(f.sent.Add(1))); err != nil {
			return err
		}
	}
	return nil
}

func dialRequest(i int64, target string) *konn.Packet {
	return &konn.Packet{Payload: &konn.Packet_DialRequest{DialRequest: &konn.DialRequest{Protocol: "tcp", Address: target, Random: i}}}
}

// connecting is the flood whose dials have targets that take connections, and keep them.
const connecting = "dials that connect"

// floods are what a server may send without end. away is a target that takes connections
// and says nothing, and hangs one that does not answer.
func floods(away, hangs string) map[string]func(i int64) *konn.Packet {
	closeDial := func(i int64) *konn.Packet {
		return &konn.Packet{Type: konn.PacketType_DIAL_CLS, Payload: &konn.Packet_CloseDial{CloseDial: &konn.CloseDial{Random: i}}}
	}
	return map[string]func(i int64) *konn.Packet{
		"dials that nobody answers": func(i int64) *konn.Packet { return dialRequest(i, hangs) },
		"dials that are denied":     func(i int64) *konn.Packet { return dialRequest(i, "192.0.2.1:80") },
		connecting:                  func(i int64) *konn.Packet { return dialRequest(i, away) },
		"dials of names":            func(i int64) *konn.Packet { return dialRequest(i, fmt.Sprintf("x%d.test:80", i)) },
		"dials of one id":           func(i int64) *konn.Packet { return dialRequest(7, hangs) },
		"dials, and their ends": func(i int64) *konn.Packet {
			if i%2 == 0 {
				return closeDial(i - 1)
			}
			return dialRequest(i, hangs)
		},
		"ends of no dial": closeDial,
		"data of nobody":  func(i int64) *konn.Packet { return dataPacket(i, []byte("x")) },
		"ends of nobody": func(i int64) *konn.Packet {
			return &konn.Packet{Type: konn.PacketType_CLOSE_REQ, Payload: &konn.Packet_CloseRequest{CloseRequest: &konn.CloseRequest{ConnectID: i}}}
		},
		"drains": func(int64) *konn.Packet {
			return &konn.Packet{Type: konn.PacketType_DRAIN, Payload: &konn.Packet_Drain{Drain: &konn.Drain{}}}
		},
	}
}

// TestFloods: whatever a server sends without end, whether it reads answers or not, the agent's
// memory and goroutines are bounded, requests of another server come through, and the log
// does not grow with each packet.
func TestFloods(t *testing.T) {
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	away := listen(t, func(*net.TCPConn) { <-never })
	for name, packet := range floods(away, "127.0.0.1:9") {
		for _, deaf := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/deaf=%v", name, deaf), func(t *testing.T) { testFlood(t, name, &flooder{make: packet, deaf: deaf}) })
		}
	}
}

// What a flood is, and what it may take. A dial has a goroutine, and one more where a target
// is dialled or a name is looked up; here there are also those of targets and of both servers.
const (
	floodPackets    = 20_000 // in each half
	floodShort      = 5_000  // the same in a short run, which is more than may be under way
	floodRequests   = 1024   // that may be open in this test
	floodGoroutines = 3 * dialsMost
	floodGrowth     = 24 << 20 // bytes of the heap from the flood's first half to its end
)

func testFlood(t *testing.T, name string, f *flooder) {
	f.start(t)
	good := &konntest.Server{ID: "good"}
	good.Start(t, "127.0.0.1:0")
	log := new(logCount)
	r := start(t, func(c *Config) {
		c.Servers, c.DialTimeout, c.MaxRequests, c.Log = []string{f.where, good.Addr()}, time.Minute, requestsMost, log.logger()
		if name == connecting {
			c.MaxRequests = floodRequests
		}
		c.Host, c.HostNames = dialFunc(dialOrHang), hangingNames{}
	})
	r.servers = []*konntest.Server{good}
	r.await(t)
	before, began := runtime.NumGoroutine(), time.Now()
	target := listen(t, echo)
	packets := int64(floodPackets)
	if testing.Short() {
		packets = floodShort
	}
	half := func() (goroutines int, heap uint64) {
		t.Helper()
		f.limit.Add(packets)
		for range 3 { // a machine that is busy may have a dial lie on a stream that ends meanwhile
			eventually(t, "a request of another server", func() bool { return probe(t, ways[1], good, target) == nil })
		}
		f.await(func() { goroutines = max(goroutines, runtime.NumGoroutine()) })
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return goroutines, m.HeapAlloc
	}
	_, first := half()
	most, all := half()
	if most > before+floodGoroutines {
		t.Errorf("%d goroutines have become %d", before, most)
	}
	if all > first+floodGrowth {
		t.Errorf("the heap has grown from %d to %d KiB in the second half", first>>10, all>>10)
	}
	if bound := map[bool]string{false: "dials", true: "requests"}[name == connecting]; strings.HasPrefix(name, "dials that") && name != "dials that are denied" && r.metric(t, "egress_refused_total", "bound", bound) == 0 {
		t.Errorf("nothing was refused for too many %s", bound)
	}
	seconds := 2 + int64(time.Since(began).Seconds())
	if log.others.Load() > 20+4*seconds || log.requests.Load() > seconds*failuresMost {
		t.Errorf("%d lines of the log, and %d about requests that failed, in %d s for %d packets", log.others.Load(), log.requests.Load(), seconds, f.sent.Load())
	}
	t.Logf("%d packets, %d answers; %d goroutines, %d and then %d KiB, %d refused", f.sent.Load(), f.read.Load(), most-before, first>>10, all>>10, r.Status().Totals.Refused)
	r.stop()
	<-r.over
	if dials, requests := r.dials.all.Load(), r.requests.all.Load(); dials != 0 || requests != 0 {
		t.Errorf("%d dials and %d requests are counted when all have ended", dials, requests)
	}
}

// await waits until all has been sent, or nothing more is for a time, and as many answers have
// come as will. look is called meanwhile.
func (f *flooder) await(look func()) {
	last, quiet := int64(-1), 0
	for quiet < 20 {
		if now := f.sent.Load() + f.read.Load(); now != last {
			last, quiet = now, 0
		}
		look()
		time.Sleep(10 * time.Millisecond)
		quiet++
	}
}

// A logCount counts lines of a log.
type logCount struct{ requests, others atomic.Int64 }

func (c *logCount) logger() *zap.Logger {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel), zap.Hooks(func(e zapcore.Entry) error {
		if e.Message == "request" {
			c.requests.Add(1)
		} else {
			c.others.Add(1)
		}
		return nil
	}))
}

// dialOrHang dials, but at port 9 nobody answers.
func dialOrHang(ctx context.Context, network, address string) (net.Conn, error) {
	if address == "127.0.0.1:9" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// hangingNames is a resolver that does not answer.
type hangingNames struct{}

func (hangingNames) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestTooMany: a dial too many is answered in words, of which servers make the status 503, is
// counted, and there is room again when others have ended.
func TestTooMany(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	core, logged := observer.New(zap.WarnLevel)
	r := start(t, func(c *Config) {
		c.Host, c.MaxRequests, c.Links, c.DialTimeout, c.Log = dialFunc(dialOrHang), 4, 1, 15*time.Second, zap.New(core)
	}, s)
	target := listen(t, echo)
	var conns []net.Conn
	for range 4 {
		c, err := s.DialHTTP(t, t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	err := dialRaw(t.Context(), t, s, "tcp", target)
	want := "too many open files: the agent has as many requests open as it may, 4 in all (its --max-requests)"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("one too many: %v", err)
	}
	if n := r.metric(t, "egress_refused_total", "bound", "requests"); n == 0 || uint64(n) != r.Status().Totals.Refused {
		t.Errorf("%v refused dials are counted, and %d in the status", n, r.Status().Totals.Refused)
	}
	eventually(t, "a line of the log", func() bool { return logged.FilterMessage("dials are refused: there are too many at once").Len() > 0 })
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, "room again", func() bool { return probe(t, ways[1], s, target) == nil })
}

// TestLogLines: of requests that failed so many have a line in a second, and then one says
// how many had none.
func TestLogLines(t *testing.T) {
	var l lineLimit
	now := time.Now()
	for i := range 3 * failuresMost {
		if ok, left := l.next(now); ok != (i < failuresMost) || left != 0 {
			t.Fatalf("line %d: %v, %d left", i, ok, left)
		}
	}
	if ok, left := l.next(now.Add(time.Second)); !ok || left != 2*failuresMost {
		t.Errorf("in the next second: %v, %d left", ok, left)
	}
	if ok, left := l.next(now.Add(2 * time.Second)); !ok || left != 0 {
		t.Errorf("in the one after: %v, %d left", ok, left)
	}
}

// TestSmallPackets: what waits for a target takes memory in proportion to a queue's limit, if
// it came in packets of a byte, too.
func TestSmallPackets(t *testing.T) {
	q := newQueue(newBudget(budgetAll))
	n := 0
	for q.putWithin([]byte{1}, softQueue, 0) {
		n++
	}
	if n > softQueue/32 {
		t.Errorf("%d packets of a byte are in a queue of %d bytes", n, softQueue)
	}
	q.breakOff()
}

// TestManyAtOnce: what a server may ask for at once, it gets: bounds are for floods.
func TestManyAtOnce(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	target := listen(t, echo)
	var all sync.WaitGroup
	for range dialsEach / 2 {
		all.Go(func() {
			if err := probe(t, ways[1], s, target); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := r.Status().Totals.Refused; n != 0 {
		t.Errorf("%d dials were refused", n)
	}
}
