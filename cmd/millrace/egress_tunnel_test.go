package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/control/egress/l3"
)

// TestGoldenTunnel: what people see of tunnels.
func TestGoldenTunnel(t *testing.T) {
	dir := t.TempDir()
	for _, args := range []string{"egress", "egress l3", "egress l3 status", "egress genkey", "egress pubkey", "egress-server", "egress-server status"} {
		out := must(t, dir, append(strings.Fields(args), "--help")...)
		out = regexp.MustCompile(`\(default "/[^"]*"\)`).ReplaceAllString(out, `(default "RUN-DIR")`)
		golden(t, args+" --help", out)
	}
	s := l3.Status{Key: "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=", Port: 51820, MTU: 1420, Ready: true,
		Packets: l3.Packets{In: 12345, Out: 54321}, Dropped: map[string]uint64{"denied": 3, "source": 1, "no_route": 0, "datagram": 7}, Kinds: map[string]uint64{"data": 70},
		Peers: []l3.PeerStatus{
			{Name: "edge-1", Up: true, Endpoint: "198.51.100.1:4242", Handshake: 61 * time.Second, Seen: 300 * time.Millisecond, Sent: 1 << 20, Received: 5000,
				Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.2/32"), netip.MustParsePrefix("10.16.0.0/16")}},
			{Name: "alice", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.50/32")}},
		}}
	show := func(name string, json bool, s l3.Status) {
		var out bytes.Buffer
		if err := (&app{out: &out, json: json}).showTunnel(s); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
	show("egress-server_status", false, s)
	show("egress-server_status --json", true, s)
	show("egress_l3_status", false, l3.Status{Key: s.Key, MTU: 1420, Trouble: "no server has answered in the last 10 s", Peers: []l3.PeerStatus{{Name: "vpn.example:51820", RTT: 1234567, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}}}})
}

func TestTunnelKeysOfPrograms(t *testing.T) {
	r := run(t, "egress", "genkey")
	k, err := l3.ParseKey(strings.TrimSpace(r.out))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := &app{version: "9.9.9", in: strings.NewReader(r.out), out: &out, err: &out, newSwitch: newSwitch, types: portTypes()}
	if code := a.main(t.Context(), []string{"egress", "pubkey"}); code != 0 || strings.TrimSpace(out.String()) != k.Public().String() {
		t.Errorf("exit code %d, %q; want %s", code, out.String(), k.Public())
	}
	out.Reset()
	a.in = strings.NewReader(r.out)
	if code := a.main(t.Context(), []string{"egress", "pubkey", "--json"}); code != 0 || !strings.Contains(out.String(), `"public_key": "`+k.Public().String()+`"`) {
		t.Errorf("in JSON: exit code %d, %q", code, out.String())
	}
	out.Reset()
	a.json, a.in = false, strings.NewReader("nonsense\n")
	if code := a.main(t.Context(), []string{"egress", "pubkey"}); code != exitError || !strings.Contains(out.String(), "is no key") {
		t.Errorf("nonsense: exit code %d, %q", code, out.String())
	}
}

func TestTunnelUsage(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("key", l3.NewKey().String()+"\n")
	public := l3.NewKey().Public().String()
	server := func(text string) []string {
		return []string{"egress", "l3", "--private-key", key, "--netns", "x", "--address", "10.99.0.2", "--server", text}
	}
	good := public + " a:1 10.99.0.1/24"
	for part, args := range map[string][]string{
		"--private-key: no file":   {"egress", "l3"},
		"--server: none":           {"egress", "l3", "--private-key", key},
		"--netns: say":             {"egress", "l3", "--private-key", key, "--server", good, "--address", "10.99.0.2"},
		"--address: none":          {"egress", "l3", "--private-key", key, "--server", good, "--netns", "x"},
		"want KEY HOST:PORT":       server("a b"),
		"is no key":                server("abc a:1 10.99.0.1/24"),
		"missing port":             server(public + " a 10.99.0.1/24"),
		"such as 10.99.0.1/24":     server(public + " a:1 10.99.0.0/24"),
		"no --address is of its":   server(public + " a:1 fd99::1/64"),
		"ParsePrefix":              server(public + " a:1 10.99.0.1"),
		"--mtu: 100 is not in":     append(server(good), "--mtu", "100"),
		`--allow: rule "pod=10.0"`: append(server(good), "--allow", "pod=10.0"),
		"--config: no file":        {"egress-server"},
		"read the roster":          {"egress-server", "--config", filepath.Join(dir, "none")},
		"port: it must be":         {"egress-server", "--config", write("r1", "private_key: key\n")},
		"is that of a":             {"egress-server", "--config", write("r2", "private_key: key\nport: 1\naddresses: [192.0.2.1]\nnodes: [{name: a, keys: ["+public+"], prefixes: [10.0.0.0/8]}, {name: b, keys: ["+public+"], prefixes: [10.0.0.0/9]}]")},
	} {
		if r := run(t, append(args, "--run-dir", dir)...); r.code != exitUsage || !strings.Contains(r.err, part) {
			t.Errorf("%v: exit code %d, %s; want %q", args, r.code, r.err, part)
		}
	}
	for _, args := range [][]string{{"egress", "l3", "status"}, {"egress-server", "status"}} {
		if r := run(t, append(args, "--run-dir", dir)...); r.code != exitNotRunning || !strings.Contains(r.err, "start one with `millrace "+strings.Join(args[:len(args)-1], " ")+"`") {
			t.Errorf("%v without one: exit code %d, %s", args, r.code, r.err)
		}
	}
	r := run(t, append(server(good), "--run-dir", dir, "--netns", filepath.Join(dir, "none"))...)
	if r.code != exitError || !strings.Contains(r.err, "ip netns list") {
		t.Errorf("a namespace that is not there: exit code %d, %s", r.code, r.err)
	}
}
