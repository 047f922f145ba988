package control

import (
	"strings"
	"testing"
)

// TestWire: a wire is a row's, comes back with its ends, and is found by the
// next control, which changes nothing.
func TestWire(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br0")
	for _, p := range []string{"a", "b"} {
		r.vsctl("add-port", "br0", p, "--", "set", "interface", p, "type=dpdkvhostuser")
	}
	for _, tt := range []struct{ set, ports string }{
		{"set port a other_config:millrace-wire=b", "br0/a wire=b, br0/b"},
		{"set port b tag=5 other_config:millrace-wire=a", "br0/a wire=b, br0/b tag=5 wire=a"},
		{"set interface b mtu_request=9000", "br0/a wire=b, br0/b tag=5 mtu=9000 wire=a"},
		{"remove port b other_config millrace-wire", "br0/a wire=b, br0/b tag=5 mtu=9000"},
	} {
		set := strings.Fields(tt.set)
		r.vsctl(set...)
		if got := r.ports(); got != tt.ports {
			t.Fatalf("after %s the switch has %q, want %q", tt.set, got, tt.ports)
		}
	}
	r.controlAgain()
	r.stop("control") // writes its counters
	if s, err := ReadStatus(r.dir); err != nil || s.Counters.Changes != 0 {
		t.Errorf("the next control: %+v, %v", s.Counters, err)
	}
	// A dataplane that has lost its wires gets them from the rows again.
	r.control()
	if err := r.sw.Unwire("a"); err != nil {
		t.Fatal(err)
	}
	r.stop("dataplane")
	r.dataplane()
	r.until("the wire is back", func() bool { return r.ports() == "br0/a wire=b, br0/b tag=5 mtu=9000" })
	_, stderr, _ := r.try("del-port", "b")
	if got := r.ports(); got != "br0/a" {
		t.Errorf("without its end the switch has %q; ovs-vsctl says %s", got, stderr)
	}
	if got := r.get("a", "error"); got == "[]" {
		t.Errorf("nothing is said of the missing end")
	}
}
