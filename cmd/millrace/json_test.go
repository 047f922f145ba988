package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/dataplane/api"
)

// TestOptionsLine: options for people are in one order, too.
func TestOptionsLine(t *testing.T) {
	for range 20 {
		if got := optionsLine(map[string]string{"remote_ip": "192.0.2.2", "key": "7", "csum": "true"}); got != "csum=true key=7 remote_ip=192.0.2.2" {
			t.Fatal(got)
		}
	}
	if got := optionsLine(nil); got != "" {
		t.Errorf("no options: %q", got)
	}
}

// TestMapJSON: a port with options, as each of a pod's has, is an object like others, the same every time.
func TestMapJSON(t *testing.T) {
	for range 20 {
		text, err := json.Marshal(toJSON(&api.PortSpec{Options: map[string]string{"persist": "true", "netns": `/run/netns/"a"`, "up": "true"}}))
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ Options json.RawMessage }
		if err := json.Unmarshal(text, &v); err != nil || string(v.Options) != `{"netns":"/run/netns/\"a\"","persist":"true","up":"true"}` {
			t.Fatalf("%s, %v", text, err)
		}
	}
}

// TestJSONOfChanges: commands that print nothing for people say in JSON what they have done.
func TestJSONOfChanges(t *testing.T) {
	sw, dir := serveRows(t)
	fill(t, sw, dir)
	plugin, to := filepath.Join(dir, "plugin"), t.TempDir()
	if err := os.WriteFile(plugin, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, has string }{
		{"mac add br0 02:00:00:00:00:07 vm1 --vlan 10", `"mac": "02:00:00:00:00:07"`},
		{"mac del br0 02:00:00:00:00:07 --vlan 10", `"deleted": [`},
		{"mac flush br0", `"bridge": "br0"`},
		{"mac flush --port vm1", `"port": "vm1"`},
		{"egress genkey", `"private_key": "`},
		{"agent install --plugin " + plugin + " --to " + to, `"path": "` + filepath.Join(to, "plugin") + `"`},
	} {
		silent := must(t, dir, strings.Fields(tt.args)...)
		if !strings.HasPrefix(tt.args, "egress") && silent != "" {
			t.Errorf("millrace %s prints %q", tt.args, silent)
		}
		if strings.HasPrefix(tt.args, "mac del") {
			must(t, dir, "mac", "add", "br0", "02:00:00:00:00:07", "vm1", "--vlan", "10")
		}
		out := must(t, dir, append(strings.Fields(tt.args), "--json")...)
		checkJSON(t, out)
		if !strings.Contains(out, tt.has) {
			t.Errorf("millrace %s --json prints %s, want %s", tt.args, out, tt.has)
		}
	}
}
