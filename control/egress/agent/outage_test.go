package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"millrace/control/egress/konntest"
	"millrace/dataplane/sys"
)

// A cable is a veth pair to a network namespace, where a server listens.
type cable struct {
	t        *testing.T
	dev      string
	listener net.Listener
}

// newCable makes one. Its near end is called dev, and has the first address of
// the network with that number.
func newCable(t *testing.T, dev string, network int) *cable {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	name, far := dev+"ns", dev+"far"
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	ip("netns add " + name)
	t.Cleanup(func() { ip("netns del " + name) })
	ip("link add " + dev + " type veth peer name " + far + " netns " + name)
	t.Cleanup(func() { ip("link del " + dev) }) // by itself it would go a moment after its other end
	near, behind := fmt.Sprintf("198.51.100.%d", 4*network+1), fmt.Sprintf("198.51.100.%d", 4*network+2)
	ip("addr add " + near + "/30 dev " + dev)
	ip("link set " + dev + " up")
	ip("-n " + name + " addr add " + behind + "/30 dev " + far)
	ip("-n " + name + " link set " + far + " up")
	ns, err := os.Open("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var l net.Listener
	err = sys.InNetwork(ns, func() (err error) { l, err = net.Listen("tcp", behind+":0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	return &cable{t, dev, l}
}

// set cuts the cable without a word to either end, or joins it: up or down.
func (c *cable) set(state string) {
	c.t.Helper()
	if out, err := exec.Command("ip", "-n", c.dev+"ns", "link", "set", c.dev+"far", state).CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}

// Bounds of an outage: how long an agent may take to notice, and to be back after the
// return of its link.
const (
	mostUnnoticed = 15 * time.Second
	mostBack      = 3 * time.Second
)

// TestOutage: a link that is cut without a word is noticed, and usable soon
// after it is back. The server is told of the connections that have died, so it
// has no dial sent there: no request fails from then on.
func TestOutage(t *testing.T) {
	t.Parallel() // it waits, for the most part
	c := newCable(t, fmt.Sprintf("mreo%d", os.Getpid()%100000), 0)
	s := &konntest.Server{ID: "s1"}
	s.Serve(c.listener)
	t.Cleanup(s.Stop)
	r := start(t, nil, s)
	target := listen(t, echo)
	c.set("down")
	cut := time.Now()
	for r.Status().Ready {
		if time.Since(cut) > mostUnnoticed {
			t.Fatalf("the agent is ready, though its link has been cut for %v", mostUnnoticed)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("noticed after %v", time.Since(cut).Round(time.Millisecond))
	eventually(t, "all connections have been given up", func() bool { return r.linkCount() == 0 })
	least := 45 * time.Second // the outage that is promised to be survived
	if testing.Short() {
		least = 0
	}
	time.Sleep(max(3*time.Second, time.Until(cut.Add(least)))) // at least until attempts to connect have their longest pauses
	t.Logf("the link was out for %v", time.Since(cut).Round(time.Millisecond))
	c.set("up")
	back := time.Now()
	eventually(t, "the agent is back", func() bool { return r.Status().Ready })
	took := time.Since(back)
	t.Logf("back %v after the link", took.Round(time.Millisecond))
	if took > mostBack {
		t.Errorf("back %v after the link", took)
	}
	for range 20 {
		if err := probe(t, ways[0], s, target); err != nil {
			t.Error(err)
		}
	}
}

// TestShortCut: after a cut that no connection dies of, what is open goes on, and
// new requests do not wait until the server's kernel tries again on connections
// that were cut.
func TestShortCut(t *testing.T) {
	t.Parallel()
	c := newCable(t, fmt.Sprintf("mrec%d", os.Getpid()%100000), 1)
	s := &konntest.Server{ID: "s1"}
	s.Serve(c.listener)
	t.Cleanup(s.Stop)
	start(t, nil, s)
	target := listen(t, echo)
	long, err := s.DialHTTP(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	exchange := func() {
		t.Helper()
		_ = long.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := long.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(long, make([]byte, 1)); err != nil {
			t.Fatalf("a connection that was open does not go on: %v", err)
		}
	}
	exchange()
	c.set("down")
	cut := time.Now()
	attempts := func() error { // one, which is given up after a second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := s.DialHTTP(t, ctx, target)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	for time.Since(cut) < 7*time.Second {
		if attempts() == nil {
			t.Fatal("a request comes through a link that is cut")
		}
	}
	c.set("up")
	back := time.Now()
	eventually(t, "a request comes through", func() bool { return attempts() == nil })
	t.Logf("usable %v after the link", time.Since(back).Round(time.Millisecond))
	if took := time.Since(back); took > mostBack {
		t.Errorf("usable %v after the link", took)
	}
	exchange()
}
