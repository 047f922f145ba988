package dataplane

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestSetPort moves a port to another VLAN: its frames take the new one at
// once, its device stays open, and what was learned of it is forgotten.
func TestSetPort(t *testing.T) {
	r := newRig(t)
	a, b, c := r.port("a", PortSpec{Tag: 5}), r.port("b", PortSpec{Tag: 5}), r.port("c", PortSpec{Tag: 6})
	a.in, b.in = [][]byte{eth(2, 1, 0, 60)}, [][]byte{eth(1, 2, 0, 60)}
	r.turn()
	a.in = [][]byte{eth(2, 1, 0, 60), eth(2, 1, 0, 60)} // the second by a remembered decision
	r.turn()
	if len(b.out) != 3 || len(c.out) != 0 {
		t.Fatalf("before: b has %d frames, c %d", len(b.out), len(c.out))
	}
	spec := PortSpec{Bridge: "br0", Name: "a", Type: TypeVhostServer, Tag: 6}
	info, err := r.s.SetPort(t.Context(), spec)
	if err != nil || info.Tag != 6 {
		t.Fatalf("set port: %+v, %v", info, err)
	}
	if macs, _ := r.s.MACs("br0"); len(macs) != 1 || macs[0].Port != "b" {
		t.Errorf("addresses after the change: %+v", macs)
	}
	a.in = [][]byte{eth(2, 1, 0, 60)}
	r.turn()
	if len(b.out) != 3 || len(c.out) != 1 || a.closed {
		t.Errorf("after: b has %d frames, c %d; device closed: %v", len(b.out), len(c.out), a.closed)
	}
	r.stats()
}

// TestSetPortRefuses: what a peer would notice is not changed in flight.
func TestSetPortRefuses(t *testing.T) {
	r := newRig(t)
	r.port("a", PortSpec{MTU: 1500})
	base := PortSpec{Bridge: "br0", Name: "a", Type: TypeVhostServer, MTU: 1500}
	for _, tt := range []struct {
		name   string
		change func(*PortSpec)
		want   error
	}{
		{"nothing", func(*PortSpec) {}, nil},
		{"mac limit", func(p *PortSpec) { p.MACLimit = 5 }, nil},
		{"no mac limit", func(*PortSpec) {}, nil},
		{"mtu", func(p *PortSpec) { p.MTU = 9000 }, ErrExists},
		{"bridge", func(p *PortSpec) { p.Bridge = "br1" }, ErrExists},
		{"type", func(p *PortSpec) { p.Type = TypeVhostClient }, ErrExists},
		{"path", func(p *PortSpec) { p.Path = "/x" }, ErrExists},
		{"name", func(p *PortSpec) { p.Name = "b" }, ErrNoPort},
		{"tag", func(p *PortSpec) { p.Tag = 4095 }, ErrBadSpec},
	} {
		spec := base
		tt.change(&spec)
		if _, err := r.s.SetPort(t.Context(), spec); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// An mtuDevice has an MTU that can be changed.
type mtuDevice struct {
	fakeDevice
	mtu int
}

func (d *mtuDevice) SetMTU(mtu int) { d.mtu = mtu }

// TestSetMTU: the device is told, stays open, and keeps its addresses.
func TestSetMTU(t *testing.T) {
	r := newRig(t)
	d := &mtuDevice{mtu: 1500}
	r.s.opts.Openers["mtu"] = func(PortSpec, Env) (Device, error) { return d, nil }
	r.port("a", PortSpec{Type: "mtu", MTU: 1500})
	d.in = [][]byte{eth(9, 1, 0, 60)}
	r.turn()
	info, err := r.s.SetPort(t.Context(), PortSpec{Bridge: "br0", Name: "a", Type: "mtu", MTU: 9000})
	if err != nil || info.MTU != 9000 || d.mtu != 9000 || d.closed || info.Number != 1 {
		t.Errorf("%+v, %v; device %+v", info, err, d.mtu)
	}
	if macs, _ := r.s.MACs("br0"); len(macs) != 1 {
		t.Errorf("addresses: %v", macs)
	}
	if _, err := r.s.SetPort(t.Context(), PortSpec{Bridge: "br0", Name: "a", Type: "mtu", MTU: 9000, Queues: 2}); !errors.Is(err, ErrExists) {
		t.Errorf("queues: %v", err)
	}
}

// TestSetBridge: a table of another size knows what the old one knew, a VLAN
// that floods has no addresses, and the settings go with the last port.
func TestSetBridge(t *testing.T) {
	r := newRig(t)
	a, b, c := r.port("a", PortSpec{}), r.port("b", PortSpec{}), r.port("c", PortSpec{})
	b.in = [][]byte{eth(255, 2, 0, 60), eth(255, 2, 9, 60)}
	r.turn()
	if err := r.s.AddMAC(t.Context(), MACEntry{Bridge: "br0", MAC: [6]byte{2, 0, 0, 0, 0, 3}, Port: "c"}); err != nil {
		t.Fatal(err)
	}
	set := BridgeSettings{MACAge: 20 * time.Second, MACTable: 100, Flood: []uint16{9, 8, 9}}
	if err := r.s.SetBridge("br0", set); err != nil {
		t.Fatal(err)
	}
	got := r.s.Bridges()[0]
	if got.MACAge != set.MACAge || got.MACsMax != 100 || fmt.Sprint(got.Flood) != "[8 9]" || got.MACs != 2 {
		t.Errorf("bridge: %+v", got)
	}
	a.out, b.out, c.out = nil, nil, nil
	a.in = [][]byte{eth(2, 1, 0, 60), eth(3, 1, 0, 60), eth(2, 1, 9, 60), eth(2, 1, 9, 60)}
	r.turn()
	if len(b.out) != 3 || len(c.out) != 3 {
		t.Errorf("b has %d frames, c %d: want 1 known and 2 flooded each", len(b.out), len(c.out))
	}
	r.stats()
	for _, name := range []string{"a", "b", "c"} {
		if err := r.s.DelPort(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.s.SetBridge("br0", set); !errors.Is(err, ErrNoBridge) {
		t.Errorf("bridge without ports: %v", err)
	}
	if err := r.s.AddMAC(t.Context(), MACEntry{Bridge: "br0", MAC: [6]byte{2, 0, 0, 0, 0, 3}, Port: "c"}); !errors.Is(err, ErrNoBridge) {
		t.Errorf("address of a bridge without ports: %v", err)
	}
	r.port("a", PortSpec{})
	if got := r.s.Bridges()[0]; got.MACAge != DefaultMACAge || got.MACsMax != DefaultMACTable || got.Flood != nil {
		t.Errorf("new bridge: %+v", got)
	}
}
