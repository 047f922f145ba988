package control

import (
	"strings"
	"testing"

	"millrace/dataplane"
)

// TestHostRows: the row of a port that is a network device says how the device is,
// as others have left it; a bridge's own port is one where the switch has them,
// and is told of where not, without anything being wrong.
func TestHostRows(t *testing.T) {
	r := newRig(t)
	if _, stderr, err := r.try("add-br", "br0"); err != nil || stderr != "" {
		t.Fatalf("add-br: %v: %s", err, stderr)
	}
	if got := r.ports(); got != "" {
		t.Errorf("the switch has %q", got)
	}
	if got := r.get("br0", "status"); !strings.Contains(got, "--local-ports on") || r.get("br0", "error") != "[]" {
		t.Errorf("status of a bridge's own port: %s, error %s", got, r.get("br0", "error"))
	}
	r.stop("control")
	r.local = true
	r.control()
	r.until("the bridge's own port", func() bool { return r.ports() == "br0/br0 mtu=0" })
	if got := r.get("br0", "ofport"); got != "65534" {
		t.Errorf("ofport of a bridge's own port: %s", got)
	}

	r.vsctl("add-port", "br0", "t", "--", "set", "interface", "t", "type=tap", "mac=\"02:00:00:00:00:07\"", "options:netns=pod", "options:ip=\"10.0.0.1/24,fd00::1/64\"")
	p, err := r.sw.Port("t")
	if h := p.Host; err != nil || h.Netns != "pod" || h.MAC != [6]byte{2, 0, 0, 0, 0, 7} || len(h.Addresses) != 2 || !h.Up || p.MTU != 0 {
		t.Errorf("%+v, %v", p.PortSpec, err)
	}
	r.sw.SetState("t", dataplane.DeviceState{Link: dataplane.LinkUp, Reason: "somebody has renamed the device eth0", Queues: 1, Connects: 1,
		Host: dataplane.HostState{Name: "eth0", Index: 77, MAC: "02:00:00:00:00:08", MTU: 1400, Up: true, Netns: 4026531999}})
	r.until("the state of the device in the row", func() bool { return r.get("t", "link_state") == "up" })
	for column, want := range map[string]string{
		"admin_state": "up", "ifindex": "77", "mac_in_use": `"02:00:00:00:00:08"`, "mtu": "1400", "error": "[]", "link_resets": "1",
		"status:device": "eth0", "status:driver_name": "tun", "status:netns": `"net:[4026531999]"`, "status:reason": `"somebody has renamed the device eth0"`,
	} {
		if got := r.get("t", column); got != want {
			t.Errorf("%s is %s, want %s", column, got, want)
		}
	}
	r.sw.SetState("t", dataplane.DeviceState{Link: dataplane.LinkWaiting, Reason: "device eth0 is down", Queues: 1, Connects: 1,
		Host: dataplane.HostState{Name: "eth0", Index: 77, MAC: "02:00:00:00:00:08", MTU: 1400}})
	r.until("that it is down", func() bool { return r.get("t", "admin_state") == "down" && r.get("t", "link_state") == "down" })

	number := p.Number
	r.vsctl("set", "interface", "t", "mac=\"02:00:00:00:00:09\"", "mtu_request=3000", "options:ip=\"10.0.0.2/24\"")
	if p, err = r.sw.Port("t"); err != nil || p.Number != number || p.Host.MAC[5] != 9 || p.MTU != 3000 || len(p.Host.Addresses) != 1 {
		t.Errorf("changed in flight: %+v, %v", p, err)
	}
	r.vsctl("set", "interface", "t", "options:netns=other")
	if p, err = r.sw.Port("t"); err != nil || p.Number == number || p.Host.Netns != "other" {
		t.Errorf("made anew: %+v, %v", p, err)
	}

	r.vsctl("set", "bridge", "br0", "other_config:millrace-local=false")
	if got := r.ports(); got != "br0/t mtu=3000" {
		t.Errorf("the switch has %q", got)
	}
	if got := r.get("br0", "status"); !strings.Contains(got, "millrace-local") || r.get("br0", "error") != "[]" {
		t.Errorf("status of a bridge's own port: %s, error %s", got, r.get("br0", "error"))
	}
}
