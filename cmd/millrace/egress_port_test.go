package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"millrace/control"
	"millrace/control/egress/konntest"
	"millrace/dataplane/service"
	"millrace/supervise"
)

// TestAgentOptions: options are the flags of egress agent, and what is wrong with
// them is said, all of it.
func TestAgentOptions(t *testing.T) {
	good := map[string]string{
		"server": "a:1,b:2 c:3", "ca": "/ca.crt", "cert": "/a.crt", "key": "/a.key", "token": "/token", "alpn": "x,y", "udp": "true",
		"allow": "pods=10.0.0.0/8@1,2 node=192.0.2.1", "dns": "10.96.0.10:53", "host": "a=192.0.2.1 b=192.0.2.2,192.0.2.3", "connections": "3",
		"drain-timeout": "1m", "identifiers": "default-route=true", "log-level": "debug", "listen": "127.0.0.1:0", "node-name": "n",
	}
	f, level, problems := agentOptions(good)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	c := f.cfg
	got := fmt.Sprintln(c.Servers, c.Files, c.Links, c.DrainTimeout, c.Static, c.Identifiers(), c.Name, f.dns, f.listen, level)
	if want := "[a:1 b:2 c:3] {/ca.crt /a.crt /a.key /token [x y]} 3 1m0s map[a:[192.0.2.1] b:[192.0.2.2 192.0.2.3]] default-route=true n 10.96.0.10:53 127.0.0.1:0 debug\n"; got != want {
		t.Errorf("options make\n%s, want\n%s", got, want)
	}
	for part, options := range map[string]map[string]string{
		`unknown option "colour"; unknown option "netns"`: {"server": "a:1", "colour": "red", "netns": "n"},
		`rule "pod=1"`:                 {"server": "a:1", "insecure": "true", "allow": "pod=1"},
		"ca: none is given":            {"server": "a:1"},
		"server: none is given":        {"insecure": "true"},
		"missing port":                 {"server": "a", "insecure": "true"},
		"not an absolute path":         {"server": "a:1", "ca": "ca.crt"},
		`connections: strconv`:         {"server": "a:1", "insecure": "true", "connections": "many"},
		"dns: \"x\" is not":            {"server": "a:1", "insecure": "true", "dns": "x"},
		"log-level: unrecognized":      {"server": "a:1", "insecure": "true", "log-level": "loud"},
		`unknown option "ready-fd"`:    {"server": "a:1", "insecure": "true", "ready-fd": "3"},
		"drain-timeout: time: invalid": {"server": "a:1", "insecure": "true", "drain-timeout": "soon"},
	} {
		var texts []string
		for _, p := range checkAgentOptions(options) {
			texts = append(texts, p.Error())
		}
		if all := strings.Join(texts, "; "); !strings.Contains(all, part) || strings.Contains(all, "--") {
			t.Errorf("%v: %s; want %q", options, all, part)
		}
	}
}

// egressChild is the process of an egress port, as the supervisor tells.
func egressChild(t *testing.T, dir, name string) supervise.Child {
	t.Helper()
	for _, c := range statusOf(t, dir).Children {
		if c.Name == "egress "+name {
			return c
		}
	}
	return supervise.Child{}
}

// TestEgressPorts: each port of type egress has a process, which comes and goes with
// its row and outlives the supervisor; commands choose among several.
func TestEgressPorts(t *testing.T) {
	s := &konntest.Server{ID: "server-1"}
	s.Start(t, "127.0.0.1:0")
	dir := t.TempDir()
	t.Cleanup(func() { // what a killed supervisor leaves
		for _, name := range []string{"eg0", "eg1"} {
			if pid, err := service.HolderOf(filepath.Join(dir, control.EgressDir), name+".lock"); err == nil && pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	p := startSwitch(t, dir)
	add := func(name, ip string) result {
		return run(t, "port", "add", "br0", name, "--run-dir", dir, "--type", "egress", "--ip", ip, "--option", "server="+s.Addr(),
			"--option", "insecure=true", "--option", "drain-timeout=100ms", "--option", "allow=pods=10.0.0.0/8", "--wait=30s")
	}
	for name, ip := range map[string]string{"eg0": "10.0.0.2/24", "eg1": "10.0.0.3/24"} {
		if r := add(name, ip); r.code != exitOK {
			t.Fatalf("port add %s: %s", name, r.err)
		}
		await(t, "status of "+name, func() bool { return run(t, "egress", "status", "--run-dir", dir, "--port", name).code == exitOK })
	}
	if r := run(t, "egress", "status", "--run-dir", dir); r.code != exitError || !strings.Contains(r.err, "--port: eg0, eg1") {
		t.Errorf("status of several: %d, %s", r.code, r.err)
	}
	for _, args := range [][]string{{"egress", "status", "--port", ""}, {"egress", "port", ""}} {
		if out := run(t, append([]string{"__complete", "--run-dir", dir}, args...)...).out; !strings.HasPrefix(out, "eg0\neg1\n") {
			t.Errorf("completion of %v: %q", args, out)
		}
	}
	if r := run(t, "egress", "explain", "10.0.0.9:80", "--run-dir", dir, "--port", "eg1"); r.code != exitOK || !strings.Contains(r.out, "pods") || !strings.Contains(r.out, "eg1") {
		t.Errorf("explain: %d, %s%s", r.code, r.out, r.err)
	}
	if r := run(t, "egress", "status", "--run-dir", dir, "--port", "eg2"); r.code != exitNotRunning || !strings.Contains(r.err, "there are: eg0, eg1") {
		t.Errorf("status of no port: %d, %s", r.code, r.err)
	}
	if r := add("eg2", "10.0.0.4"); r.code != exitUsage || !strings.Contains(r.err, "--ip") {
		t.Errorf("a bad address: %d, %s", r.code, r.err)
	}
	if out := must(t, dir, "status"); !strings.Contains(out, "egress eg0") {
		t.Errorf("status does not tell of egress ports:\n%s", out)
	}

	// Users see the type that they gave; to the dataplane it is another.
	for _, args := range []string{"port list", "port show eg0"} {
		if out := must(t, dir, strings.Fields(args)...); !strings.Contains(out, "egress ") && !strings.Contains(out, "egress, a dpdkvhostuser port") {
			t.Errorf("%s:\n%s", args, out)
		}
	}
	var shown struct {
		Type string
		Spec struct{ Type string }
	}
	if err := json.Unmarshal([]byte(must(t, dir, "port", "show", "eg0", "--json")), &shown); err != nil || shown.Type != "egress" || shown.Spec.Type != "dpdkvhostuser" {
		t.Errorf("port show --json: %+v, %v", shown, err)
	}

	was := egressChild(t, dir, "eg0").PID
	p.end(t, syscall.SIGKILL)
	startSwitch(t, dir)
	await(t, "adoption", func() bool { return egressChild(t, dir, "eg0").State == supervise.Running })
	if c := egressChild(t, dir, "eg0"); c.PID != was || !c.Adopted {
		t.Errorf("process %d has become %+v", was, c)
	}
	must(t, dir, "port", "del", "eg1")
	await(t, "the end of eg1", func() bool { return egressChild(t, dir, "eg1").Name == "" })
	if r := run(t, "egress", "status", "--run-dir", dir); r.code != exitOK {
		t.Errorf("status of the only port: %d, %s", r.code, r.err)
	}
	if c := egressChild(t, dir, "eg0"); c.PID != was {
		t.Errorf("process %d has become %d when another ended", was, c.PID)
	}
	must(t, dir, "port", "del", "eg0")
	await(t, "the end of eg0", func() bool { return egressChild(t, dir, "eg0").Name == "" })
}
