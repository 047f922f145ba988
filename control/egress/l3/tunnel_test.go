package l3

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"millrace/control/egress/l3/packet"
	"millrace/waittest"
)

var (
	serverOwn = netip.MustParseAddr("10.99.0.1")
	nodeOwn   = netip.MustParseAddr("10.99.0.2")
	opOwn     = netip.MustParseAddr("10.99.0.50")
	podAddr   = netip.MustParseAddr("10.9.0.1")
)

// open lets all through that is for somebody: it relays what is not for own or, if
// there is an inner end, delivers it.
type open struct {
	own   netip.Addr
	inner bool
}

func (o open) Inward(packets [][]byte, v []Verdict) {
	for i, b := range packets {
		p, ok := packet.Parse(b)
		switch {
		case !ok:
			v[i] = Malformed
		case p.Dst == o.own:
			v[i] = Own
		case o.inner:
			v[i] = Deliver
		default:
			v[i] = Relay
		}
	}
}

func (o open) Outward(packets [][]byte, v []Verdict) {
	for i := range packets {
		v[i] = Relay
	}
}

// A setting is a Setup that a test changes.
type setting struct {
	mu sync.Mutex
	s  Setup
}

func (s *setting) load() (Setup, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s, nil
}

func (s *setting) set(change func(*Setup)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Peers = slices.Clone(s.s.Peers)
	change(&s.s)
}

// run runs a tunnel until the test ends.
func run(t testing.TB, cfg Config) *Tunnel {
	t.Helper()
	cfg.Log = zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	tun, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); tun.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(waittest.Most):
			b := make([]byte, 1<<20)
			t.Errorf("the tunnel does not end:\n%s", b[:runtime.Stack(b, true)])
		}
	})
	return tun
}

// A pair is a server that relays, and a node whose inner end the test is.
type pair struct {
	server, node           *Tunnel
	serverSet, nodeSet     *setting
	serverKey, nodeKey, op Key // private
	pod                    *tuntest.ChannelTUN
}

func prefix(words ...string) (all []netip.Prefix) {
	for _, w := range words {
		all = append(all, netip.MustParsePrefix(w))
	}
	return all
}

func newPair(t testing.TB) *pair {
	p := &pair{serverKey: NewKey(), nodeKey: NewKey(), op: NewKey(), pod: tuntest.NewChannelTUN()}
	p.serverSet = &setting{s: Setup{PrivateKey: p.serverKey, Peers: []Peer{
		{Name: "node", Keys: []Key{p.nodeKey.Public()}, Prefixes: prefix("10.99.0.2/32", "10.9.0.0/24"), Patience: 10 * time.Second},
		{Name: "op", Keys: []Key{p.op.Public()}, Prefixes: prefix("10.99.0.50/32"), Patience: time.Minute},
	}}}
	p.server = run(t, Config{Load: p.serverSet.load, Own: []netip.Addr{serverOwn}, Filter: open{serverOwn, false}})
	p.nodeSet = &setting{s: Setup{PrivateKey: p.nodeKey, Peers: []Peer{
		{Name: "server", Keys: []Key{p.serverKey.Public()}, Endpoint: fmt.Sprintf("127.0.0.1:%d", p.server.bind.port.Load()), Prefixes: prefix("10.99.0.0/24"), Probe: serverOwn, Patience: 10 * time.Second},
	}}}
	p.node = run(t, Config{Load: p.nodeSet.load, Own: []netip.Addr{nodeOwn}, Filter: open{nodeOwn, true}, Inner: p.pod.TUN()})
	eventually(t, "the node is ready", func() bool { return p.node.Status().Ready })
	return p
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waittest.Most); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// operator is stock WireGuard.
func (p *pair) operator(t testing.TB, key Key) *tuntest.ChannelTUN {
	t.Helper()
	c := tuntest.NewChannelTUN()
	d := device.NewDevice(c.TUN(), conn.NewStdNetBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(d.Close)
	var r request
	r.key("private_key", key)
	r.key("public_key", p.serverKey.Public())
	r.set("endpoint", fmt.Sprintf("127.0.0.1:%d", p.server.bind.port.Load()))
	r.set("allowed_ip", "0.0.0.0/0")
	if err := d.IpcSet(r.String()); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange sends a packet until one comes out elsewhere that is wanted. What was sent more than
// once may come more than once, and also later.
func exchange(t testing.TB, from chan []byte, b []byte, to chan []byte, wanted func(packet.Info, []byte) bool) []byte {
	t.Helper()
	for end := time.Now().Add(waittest.Most); time.Now().Before(end); {
		select {
		case from <- b:
		case <-time.After(time.Second):
		}
		for again := time.After(100 * time.Millisecond); again != nil; {
			select {
			case got := <-to:
				if p, ok := packet.Parse(got); ok && wanted(p, got) {
					return got
				}
			case <-again:
				again = nil
			}
		}
	}
	t.Fatalf("%x is sent, and what is wanted does not come", b)
	return nil
}

// same wants what was sent.
func same(b []byte) func(packet.Info, []byte) bool {
	return func(_ packet.Info, got []byte) bool { return slices.Equal(got, b) }
}

// TestTunnel: an echo of an operator comes out at the node's inner end, and its
// reply at the operator.
func TestTunnel(t *testing.T) {
	p := newPair(t)
	op := p.operator(t, p.op)
	b := packet.Echo(opOwn, podAddr, 5, 6)
	exchange(t, op.Outbound, b, p.pod.Inbound, same(b))
	info, _ := packet.Parse(b)
	b = slices.Clone(b) // the operator may still read the old one
	info.Answer(b)
	exchange(t, p.pod.Outbound, b, op.Inbound, same(b))
	exchange(t, op.Outbound, packet.Echo(opOwn, serverOwn, 5, 7), op.Inbound, func(i packet.Info, _ []byte) bool {
		return i.Kind == packet.EchoReply && i.Src == serverOwn
	})
	s := p.node.Status()
	if len(s.Peers) != 1 || !s.Peers[0].Up || s.Peers[0].RTT <= 0 || s.Packets.In == 0 || s.Packets.Out == 0 {
		t.Errorf("status of the node: %+v", s)
	}
	eventually(t, "the server shows both", func() bool {
		s := p.server.Status()
		return s.Peers[0].Up && s.Peers[1].Up && s.Peers[1].Received > 0
	})
}

// TestTooBig: who sends more than the next tunnel takes is told so.
func TestTooBig(t *testing.T) {
	p := newPair(t)
	op := p.operator(t, p.op)
	small := packet.Echo(opOwn, podAddr, 5, 6)
	exchange(t, op.Outbound, small, p.pod.Inbound, same(small))
	big := make([]byte, 1500)
	copy(big, small)
	binary.BigEndian.PutUint16(big[2:], uint16(len(big)))
	got := exchange(t, op.Outbound, big, op.Inbound, func(i packet.Info, _ []byte) bool { return i.Kind == packet.Error })
	info, _ := packet.Parse(got)
	if q, quoted := info.Quoted(got); !quoted || q.Dst != podAddr || int(binary.BigEndian.Uint16(got[26:])) != DefaultMTU {
		t.Errorf("the operator is told %x: %+v", got, info)
	}
	if n := p.server.Status().Dropped["too_big"]; n == 0 {
		t.Error("it was not counted")
	}
}

// TestHostile: what is no message, what strangers send, and what peers may not
// send is counted, and harms nobody.
func TestHostile(t *testing.T) {
	p := newPair(t)
	op := p.operator(t, p.op)
	good := packet.Echo(opOwn, podAddr, 5, 6)
	exchange(t, op.Outbound, good, p.pod.Inbound, same(good))
	raw, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", p.server.bind.port.Load()))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	message := func(kind uint32, size int) []byte {
		b := make([]byte, size)
		binary.LittleEndian.PutUint32(b, kind)
		return b
	}
	for _, tt := range []struct {
		name    string
		b       []byte
		counter func(Status) uint64
	}{
		{"nothing of WireGuard", []byte("GET / HTTP/1.0\r\n\r\n, if you please, dear server"), func(s Status) uint64 { return s.Dropped["datagram"] }},
		{"short", []byte{1}, func(s Status) uint64 { return s.Dropped["datagram"] }},
		{"initiation of a wrong size", message(1, 149), func(s Status) uint64 { return s.Dropped["datagram"] }},
		{"data of a wrong size", message(4, 31), func(s Status) uint64 { return s.Dropped["datagram"] }},
		{"large", message(9, 60_000), func(s Status) uint64 { return s.Dropped["datagram"] }},
		{"initiation without a sum", message(1, 148), func(s Status) uint64 { return s.Dropped["handshake"] }},
		{"response without a sum", message(2, 92), func(s Status) uint64 { return s.Dropped["handshake"] }},
		{"data that nobody has a key for", message(4, 132), func(s Status) uint64 { return s.Kinds["data"] - s.Kinds["opened"] - s.Kinds["keepalive"] }},
	} {
		before := tt.counter(p.server.Status())
		if _, err := raw.Write(tt.b); err != nil {
			t.Fatal(err)
		}
		eventually(t, tt.name+" is counted", func() bool { return tt.counter(p.server.Status()) > before })
	}
	spoofed := packet.Echo(netip.MustParseAddr("10.99.0.51"), podAddr, 5, 6)
	before := p.server.Status().Dropped["source"]
	op.Outbound <- spoofed
	eventually(t, "another's source is counted", func() bool { return p.server.Status().Dropped["source"] > before })
	later := packet.Echo(opOwn, podAddr, 5, 7)
	exchange(t, op.Outbound, later, p.pod.Inbound, same(later))
}

// TestSaid: the library still says what refusals are counted by.
func TestSaid(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.zx2c4.com/wireguard/device").Output()
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	files, _ := filepath.Glob(strings.TrimSpace(string(dir)) + "/*.go")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	for words := range said {
		if !bytes.Contains(source, []byte("Verbosef("+strconv.Quote(words))) {
			t.Errorf("it does not say %q any more", words)
		}
	}
}

// TestStranger: a handshake by a key that the server does not know is counted.
func TestStranger(t *testing.T) {
	p := newPair(t)
	before := p.server.Status().Dropped["handshake"]
	p.operator(t, NewKey()).Outbound <- packet.Echo(opOwn, podAddr, 5, 6)
	eventually(t, "a stranger is counted", func() bool { return p.server.Status().Dropped["handshake"] > before })
}

// TestKeysChange: the node's key, then the server's, change under traffic.
func TestKeysChange(t *testing.T) {
	p := newPair(t)
	op := p.operator(t, p.op)
	round := uint16(0)
	check := func() {
		t.Helper()
		round++ // what was sent in the one before shows nothing
		there, back := packet.Echo(opOwn, podAddr, 5, round), packet.Echo(podAddr, opOwn, 5, round)
		exchange(t, op.Outbound, there, p.pod.Inbound, same(there))
		exchange(t, p.pod.Outbound, back, op.Inbound, same(back))
	}
	check()
	next := NewKey()
	p.serverSet.set(func(s *Setup) { s.Peers[0].Keys = append(slices.Clone(s.Peers[0].Keys), next.Public()) })
	eventually(t, "the server knows both keys", func() bool { return p.server.dev.LookupPeer(device.NoisePublicKey(next.Public())) != nil })
	p.nodeSet.set(func(s *Setup) { s.PrivateKey = next })
	eventually(t, "the server uses the new key", func() bool { return p.server.Status().Peers[0].Key == next.Public().String() })
	check()
	p.serverSet.set(func(s *Setup) { s.Peers[0].Keys = []Key{next.Public()} })
	eventually(t, "the server forgets the old key", func() bool { return p.server.dev.LookupPeer(device.NoisePublicKey(p.nodeKey.Public())) == nil })
	check()
	other := NewKey()
	p.nodeSet.set(func(s *Setup) { s.Peers[0].Keys = append(slices.Clone(s.Peers[0].Keys), other.Public()) })
	eventually(t, "the node knows both keys", func() bool { return p.node.dev.LookupPeer(device.NoisePublicKey(other.Public())) != nil })
	p.serverSet.set(func(s *Setup) { s.PrivateKey = other })
	p.serverKey = other
	eventually(t, "the node uses the server's new key", func() bool {
		s := p.node.Status().Peers[0]
		return s.Key == other.Public().String() && s.Up
	})
	op = p.operator(t, p.op)
	check()
}

// TestAbsent: what is for a peer that has not been heard of is dropped but for a
// few packets, others are not concerned.
func TestAbsent(t *testing.T) {
	p := newPair(t)
	op := p.operator(t, p.op)
	good := packet.Echo(opOwn, podAddr, 5, 6)
	exchange(t, op.Outbound, good, p.pod.Inbound, same(good))
	p.serverSet.set(func(s *Setup) {
		s.Peers = append(s.Peers, Peer{Name: "gone", Keys: []Key{NewKey().Public()}, Prefixes: prefix("10.9.0.128/25"), Patience: time.Second})
	})
	b := packet.Echo(opOwn, netip.MustParseAddr("10.9.0.200"), 5, 6)
	eventually(t, "packets to a peer that is not there are dropped", func() bool {
		op.Outbound <- b
		return p.server.Status().Dropped["absent"] > 100
	})
	later := packet.Echo(opOwn, podAddr, 5, 7)
	exchange(t, op.Outbound, later, p.pod.Inbound, same(later))
	a := absent{}
	a.set(map[string]*peer{"here": {Peer: Peer{Prefixes: prefix("10.9.0.0/24")}, up: true}, "gone": {Peer: Peer{Prefixes: prefix("10.9.0.0/16", "fd00::/8")}}})
	for addr, want := range map[string]Verdict{"10.9.0.1": Relay, "10.9.1.1": Absent, "10.10.0.1": Relay} {
		a.left.Store(0)
		v := []Verdict{Relay}
		if a.judge([][]byte{packet.Echo(opOwn, netip.MustParseAddr(addr), 1, 1)}, v); v[0] != want {
			t.Errorf("%s: %v, want %v", addr, v[0], want)
		}
	}
}

// TestStockServer: the other end of a node may be stock WireGuard.
func TestStockServer(t *testing.T) {
	key, nodeKey := NewKey(), NewKey()
	c := tuntest.NewChannelTUN()
	d := device.NewDevice(c.TUN(), conn.NewStdNetBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(d.Close)
	var r request
	r.key("private_key", key)
	r.key("public_key", nodeKey.Public())
	r.set("allowed_ip", "10.99.0.2/32")
	if err := errors.Join(d.IpcSet(r.String()), d.Up()); err != nil {
		t.Fatal(err)
	}
	text, err := d.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(text, "listen_port=")
	port, _, _ = strings.Cut(port, "\n")
	set := &setting{s: Setup{PrivateKey: nodeKey, Peers: []Peer{{Name: "server", Keys: []Key{key.Public()}, Endpoint: "localhost:" + port, Prefixes: prefix("10.99.0.0/24"), Probe: serverOwn, Patience: 10 * time.Second}}}}
	node := run(t, Config{Load: set.load, Own: []netip.Addr{nodeOwn}, Filter: open{nodeOwn, false}})
	b := <-c.Inbound // an echo, which a kernel would answer
	p, ok := packet.Parse(b)
	if !ok || p.Kind != packet.EchoRequest || p.Dst != serverOwn || node.Status().Ready {
		t.Fatalf("%+v comes first", p)
	}
	p.Answer(b)
	c.Outbound <- b
	eventually(t, "the node is ready", func() bool { return node.Status().Ready })
}

// TestBadSetup changes nothing, and is told of.
func TestBadSetup(t *testing.T) {
	p := newPair(t)
	p.nodeSet.set(func(s *Setup) { s.Peers = append(s.Peers, s.Peers[0]) })
	eventually(t, "trouble is shown", func() bool { return strings.Contains(p.node.Status().Trouble, "each peer needs") })
	if s := p.node.Status(); !s.Ready || len(s.Peers) != 1 {
		t.Errorf("status: %+v", s)
	}
	p.nodeSet.set(func(s *Setup) { s.Peers = s.Peers[:1] })
	eventually(t, "trouble is over", func() bool { return p.node.Status().Trouble == "" })
}

func TestCheck(t *testing.T) {
	a, b := NewKey().Public(), NewKey().Public()
	private := NewKey()
	peer := func(name string, k Key, prefixes ...string) Peer {
		return Peer{Name: name, Keys: []Key{k}, Prefixes: prefix(prefixes...)}
	}
	for want, peers := range map[string][]Peer{
		"":                     {peer("a", a, "10.0.0.0/8"), peer("b", b, "10.1.0.0/16")},
		"each peer needs one":  {peer("a", a, "10.0.0.0/8"), peer("a", b, "10.1.0.0/16")},
		"needs a key":          {peer("a", a)},
		"is that of a":         {peer("a", a, "10.0.0.0/8"), peer("b", a, "10.1.0.0/16")},
		"is that of this end":  {peer("a", private.Public(), "10.0.0.0/8")},
		"10.0.0.0/8 is that":   {peer("a", a, "10.0.0.0/8"), peer("b", b, "10.0.0.0/8")},
		"mean 10.0.0.0/8?":     {peer("a", a, "10.0.0.1/8")},
		"a prefix is empty":    {{Name: "a", Keys: []Key{a}, Prefixes: []netip.Prefix{{}}}},
		"endpoint: address a:": {{Name: "a", Keys: []Key{a}, Prefixes: prefix("10.0.0.0/8"), Endpoint: "a"}},
	} {
		err := Setup{private, peers}.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
}

// TestKeys are those of wg(8).
func TestKeys(t *testing.T) {
	k, err := ParseKey("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=") // of wg-quick's page
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Public().String(); got != "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=" {
		t.Errorf("its public key is %s", got)
	}
	for _, bad := range []string{"", "a", k.String() + "a", strings.Repeat("a", 44)} {
		if _, err := ParseKey(bad); err == nil || len(bad) > 8 && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ReadKey(os.DevNull); err == nil || !strings.Contains(err.Error(), os.DevNull) {
		t.Errorf("an empty file: %v", err)
	}
	if _, err := ReadKey(k.String()); !errors.Is(err, ErrInline) || strings.Contains(err.Error(), k.String()[:8]) {
		t.Errorf("a key for the name of its file: %v", err)
	}
	if n := NewKey(); n == NewKey() || n[0]&7 != 0 || n[31]&0xc0 != 0x40 {
		t.Errorf("a new key is %x", n)
	}
}

// TestHubOrder: packets of the inner end leave in their order, those that the
// filter stops excepted, and no batch is lost.
func TestHubOrder(t *testing.T) {
	c := tuntest.NewChannelTUN()
	cfg := &Config{MTU: 1500, Inner: c.TUN(), Filter: odd{}}
	h := newHub(cfg)
	h.echo = func(*packet.Info, uint16) {}
	go h.pump()
	go func() {
		for i := range 1000 {
			c.Outbound <- []byte{byte(i), byte(i >> 8)}
		}
	}()
	bufs, sizes := make([][]byte, 7), make([]int, 7)
	for i := range bufs {
		bufs[i] = make([]byte, 1600)
	}
	want := 1
	for want < 1000 {
		n, err := h.Read(bufs, sizes, 3)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if got := int(bufs[i][3]) | int(bufs[i][4])<<8; got != want || sizes[i] != 2 {
				t.Fatalf("packet %d of %d bytes comes, want %d", got, sizes[i], want)
			}
			want += 2
		}
	}
	eventually(t, "all batches are free, but pump's", func() bool { return len(h.free) == batches-1 })
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := h.Read(bufs, sizes, 3); err != os.ErrClosed {
		t.Errorf("a closed hub gives %v", err)
	}
	if h.counts[Denied].Load() != 500 || h.out.Load() != 500 {
		t.Errorf("%d denied, %d out", h.counts[Denied].Load(), h.out.Load())
	}
}

// odd lets odd packets out.
type odd struct{ open }

func (odd) Outward(packets [][]byte, v []Verdict) {
	for i, b := range packets {
		v[i] = []Verdict{Denied, Relay}[b[0]&1]
	}
}

// TestHubAllocs: packets that go through allocate nothing.
func TestHubAllocs(t *testing.T) {
	h := newHub(&Config{MTU: 1500, Filter: open{}})
	b := packet.Echo(opOwn, podAddr, 1, 2)
	var in, out [][]byte
	for range 64 {
		in = append(in, append(make([]byte, 16), b...))
		out = append(out, make([]byte, 1600))
	}
	sizes := make([]int, 64)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := h.Write(in, 16); err != nil {
			t.Fatal(err)
		}
		if n, err := h.Read(out, sizes, 16); n != 64 || err != nil {
			t.Fatal(n, err)
		}
	}); n > 0.5 {
		t.Errorf("%v allocations for 64 packets", n)
	}
}

// TestEnds: nothing is left of tunnels that have ended.
func TestEnds(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("pair", func(t *testing.T) {
		p := newPair(t)
		op := p.operator(t, p.op)
		b := packet.Echo(opOwn, podAddr, 5, 6)
		exchange(t, op.Outbound, b, p.pod.Inbound, same(b))
	})
	eventually(t, fmt.Sprintf("no more than %d goroutines are left", before), func() bool { return runtime.NumGoroutine() <= before })
}

// FuzzKey: what is read as a key is the same when it is written again, and no error tells one.
func FuzzKey(f *testing.F) {
	for _, s := range []string{NewKey().String(), Key{}.String(), "", "AAAA", strings.Repeat("A", 44), strings.Repeat("/", 43) + "=", " " + NewKey().String()} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			if len(s) > 40 && strings.Contains(err.Error(), s[8:]) {
				t.Fatalf("the error tells %q: %v", s, err)
			}
			return
		}
		if again, err := ParseKey(k.String()); err != nil || again != k || len(k.String()) != 44 {
			t.Fatalf("%q became %q, %v", s, k, err)
		}
	})
}

// FuzzDatagram: whatever arrives is counted under one kind, and only messages of
// WireGuard pass.
func FuzzDatagram(f *testing.F) {
	f.Add(make([]byte, 148))
	f.Add([]byte{4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c bind
		kind := c.count(b)
		var all uint64
		for i := range c.counts {
			all += c.counts[i].Load()
		}
		if all != 1 || kind > 4 || kind != 0 && len(b) < 32 {
			t.Errorf("%x is of kind %d, counted %d times", b, kind, all)
		}
	})
}

var _ tun.Device = (*hub)(nil)
