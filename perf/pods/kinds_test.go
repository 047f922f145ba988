package pods

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"millrace/control/cni/attach"
	"millrace/perf/peers"
)

// TestKinds: each kind of interface by each version of CNI: two pods are attached, reach each
// other where the kernel has their interfaces, are as they should be, and leave nothing.
func TestKinds(t *testing.T) {
	n := newNode(t)
	for _, kind := range []string{attach.TAP, attach.Veth, attach.VhostUser} {
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			t.Run(kind+" "+version, func(t *testing.T) { n.t = t; n.lifeOfTwo(t, version, kind) })
			n.t = t
		}
	}
}

func (n *node) lifeOfTwo(t *testing.T, version, kind string) {
	list := n.network(version, kind, fields{"vlan": 7, "mtu": 2000})
	a, b := n.newPod(), n.newPod()
	r, s := a.mustAdd(list), b.mustAdd(list)
	i := r.Interfaces[0]
	if len(r.Interfaces) != 1 || i.Name != "net1" || i.Sandbox != a.Path || i.Mac != a.key().MAC().String() || len(r.IPs) != 2 || *r.IPs[0].Interface != 0 {
		t.Errorf("result %+v", r)
	}
	if newer := version >= "1.0.0"; newer && i.Mtu != 2000 || newer && (i.SocketPath != "") != (kind == attach.VhostUser) {
		t.Errorf("interface %+v", i)
	}
	if out := n.cli("port", "list", "--json"); !json.Valid([]byte(out)) || !strings.Contains(out, a.key().Port()) {
		t.Errorf("port list: %s", out)
	}
	if kind != attach.VhostUser {
		for _, ip := range s.IPs {
			to, _ := netip.AddrFromSlice(ip.Address.IP)
			if err := a.Ping(t, to.Unmap(), 2000, patience); err != nil {
				t.Error(err)
			}
		}
		if out := a.Run(t, "ip", "route", "show"); !strings.Contains(out, "10.99.0.0/16 via 10.77.0.1 dev net1") {
			t.Errorf("routes: %s", out)
		}
	}
	if version != "0.3.1" {
		if err := a.check(list); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		a.spoil(t, kind)
		if err := a.check(list); err == nil {
			t.Error("CHECK finds nothing wrong with an interface that is broken")
		}
	}
	check(t, b.del(list))
	check(t, a.del(list))
	check(t, a.del(list)) // again: nothing happens
	n.nothingLeft(a, b)
}

// spoil breaks what CHECK should find.
func (p *pod) spoil(t *testing.T, kind string) {
	if kind == attach.VhostUser {
		check(t, os.Remove(filepath.Join(p.n.run, "pods", p.key().Port(), "interface.json")))
		return
	}
	p.Run(t, "ip", "addr", "flush", "dev", "net1")
}

// TestThroughput: TCP of a pod goes through the switch, also after the dataplane was
// killed: device, addresses and routes stay.
func TestThroughput(t *testing.T) {
	peers.Need(t, "iperf3")
	n := newNode(t)
	for _, kind := range []string{attach.TAP, attach.Veth} {
		list := n.network("1.0.0", kind, nil)
		a, b := n.newPod(), n.newPod()
		a.mustAdd(list)
		to := b.mustAdd(list).IPs[0].Address.IP.String()
		before := a.Run(t, "ip", "route", "show")
		carries := func() {
			t.Helper()
			server := b.Command(t, "iperf3", "-s", "-B", to)
			server.SysProcAttr = nil // the thread that starts it may be thrown away
			check(t, server.Start())
			defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
			addr, _ := netip.ParseAddr(to)
			if err := a.Ping(t, addr, 100, patience); err != nil {
				t.Error(err)
			}
			var r struct {
				End struct {
					Received struct {
						Bits float64 `json:"bits_per_second"`
					} `json:"sum_received"`
				} `json:"end"`
			}
			eventually(t, kind+": TCP by iperf3", func() bool { // which says that nobody listens with exit code 0
				out, _ := a.Try(t, "iperf3", "-c", to, "-t", "1", "-J")
				return json.Unmarshal([]byte(out), &r) == nil && r.End.Received.Bits > 0
			})
			t.Logf("%s: %.2f Gbit/s of TCP", kind, r.End.Received.Bits/1e9)
		}
		carries()
		n.kill("dataplane")
		carries()
		if after := a.Run(t, "ip", "route", "show"); after != before {
			t.Errorf("routes after a new dataplane:\n%swere\n%s", after, before)
		}
		if err := a.check(list); err != nil {
			t.Errorf("CHECK after a new dataplane: %v", err)
		}
		check(t, a.del(list))
		check(t, b.del(list))
		n.nothingLeft(a, b)
	}
}

// TestGC: the runtime's GC removes what it does not have, of this network only; the
// agent removes what belongs to pods that are gone, and nothing of those that are
// there; STATUS says whether an ADD could succeed.
func TestGC(t *testing.T) {
	n := newNode(t)
	list := n.network("1.1.0", attach.TAP, nil)
	a, b := n.newPod(), n.newPod()
	a.mustAdd(list)
	b.mustAdd(list)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, n.cni.GetStatusNetworkList(ctx, list))
	check(t, n.cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: a.ContainerID, IfName: "net1"}, {ContainerID: b.ContainerID, IfName: "net1"}}}))
	if left := n.attachments(); len(left) != 2 {
		t.Errorf("after a GC of a runtime that has both: %+v", left)
	}
	lost := n.newPod() // nobody has it but the switch
	if _, err := n.plugin(lost.env(n, "ADD"), n.conf(list)); err != nil {
		t.Fatal(err)
	}
	check(t, n.cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: a.ContainerID, IfName: "net1"}, {ContainerID: b.ContainerID, IfName: "net1"}}}))
	if left := n.attachments(); len(left) != 2 || slices.ContainsFunc(left, func(at attach.Attachment) bool { return at.ContainerID == lost.ContainerID }) {
		t.Errorf("after a GC of what the runtime does not have: %+v", left)
	}
	if _, err := n.plugin(lost.env(n, "DEL"), n.conf(list)); err != nil { // for its addresses: Debian's host-local has no GC
		t.Error(err)
	}
	r, err := n.call(&attach.Request{Method: attach.GC, Key: attach.Key{Network: "other"}})
	if err != nil || len(r.Removed) != 0 {
		t.Errorf("GC of another network: %+v, %v", r, err)
	}
	r, err = n.call(&attach.Request{Method: attach.GC, Key: attach.Key{Network: "fast"}, Valid: []attach.Key{b.key()}})
	if err != nil || len(r.Removed) != 1 || r.Removed[0] != a.key().Port() {
		t.Errorf("GC: %+v, %v", r, err)
	}
	if left := n.attachments(); len(left) != 1 || left[0].ContainerID != b.ContainerID {
		t.Errorf("after GC: %+v", left)
	}
	check(t, a.del(list))
	n.stop()
	if err := n.cni.GetStatusNetworkList(ctx, list); err == nil {
		t.Error("STATUS of a switch that is not running says that all is well")
	}
	n.start()
	if left := n.attachments(); len(left) != 1 {
		t.Errorf("after a restart of the switch: %+v", left)
	}
	n.cli("agent", "reconcile")
	n.cli("agent", "reconcile")
	if left := n.attachments(); len(left) != 1 {
		t.Errorf("of a pod that is there the agent has left %+v", left)
	}
	b.Delete(t)
	n.cli("agent", "reconcile")
	n.cli("agent", "reconcile")
	if left := n.attachments(); len(left) != 0 {
		t.Errorf("of a pod that is gone: %+v", left)
	}
	check(t, b.del(list))
	told := ""
	for try := 0; !strings.Contains(told, `"cni`) && try < 3; try++ { // the agent may look by itself just then, and tell nobody
		c := n.newPod()
		c.mustAdd(list)
		c.Delete(t)
		told = n.cli("agent", "reconcile", "--json") + n.cli("agent", "reconcile", "--json")
		check(t, c.del(list))
	}
	if !strings.Contains(told, `"cni`) {
		t.Errorf("reconcile does not say what it has removed: %s", told)
	}
	n.nothingLeft()
}

// kill kills a child of the switch and waits until another one is there.
func (n *node) kill(command string) {
	n.t.Helper()
	old := n.process(command)
	if old == 0 {
		n.t.Fatalf("no process millrace %s", command)
	}
	killProcess(n.t, old)
	eventually(n.t, "another "+command, func() bool { p := n.process(command); return p != 0 && p != old && n.status() == nil })
}
