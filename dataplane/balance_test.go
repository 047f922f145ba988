package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"millrace/dataplane/conntrack"
)

// hairpinRows are a load balancer whose one backend, 10.0.0.9, may be its own client.
func hairpinRows(l *ledger) {
	l.row(0, 20, "ip4.dst == 10.96.0.1", "reg0[12] = chk_lb_hairpin_reply(); next;")
	l.row(0, 10, "ip4", "next;")
	l.row(1, 30, "ip4 && reg0[12] == 1", "ct_snat;")
	l.row(1, 10, "ip4", "next;")
	l.row(2, 10, "ip4", "ct_lb_mark;")
	l.row(3, 30, "ct.new && ip4.dst == 10.96.0.1 && tcp.dst == 80", "ct_lb_mark(backends=10.0.0.9:8080);")
	l.row(3, 10, "ip4", "next;")
	l.row(4, 10, "ip4", "reg0[6] = chk_lb_hairpin(); next;")
	l.row(5, 30, "ip4 && reg0[6] == 1 && ct.new", "ct_snat_to_vip; next;")
	l.row(5, 20, "ip4 && reg0[6] == 1 && ct.est", "ct_snat;")
	l.row(5, 10, "ip4", "next;")
	l.row(6, 10, "ip4.dst == 10.0.0.9", `outport = "s"; output;`)
	l.row(6, 10, "ip4.dst == 10.0.0.5", `outport = "c"; output;`)
	l.put()
}

// TestHairpin: a backend reaches itself by the VIP, sees the VIP as its client, and its answers come back from
// the VIP; another client is not touched by that. Established frames are not walked.
func TestHairpin(t *testing.T) {
	r := flowRig(t, "c", "s")
	hairpinRows(r.rows())
	vip, server := ap("10.96.0.1:80"), ap("10.0.0.9:8080")
	exchange := func(client netip.AddrPort, port string, seen netip.AddrPort) {
		t.Helper()
		there, back := ipv4{client, vip, conntrack.ProtoTCP}, ipv4{server, seen, conntrack.ProtoTCP}
		check := func(from, to string, in ipv4, flags byte, want ipv4) {
			t.Helper()
			var got ipv4
			if f := r.pass(from, to, in.frame(flags, 9)); f == nil || !got.read(f) || got != want {
				t.Fatalf("%+v became %+v (%x), want %+v", in, got, f, want)
			}
		}
		rounds := func(n int) {
			for range n {
				check(port, "s", there, 16, ipv4{seen, server, conntrack.ProtoTCP})
				check("s", port, back, 16, there.reply())
			}
		}
		check(port, "s", there, 2, ipv4{seen, server, conntrack.ProtoTCP})
		check("s", port, back, 18, there.reply())
		rounds(4)
		if n := r.slowly(func() { rounds(20) }); n != 0 {
			t.Errorf("%v: %d frames of an established connection were walked", client, n)
		}
	}
	exchange(ap("10.0.0.5:4000"), "c", ap("10.0.0.5:4000"))
	exchange(ap("10.0.0.9:4000"), "s", ap("10.96.0.1:4000"))
	exchange(ap("10.0.0.9:4001"), "s", ap("10.96.0.1:4001"))
	stray := ipv4{server, ap("10.96.0.1:4002"), conntrack.ProtoTCP}
	if f := r.pass("s", "s", stray.frame(18, 0)); f != nil {
		t.Errorf("an answer to nothing came back as %x", f)
	}
}

// affinityRows are a load balancer of three backends that remembers its clients.
func affinityRows(l *ledger, more string) {
	l.row(0, 20, "ip4.dst == 10.96.0.2 && tcp", "reg9[6] = chk_lb_aff(); next;")
	l.row(0, 10, "ip4", "next;")
	l.row(1, 10, "ip4", "ct_lb_mark;")
	l.row(2, 10, "ip4", "next;")
	l.row(2, 30, "ct.new && ip4.dst == 10.96.0.2", `ct_lb_mark(backends=10.1.0.1:80,10.1.0.2:80,10.1.0.3:80; hash_fields="ip_src,tcp_src");`)
	l.row(3, 10, "ip4", "next;")
	for i := 1; i <= 3; i++ {
		l.row(2, 40, fmt.Sprintf("ct.new && reg9[6] == 1 && ip4.dst == 10.96.0.2 && reg4 == 10.1.0.%d && reg2[0..15] == 80", i), fmt.Sprintf("ct_lb_mark(backends=10.1.0.%d:80);", i))
		l.row(3, 40, fmt.Sprintf("ct.new && reg9[6] == 0 && ip4.dst == 10.1.0.%d", i),
			fmt.Sprintf(`commit_lb_aff(vip="10.96.0.2%s", backend="10.1.0.%d:80", %stimeout=100); next;`, map[bool]string{true: ":80"}[more != ""], i, more))
	}
	l.row(4, 10, "ip4.dst == 10.1.0.0/24", `outport = "s"; output;`)
	l.row(4, 10, "ip4.dst == 10.0.0.0/24", `outport = "c"; output;`)
	l.put()
}

// TestAffinity: all connections of a client go to the backend of its first one, of whatever ports, and not all
// clients have the same. A bridge that goes is forgotten.
func TestAffinity(t *testing.T) {
	for _, more := range []string{"proto=tcp, ", ""} {
		r := flowRig(t, "c", "s")
		affinityRows(r.rows(), more)
		used := map[netip.Addr]int{}
		for c := range 12 {
			var mine netip.Addr
			for i := range 10 {
				x := ipv4{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + c)}), uint16(3000+i)), ap("10.96.0.2:80"), conntrack.ProtoTCP}
				var got, back ipv4
				if f := r.pass("c", "s", x.frame(2, 0)); f == nil || !got.read(f) || got.src != x.src {
					t.Fatalf("%+v became %+v", x, got)
				}
				if i == 0 {
					mine = got.dst.Addr()
					used[mine]++
				}
				if got.dst.Addr() != mine {
					t.Errorf("connection %d of client %d goes to %v, the first one went to %v", i, c, got.dst, mine)
				}
				if f := r.pass("s", "c", got.reply().frame(18, 0)); f == nil || !back.read(f) || back != x.reply() {
					t.Fatalf("%+v was answered by %+v", x, back)
				}
			}
		}
		if len(used) < 2 {
			t.Errorf("backends %v", used)
		}
		for _, p := range []string{"c", "s"} {
			if err := r.s.DelPort(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		r.forgotten()
		if n := r.s.engine.crossing.table.DropAffinity(func(conntrack.Client, conntrack.Backend) bool { return true }); n != 0 {
			t.Errorf("%d clients are remembered of a bridge that is gone", n)
		}
	}
}

// TestAffinityCached: frames of a program that knows a backend make it remembered; the program is given up when the
// client is forgotten. A trace changes nothing.
func TestAffinityCached(t *testing.T) {
	r := flowRig(t, "a", "b")
	l := r.rows()
	l.row(0, 10, "ip4", "reg9[6] = chk_lb_aff(); next;")
	l.row(1, 10, "ip4 && reg9[6] == 0", `outport = "b"; output;`)
	l.row(1, 10, "ip4 && reg9[6] == 1", `outport = "a"; output;`)
	l.put()
	x := ipv4{ap("10.0.0.1:1000"), ap("10.96.0.2:80"), conntrack.ProtoUDP}
	c := r.s.workers[0].flow.ct
	client := conntrack.Client{Datapath: r.s.FlowBridges()[0].FDB, IP: conntrack.AddrOf(x.src.Addr()), VIP: conntrack.AddrOf(x.dst.Addr()), Port: 80, Proto: conntrack.ProtoUDP}
	goes := func(to string) {
		t.Helper()
		for range 3 {
			if r.pass("a", to, x.frame(0, 9)) == nil {
				t.Fatalf("it does not go to %s", to)
			}
		}
	}
	goes("b")
	now := c.nanos(r.s.workers[0].clock.last)
	c.worker.SetAffinity(&client, conntrack.Backend{Port: 9}, 50, now)
	if tr, err := r.s.Trace("a", x.frame(0, 9)); err != nil || len(tr.Outputs) != 1 || tr.Outputs[0].Port != "a" {
		t.Errorf("trace %+v, %v", tr, err)
	}
	goes("a")
	ref := uint64(0)
	if err := r.s.Cached("a", 9, func(p *CachedProgram) bool { return true }); err != nil {
		t.Fatal(err)
	}
	_, m, ok := c.worker.Affinity(&client, now)
	if ref = m.Ref; !ok || ref == 0 {
		t.Fatal("it is not remembered")
	}
	later := now + 45e9 // told of late, it is remembered for another while
	c.worker.TouchAffinity(ref, later)
	if _, ok := c.table.PeekAffinity(&client, later+40e9); !ok {
		t.Error("it is not remembered although frames went past")
	}
	c.worker.TouchAffinity(ref, later+60e9)
	if _, ok := c.table.PeekAffinity(&client, later); ok {
		t.Error("frames that came too late have it remembered")
	}
	goes("b")
}

// TestLookTakesNoNote: chk_lb_hairpin_reply alone counts for no connection and makes none.
func TestLookTakesNoNote(t *testing.T) {
	r := flowRig(t, "a", "b")
	l := r.rows()
	l.row(0, 10, "ip4", `reg0[0] = chk_lb_hairpin_reply(); outport = "b"; output;`)
	l.put()
	x := ipv4{ap("10.0.0.1:1000"), ap("10.96.0.2:80"), conntrack.ProtoUDP}
	for range 5 {
		if r.pass("a", "b", x.frame(0, 9)) == nil {
			t.Fatal("it does not leave")
		}
	}
	if st := r.s.ConnectionStats(); st.Connections != 0 {
		t.Errorf("%+v", st)
	}
}
