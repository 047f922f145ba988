package pods

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// ovsCNIVariable names the program plugin of github.com/k8snetworkplumbingwg/ovs-cni, built by whoever wants
// this test.
const ovsCNIVariable = "OVS_CNI"

// TestOVSCNIItself: pods that the stock ovs-cni plugin attaches to a bridge of the switch reach each other,
// CHECK finds them, and DEL leaves no port.
func TestOVSCNIItself(t *testing.T) {
	program := os.Getenv(ovsCNIVariable)
	if program == "" {
		t.Skip("needs a built ovs-cni: its path in " + ovsCNIVariable)
	}
	n := newNode(t)
	cover(t, "/var/lib")
	n.cli("bridge", "add", "br1")
	dir := filepath.Join(n.dir, "stock")
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.Symlink(program, filepath.Join(dir, "ovs")))
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{dir, ipamDir}, filepath.Join(n.dir, "cache"), nil)
	text, err := json.Marshal(fields{"cniVersion": "1.0.0", "name": "stock", "plugins": []any{fields{
		"type": "ovs", "bridge": "br1", "vlan": 100, "socket_file": "unix:" + n.run + "/db.sock",
		"ipam": fields{"type": "host-local", "dataDir": filepath.Join(n.dir, "ipam"), "subnet": "10.89.0.0/24"},
	}}})
	check(t, err)
	list, err := libcni.ConfListFromBytes(text)
	check(t, err)
	a, b := n.newPod(), n.newPod()
	a.mustAdd(list)
	to, _ := netip.AddrFromSlice(b.mustAdd(list).IPs[0].Address.IP)
	if err := a.Ping(t, to.Unmap(), 1000, patience); err != nil {
		t.Error(err)
	}
	if err := a.check(list); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	n.cli("agent", "reconcile")
	n.cli("agent", "reconcile")
	if out := n.cli("port", "list"); strings.Count(out, "br1") < 2 {
		t.Errorf("the agent has removed ports of ovs-cni:\n%s", out)
	}
	for _, p := range []*pod{a, b} {
		check(t, p.del(list))
	}
	eventually(t, "the switch has none of its ports", func() bool { return !strings.Contains(n.cli("port", "list"), "veth") })
}
