package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/egress/konntest"
	"millrace/control/egress/netstack"
	"millrace/dataplane/tap/taptest"
	"millrace/supervise"
)

// An egressRig is a switch with a pod, whose egress port serves a proxy-server that
// is in the network namespace of the switch.
type egressRig struct {
	*switchRun
	pod    *taptest.Namespace
	server *konntest.Server
}

const podSize = 8 << 20 // bytes that the pod answers with

// newEgressRig starts a switch. The pod has 10.7.0.1 and answers at port 80.
func newEgressRig(t *testing.T) *egressRig {
	t.Helper()
	need(t, "ovs-vsctl")
	needRoot(t)
	r := &egressRig{switchRun: beginIn(t, syscall.CLONE_NEWNET, "run"), pod: pause(t), server: &konntest.Server{ID: "server"}}
	host := netnsOf(r.cmd.Process.Pid)
	host.Run(t, "ip", "link", "set", "dev", "lo", "up")
	host.Do(t, func() error { r.server.Start(t, "127.0.0.1:8132"); return nil })
	r.cli("port", "add", "br0", "pod", "--type", "tap", "--netns", r.pod.Path, "--ip", "10.7.0.1/24", "--wait=10s")
	for at, where := range map[string]*taptest.Namespace{"10.7.0.1:80": r.pod, "127.0.0.1:10250": host} {
		var l net.Listener
		where.Do(t, func() (err error) { l, err = net.Listen("tcp", at); return err })
		answer(t, l, map[string]int64{"10.7.0.1:80": podSize, "127.0.0.1:10250": 1000}[at])
	}
	return r
}

// vsctl runs ovs-vsctl on the switch's database.
func (r *egressRig) vsctl(args ...string) string {
	r.t.Helper()
	out, err := exec.Command("ovs-vsctl", append([]string{"--db", "unix:" + r.path("db.sock"), "--timeout=20"}, args...)...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("ovs-vsctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// addEgress adds port eg0 as ovs-vsctl does.
func (r *egressRig) addEgress(options ...string) {
	r.t.Helper()
	r.vsctl(append([]string{"add-port", "br0", "eg0", "--", "set", "Interface", "eg0", "type=egress", `options:ip="10.7.0.2/24"`,
		`options:server="127.0.0.1:8132"`, "options:insecure=true", "options:drain-timeout=500ms",
		`options:allow="pods=10.7.0.0/24@80,81 node=127.0.0.1@10250"`}, options...)...)
	r.connected()
}

func (r *egressRig) connected() {
	r.t.Helper()
	eventually(r.t, func() bool { _, ready := r.server.Backends(); return ready > 0 }, "an agent at the server")
}

// fetch gets bytes of a target through the tunnel, and returns how many came.
func (r *egressRig) fetch(target string) (int64, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	c, err := r.server.DialGRPC(r.t, ctx, target)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	return ask(c)
}

// answers waits until the pod answers through the tunnel, and returns how long that
// took. It is to be 3 seconds at most; a busy machine has some more.
func (r *egressRig) answers() time.Duration {
	r.t.Helper()
	start := time.Now()
	defer func() {
		if d := time.Since(start); d > 10*time.Second {
			r.t.Errorf("the pod answers after %v", d)
		}
	}()
	eventually(r.t, func() bool { n, err := r.fetch("10.7.0.1:80"); return err == nil && n == podSize }, "an answer of the pod")
	return time.Since(start)
}

// child is a process of the supervisor.
func (r *egressRig) child(name string) supervise.Child {
	s, err := supervise.ReadStatus(r.dir)
	check(r.t, err)
	for _, c := range s.Children {
		if c.Name == name {
			return c
		}
	}
	return supervise.Child{}
}

// running waits until a process that is not pid runs.
func (r *egressRig) running(name string, not int) supervise.Child {
	r.t.Helper()
	var c supervise.Child
	eventually(r.t, func() bool { c = r.child(name); return c.State == supervise.Running && c.PID != not }, "a process %s that is not %d", name, not)
	return c
}

// TestEgressPort has a control plane reach a pod and the node by a port of type
// egress, with each stack: rows configure it, and say how it is.
func TestEgressPort(t *testing.T) {
	for _, stack := range []string{"netstack", "kernel"} {
		t.Run(stack, func(t *testing.T) {
			r := newEgressRig(t)
			r.addEgress("options:stack="+stack, `mac="02:00:00:00:07:02"`)
			r.answers()
			if n, err := r.fetch("127.0.0.1:10250"); err != nil || n != 1000 {
				t.Errorf("the node: %d bytes, %v", n, err)
			}
			for target, part := range map[string]string{"10.7.0.1:81": "connection refused", "10.7.0.1:22": "other ports", "10.8.0.1:80": "no rule"} {
				if _, err := r.fetch(target); err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v; want %q", target, err, part)
				}
			}
			r.tells()
			r.follows()
			r.ends()
		})
	}
}

// tells looks at what rows and commands say of the port.
func (r *egressRig) tells() {
	t := r.t
	t.Helper()
	eventually(t, func() bool { return strings.Contains(r.vsctl("get", "Interface", "eg0", "status"), `ready="true"`) }, "status:ready")
	for column, want := range map[string]string{"link_state": "up", "mac_in_use": `"02:00:00:00:07:02"`, "error": "[]"} {
		if got := r.vsctl("get", "Interface", "eg0", column); got != want {
			t.Errorf("%s of the row is %s, want %s", column, got, want)
		}
	}
	if got := r.vsctl("get", "Interface", "eg0", "status:servers"); got != `"1 of 1"` {
		t.Errorf("status:servers is %s", got)
	}
	eventually(t, func() bool {
		n, _ := strconv.Atoi(r.vsctl("--if-exists", "get", "Interface", "eg0", "statistics:rx_bytes"))
		return n > 0
	}, "statistics")
	for _, args := range [][]string{{"egress", "status"}, {"egress", "status", "--port", "eg0"}} {
		if out := string(r.cli(args...)); !strings.Contains(out, "ready, 1 of 1 servers") {
			t.Errorf("%v:\n%s", args, out)
		}
	}
	if out := string(r.cli("egress", "requests", "--port", "eg0")); !strings.Contains(out, "10.7.0.1:80") {
		t.Errorf("requests:\n%s", out)
	}
}

// follows changes options: the policy while the process runs, other settings by a
// new one.
func (r *egressRig) follows() {
	t := r.t
	t.Helper()
	was := r.running("egress eg0", 0)
	r.vsctl("set", "Interface", "eg0", `options:allow="pods=10.7.0.0/24@80"`)
	eventually(t, func() bool {
		_, err := r.fetch("127.0.0.1:10250")
		return err != nil && strings.Contains(err.Error(), "no rule")
	}, "another policy")
	r.answers()
	if now := r.child("egress eg0"); now.PID != was.PID {
		t.Errorf("process %d has become %d for another policy", was.PID, now.PID)
	}
	r.vsctl("set", "Interface", "eg0", `options:ip="10.7.0.3/24"`)
	now := r.running("egress eg0", was.PID)
	if r.answers(); now.LastExit != "exit status 0" {
		t.Errorf("the process for other settings ended with %s", now.LastExit)
	}
	var q struct {
		Ended []struct {
			Local, State string
		} `json:"ended"`
	}
	eventually(t, func() bool { // a client hears of the end before the account is taken
		check(t, json.Unmarshal(r.cli("egress", "requests", "--json"), &q))
		return len(q.Ended) > 0
	}, "a request after another address has ended")
	if !strings.HasPrefix(q.Ended[0].Local, "10.7.0.3:") {
		t.Errorf("requests after another address: %+v", q.Ended)
	}
}

// ends makes the port a bad one, a good one, and deletes it: nobody else notices.
func (r *egressRig) ends() {
	t := r.t
	t.Helper()
	pod := r.port("pod").GetNumber()
	r.vsctl("set", "Interface", "eg0", "options:colour=red", `options:allow="pod=1"`)
	out := r.vsctl("--columns=error,ofport", "list", "Interface", "eg0")
	for _, part := range []string{`colour`, "options", "-1"} {
		if !strings.Contains(out, part) {
			t.Errorf("the row of a bad port does not say %q:\n%s", part, out)
		}
	}
	eventually(t, func() bool { return r.child("egress eg0").Name == "" }, "no process of the bad port")
	r.vsctl("remove", "Interface", "eg0", "options", "colour", "--", "set", "Interface", "eg0", `options:allow="pods=10.7.0.0/24"`)
	r.connected()
	r.answers()
	r.vsctl("del-port", "eg0")
	eventually(t, func() bool { return r.child("egress eg0").Name == "" }, "no process of the deleted port")
	eventually(t, func() bool { _, ready := r.server.Backends(); return ready == 0 }, "no agent at the server")
	if left, _ := filepath.Glob(r.path("egress/*")); len(left) != 1 || filepath.Base(left[0]) != "eg0.lock" {
		t.Errorf("left of the port: %v", left)
	}
	if _, err := os.Stat("/run/netns/egress-eg0"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the port's network namespace is left: %v", err)
	}
	if n := r.port("pod").GetNumber(); n != pod {
		t.Errorf("the pod's port %d has become %d", pod, n)
	}
}

// TestEgressDeaths kills what a port of type egress depends on, and itself: others
// forward on, and it serves again within 3 seconds. What does not depend on control
// does not notice.
func TestEgressDeaths(t *testing.T) {
	for _, stack := range []string{"netstack", "kernel"} {
		t.Run(stack, func(t *testing.T) {
			r := newEgressRig(t)
			r.addEgress("options:stack=" + stack)
			r.answers()
			other := pause(t)
			r.cli("port", "add", "br0", "other", "--type", "tap", "--netns", other.Path, "--ip", "10.7.0.9/24", "--wait=10s")
			check(t, other.Ping(t, netip.MustParseAddr("10.7.0.1"), 100, patience))

			was := r.running("egress eg0", 0)
			check(t, syscall.Kill(was.PID, syscall.SIGKILL))
			check(t, other.Ping(t, netip.MustParseAddr("10.7.0.1"), 100, time.Second))
			now := r.running("egress eg0", was.PID)
			r.connected()
			t.Logf("served %v after its process was killed", r.answers())

			check(t, syscall.Kill(r.running("control", 0).PID, syscall.SIGKILL))
			if n, err := r.fetch("10.7.0.1:80"); err != nil || n != podSize {
				t.Errorf("with control dead: %d bytes, %v", n, err)
			}
			r.crash()
			t.Logf("served %v after the dataplane was there again", r.answers())
			if c := r.child("egress eg0"); c.PID != now.PID {
				t.Errorf("process %d has become %d when others died", now.PID, c.PID)
			}
		})
	}
}

// TestEgressDialsWait kills the dataplane, and has requests made while there is none: each is
// answered when the next dataplane has the port.
func TestEgressDialsWait(t *testing.T) {
	for _, stack := range []string{"netstack", "kernel"} {
		t.Run(stack, func(t *testing.T) {
			r := newEgressRig(t)
			r.addEgress("options:stack="+stack, "options:dial-timeout=50s") // a busy machine takes its time
			r.answers()
			old, killed := r.dataplane(), time.Now()
			check(t, syscall.Kill(old, syscall.SIGKILL))
			done := make(chan error, 10)
			for range cap(done) {
				go func() { done <- r.request("10.7.0.1:80") }()
				time.Sleep(5 * time.Millisecond)
			}
			eventually(t, func() bool { r.dial(); return r.dataplane() != old }, "another dataplane than %d", old)
			t.Logf("another dataplane after %v", time.Since(killed))
			for range cap(done) {
				if err := <-done; err != nil {
					t.Errorf("a request while there was no dataplane: %v", err)
				}
			}
			t.Logf("all answered after %v", time.Since(killed))
		})
	}
}

// request has the pod answer one connection, however long that takes.
func (r *egressRig) request(target string) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	c, err := r.server.DialHTTP(r.t, ctx, target)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	n, err := ask(c)
	if err == nil && n != podSize {
		err = fmt.Errorf("%d bytes of %d came", n, int64(podSize))
	}
	return err
}

// TestEgressGuest has a port of type egress reach a pod on vhost-user that has a
// TCP/IP stack of its own: what no kernel has a way to.
func TestEgressGuest(t *testing.T) {
	r := newEgressRig(t)
	r.addEgress()
	r.cli("port", "add", "br0", "vm", "--type", "dpdkvhostuser")
	guest := guestStack(t, r.path("vm"), "10.7.0.20/24", 20)
	const size = 1 << 30
	l, err := guest.Listen(netip.MustParseAddrPort("10.7.0.20:80"))
	check(t, err)
	answer(t, l, size)
	start := time.Now()
	n, err := r.fetchAll("10.7.0.20:80")
	if check(t, err); n != size {
		t.Fatalf("%d bytes of %d came", n, int64(size))
	}
	t.Logf("%.2f Gbit/s from a pod on vhost-user through switch, port and tunnel", 8*float64(n)/time.Since(start).Seconds()/1e9)

	r.cli("port", "add", "br0", "probe", "--type", "dpdkvhostuser")
	probe := guestStack(t, r.path("probe"), "10.7.0.21/24", 21)
	for range 3 {
		start = time.Now()
		c, err := probe.DialContext(t.Context(), "tcp", "10.7.0.20:80")
		check(t, err)
		n, err = ask(c)
		if check(t, err); n != size {
			t.Fatalf("%d bytes of %d came", n, int64(size))
		}
		t.Logf("%.2f Gbit/s, one flow, from stack to stack through the switch", 8*float64(n)/time.Since(start).Seconds()/1e9)
	}
}

// fetchAll is fetch for as long as it takes.
func (r *egressRig) fetchAll(target string) (int64, error) {
	c, err := r.server.DialGRPC(r.t, r.t.Context(), target)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return ask(c)
}

// guestStack is a pod on vhost-user.
func guestStack(t *testing.T, socket, address string, last byte) *netstack.Stack {
	t.Helper()
	s, err := netstack.New(netstack.Config{Socket: socket, MAC: [6]byte{2, 0, 0, 0, 7, last}, Addresses: []netip.Prefix{netip.MustParsePrefix(address)}})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	eventually(t, s.Up, "the switch at %s", socket)
	return s
}

// answer has a listener send so many bytes to each client that has sent one: servers
// and clients of the tunnel may lose what comes before.
func answer(t *testing.T, l net.Listener, size int64) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := c.Read(make([]byte, 1)); err == nil {
					_, _ = io.CopyN(c, endless{}, size)
				}
			}()
		}
	}()
}

// ask sends a byte and counts what comes back.
func ask(c net.Conn) (int64, error) {
	if _, err := c.Write([]byte{'?'}); err != nil {
		return 0, err
	}
	return io.Copy(io.Discard, c)
}
