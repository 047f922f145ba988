package pods

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// TestBadConf: each field missing, of a wrong type, too large, or with tricks of paths in it is
// an error of CNI with a code and a text that names it, and changes nothing. Operations other than ADD, which do not look at
// all of it, succeed or say why not, and change nothing either.
func TestBadConf(t *testing.T) {
	n := newNode(t)
	p, kept, list := n.newPod(), n.newPod(), n.network("1.0.0", "tap", nil)
	kept.mustAdd(list)
	good := n.conf(n.network("1.0.0", "vhost-user", fields{"ipam": nil}))
	long := strings.Repeat("x", 300)
	tests := []struct {
		key   string
		value any
		code  int
		text  string
	}{
		{"name", nil, 7, "name"}, {"name", "a/b", 7, "name"}, {"name", "../x", 7, "name"}, {"name", "a\x00b", 7, "name"}, {"name", long, 4, "network"}, {"name", 7, 6, "name"},
		{"cniVersion", "9.9.9", 1, "version"}, {"cniVersion", "x", 1, "version"}, {"cniVersion", 7, 6, "cniVersion"},
		{"kind", nil, 7, "kind"}, {"kind", "bridge", 7, "kind"}, {"kind", 1, 6, "kind"}, {"kind", long, 7, "kind"},
		{"bridge", nil, 7, "bridge"}, {"bridge", "", 7, "bridge"}, {"bridge", "../br0", 7, "bridge"}, {"bridge", "..", 7, "bridge"}, {"bridge", "a\x00", 7, "bridge"}, {"bridge", long, 7, "bridge"}, {"bridge", []int{1}, 6, "bridge"},
		{"vlan", -1, 7, "vlan"}, {"vlan", 4095, 7, "vlan"}, {"vlan", "x", 6, "vlan"}, {"vlan", 1e30, 6, "vlan"},
		{"trunk", []any{fields{}}, 7, "trunk"}, {"trunk", []any{fields{"id": 5000}}, 7, "trunk"}, {"trunk", []any{fields{"minID": 7, "maxID": 3}}, 7, "trunk"}, {"trunk", []any{fields{"id": 1, "minID": 2}}, 7, "trunk"}, {"trunk", 5, 6, "trunk"}, {"trunk", []any{fields{"vlan": 5}}, 2, "vlan"},
		{"mtu", 67, 7, "mtu"}, {"mtu", 9711, 7, "mtu"}, {"mtu", "1500", 6, "mtu"},
		{"mac", "01:00:00:00:00:01", 7, "mac"}, {"mac", "x", 7, "mac"}, {"mac", "00:00:00:00:00:00", 7, "mac"}, {"mac", 5, 6, "mac"},
		{"queues", 0, 7, "queues"}, {"queues", 65, 7, "queues"}, {"queues", "many", 7, "queues"}, {"queues", []int{}, 7, "queues"},
		{"mode", "master", 7, "mode"}, {"mode", true, 6, "mode"},
		{"socket", fields{"user": 1}, 7, "socket"}, {"socket", fields{"user": -1, "group": 0}, 7, "socket"}, {"socket", fields{"user": 1 << 33, "group": 0}, 7, "socket"}, {"socket", fields{"volume": "../etc"}, 7, "socket.volume"}, {"socket", fields{"volume": long}, 7, "socket.volume"}, {"socket", fields{"mount": "a/b"}, 7, "socket.mount"}, {"socket", fields{"path": "/x"}, 2, "path"}, {"socket", "x", 6, "socket"},
		{"deviceID", "../x", 7, "deviceID"}, {"deviceID", long, 7, "deviceID"}, {"deviceID", "a\x00b", 7, "deviceID"}, {"deviceID", 4, 6, "deviceID"},
		{"ingressRate", 999, 7, "ingressRate"}, {"ingressRate", 1e13, 7, "ingressRate"}, {"ingressRate", "1M", 6, "ingressRate"}, {"ingressRate", 1e30, 6, "ingressRate"},
		{"ingressBurst", 5, 7, "ingressRate"}, {"ingressBurst", "x", 6, "ingressBurst"}, {"egressBurst", -1, 7, "egressRate"}, {"egressBurst", []int{}, 6, "egressBurst"},
		{"egressRate", -1, 7, "egressRate"}, {"egressRate", true, 6, "egressRate"}, {"portSecurity", "ip", 7, "portSecurity"}, {"portSecurity", 1, 7, "portSecurity"}, {"portSecurity", []string{long}, 7, "portSecurity"},
		{"runtimeConfig", fields{"bandwidth": fields{"ingressRate": 5}}, 7, "runtimeConfig.bandwidth.ingressRate"}, {"runtimeConfig", fields{"bandwidth": 5}, 6, "bandwidth"}, {"runtimeConfig", fields{"bandwidth": fields{"ingressRate": 1000, "ingressBurst": 34359738361}}, 7, "runtimeConfig.bandwidth.ingressBurst"},
		{"runtimeConfig", fields{"mac": "x"}, 7, "runtimeConfig.mac"}, {"runtimeConfig", 5, 6, "runtimeConfig"}, {"args", fields{"cni": fields{"mac": "x"}}, 7, "args.cni.mac"}, {"args", 5, 6, "args"},
		{"runtimeConfig", fields{"CNIDeviceInfoFile": "../x"}, 7, "CNIDeviceInfoFile"}, {"runtimeConfig", fields{"CNIDeviceInfoFile": "/tmp/../x"}, 7, "CNIDeviceInfoFile"},
		{"ipam", fields{"type": "../host-local"}, 7, "ipam"}, {"ipam", fields{"type": "no-such-plugin"}, 999, "no-such-plugin"}, {"ipam", 7, 6, "ipam"}, {"ipam", fields{"type": long}, 7, "ipam"},
		{"deviceID", "0000:03:02.0", 7, "deviceID"}, {"runtimeConfig", fields{"ips": []string{"10.0.0.1/24"}}, 7, "runtimeConfig.ips"}, {"runtimeConfig", fields{"ips": 5}, 6, "ips"}, {"prevResult", 5, 6, "prevResult"}, {"prevResult", fields{"cniVersion": "1.0.0", "interfaces": []any{nil}}, 6, "prevResult"},
		{"runDir", "relative", 7, "runDir"}, {"runDir", "/run/../etc", 7, "runDir"}, {"runDir", "/" + long, 7, "runDir"}, {"runDir", 5, 6, "runDir"},
		{"userspace", "yes", 6, "userspace"}, {"capabilities", 5, 6, "capabilities"}, {"dns", 5, 7, "dns"},
		{"vlan", 1.5, 6, "vlan"}, {"mtu", 1e30, 6, "mtu"}, {"queues", 1e30, 7, "queues"}, {"queues", long, 7, "queues"}, {"mac", long, 7, "mac"}, {"mac", "02:00:00:00:00:01\x00", 7, "mac"}, {"mode", long, 7, "mode"},
		{"trunk", []any{fields{"id": -1}}, 7, "trunk"}, {"trunk", []any{fields{"id": "x"}}, 6, "trunk"}, {"trunk", []any{fields{"minID": 1}}, 7, "trunk"}, {"trunk", []any{fields{"minID": 0, "maxID": 4095}}, 7, "trunk"}, {"trunk", make([]any, 5000), 7, "trunk"},
		{"socket", fields{"user": "x", "group": 1}, 6, "socket"}, {"socket", fields{"volume": "a\x00"}, 7, "socket.volume"}, {"socket", fields{"volume": 5}, 6, "socket"}, {"socket", fields{"mount": "/a\x00"}, 7, "socket.mount"}, {"socket", fields{"mount": "/" + strings.Repeat("x", 5000)}, 7, "socket.mount"},
		{"runtimeConfig", fields{"deviceID": "../x"}, 7, "deviceID"}, {"runtimeConfig", fields{"mac": 5}, 6, "mac"}, {"runtimeConfig", fields{"CNIDeviceInfoFile": "/a\x00"}, 7, "CNIDeviceInfoFile"}, {"args", fields{"cni": 5}, 6, "args"},
		{"ipam", fields{"type": 5}, 6, "ipam"}, {"ipam", fields{"type": "a\x00"}, 7, "ipam"}, {"ipam", fields{"type": ".."}, 7, "ipam"}, {"runDir", "/a\x00", 7, "runDir"}, {"disableCheck", "x", 6, "disableCheck"}, {"disableGC", "x", 6, "disableGC"}, {"capabilities", fields{"mac": 5}, 6, "capabilities"}, {"pciBusID", 5, 6, "pciBusID"}, {"cni.dev/valid-attachments", 5, 6, "valid-attachments"}, {"type", 5, 6, "type"},
		{"vlanId", 5, 2, "vlanId"}, {"../x", 5, 2, "../x"}, {long, 5, 2, "xxx"},
	}
	for _, tt := range tests {
		n.refused(t, p.env(n, "ADD"), with(t, good, tt.key, tt.value), tt.code, tt.text)
	}
	for _, verb := range []string{"CHECK", "DEL", "GC", "STATUS"} {
		for _, tt := range tests {
			text := with(t, with(t, with(t, good, "prevResult", fields{"cniVersion": "1.0.0"}), "cniVersion", "1.1.0"), tt.key, tt.value)
			if verb == "GC" && tt.key != "cni.dev/valid-attachments" {
				text = with(t, text, "cni.dev/valid-attachments", []any{fields{"containerID": kept.ContainerID, "ifname": kept.IfName}})
			}
			n.answered(t, p.env(n, verb), text)
		}
	}
	for _, prev := range []any{nil, 5, "x", []int{}, fields{}, fields{"cniVersion": 7}, fields{"cniVersion": "9.9"}, fields{"cniVersion": "1.0.0", "ips": 5}, fields{"cniVersion": "1.0.0", "interfaces": []any{fields{"name": "../x"}}}, fields{"cniVersion": "1.0.0", "ips": []any{fields{"address": long}}}} {
		n.refused(t, p.env(n, "CHECK"), with(t, good, "prevResult", prev), 0, "")
	}
	for _, valid := range []any{[]any{fields{"containerID": "../x", "ifname": "net1"}}, []any{fields{"containerID": kept.ContainerID, "ifname": "a\x00b"}}, []any{fields{"containerID": long + long, "ifname": "x"}}, []any{5}, []any{fields{"containerID": 5}}, nil} {
		n.refused(t, p.env(n, "GC"), with(t, with(t, good, "cniVersion", "1.1.0"), "cni.dev/valid-attachments", valid), 0, "")
	}
	if have := n.attachments(); len(have) != 1 || kept.check(list) != nil {
		t.Errorf("calls that were wrong have changed an interface of another pod: %+v", have)
	}
	check(t, kept.del(list))
	for _, text := range []string{"", "{", "null", "[]", "5", `{"name":"a"} x`} {
		n.refused(t, p.env(n, "ADD"), []byte(text), 0, "")
	}
	for _, env := range []struct{ name, value string }{
		{"CNI_CONTAINERID", ""}, {"CNI_CONTAINERID", "../x"}, {"CNI_CONTAINERID", long}, {"CNI_IFNAME", ""}, {"CNI_IFNAME", "a/b"}, {"CNI_IFNAME", ".."}, {"CNI_IFNAME", long},
		{"CNI_NETNS", ""}, {"CNI_NETNS", "relative"}, {"CNI_NETNS", "/etc/passwd"}, {"CNI_NETNS", "/no/such"}, {"CNI_NETNS", "/" + long}, {"CNI_NETNS", "/proc/self/ns/net"}, {"CNI_NETNS", "/proc/self/ns/mnt"},
		{"CNI_ARGS", "K8S_POD_UID=../../etc"}, {"CNI_ARGS", "K8S_POD_UID=" + long}, {"CNI_ARGS", "MAC=x"}, {"CNI_COMMAND", "DESTROY"},
	} {
		n.refused(t, append(p.env(n, "ADD"), env.name+"="+env.value), good, 0, "")
	}
	n.nothingLeft(p)
	check(t, p.del(n.network("1.0.0", "vhost-user", nil)))
}

// answered fails the test unless the plugin carries a call out, or refuses it as CNI wants it.
func (n *node) answered(t *testing.T, env []string, text []byte) {
	t.Helper()
	cmd := exec.Command(filepath.Join(n.bin, "millrace-cni"))
	cmd.Env, cmd.Stdin = env, strings.NewReader(string(text))
	if out, err := cmd.Output(); err != nil {
		var e types.Error
		if bad := json.Unmarshal(out, &e); bad != nil || e.Code == 0 || e.Msg == "" {
			t.Errorf("%s %.400s: no error of CNI: %v, %s", env[0], text, err, out)
		}
	}
}

// refused fails the test unless the plugin refuses a call as CNI wants it. Code 0 is
// any.
func (n *node) refused(t *testing.T, env []string, text []byte, code int, names string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(n.bin, "millrace-cni"))
	cmd.Env, cmd.Stdin = env, strings.NewReader(string(text))
	out, err := cmd.Output()
	var e struct {
		Version string `json:"cniVersion"`
		Code    int    `json:"code"`
		Msg     string `json:"msg"`
	}
	what := string(text[:min(len(text), 400)])
	if bad := json.Unmarshal(out, &e); bad != nil || err == nil || e.Code == 0 || e.Msg == "" {
		t.Errorf("%.400s\n%v: no error of CNI: %v, %s", what, env[len(env)-1], err, out)
		return
	}
	if code != 0 && e.Code != code || !strings.Contains(e.Msg, names) {
		t.Errorf("%s\ncode %d: %s; want code %d and %q", what, e.Code, e.Msg, code, names)
	}
}
