package dataplane

import (
	"bytes"
	"encoding/binary"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// soundReply fails unless a frame's checksums are right, and returns its layout.
func soundReply(t *testing.T, f []byte) parse.Layout {
	t.Helper()
	l := parse.Locate(f, uint32(len(f)))
	if l.Flaw != 0 || l.L4 == 0 {
		t.Fatalf("reply %x: %+v", f, l)
	}
	if err := parsetest.Sound(f, int(l.L3), int(l.L4), int(l.End), l.Proto); err != nil {
		t.Fatalf("reply %x: %v", f, err)
	}
	return l
}

// TestReject has a bridge reject what comes in: TCP is reset, the rest gets an ICMP error that quotes it, in one
// program for all frames of a flow.
func TestReject(t *testing.T) {
	r := flowRig(t, "a", "b")
	l := r.rows()
	l.row(0, 10, "ip", "reject { outport <-> inport; output; };")
	l.put()
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoTCP}
	for range 4 {
		f := r.pass("a", "a", x.frame(2, 0))
		var got ipv4
		if f == nil || !got.read(f) || got != x.reply() || f[47] != 0x14 || binary.BigEndian.Uint32(f[42:]) != 1 {
			t.Fatalf("a SYN is answered by %x", f)
		}
		soundReply(t, f)
	}
	x.proto = conntrack.ProtoUDP
	for _, size := range []int{0, 20, 400, 540, 1400} {
		in := x.frame(0, size)
		f := r.pass("a", "a", in)
		if f == nil {
			t.Fatalf("UDP with %d bytes is not answered", size)
		}
		soundReply(t, f)
		if f[34] != 3 || f[35] != 3 || !bytes.Equal(f[42:], in[14:min(len(in), 14+548)]) || !bytes.Equal(f[:6], in[6:12]) || !bytes.Equal(f[30:34], in[26:30]) {
			t.Errorf("UDP with %d bytes is answered by %x", size, f)
		}
	}
	st := r.stats()["a"]
	if st.RxFrames != 9 || st.Outputs != 9 || st.RxDrops.Total() != 0 {
		t.Errorf("account %+v", st)
	}
	programs, answers := 0, 0
	if err := r.s.Cached("a", 10, func(p *CachedProgram) bool {
		for _, op := range p.Ops {
			if op.Code == flowtable.OpReply {
				programs++
				answers += int(p.Packets)
			}
		}
		return true
	}); err != nil || programs != 2 || answers != 9 { // TCP, and UDP
		t.Errorf("%d programs with %d replies are cached, %v", programs, answers, err)
	}
}

// TestNotAnswered: what must not be answered is dropped under that name.
func TestNotAnswered(t *testing.T) {
	r := flowRig(t, "a")
	l := r.rows()
	l.row(0, 10, "ip", "reject { outport <-> inport; output; };")
	l.put()
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoTCP}
	udp := ipv4{x.src, x.dst, conntrack.ProtoUDP}
	icmp := func(kind byte) []byte {
		return ipFrame(1, [4]byte{10, 0, 0, 1}, [4]byte{198, 51, 100, 1}, append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 28)...))
	}
	with := func(f []byte, at int, v byte) []byte { f[at] = v; return f }
	n := uint64(0)
	for name, f := range map[string][]byte{
		"reset": x.frame(4, 0), "unreachable": icmp(3), "time exceeded": icmp(11), "redirect": icmp(5),
		"broadcast": with(udp.frame(0, 9), 0, 0xff), "multicast": with(udp.frame(0, 9), 30, 224), "everybody": with(udp.frame(0, 9), 30, 255),
		"nobody": with(udp.frame(0, 9), 26, 0), "loopback": with(udp.frame(0, 9), 26, 127), "later fragment": with(udp.frame(0, 9), 21, 9),
		"fragment of TCP": with(x.frame(2, 9), 20, 0x20), "header of TCP": with(x.frame(2, 0), 46, 0x40), "group source": with(udp.frame(0, 9), 6, 3),
	} {
		n++
		if got := r.pass("a", "a", f); got != nil || r.stats()["a"].RxDrops[packet.ReasonNoReply] != n {
			t.Errorf("%s: answered by %x, drops %v", name, got, r.stats()["a"].RxDrops)
		}
	}
	for name, f := range map[string][]byte{"query": icmp(8), "first fragment": with(udp.frame(0, 9), 20, 0x20)} {
		if got := r.pass("a", "a", f); got == nil {
			t.Errorf("%s is not answered", name)
		}
	}
}

// TestReplyRate: beyond the rate nothing is made, and the frame goes its way.
func TestReplyRate(t *testing.T) {
	r := flowRig(t, "a", "b")
	l := r.rows()
	l.meter("few", 2)
	l.row(0, 20, "ip4.dst == 10.0.0.2", `icmp4 { meter("few"); outport <-> inport; output; };`)
	l.row(0, 20, "ip4.dst == 10.0.0.3", `icmp4 { meter("few"); outport <-> inport; output; }; outport = "b"; output;`)
	l.row(0, 10, "ip4", "icmp4 { outport <-> inport; output; };")
	l.put()
	send := func(dst string, n int) PortStats {
		x := ipv4{ap("10.0.0.1:1000"), ap(dst), conntrack.ProtoUDP}
		for range n {
			r.devs["a"].in = append(r.devs["a"].in, x.frame(0, 10))
		}
		r.turn()
		return r.stats()["a"]
	}
	if st := send("10.0.0.2:9", 10); len(r.devs["a"].out) != 2 || st.RxDrops[packet.ReasonReplyRate] != 8 {
		t.Fatalf("%d replies, drops %v", len(r.devs["a"].out), st.RxDrops)
	}
	if st := send("10.0.0.3:9", 10); len(r.devs["b"].out) != 10 || st.RxDrops[packet.ReasonReplyRate] != 8 {
		t.Errorf("%d frames went on, drops %v", len(r.devs["b"].out), st.RxDrops)
	}
	before := len(r.devs["a"].out)
	if st := send("10.0.0.4:9", 60); len(r.devs["a"].out) != before+60 || st.RxDrops[packet.ReasonReplyRate] != 8 {
		t.Errorf("%d replies of the bridge's own rate, drops %v", len(r.devs["a"].out)-before, st.RxDrops)
	}
}

// TestReplyTracked takes resets through connection tracking: they end the connection, unless they are
// not sent.
func TestReplyTracked(t *testing.T) {
	r := flowRig(t, "a", "b")
	l := r.rows()
	l.meter("one", 1)
	l.row(0, 10, "ip4", "ct_next;")
	l.row(1, 20, `ct.new && inport == "a"`, `ct_commit { }; outport = "b"; output;`)
	l.row(1, 30, `ct.est && inport == "b"`, `tcp_reset { meter("one"); eth.src <-> eth.dst; ip4.src <-> ip4.dst; outport <-> inport; next(5); };`)
	l.row(5, 10, "ip4", "ct_next;")
	l.row(6, 10, "ct.est && !ct.rpl", "output;")
	l.row(6, 5, "1", `outport = "a"; output;`)
	l.put()
	zone := uint16(r.s.FlowBridges()[0].FDB*flowtable.ZonesOfBridge + flowtable.ZonePlain)
	var answers [][]byte
	for i := range 2 {
		x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoTCP}
		x.dst = ap([]string{"198.51.100.1:80", "198.51.100.2:80"}[i])
		if r.pass("a", "b", x.frame(2, 0)) == nil {
			t.Fatal("no connection")
		}
		answers = append(answers, x.reply().frame(0x12, 0))
	}
	r.devs["b"].in, r.devs["a"].out, r.devs["b"].out = answers, nil, nil
	r.turn()
	if len(r.devs["a"].out) != 0 || len(r.devs["b"].out) != 1 {
		t.Fatalf("%d and %d replies", len(r.devs["a"].out), len(r.devs["b"].out))
	}
	soundReply(t, r.devs["b"].out[0])
	if st := r.stats()["b"]; st.RxDrops[packet.ReasonReplyRate] != 1 {
		t.Errorf("drops %v", st.RxDrops)
	}
	closed := 0
	for c := range r.s.Connections() {
		if c.Zone == zone && c.Packets[0] == 2 {
			closed++
		}
	}
	if n := int(r.s.ConnectionZone(zone).Count); closed+2-n != 1 {
		t.Errorf("%d connections, %d of which have seen a reset", n, closed)
	}
}

// TestReplyMemoryGone: a payload whose memory has gone is not quoted, and its port is broken.
func TestReplyMemoryGone(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r := flowRig(t, "a", "b")
	l := r.rows()
	l.row(0, 10, "ip4", `icmp4 { outport = "b"; output; };`)
	l.put()
	const page = 4096
	mem, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	f := mem[page-packet.HeadMax:][:copy(mem[page-packet.HeadMax:], x.frame(0, 87))] // one byte is beyond the head
	if err := unix.Mprotect(mem[page:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	r.devs["a"].owned = packet.Addr(mem[page:])
	got := r.pass("a", "b", f)
	if got == nil || len(got) != 14+20+8+packet.HeadMax-14 || r.devs["a"].broken == "" {
		t.Fatalf("reply %x, port broken: %q", got, r.devs["a"].broken)
	}
	soundReply(t, got)
	r.stats()
}

// TestTraceReply: a trace shows the reply, and takes no token.
func TestTraceReply(t *testing.T) {
	r := flowRig(t, "a", "b")
	l := r.rows()
	l.meter("one", 1)
	l.row(0, 10, "ip", `reject { meter("one"); outport <-> inport; next(3); };`)
	l.row(3, 10, "icmp4", "output;")
	l.put()
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	for range 3 {
		tr, err := r.s.Trace("a", x.frame(0, 300))
		if err != nil || len(tr.Outputs) != 1 || tr.Outputs[0].Port != "a" {
			t.Fatalf("%+v, %v", tr, err)
		}
		soundReply(t, tr.Outputs[0].Frame)
		verbs := 0
		for _, s := range tr.Steps {
			if s.Action != nil && s.Action.Code == flowtable.ActReply {
				verbs++
			}
		}
		if verbs != 1 {
			t.Errorf("steps %+v", tr.Steps)
		}
	}
	if st := r.stats()["a"]; st.Outputs != 0 || st.RxDrops.Total() != 0 {
		t.Errorf("account %+v", st)
	}
}

// TestReplyNoAlloc: replies cost no allocation once a worker has made one.
func TestReplyNoAlloc(t *testing.T) {
	if raceOn {
		t.Skip("needs a build without the race detector")
	}
	r := flowRig(t, "a")
	w := r.s.workers[0]
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	f := x.frame(0, 400)
	b := w.batch
	op := flowtable.Op{Code: flowtable.OpReply, Word: flowtable.ReplyICMP4, Mask: 1}
	in := w.port(1)
	if n := testing.AllocsPerRun(100, func() {
		b.Reset()
		b.Add(f[:packet.HeadMax], packet.Seg{Addr: packet.Addr(f[packet.HeadMax:]), Len: uintptr(len(f) - packet.HeadMax)})
		tr := transit{in: in}
		if !w.reply(&tr, &op) {
			t.Fatal("no reply")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
