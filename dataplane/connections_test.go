package dataplane

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"millrace/dataplane/conntrack"
	"millrace/flowtable"
)

// TestSelectConnections chooses connections, also by name, with exact counters, and
// flushes some of them, of which the next packet takes the long way.
func TestSelectConnections(t *testing.T) {
	r := twoZones(t)
	clients := []ipv4{}
	for i := range 5 {
		clients = append(clients, ipv4{ap(fmt.Sprintf("10.0.0.1:%d", 1000+i)), ap("198.51.100.1:80"), conntrack.ProtoUDP})
	}
	for i, x := range clients {
		for range 3 + i {
			r.pass("a", "b", x.frame(0, 10))
		}
	}
	f := &conntrack.Filter{Zones: conntrack.Span{Set: true, Min: 5, Max: 5}}
	f.Original.Src.Ports = conntrack.Span{Set: true, Min: 1001, Max: 1003}
	var refs []conntrack.Ref
	for c := range r.s.SelectConnections(f) {
		if want := uint64(c.Original.SrcPort - 1000 + 3); c.Packets != [2]uint64{want, 0} || c.Zone != 5 {
			t.Errorf("got %+v, want %d packets", c, want)
		}
		refs = append(refs, c.Ref)
	}
	if len(refs) != 3 {
		t.Fatalf("%d connections, want 3", len(refs))
	}
	r.pass("a", "b", clients[1].frame(0, 10))
	got := r.s.ConnectionsOf(append(slices.Clone(refs), 0, ^conntrack.Ref(0)))
	if len(got) != 3 || !slices.ContainsFunc(got, func(c conntrack.Connection) bool { return c.Packets[0] == 5 && c.Original.SrcPort == 1001 }) {
		t.Errorf("by name: %+v", got)
	}
	if n := r.s.FlushSelected(f); n != 3 || len(r.s.ConnectionsOf(refs)) != 0 {
		t.Errorf("flushed %d", n)
	}
	back := ipv4{ap("198.51.100.1:80"), ap("192.0.2.1:1001"), conntrack.ProtoUDP}
	if r.pass("b", "a", back.frame(0, 10)) != nil {
		t.Error("let in by a connection that was flushed")
	}
	if slow := r.slowly(func() { r.pass("a", "b", clients[4].frame(0, 10)) }); slow != 0 {
		t.Error("a connection that the filter had not took the long way")
	}
}

// deliver is pass, however long the port's debt has it wait (see fair.go).
func (r *rig) deliver(from, to string, f []byte) {
	r.t.Helper()
	r.devs[from].in = append(r.devs[from].in, f)
	r.devs[to].out = nil
	for end := time.Now().Add(time.Minute); len(r.devs[to].out) == 0; r.turn() {
		if time.Now().After(end) {
			r.t.Fatal("a frame does not arrive")
		}
	}
}

// TestSelectMany has more cached programs than one run tells of: no packet is missing.
func TestSelectMany(t *testing.T) {
	const n = tellPart*tellRun + tellPart/2
	r := twoZones(t)
	for range 3 {
		for i := range n {
			x := ipv4{ap(fmt.Sprintf("10.0.%d.%d:2000", i/250, i%250)), ap("198.51.100.1:80"), conntrack.ProtoUDP}
			r.deliver("a", "b", x.frame(0, 10))
		}
	}
	seen := 0
	for c := range r.s.Connections() {
		if seen++; c.Packets != [2]uint64{3, 0} || c.Bytes[0] == 0 || c.Bytes[0]%3 != 0 {
			t.Fatalf("got %+v, want 3 packets", c)
		}
	}
	if seen != 2*n {
		t.Errorf("%d connections, want %d", seen, 2*n)
	}
}

// TestZonesOfBridge: connections of a bridge stay when one of its ports goes; with
// the last one go connections, limits and counts, for another bridge is given the zones.
func TestZonesOfBridge(t *testing.T) {
	r := twoZones(t)
	own := uint16(r.s.FlowBridges()[0].FDB*flowtable.ZonesOfBridge + flowtable.ZoneSNAT)
	r.rule(20, 0, append([]flowtable.Masked{is(flowtable.Field{Word: flowtable.WordIn, Shift: 32, Width: 32}, 1)}, is(fieldSrc, 0x020000000009)), connect(own, committed, 3))
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	f := x.frame(0, 10)
	f[11] = 9
	r.pass("a", "b", f)
	r.s.SetConnectionLimit(own, 1)
	r.s.SetConnectionDefault(9)
	f[35]++ // another source port
	r.pass("a", "b", f)
	if z := r.s.ConnectionZones(); len(z) != 1 || z[0] != (conntrack.ZoneInfo{Zone: own, Count: 1, Limit: 1, Created: 1, Refused: 1}) || r.s.ConnectionDefault() != 9 {
		t.Errorf("zones %+v", z)
	}
	if err := r.s.DelPort(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if n := r.s.ConnectionZone(own).Count; n != 1 {
		t.Errorf("%d connections after one of the ports has gone, want 1", n)
	}
	if err := r.s.DelPort(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	r.forgotten()
	if z := r.s.ConnectionZones(); len(z) != 0 || r.s.ConnectionStats().Connections != 0 || r.s.ConnectionDefault() != 9 {
		t.Errorf("zones of a bridge that is gone: %+v", z)
	}
}

// TestConnectionsOfClosed: a switch that is closed has none.
func TestConnectionsOfClosed(t *testing.T) {
	r := twoZones(t)
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	for c := range r.s.Connections() {
		t.Errorf("got %+v", c)
	}
	if n := r.s.FlushSelected(&conntrack.Filter{}); n != 0 || len(r.s.ConnectionsOf([]conntrack.Ref{1})) != 0 || len(r.s.ConnectionZones()) != 0 {
		t.Errorf("flushed %d", n)
	}
}
