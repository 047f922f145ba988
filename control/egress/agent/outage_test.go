package agent

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"millrace/control/egress/konntest"
	"millrace/dataplane/sys"
)

// listenBehind makes a network namespace at the other end of a veth pair, and
// listens there. The near end is called dev.
func listenBehind(t *testing.T, dev string) net.Listener {
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
	t.Cleanup(func() { ip("netns del " + name) }) // takes the pair with it
	ip("link add " + dev + " type veth peer name " + far + " netns " + name)
	ip("addr add 198.51.100.1/30 dev " + dev)
	ip("link set " + dev + " up")
	ip("-n " + name + " addr add 198.51.100.2/30 dev " + far)
	ip("-n " + name + " link set " + far + " up")
	ns, err := os.Open("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close() //nolint:errcheck // nothing is lost
	var l net.Listener
	err = sys.InNetwork(ns, func() (err error) { l, err = net.Listen("tcp", "198.51.100.2:0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestOutage: a link that is cut without a word is noticed, and usable soon
// after it is back.
func TestOutage(t *testing.T) {
	t.Parallel() // it waits, for the most part
	dev := fmt.Sprintf("mreo%d", os.Getpid()%100000)
	s := &konntest.Server{ID: "s1"}
	s.Serve(listenBehind(t, dev))
	t.Cleanup(s.Stop)
	r := start(t, nil, s)
	if out, err := exec.Command("ip", "-n", dev+"ns", "link", "set", dev+"far", "down").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cut := time.Now()
	for r.Status().Ready {
		if time.Since(cut) > 20*time.Second {
			t.Fatal("the agent is ready, though its link has been cut for 20 s")
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("noticed after %v", time.Since(cut).Round(time.Millisecond))
	time.Sleep(time.Until(cut.Add(16 * time.Second))) // until connections have been given up, too
	if out, err := exec.Command("ip", "-n", dev+"ns", "link", "set", dev+"far", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	back := time.Now()
	eventually(t, "the agent is back", func() bool { return r.Status().Ready })
	took := time.Since(back)
	t.Logf("back %v after the link", took.Round(time.Millisecond))
	if took > 5*time.Second { // 3 s, and what a busy machine adds
		t.Errorf("back %v after the link", took)
	}
	if err := probe(t, ways[0], s, listen(t, echo)); err != nil {
		t.Error(err)
	}
}
