package service

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// hostChecker is a server that knows the types.
func hostChecker() *Server {
	return &Server{Config: Config{Dir: &Dir{path: "/run/d"}, Types: []string{dataplane.TypeVhostServer, dataplane.TypeTAP, dataplane.TypeInternal}}}
}

// TestHostRefused: what no device can be is refused, and the field is named.
func TestHostRefused(t *testing.T) {
	s := hostChecker()
	for _, tt := range []struct {
		typ, path string
		host      *api.HostSpec
		field     string
	}{
		{typ: "dpdkvhostuser", host: &api.HostSpec{}, field: "spec.host"},
		{typ: "tap", path: "/run/x", field: "spec.path"},
		{typ: "tap", host: &api.HostSpec{Netns: "a/b"}, field: "spec.host.netns"},
		{typ: "tap", host: &api.HostSpec{Netns: ".."}, field: "spec.host.netns"},
		{typ: "tap", host: &api.HostSpec{Netns: "a\n"}, field: "spec.host.netns"},
		{typ: "tap", host: &api.HostSpec{Netns: "/" + strings.Repeat("x", netnsMax)}, field: "spec.host.netns"},
		{typ: "internal", host: &api.HostSpec{Mac: "01:00:00:00:00:01"}, field: "spec.host.mac"},
		{typ: "internal", host: &api.HostSpec{Addresses: []string{"10.0.0.1"}}, field: "spec.host.addresses"},
		{typ: "internal", host: &api.HostSpec{Addresses: make([]string, addressesMax+1)}, field: "spec.host.addresses"},
	} {
		_, err := s.spec(&api.PortSpec{Bridge: "br0", Name: "p", Type: tt.typ, Path: tt.path, Host: tt.host})
		var e *api.Error
		if !errors.As(err, &e) || e.Field != tt.field {
			t.Errorf("%s %v: %v, want %s", tt.typ, tt.host, err, tt.field)
		}
	}
}

// TestOptionsOfTypes: a port has the options of its type, and no others.
func TestOptionsOfTypes(t *testing.T) {
	s := hostChecker()
	for _, typ := range []string{"dpdkvhostuser", "tap", "internal"} {
		for key, want := range map[string]bool{dataplane.OptionOffload: true, dataplane.OptionGRO: true, "xdp-mode": false} {
			_, err := s.spec(&api.PortSpec{Bridge: "br0", Name: "p", Type: typ, Options: map[string]string{key: "false"}})
			if (err == nil) != want {
				t.Errorf("option %s of a port of type %s: %v", key, typ, err)
			}
		}
	}
}

// checkedTwice checks in, and checks what becomes of it again: that must change nothing. ok says
// whether in passed; one that is refused has an error that names a field.
func checkedTwice(t *testing.T, s *Server, in *api.PortSpec) (spec dataplane.PortSpec, ok bool) {
	t.Helper()
	spec, err := s.spec(in)
	if err != nil {
		if !errors.Is(err, api.ErrInvalid) {
			t.Fatalf("%v names no field", err)
		}
		return spec, false
	}
	out := toSpec(spec)
	if again, err := s.spec(out); err != nil || !proto.Equal(toSpec(again), out) {
		t.Fatalf("%v became %v and then %v, %v", in, out, again, err)
	}
	return spec, true
}

// FuzzHostSpec: what passes the check passes it again unchanged.
func FuzzHostSpec(f *testing.F) {
	f.Add("", "", "", false, false)
	f.Add("pod1", "02:00:00:00:00:01", "10.0.0.1/24", true, false)
	f.Add("/proc/1/ns/net", "2-0-0-0-0-1", "fd00::1%eth0/64", true, true)
	f.Add("", "0200.0000.0001", "::ffff:1.2.3.4/99", false, true)
	s := hostChecker()
	f.Fuzz(func(t *testing.T, netns, mac, address string, up, persist bool) {
		in := &api.PortSpec{Bridge: "br0", Name: "p", Type: "tap", Host: &api.HostSpec{Netns: netns, Mac: mac, Addresses: []string{address}, Up: up, Persist: persist}}
		checkedTwice(t, s, in)
	})
}

// FuzzLimits: the same of rates and sources.
func FuzzLimits(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint64(0), uint64(0), "02:00:00:00:00:01", "10.0.0.1/24")
	f.Add(uint64(1), uint64(2), uint64(1<<40), uint64(1<<41), "", "fd00::1%eth0/64")
	s := hostChecker()
	f.Fuzz(func(t *testing.T, bytes, burst, frames, frameBurst uint64, mac, address string) {
		l := &api.Limit{Bytes: bytes, Burst: burst, Frames: frames, FrameBurst: frameBurst}
		in := &api.PortSpec{Bridge: "br0", Name: "p", Type: "tap", Ingress: l, Egress: l, Sources: []*api.Source{{Mac: mac, Addresses: []string{address}}}}
		checkedTwice(t, s, in)
	})
}
