package pods

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	kubelet "k8s.io/kubelet/pkg/apis/podresources/v1"

	"millrace/control/cni"
	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
)

// multusVariable names a program multus, built by whoever wants this test: its module cannot be required. In an empty directory,
// with a go.mod that requires gopkg.in/k8snetworkplumbingwg/multus-cni.v4 v4.2.4:
//
//	CGO_ENABLED=0 go build -mod=mod -o multus gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus
const multusVariable = "MULTUS_CNI"

// A podResources is kubelet's API that says which devices a pod has.
type podResources struct {
	kubelet.UnimplementedPodResourcesListerServer
	pod, resource, device string
}

// List implements the API.
func (p *podResources) List(context.Context, *kubelet.ListPodResourcesRequest) (*kubelet.ListPodResourcesResponse, error) {
	return &kubelet.ListPodResourcesResponse{PodResources: []*kubelet.PodResources{{
		Name: p.pod, Namespace: "default",
		Containers: []*kubelet.ContainerResources{{Name: "c", Devices: []*kubelet.ContainerDevices{{ResourceName: p.resource, DeviceIds: []string{p.device}}}}},
	}}}, nil
}

// serve listens where clients of kubelet look.
func (p *podResources) serve(t *testing.T) {
	t.Helper()
	path := "/var/lib/kubelet/pod-resources/kubelet.sock"
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	l, err := net.Listen("unix", path)
	check(t, err)
	s := grpc.NewServer()
	kubelet.RegisterPodResourcesListerServer(s, p)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
}

// cover has a directory be empty, for this test binary and what it starts.
func cover(t *testing.T, dir string) {
	t.Helper()
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestMultusItself: Multus attaches a pod as its annotation asks, by a network whose resource kubelet has
// allocated, and writes a network-status that says where the socket is; CHECK and DEL
// go its way, too.
func TestMultusItself(t *testing.T) {
	multus := os.Getenv(multusVariable)
	if multus == "" {
		t.Skip("needs a built Multus: its path in " + multusVariable)
	}
	n := newNode(t)
	cover(t, "/run")
	cover(t, "/var/lib")
	api, p := newAPIServer(t), n.newPod()
	const name, resource, device = "pod-m", "millrace.dev/br0", "br0-7"
	(&podResources{pod: name, resource: resource, device: device}).serve(t)
	check(t, agent.MakeSlot(n.run, device))
	text, err := cni.DeviceInfo("client", "/x") // as of the device plugin; the network says better
	check(t, err)
	check(t, cni.WriteFile("/run/k8s.cni.cncf.io/devinfo/dp/millrace.dev-br0-br0-7-device.json", text))
	api.addPod(name, "uid-m", map[string]string{"kept": "yes", "k8s.v1.cni.cncf.io/networks": `[{"name":"fast","mac":"02:00:00:00:00:77"}]`})
	api.addNetwork("fast", resource, string(n.conf(n.network("1.0.0", attach.VhostUser, fields{
		"capabilities": fields{"CNIDeviceInfoFile": true, "deviceID": true, "mac": true}, "mtu": 9000,
	}))))
	conf, err := json.Marshal(fields{
		"cniVersion": "1.0.0", "name": "multus", "type": "multus", "kubeconfig": api.kubeconfig(t, n.dir), "cniDir": filepath.Join(n.dir, "multus"), "binDir": n.bin,
		"delegates": []any{fields{"cniVersion": "1.0.0", "name": "cluster", "type": "ptp",
			"ipam": fields{"type": "host-local", "dataDir": filepath.Join(n.dir, "ipam"), "subnet": "10.66.0.0/24"}}},
	})
	check(t, err)
	env := append(p.env(n, ""), "CNI_IFNAME=eth0", "CNI_ARGS=IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+name+";K8S_POD_INFRA_CONTAINER_ID="+p.ContainerID+";K8S_POD_UID=uid-m")
	run := func(verb string, conf []byte) []byte {
		t.Helper()
		cmd := exec.Command(multus)
		cmd.Env, cmd.Stdin = append(env, "CNI_COMMAND="+verb), strings.NewReader(string(conf))
		var log strings.Builder
		cmd.Stderr = &log
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s of Multus: %v: %s\n%s\nnot known to the API: %v", verb, err, out, log.String(), api.strange)
		}
		return out
	}
	result := run("ADD", conf)
	ours := statusOf(t, api.annotations(name), "default/fast")
	want := `{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/run/millrace/br0-7/vhost.sock"}}`
	if string(ours.Info) != want || ours.Interface != "net1" || ours.MAC != "02:00:00:00:00:77" || ours.MTU != 9000 || len(ours.IPs) != 2 {
		t.Errorf("network-status %+v with device-info %s, want %s", ours, ours.Info, want)
	}
	if a := api.annotations(name); a["kept"] != "yes" {
		t.Errorf("annotations %v", a)
	}
	if have := n.attachments(); len(have) != 1 || have[0].DeviceID != device || have[0].Pod.Name != name {
		t.Errorf("attachments %+v", have)
	}
	run("CHECK", with(t, conf, "prevResult", json.RawMessage(result)))
	run("DEL", conf)
	run("DEL", conf)
	if left, _ := filepath.Glob(n.run + "/slots/br0-7/*"); len(left) > 0 {
		t.Errorf("left in the slot: %v", left)
	}
	n.nothingLeft(p)
}

// A podNetwork is one entry of the annotation network-status.
type podNetwork struct {
	Name      string          `json:"name"`
	Interface string          `json:"interface"`
	IPs       []string        `json:"ips"`
	MAC       string          `json:"mac"`
	MTU       int             `json:"mtu"`
	Info      json.RawMessage `json:"device-info"`
}

// statusOf is the entry of a network in a pod's annotations.
func statusOf(t *testing.T, annotations map[string]string, network string) podNetwork {
	t.Helper()
	var list []podNetwork
	check(t, json.Unmarshal([]byte(annotations["k8s.v1.cni.cncf.io/network-status"]), &list))
	i := slices.IndexFunc(list, func(s podNetwork) bool { return s.Name == network })
	if i < 0 {
		t.Fatalf("network-status has no %s: %s", network, annotations["k8s.v1.cni.cncf.io/network-status"])
	}
	var compact strings.Builder
	var v any
	check(t, json.Unmarshal(list[i].Info, &v))
	check(t, json.NewEncoder(&compact).Encode(v))
	list[i].Info = json.RawMessage(strings.TrimSpace(compact.String()))
	return list[i]
}
