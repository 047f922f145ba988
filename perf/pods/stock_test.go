package pods

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
	"millrace/dataplane/tap/taptest"
	"millrace/perf/peers"
)

// userspaceVariable names the program userspace of github.com/intel/userspace-cni-network-plugin, built by whoever
// wants this test. What its VPP part imports as cnivpp/bin_api is made from an installed VPP; package binapi of
// go.fd.io/govpp v0.7.0 has the same: copy it there, with its import paths changed, and
// CGO_ENABLED=0 go build ./userspace.
const userspaceVariable = "USERSPACE_CNI"

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

// TestUserspaceCNIItself: the stock userspace CNI plugin, by the stock ovs-vsctl, gives a pod a socket in its emptyDir, with the
// switch in either role; an application without rights answers pings there. The plugin deletes the bridge that it has made
// only when nobody else has a port of it.
func TestUserspaceCNIItself(t *testing.T) {
	program := os.Getenv(userspaceVariable)
	if program == "" {
		t.Skip("needs a built userspace CNI plugin: its path in " + userspaceVariable)
	}
	peers.Need(t, "ovs-vsctl", "dpdk-testpmd")
	taptest.Need(t)
	cover(t, "/run")
	cover(t, "/var/lib")
	check(t, os.Mkdir("/run/openvswitch", 0o755))
	n := newNode(t, "--db-listen", "punix:/run/openvswitch/db.sock")
	t.Setenv("OVS_SOCKDIR", n.run) // where it looks for sockets that the switch has made
	ours := n.cni
	dir := filepath.Join(n.dir, "stock")
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.Symlink(program, filepath.Join(dir, "userspace")))
	stock := libcni.NewCNIConfigWithCacheDir([]string{dir, ipamDir}, filepath.Join(n.dir, "cache-stock"), nil)
	api := newAPIServer(t)
	for _, mode := range []string{"client", "server"} {
		list := n.userspaceNetwork(api.kubeconfig(t, n.dir), mode)
		p, plain, tap := n.newPod(), n.newPod(), n.network("1.0.0", attach.TAP, fields{"bridge": "br-4"})
		volume := p.withVolume(t, api, mode)
		n.cni = stock
		r := p.mustAdd(list)
		n.cni = ours
		plain.mustAdd(tap)
		name := p.ContainerID[:12] + "-net1"
		role := map[string]string{"client": "server", "server": "client"}[mode]
		if got := api.annotations(p.Args[2][1])["userspace/configuration-data"]; !strings.Contains(got, `"mode":"`+role+`"`) && !strings.Contains(got, `"mode": "`+role+`"`) {
			t.Errorf("%s: the application is told %s", mode, got)
		}
		user := podUser
		if role == "client" {
			user = 0 // as with Open vSwitch: sockets of this type are root's
		}
		app := n.startApplication(user, name, volume, agent.Info{Role: role, Socket: "/" + name, MAC: "02:00:00:00:00:01"})
		to, _ := netip.AddrFromSlice(r.IPs[0].Address.IP)
		if err := plain.Ping(t, to.Unmap(), 1000, patience); err != nil {
			t.Errorf("%s: %v\n%s", mode, err, app.out)
		}
		app.stop()
		n.cli("agent", "reconcile")
		n.cli("agent", "reconcile")
		if out := n.cli("port", "list"); !strings.Contains(out, name) {
			t.Errorf("%s: the agent has removed the plugin's port:\n%s", mode, out)
		}
		n.cni = stock
		check(t, p.del(list))
		n.cni = ours
		if out := n.cli("port", "list"); strings.Contains(out, name) || !strings.Contains(out, plain.key().Port()) {
			t.Errorf("%s: after DEL:\n%s", mode, out)
		}
		check(t, plain.del(tap))
		n.nothingLeft(plain)
	}
	n.stockBridge(stock, n.userspaceNetwork(api.kubeconfig(t, n.dir), "client"), api)
}

// stockBridge: the plugin makes its bridge again after it was deleted, and deletes it with its
// last port.
func (n *node) stockBridge(stock *libcni.CNIConfig, list *libcni.NetworkConfigList, api *apiServer) {
	t := n.t.(*testing.T)
	n.cni = stock
	for range 2 {
		p := n.newPod()
		p.withVolume(t, api, "client")
		p.mustAdd(list)
		check(t, p.del(list))
		if out := n.cli("bridge", "list"); strings.Contains(out, "br-4") {
			t.Errorf("its bridge is left:\n%s", out)
		}
	}
}

// userspaceNetwork is a network of the stock plugin's. With host.netType it has a bridge that it makes learn by OpenFlow, which
// this switch does not speak: that one is there before.
func (n *node) userspaceNetwork(kubeconfig, mode string) *libcni.NetworkConfigList {
	n.t.Helper()
	netType := ""
	if mode == "server" {
		netType = "bridge"
	}
	text, err := json.Marshal(fields{"cniVersion": "1.0.0", "name": "fast", "plugins": []any{fields{
		"type": "userspace", "kubeconfig": kubeconfig, "logFile": filepath.Join(n.dir, "userspace.log"), "logLevel": "debug",
		"host":      fields{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": netType, "vhost": fields{"mode": mode}, "bridge": fields{"bridgeName": "br-4"}},
		"container": fields{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface"},
		"ipam":      fields{"type": "host-local", "dataDir": filepath.Join(n.dir, "ipam-stock"), "subnet": "10.77.128.0/20"},
	}}})
	check(n.t, err)
	list, err := libcni.ConfListFromBytes(text)
	check(n.t, err)
	return list
}

// withVolume gives a pod a volume shared-dir, and makes the pod known to the API server: an emptyDir as kubelet makes it, or, for
// a switch that is a server, a directory of the host in the run directory's filesystem: the plugin renames the switch's socket
// into it, and goes on where that fails.
func (p *pod) withVolume(t *testing.T, api *apiServer, mode string) (dir string) {
	t.Helper()
	name, uid := p.Args[2][1], p.Args[3][1]+"-0958c887-1b32-4c2f-9a3e-0123456789ab" // as long as UIDs are, or longer
	p.Args[3][1] = uid
	dir = filepath.Join("/var/lib/kubelet/pods", uid, "volumes/kubernetes.io~empty-dir/shared-dir")
	volume := fields{"name": "shared-dir", "emptyDir": fields{}}
	if mode == "server" {
		dir = filepath.Join(p.n.dir, "shared")
		volume = fields{"name": "shared-dir", "hostPath": fields{"path": dir}}
	}
	api.addPod(name, uid, map[string]string{})
	api.setSpec(name, fields{
		"containers": []any{fields{"name": "c", "image": "i", "volumeMounts": []any{fields{"name": "shared-dir", "mountPath": "/var/lib/cni/usrspcni"}}}},
		"volumes":    []any{volume},
	})
	check(t, os.MkdirAll(dir, 0o755))
	check(t, os.Chmod(dir, 0o777))
	return dir
}
