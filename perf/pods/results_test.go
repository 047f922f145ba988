package pods

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/control/cni/attach"
)

// resultKeys are what the CNI specification has in a result (section 5 of SPEC.md of each version), those that must be there first. The
// interfaces of 1.0.0 have what came with 1.1.0: runtimes and Multus read both alike.
func resultKeys(version string) map[string][2]string {
	keys := map[string][2]string{
		"result": {"cniVersion interfaces ips", "routes dns"}, "interface": {"name mac sandbox", "mtu socketPath"}, "ip": {"address interface", "gateway"}, "route": {"dst", "gw"},
	}
	switch version {
	case "0.3.1", "0.4.0":
		keys["interface"] = [2]string{"name mac sandbox", ""}
		keys["ip"] = [2]string{"version address interface", "gateway"}
	case "1.1.0":
		keys["route"] = [2]string{"dst", "gw mtu advmss priority table scope"}
	}
	return keys
}

// TestResults: what the plugin prints has the keys that the configuration's version of the specification has, and no others.
func TestResults(t *testing.T) {
	n := newNode(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		for _, kind := range []string{attach.TAP, attach.VhostUser} {
			p, conf := n.newPod(), n.conf(n.network(version, kind, nil))
			cmd := exec.Command(filepath.Join(n.bin, "millrace-cni"))
			cmd.Env, cmd.Stdin = p.env(n, "ADD"), bytes.NewReader(conf)
			text, err := cmd.Output()
			check(t, err)
			var r struct{ Interfaces, IPs, Routes []map[string]any }
			var whole map[string]any
			check(t, json.Unmarshal(text, &r))
			check(t, json.Unmarshal(text, &whole))
			if whole["cniVersion"] != version || len(r.Interfaces) != 1 || len(r.IPs) != 2 || len(r.Routes) != 1 {
				t.Errorf("%s %s: %s", version, kind, text)
			}
			hasKeys(t, version, "result", whole)
			for _, i := range r.Interfaces {
				hasKeys(t, version, "interface", i)
			}
			for i, ip := range r.IPs {
				hasKeys(t, version, "ip", ip)
				if family := []string{"4", "6"}[i]; ip["version"] != nil && ip["version"] != family {
					t.Errorf("%s: address %v", version, ip)
				}
			}
			for _, route := range r.Routes {
				hasKeys(t, version, "route", route)
			}
			_, err = n.plugin(p.env(n, "DEL"), conf)
			check(t, err)
		}
	}
	n.nothingLeft()
}

// hasKeys fails the test unless an object has the keys that it must have, and none that it must not.
func hasKeys(t *testing.T, version, what string, object map[string]any) {
	t.Helper()
	keys := resultKeys(version)[what]
	for _, k := range strings.Fields(keys[0]) {
		if object[k] == nil {
			t.Errorf("%s: %s without %s: %v", version, what, k, object)
		}
	}
	for k := range object {
		if !slices.Contains(strings.Fields(keys[0]+" "+keys[1]), k) {
			t.Errorf("%s: %s with %s: %v", version, what, k, object)
		}
	}
}
