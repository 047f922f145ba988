package pods

import (
	"encoding/json"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// conf is what the one plugin of a list gets on its standard input.
func (n *node) conf(list *libcni.NetworkConfigList) []byte {
	n.t.Helper()
	var m map[string]any
	check(n.t, json.Unmarshal(list.Plugins[0].Bytes, &m))
	m["name"], m["cniVersion"] = list.Name, list.CNIVersion
	text, err := json.Marshal(m)
	check(n.t, err)
	return text
}

// env is the plugin's environment.
func (p *pod) env(n *node, verb string) []string {
	return []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.ContainerID, "CNI_NETNS=" + p.NetNS, "CNI_IFNAME=" + p.IfName, "CNI_PATH=" + n.bin + ":" + ipamDir,
		"CNI_ARGS=IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + p.ContainerID[:8] + ";K8S_POD_UID=" + p.Args[3][1], "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
	}
}

// with is a list's configuration with other values.
func with(t testing.TB, text []byte, key string, value any) []byte {
	t.Helper()
	var m map[string]any
	check(t, json.Unmarshal(text, &m))
	if m[key] = value; value == nil {
		delete(m, key)
	}
	out, err := json.Marshal(m)
	check(t, err)
	return out
}
