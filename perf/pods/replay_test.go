package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
	"millrace/perf/peers"
)

// TestUserspaceCNI replays the ovs-vsctl calls of the userspace CNI plugin (cniovs/ovsctrl.go of
// intel/userspace-cni-network-plugin at ab5409c) in their order: the switch has a port
// at the socket's path, and has not afterwards. The agent leaves these rows alone.
func TestUserspaceCNI(t *testing.T) {
	peers.Need(t, "ovs-vsctl")
	n := newNode(t)
	const sock = "0958c8871b32-net1"
	if got := n.vsctl("--bare", "--columns=name", "find", "bridge", "name=br-4"); got != "" {
		t.Errorf("find of a bridge that there is not: %q", got)
	}
	n.vsctl("add-br", "br-4", "--", "set", "bridge", "br-4", "datapath_type=netdev")
	n.vsctl("add-port", "br-4", sock, "--", "set", "Interface", sock, "type=dpdkvhostuserclient", "options:vhost-server-path="+filepath.Join(n.dir, sock))
	if got := n.vsctl("--bare", "--columns=mac", "find", "port", "name="+sock); got != "" {
		t.Errorf("find of the port's mac: %q", got)
	}
	if got := n.vsctl("get", "interface", sock, "ofport"); got == "-1" || got == "[]" {
		t.Errorf("ofport %s", got)
	}
	if out := n.cli("port", "list"); !strings.Contains(out, sock) {
		t.Errorf("no port of it: %s", out)
	}
	n.cli("agent", "reconcile")
	n.cli("agent", "reconcile")
	if got := n.vsctl("list-ports", "br-4"); got != sock {
		t.Errorf("list-ports: %q", got)
	}
	n.vsctl("--if-exists", "del-port", "br-4", sock)
	n.vsctl("--if-exists", "del-port", "br-4", sock)
	if got := n.vsctl("list-ports", "br-4"); got != "" {
		t.Errorf("list-ports after del-port: %q", got)
	}
	n.vsctl("del-br", "br-4")
	n.nothingLeft()
}

// TestOVSCNI replays the transactions of ovs-cni (pkg/ovsdb of k8snetworkplumbingwg/ovs-cni at
// 19262a0): it does not count next_cfg up and waits for link_state; pods reach each
// other by the ports that come of it.
func TestOVSCNI(t *testing.T) {
	n := newNode(t)
	n.cli("bridge", "add", "br1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := ovsdb.Dial(ctx, ovsdb.Config{Endpoints: []string{"unix:" + n.run + "/db.sock"}, Schema: model.Schema(),
		Tables: []ovsdb.Table{{Name: model.PortTable, Row: &model.Port{}, Watch: []string{"name", "external_ids"}}}})
	check(t, err)
	defer d.Close()
	var schema json.RawMessage
	check(t, d.Call(ctx, "get_schema", []any{"Open_vSwitch"}, &schema))
	do := func(ops ...ovsdb.Op) []ovsdb.Result {
		t.Helper()
		r, err := d.Transact(ctx, ops...)
		check(t, err)
		return r
	}
	if r := do(ovsdb.Op{"op": "select", "table": "Bridge", "where": []any{[]any{"name", "==", "br1"}}, "columns": []string{"name"}}); !strings.Contains(string(r[0].Rows), "br1") {
		t.Fatalf("bridge: %s", r[0].Rows)
	}
	pods := []*pod{n.newPod(), n.newPod()}
	for i, p := range pods {
		veth := fmt.Sprint("ovscni", i)
		p.makeVeth(t, veth, fmt.Sprintf("10.88.0.%d/24", i+1))
		ids := []any{"map", []any{[]any{"contIface", "net1"}, []any{"contNetns", p.Path}, []any{"contPodUid", p.ContainerID}, []any{"owner", "ovs-cni.network.kubevirt.io"}}}
		do(ovsdb.Op{"op": "insert", "table": "Interface", "uuid-name": "Intf" + veth, "row": map[string]any{"name": veth}},
			ovsdb.Op{"op": "insert", "table": "Port", "uuid-name": veth, "row": map[string]any{"name": veth, "vlan_mode": "access", "tag": 100, "interfaces": []any{"named-uuid", "Intf" + veth}, "external_ids": ids}},
			ovsdb.Op{"op": "mutate", "table": "Bridge", "where": []any{[]any{"name", "==", "br1"}}, "mutations": []any{[]any{"ports", "insert", []any{"set", []any{[]any{"named-uuid", veth}}}}}})
		eventually(t, veth+" is up", func() bool {
			r := do(ovsdb.Op{"op": "select", "table": "Interface", "where": []any{[]any{"name", "==", veth}}, "columns": []string{"link_state", "error"}})
			return strings.Contains(string(r[0].Rows), `"up"`)
		})
		if r := do(ovsdb.Op{"op": "select", "table": "Port", "where": []any{[]any{"external_ids", "includes", ids}}, "columns": []string{"name"}}); !strings.Contains(string(r[0].Rows), veth) {
			t.Errorf("found by its namespace: %s", r[0].Rows)
		}
	}
	if err := pods[0].Ping(t, netip.MustParseAddr("10.88.0.2"), 1000, patience); err != nil {
		t.Error(err)
	}
	n.cli("agent", "reconcile")
	n.cli("agent", "reconcile")
	for i := range pods {
		veth := fmt.Sprint("ovscni", i)
		r := do(ovsdb.Op{"op": "select", "table": "Port", "where": []any{[]any{"name", "==", veth}}, "columns": []string{"_uuid", "interfaces"}})
		var rows []struct {
			UUID       []any `json:"_uuid"`
			Interfaces []any `json:"interfaces"`
		}
		if err := json.Unmarshal(r[0].Rows, &rows); err != nil || len(rows) != 1 {
			t.Fatalf("port of ovs-cni: %s, %v", r[0].Rows, err)
		}
		do(ovsdb.Op{"op": "delete", "table": "Interface", "where": []any{[]any{"_uuid", "==", rows[0].Interfaces}}},
			ovsdb.Op{"op": "delete", "table": "Port", "where": []any{[]any{"_uuid", "==", rows[0].UUID}}},
			ovsdb.Op{"op": "mutate", "table": "Bridge", "where": []any{[]any{"name", "==", "br1"}}, "mutations": []any{[]any{"ports", "delete", []any{"set", []any{rows[0].UUID}}}}})
	}
	eventually(t, "the switch has none of them", func() bool { return !strings.Contains(n.cli("port", "list"), "ovscni") })
}

// makeVeth does what ovs-cni does in a pod.
func (p *pod) makeVeth(t *testing.T, host, ip string) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "add", host, "type", "veth", "peer", "name", host+"p").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", host).Run() }) // gone with its pod, as a rule
	for _, args := range [][]string{{"ip", "link", "set", host + "p", "netns", p.Path}, {"ip", "link", "set", host, "up"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	p.Run(t, "ip", "link", "set", host+"p", "name", "net1", "up")
	p.Run(t, "ip", "addr", "add", ip, "dev", "net1")
}
