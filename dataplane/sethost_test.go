package dataplane

import (
	"errors"
	"net/netip"
	"testing"
)

// A hostDevice is a device whose host side can be changed.
type hostDevice struct {
	fakeDevice
	host HostSpec
	sets int
}

func (d *hostDevice) SetHost(h HostSpec) { d.host = h; d.sets++ }

// TestSetHost: what can be changed of a device changes in flight, once; the rest
// and what ports of other types are not is refused.
func TestSetHost(t *testing.T) {
	r := newRig(t)
	d := &hostDevice{}
	r.s.opts.Openers[TypeTAP] = func(s PortSpec, _ Env) (Device, error) { d.host = s.Host; return d, nil }
	spec := PortSpec{Name: "t", Bridge: "br0", Type: TypeTAP, Host: HostSpec{Netns: "pod", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}
	if _, err := r.s.AddPort(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	same := spec
	same.Host.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}
	if _, err := r.s.AddPort(t.Context(), same); err != nil {
		t.Errorf("the same port again: %v", err)
	}
	next := spec
	next.Host.MAC, next.Host.Up, next.Host.Addresses = [6]byte{2, 0, 0, 0, 0, 1}, true, nil
	for range 2 {
		if info, err := r.s.SetPort(t.Context(), next); err != nil || !info.Host.equal(next.Host) {
			t.Fatalf("%+v, %v", info.PortSpec, err)
		}
	}
	if d.sets != 1 || !d.host.equal(next.Host) {
		t.Errorf("set %d times, to %+v", d.sets, d.host)
	}
	for _, change := range []func(*HostSpec){func(h *HostSpec) { h.Netns = "other" }, func(h *HostSpec) { h.Persist = true }} {
		bad := next
		change(&bad.Host)
		if _, err := r.s.SetPort(t.Context(), bad); !errors.Is(err, ErrExists) {
			t.Errorf("%+v: %v", bad.Host, err)
		}
	}
	if _, err := r.s.AddPort(t.Context(), PortSpec{Name: "v", Bridge: "br0", Type: TypeVhostServer, Host: HostSpec{Up: true}}); !errors.Is(err, ErrBadSpec) {
		t.Errorf("a guest's device: %v", err)
	}
}
