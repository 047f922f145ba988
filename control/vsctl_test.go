package control

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dataplane"
	"millrace/dataplane/service/switchtest"
)

// ports is what the switch has, in words.
func (r *rig) ports() string {
	var list []string
	for _, p := range r.sw.Ports() {
		s := p.Bridge + "/" + p.Name
		if p.Tag != 0 {
			s += fmt.Sprint(" tag=", p.Tag)
		}
		if p.MTU != 1500 {
			s += fmt.Sprint(" mtu=", p.MTU)
		}
		if p.Wire != "" {
			s += " wire=" + p.Wire
		}
		list = append(list, s)
	}
	return strings.Join(list, ", ")
}

// TestCommands runs what people and plugins type. Every command returns when
// its rows are in force, and says nothing that it would not say otherwise.
func TestCommands(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		args  string
		out   string // what is printed
		ports string // what the switch has then
	}{
		{"init", "", ""},
		{"add-br br0 -- set bridge br0 datapath_type=netdev", "", ""},
		{"get interface br0 ofport", "65534", ""},
		{"get interface br0 error", "[]", ""},
		{"--may-exist add-br br0", "", ""},
		{"br-exists br0", "", ""},
		{"add-port br0 p1 -- set interface p1 type=dpdkvhostuserclient options:vhost-server-path=/tmp/p1", "", "br0/p1"},
		{"get interface p1 ofport", "1", "br0/p1"},
		{"get interface p1 link_state", "down", "br0/p1"},
		{"get interface p1 error", "[]", "br0/p1"},
		{"--may-exist add-port br0 p1 -- set interface p1 type=dpdkvhostuserclient", "", "br0/p1"},
		{"--timeout=30 --may-exist add-port br0 p2 -- set interface p2 type=dpdkvhostuser ofport_request=9 external_ids:iface-id=x", "", "br0/p1, br0/p2"},
		{"get interface p2 ofport", "9", "br0/p1, br0/p2"},
		{"set port p1 tag=5", "", "br0/p1 tag=5, br0/p2"},
		{"clear port p1 tag", "", "br0/p1, br0/p2"},
		{"set interface p1 mtu_request=9000", "", "br0/p1 mtu=9000, br0/p2"},
		{"get interface p1 mtu", "9000", "br0/p1 mtu=9000, br0/p2"},
		{"get interface p1 ofport", "1", "br0/p1 mtu=9000, br0/p2"},
		{"clear interface p1 mtu_request", "", "br0/p1, br0/p2"},
		{"wait-until interface p1 mtu=1500", "", "br0/p1, br0/p2"},
		{"list-ports br0", "p1\np2", "br0/p1, br0/p2"},
		{"port-to-br p1", "br0", "br0/p1, br0/p2"},
		{"--bare --columns=name find interface link_state=down type=dpdkvhostuser", "p2", "br0/p1, br0/p2"},
		{"--if-exists --with-iface del-port br0 p1", "", "br0/p2"},
		{"--if-exists del-port br0 p1", "", "br0/p2"},
		{"set bridge br0 other_config:mac-aging-time=20 flood_vlans=7", "", "br0/p2"},
		{"get Open_vSwitch . dpdk_initialized", "true", "br0/p2"},
		{"get Open_vSwitch . dpdk_version", "[]", "br0/p2"},
		{"get Open_vSwitch . iface_types", "[dpdkvhostuser, dpdkvhostuserclient, internal, patch, tap]", "br0/p2"},
		{"add-br br1 -- add-port br0 a -- set interface a type=patch options:peer=b -- add-port br1 b -- set interface b type=patch options:peer=a", "", "br0/p2, br0/a mtu=0, br1/b mtu=0"},
		{"set-manager ptcp:0:127.0.0.1", "", "br0/p2, br0/a mtu=0, br1/b mtu=0"},
		{"emer-reset", "", "br0/p2, br0/a mtu=0, br1/b mtu=0"},
		{"del-br br1", "", "br0/p2, br0/a mtu=0"},
		{"--if-exists del-br br1", "", "br0/p2, br0/a mtu=0"},
		{"del-br br0", "", ""},
		{"get Open_vSwitch . bridges", "[]", ""},
	} {
		if got := r.vsctl(strings.Fields(tt.args)...); got != tt.out {
			t.Errorf("%s prints %q, want %q", tt.args, got, tt.out)
		}
		if got := r.ports(); got != tt.ports {
			t.Fatalf("after %s the switch has %q, want %q", tt.args, got, tt.ports)
		}
	}
	if b := r.vsctl("get", "Open_vSwitch", ".", "cur_cfg"); b != r.vsctl("get", "Open_vSwitch", ".", "next_cfg") {
		t.Errorf("cur_cfg is %s", b)
	}
}

// TestBadRowHeals: a row that is wrong says so and harms no other; when it is
// right, the error is gone.
func TestBadRowHeals(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br0")
	r.vsctl("add-port", "br0", "good", "--", "set", "interface", "good", "type=dpdkvhostuser")
	_, stderr, _ := r.try("add-port", "br0", "x", "--", "set", "interface", "x", "type=nonsense")
	if !strings.Contains(stderr, `Error detected while setting up 'x': type: unknown type "nonsense"`) {
		t.Errorf("ovs-vsctl says %q", stderr)
	}
	if got := r.get("x", "ofport"); got != "-1" {
		t.Errorf("ofport of the bad row: %s", got)
	}
	if got := r.vsctl("--no-wait", "get", "port", "x", "status"); !strings.Contains(got, "nonsense") {
		t.Errorf("status of its port: %s", got)
	}
	if got := r.ports(); got != "br0/good" {
		t.Errorf("the switch has %q", got)
	}
	r.vsctl("set", "interface", "x", "type=dpdkvhostuser")
	if e, n := r.get("x", "error"), r.get("x", "ofport"); e != "[]" || n != "2" {
		t.Errorf("healed: error %s, ofport %s", e, n)
	}
	if got := r.vsctl("--no-wait", "get", "port", "x", "status"); got != "{}" {
		t.Errorf("status of its port: %s", got)
	}
	r.until("status without bad rows", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && len(s.BadRows) == 0 && s.Counters.BadRows == 1 && s.Ports == 2 && len(s.Problems) == 0
	})
}

// TestRefusal: what the dataplane refuses is in the row, is tried again
// without anybody's help, and then the error is gone.
func TestRefusal(t *testing.T) {
	var free atomic.Bool
	r := newPrepared(t, func(sw *switchtest.Switch) {
		sw.Refuse = func(p dataplane.PortSpec) error {
			if p.Name == "x" && !free.Load() {
				return fmt.Errorf("bind %s: no such directory", p.Path)
			}
			return nil
		}
	})
	r.vsctl("add-br", "br0")
	_, stderr, _ := r.try("add-port", "br0", "x", "--", "set", "interface", "x", "type=dpdkvhostuser", "--", "add-port", "br0", "y", "--", "set", "interface", "y", "type=dpdkvhostuser")
	if !strings.Contains(stderr, "no such directory") || r.ports() != "br0/y" {
		t.Errorf("ovs-vsctl says %q, the switch has %q", stderr, r.ports())
	}
	free.Store(true)
	r.vsctl("--no-wait", "wait-until", "interface", "x", "ofport=1", "error=[]")
	if got := r.ports(); got != "br0/y, br0/x" {
		t.Errorf("the switch has %q", got)
	}
}

// TestMask: workers are where pmd-cpu-mask says, a second pass does nothing, a
// mask that cannot be is a problem with a remedy, and none gives them back.
func TestMask(t *testing.T) {
	r := newPrepared(t, func(sw *switchtest.Switch) {
		sw.RefuseWorkers = func(cpus []int) error {
			if cpus[len(cpus)-1] > 7 {
				return fmt.Errorf("set workers: %w: CPU %d", dataplane.ErrBadCPUs, cpus[len(cpus)-1])
			}
			return nil
		}
	})
	r.vsctl("add-br", "br0", "--", "add-port", "br0", "p", "--", "set", "interface", "p", "type=dpdkvhostuser")
	problems := func() string {
		s, err := ReadStatus(r.dir)
		if err != nil {
			return err.Error()
		}
		return strings.Join(s.Problems, "; ")
	}
	for _, tt := range []struct{ mask, workers, problem string }{
		{"0xc", "[2 3]", ""},
		{"f00", "[2 3]", "workers stay on CPUs [2 3]: other_config:pmd-cpu-mask of the Open_vSwitch row asks for CPUs [8 9 10 11]: set workers: workers cannot be there: CPU 11"},
		{"6", "[1 2]", ""},
		{"", "[0]", ""},
	} {
		if tt.mask == "" {
			r.vsctl("remove", "Open_vSwitch", ".", "other_config", "pmd-cpu-mask")
		} else {
			r.vsctl("set", "Open_vSwitch", ".", "other_config:pmd-cpu-mask="+tt.mask)
		}
		if got := fmt.Sprint(r.sw.Workers()); got != tt.workers {
			t.Errorf("mask %q: workers on %s, want %s", tt.mask, got, tt.workers)
		}
		r.until("problem "+tt.problem, func() bool { return problems() == tt.problem })
	}
	r.vsctl("set", "Open_vSwitch", ".", "other_config:pmd-cpu-mask=0x2")
	if err := r.sw.SetWorkers([]int{5}); err != nil { // behind control's back, to see that it does not ask again
		t.Fatal(err)
	}
	r.vsctl("set", "bridge", "br0", "other_config:x=y")
	if got := fmt.Sprint(r.sw.Workers()); got != "[5]" {
		t.Errorf("second pass: workers on %s", got)
	}
	r.stop("control")
	r.control() // which finds what was asked for last
	r.vsctl("set", "bridge", "br0", "other_config:x=z")
	r.stop("control")
	if s, err := ReadStatus(r.dir); err != nil || s.Counters.Changes != 0 {
		t.Errorf("next control: %+v, %v", s.Counters, err)
	}
}

// TestSystem: what the host runs is in the root row, unless somebody else has
// written something.
func TestSystem(t *testing.T) {
	r := newRig(t)
	r.vsctl("init")
	r.vsctl("--no-wait", "wait-until", "Open_vSwitch", ".", "ovs_version!=[]")
	want := readSystem("/etc/os-release", "/usr/lib/os-release")
	if got := strings.Trim(r.vsctl("get", "Open_vSwitch", ".", "system_type"), `"`); got != want.kind || got == "" {
		t.Errorf("system_type %q, want %q", got, want.kind)
	}
	if got := strings.Trim(r.vsctl("get", "Open_vSwitch", ".", "system_version"), `"`); got != want.version && want.version != "" {
		t.Errorf("system_version %q, want %q", got, want.version)
	}
	r.stop("control")
	r.vsctl("--no-wait", "set", "Open_vSwitch", ".", "system_type=appliance")
	r.control()
	r.vsctl("set", "Open_vSwitch", ".", "external_ids:a=b")
	if got := r.vsctl("get", "Open_vSwitch", ".", "system_type"); got != "appliance" {
		t.Errorf("system_type %q", got)
	}
}

// TestReadSystem reads os-release(5).
func TestReadSystem(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "os-release")
	for _, tt := range []struct {
		name, text string
		want       system
	}{
		{"quotes", "NAME=x\nID=\"debian\"\nVERSION_ID='12'\n", system{"debian", "12"}},
		{"no version", "ID=arch", system{"arch", ""}},
		{"nothing", "garbage\n=\n", system{"unknown", ""}},
	} {
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readSystem(filepath.Join(dir, "none"), file); got != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	if got := readSystem(filepath.Join(dir, "none")); got.kind != "unknown" {
		t.Errorf("no file: %+v", got)
	}
}

// TestLink: what the dataplane says of a port is in its row.
func TestLink(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br0", "--", "add-port", "br0", "p", "--", "set", "interface", "p", "type=dpdkvhostuser", "mac=\"02:00:00:00:00:01\"")
	r.sw.SetState("p", dataplane.DeviceState{Link: dataplane.LinkUp, Queues: 2, Connects: 1, Features: []string{"VIRTIO_F_VERSION_1"}})
	r.vsctl("--no-wait", "wait-until", "interface", "p", "link_state=up", "link_resets=1")
	if got := r.get("p", "status:num_of_vrings"); got != `"4"` {
		t.Errorf("vrings: %s", got)
	}
	if got := r.get("p", "mac_in_use"); got != `"02:00:00:00:00:01"` {
		t.Errorf("MAC: %s", got)
	}
	r.sw.SetState("p", dataplane.DeviceState{Link: dataplane.LinkWaiting, Reason: "no peer", Connects: 1})
	r.vsctl("--no-wait", "wait-until", "interface", "p", "link_state=down", "link_resets=2", "error=[]")
}

// TestStatistics go back by themselves.
func TestStatistics(t *testing.T) {
	r := startRig(t, func(sw *switchtest.Switch) {
		sw.Counters.Ports = []dataplane.PortStats{{Name: "p", RxFrames: 5, RxBytes: 300, TxFrames: 4, TxBytes: 240, TxDrops: dataplane.Drops{1: 3}}}
	}, (*rig).database, func(r *rig) { r.statsEvery = 50 * time.Millisecond })
	r.vsctl("add-br", "br0", "--", "add-port", "br0", "p", "--", "set", "interface", "p", "type=dpdkvhostuser")
	r.vsctl("--no-wait", "wait-until", "interface", "p", "statistics:rx_packets=5", "statistics:tx_bytes=240", "statistics:tx_dropped=3")
}

// TestQuiet: a pass over rows that say nothing new does nothing, and writes
// nothing but cur_cfg.
func TestQuiet(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br0", "--", "add-port", "br0", "p", "--", "set", "interface", "p", "type=dpdkvhostuser")
	r.controlAgain()
	r.vsctl("--no-wait", "set", "interface", "p", "external_ids:a=b") // not read
	r.vsctl("set", "bridge", "br0", "other_config:unknown=1")
	r.until("the transaction that ovs-vsctl waited for is counted", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && s.Counters.Transactions > 0
	})
	r.stop("control") // writes its counters
	s, err := ReadStatus(r.dir)
	if err != nil || s.Counters.Changes != 0 || s.Counters.Transactions != 1 || s.Counters.Passes < 2 {
		t.Errorf("%+v, %v", s.Counters, err)
	}
}

// last is what control says of its last pass that changed something, once
// that begins with what.
func (r *rig) last(what string) Counters {
	r.t.Helper()
	var s Status
	r.until(what, func() bool {
		var err error
		s, err = ReadStatus(r.dir)
		return err == nil && strings.HasPrefix(s.Counters.Last, what)
	})
	return s.Counters
}
