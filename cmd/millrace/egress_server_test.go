package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"millrace/control/egress/l3"
	"millrace/control/egress/l3/packet"
	"millrace/dataplane/netnstest"
)

// TestRosterWithoutRoute: a file with a node whose route another device of the server's host
// has changes nothing, although it is tried again and again: flows that are known stay.
func TestRosterWithoutRoute(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	member := func(name, prefix string) string {
		return fmt.Sprintf("- {name: %s, keys: [%s], prefixes: [%s]}\n", name, l3.NewKey().Public(), prefix)
	}
	node := member("n1", "10.9.0.0/24")
	roster := "private_key: key\nport: 51827\naddresses: [10.99.0.1]\ndevice: mrs0\noperators:\n" + member("op", "10.99.0.50/32") + "nodes:\n"
	write("key", l3.NewKey().String())
	write("roster", roster+node)
	f := &rosterFile{name: filepath.Join(dir, "roster"), log: zap.NewNop()}
	if _, err := f.load(); err != nil {
		t.Fatal(err)
	}
	tunnel, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); tunnel.Run(ctx) }()
	defer func() { stop(); <-ended }()

	op, pod := netip.MustParseAddr("10.99.0.50"), netip.MustParseAddr("10.9.0.1")
	judge := func(b []byte) l3.Verdict {
		v := make([]l3.Verdict, 1)
		f.guard.Inward([][]byte{b}, v)
		return v[0]
	}
	ask := packet.Echo(op, pod, 7, 1)
	reply := packet.Echo(op, pod, 7, 1)
	p, _ := packet.Parse(reply)
	p.Answer(reply)
	if v := judge(ask); v != l3.Relay {
		t.Fatalf("the operator's echo: %v", v)
	}

	netnstest.IP(t, "route add blackhole 10.8.0.0/24")
	defer netnstest.IP(t, "route del blackhole 10.8.0.0/24")
	write("new", roster+node+member("n2", "10.8.0.0/24"))
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "roster")); err != nil {
		t.Fatal(err)
	}
	await(t, "what is wrong with the file", func() bool { return strings.Contains(tunnel.Status().Trouble, "10.8.0.0/24") })
	for range 3 { // looks at the file
		time.Sleep(600 * time.Millisecond)
		if v := judge(reply); v != l3.Relay {
			t.Fatalf("the reply of a flow that is known: %v", v)
		}
	}
	if n := len(tunnel.Status().Peers); n != 2 {
		t.Errorf("%d peers", n)
	}
}
