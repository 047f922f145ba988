package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"millrace/control/bridge"
	"millrace/dataplane/netnstest"
)

// TestL3Options: options are the flags of egress l3, and what is wrong with them is said.
func TestL3Options(t *testing.T) {
	const server = "IGWZYSAEYmh9FBzXHDUR9nHMIFTtP9TdyQIgBBpP7hE= a:1 10.99.0.1/24,10.98.0.0/24"
	const other = "2GWZYSAEYmh9FBzXHDUR9nHMIFTtP9TdyQIgBBpP7hE= b:2 10.97.0.1/32"
	good := map[string]string{
		"mode": "l3", "server": server + "; " + other, "private-key": "/k", "address": "10.99.0.2,fd99::2", "allow": "pods=10.0.0.0/8@1,2 services=10.1.0.0/16",
		"outward": "10.98.0.0/24", "mtu": "1400", "log-level": "debug", "port": "7", "listen": "127.0.0.1:0",
	}
	f, level, problems := l3Options(good)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got := fmt.Sprintln(f.peers[0].Endpoint, f.peers[1].Endpoint, f.peers[0].Prefixes, f.own, f.to, f.mtu, f.port, f.key, f.listen, level)
	if want := "a:1 b:2 [10.99.0.0/24 10.98.0.0/24] [10.99.0.2 fd99::2] [10.98.0.0/24] 1400 7 /k 127.0.0.1:0 debug\n"; got != want {
		t.Errorf("options make\n%s, want\n%s", got, want)
	}
	for part, change := range map[string][2]string{
		`unknown option "netns"`:   {"netns", "n"},
		`unknown option "device"`:  {"device", "d"},
		"is not an absolute path":  {"private-key", "2GWZYSAEYmh9"},
		"want KEY HOST:PORT":       {"server", "a:1"},
		"signs of life":            {"address", "fd99::2"},
		"mtu: 100 is not in":       {"mtu", "100"},
		"allow: ":                  {"allow", "pod=1"},
		"is neither":               {"mode", "l2"},
		`unknown option "token"`:   {"token", "/t"},
		"\"Kg==\" is no key":       {"server", strings.Replace(server, "IGWZYSAEYmh9FBzXHDUR9nHMIFTtP9TdyQIgBBpP7hE=", "Kg==", 1)},
		"log-level: unrecognized ": {"log-level", "loud"},
	} {
		options := map[string]string{change[0]: change[1]}
		for key, value := range good {
			if key != change[0] {
				options[key] = value
			}
		}
		if all := fmt.Sprint(checkAgentOptions(options)); !strings.Contains(all, part) || strings.Contains(all, "--") || change[0] == "private-key" && strings.Contains(all, change[1]) {
			t.Errorf("%s=%s: %s; want %q", change[0], change[1], all, part)
		}
	}
}

// TestTunnelPort has operators reach pods by a port of type egress with mode=l3, whose tunnel ends in
// a stack of its process and then in the kernel's.
func TestTunnelPort(t *testing.T) {
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	b := newTunnelLab(t, "")
	b.nodes[0].end(t, syscall.SIGTERM)
	b.serveHTTP(b.pod, 80)
	const ip = "10.9.0.13"
	for _, stack := range []string{bridge.StackOwn, bridge.StackKernel} {
		t.Run(stack, func(t *testing.T) {
			set := fmt.Sprintf("type=egress options:mode=l3 options:stack=%s options:ip=%s/24 options:private-key=%s options:address=10.99.0.2 options:allow=pods=10.9.0.0/29", stack, ip, b.keyFile("node1"))
			server := fmt.Sprintf("options:server=\"%s 198.51.100.2:51820 10.99.0.1/24,10.9.0.16/28\"", b.keys["server"].Public())
			vsctlWords(t, b.dir, append(strings.Fields("add-port br0 eg0 -- set Interface eg0 "+set), server)...)
			for _, p := range []*labPod{b.pod, b.shy} {
				p.Run("ip route replace 10.99.0.0/24 via %s", ip)
			}
			b.answers(b.pod.v4, testTimeout)
			if err := b.get(b.op, b.pod.v4+":80", dialTime); err != nil {
				t.Errorf("%v\n%s%s", err, must(t, b.dir, "drops"), must(t, b.dir, "egress", "status"))
			}
			b.silent(b.op, b.shy.v4)
			if r := run(t, "egress", "status", "--run-dir", b.dir); r.code != exitOK || !strings.Contains(r.out, "198.51.100.2:51820") {
				t.Errorf("status: %d, %s%s", r.code, r.out, r.err)
			}
			netnstest.Wait(t, func() string {
				if s := vsctl(t, b.dir, "get Interface eg0 status"); !strings.Contains(s, `servers="1 of 1"`) || !strings.Contains(s, `ready="true"`) {
					return "status of the row: " + s
				}
				return ""
			})
			vsctl(t, b.dir, "set Interface eg0 options:allow=pods=10.9.0.0/24")
			b.answers(b.shy.v4, testTimeout)
			vsctl(t, b.dir, "del-port br0 eg0")
			await(t, "the end of eg0", func() bool { return egressChild(t, b.dir, "eg0").Name == "" })
			b.silent(b.op, b.pod.v4)
		})
	}
}
