package pods

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
)

// TestMultus makes the calls that Multus makes of its delegates (delegateRuntimeConfig and
// conflistDel of multus-cni at 95a0932), with a device that kubelet has allocated, and of the
// answers the entry of network-status, as it does: one interface, and the
// device-info file that it named.
func TestMultus(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	check(t, agent.MakeSlot(n.run, "br0-7"))
	info := filepath.Join(n.dir, "devinfo", "cni", "default-fast-"+p.ContainerID+"_net1")
	// Multus has copied what the device plugin said, with another role.
	check(t, os.MkdirAll(filepath.Dir(info), 0o755))
	check(t, os.WriteFile(info, []byte(`{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"client","path":"/x"}}`), 0o444))
	conf := n.conf(n.network("1.0.0", attach.VhostUser, fields{
		"capabilities": fields{"CNIDeviceInfoFile": true, "deviceID": true, "mac": true, "ips": true}, "deviceID": "br0-7", "mtu": 9000,
		"runtimeConfig": fields{"CNIDeviceInfoFile": info, "deviceID": "br0-7", "mac": "02:00:00:00:00:77"},
	}))
	env := append(p.env(n, "ADD"), "CNI_ARGS=IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID="+p.ContainerID+";K8S_POD_UID=u-7")
	for range 2 { // kubelet tries again when something else has failed
		cmd := exec.Command(filepath.Join(n.bin, "millrace-cni"))
		cmd.Env, cmd.Stdin = env, strings.NewReader(string(conf))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("ADD: %v: %s", err, out)
		}
		r, err := types100.NewResult(out)
		check(t, err)
		result, err := types100.NewResultFromResult(r)
		check(t, err)
		status := networkStatus(t, result, info)
		want := `{"name":"default/fast","interface":"net1","ips":["` + result.IPs[0].Address.IP.String() + `","` + result.IPs[1].Address.IP.String() + `"],"mac":"02:00:00:00:00:77","mtu":9000,` +
			`"device-info":{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/run/millrace/br0-7/vhost.sock"}}}`
		if status != want {
			t.Errorf("network-status\n%s\nwant\n%s", status, want)
		}
	}
	if _, err := os.Stat(filepath.Join(n.run, "slots/br0-7/interface.json")); err != nil {
		t.Error(err)
	}
	// DEL from Multus's cache, when the pod and its network namespace are gone.
	del := append(p.env(n, "DEL"), "CNI_NETNS=")
	for range 2 {
		if _, err := n.plugin(del, conf); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	if left, _ := filepath.Glob(n.run + "/slots/br0-7/*"); len(left) > 0 {
		t.Errorf("left in the slot: %v", left)
	}
	n.nothingLeft(p)
}

// networkStatus is what Multus makes of a result (CreateNetworkStatuses of
// network-attachment-definition-client).
func networkStatus(t *testing.T, r *types100.Result, info string) string {
	t.Helper()
	type entry struct {
		Name      string          `json:"name"`
		Interface string          `json:"interface"`
		IPs       []string        `json:"ips"`
		MAC       string          `json:"mac"`
		MTU       int             `json:"mtu"`
		Info      json.RawMessage `json:"device-info"`
	}
	if len(r.Interfaces) != 1 || r.Interfaces[0].Sandbox == "" {
		t.Fatalf("Multus makes no status of %+v", r.Interfaces)
	}
	i := r.Interfaces[0]
	e := entry{Name: "default/fast", Interface: i.Name, MAC: i.Mac, MTU: i.Mtu}
	for _, ip := range r.IPs {
		e.IPs = append(e.IPs, ip.Address.IP.String())
	}
	text, err := os.ReadFile(info)
	check(t, err)
	e.Info = text
	out, err := json.Marshal(e)
	check(t, err)
	return string(out)
}
