// Package ovstest gives tests a stock Open vSwitch to compare with: its userspace
// datapath (lib/dpif-netdev.c) and its own connection tracking, with ports
// that are sockets of the test. It needs neither root nor DPDK, and shares
// nothing with the machine's own Open vSwitch.
//
// All of it belongs to processes of the test, which the kernel ends with it.
package ovstest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take on a busy machine, which may stop for minutes.
const patience = 5 * time.Minute

// A Switch is a running Open vSwitch with one bridge, br0, and two ports: frames that the
// test sends come in by port 1, those that leave by port 2 come back to the test.
// It is for one goroutine.
type Switch struct {
	t       testing.TB
	dir     string
	in, out net.Conn
}

// schema is where Debian and others keep the schema of the database.
const schema = "/usr/share/openvswitch/vswitch.ovsschema"

// Start starts a switch without flows, whose clock stands still. The test is skipped
// if there is none.
func Start(t testing.TB) *Switch {
	t.Helper()
	for _, p := range []string{"ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"} {
		if program(p) == "" {
			t.Skipf("needs %s: apt-get install openvswitch-switch", p)
		}
	}
	// Short, because a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "mr-ovst-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Switch{t: t, dir: dir}
	s.run("ovsdb-tool", "create", s.path("conf.db"), schema)
	s.daemon("db.sock", "ovsdb-server", s.path("conf.db"), "--remote=punix:"+s.path("db.sock"), "--unixctl="+s.path("db.ctl"))
	s.vsctl("--no-wait", "init")
	s.daemon("vswitchd.ctl", "ovs-vswitchd", "unix:"+s.path("db.sock"), "--unixctl="+s.path("vswitchd.ctl"), "--enable-dummy", "--disable-system")
	s.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", "fail-mode=secure",
		"--", "add-port", "br0", "in", "--", "set", "Interface", "in", "type=dummy", "ofport_request=1", "options:pstream=punix:"+s.path("in.sock"),
		"--", "add-port", "br0", "out", "--", "set", "Interface", "out", "type=dummy", "ofport_request=2", "options:pstream=punix:"+s.path("out.sock"))
	s.in, s.out = s.dial("in.sock"), s.dial("out.sock")
	s.Appctl("time/stop")
	return s
}

// program returns the path of a program, or "".
func program(name string) string {
	for _, p := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	return ""
}

// path returns where name is in the switch's directory.
func (s *Switch) path(name string) string { return filepath.Join(s.dir, name) }

// command is one of OVS's programs, away from the machine's own Open vSwitch.
func (s *Switch) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(program(name), args...)
	cmd.Dir, cmd.Env = s.dir, os.Environ()
	for _, v := range []string{"OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"} {
		cmd.Env = append(cmd.Env, v+"="+s.dir)
	}
	return cmd
}

// run runs one of OVS's tools, which must succeed.
func (s *Switch) run(name string, args ...string) {
	s.t.Helper()
	out, err := s.command(name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (s *Switch) vsctl(args ...string) {
	s.t.Helper()
	s.run("ovs-vsctl", append([]string{"--db=unix:" + s.path("db.sock"), "--timeout=60"}, args...)...)
}

// daemon starts one of the two servers, and waits for its socket. It ends with the test,
// or with this process. The goroutine that waits for it keeps its thread: the
// kernel sends the death signal when the thread ends that forked.
func (s *Switch) daemon(ready, name string, args ...string) {
	s.t.Helper()
	var log bytes.Buffer
	cmd := s.command(name, append(args, "--no-chdir", "-vsyslog:off", "-vconsole:err")...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("start %s: %v", name, err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if s.t.Failed() {
			s.t.Logf("%s printed:\n%s", name, log.Bytes())
		}
	})
	s.await(ready, func() error { _, err := os.Stat(s.path(ready)); return err })
}

// await tries until do succeeds.
func (s *Switch) await(what string, do func() error) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("Open vSwitch: wait for %s: %v", what, err)
		}
	}
}

// dial connects to a socket of the switch.
func (s *Switch) dial(name string) (c net.Conn) {
	s.t.Helper()
	s.await(name, func() (err error) { c, err = net.Dial("unix", s.path(name)); return err })
	s.t.Cleanup(func() { c.Close() })
	return c
}

// Flows makes the flows of a text in the language of ovs-ofctl(8), one a line, the only ones.
func (s *Switch) Flows(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path("flows"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.run("ovs-ofctl", "-OOpenFlow15", "--bundle", "replace-flows", "unix:"+s.path("br0.mgmt"), s.path("flows"))
}

// Appctl has the switch run a command of ovs-vswitchd(8), and returns what it answers.
func (s *Switch) Appctl(command string, args ...string) string {
	s.t.Helper()
	c, err := net.Dial("unix", s.path("vswitchd.ctl"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if args == nil {
		args = []string{}
	}
	var answer struct{ Result, Error *string }
	err = errors.Join(c.SetDeadline(time.Now().Add(patience)), json.NewEncoder(c).Encode(map[string]any{"id": 0, "method": command, "params": args}))
	if err == nil {
		err = json.NewDecoder(c).Decode(&answer)
	}
	if err == nil && answer.Result == nil {
		err = fmt.Errorf("no result, error %v", answer.Error)
	}
	if err != nil {
		s.t.Fatalf("ovs-appctl %s %s: %v", command, strings.Join(args, " "), err)
	}
	return *answer.Result
}

// frameMin is the shortest frame that a port takes.
const frameMin = 14

// window is how many frames are in the switch at a time: its queues hold 100.
const window = 48

// Exchange sends frames in by port 1, and returns what has left by port 2 when all
// have gone through, in order. See Mark.
func (s *Switch) Exchange(frames [][]byte) (got [][]byte) {
	s.t.Helper()
	if err := errors.Join(s.in.SetDeadline(time.Now().Add(patience)), s.out.SetDeadline(time.Now().Add(patience))); err != nil {
		s.t.Fatal(err)
	}
	for len(frames) > 0 {
		n := min(window, len(frames))
		var b []byte
		for _, f := range append(frames[:n:n], Mark) {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(f))), f...)
		}
		if _, err := s.in.Write(b); err != nil {
			s.t.Fatalf("Open vSwitch: send: %v", err)
		}
		for {
			f, err := s.receive()
			if err != nil {
				s.t.Fatalf("Open vSwitch: receive: %v", err)
			}
			if bytes.Equal(f, Mark) {
				break
			}
			got = append(got, f)
		}
		frames = frames[n:]
	}
	return got
}

// Mark is a frame that follows others, to know when they have gone through: flows must
// send Ethernet type 0x88b5 (IEEE 802 local experimental) to port 2.
var Mark = append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, make([]byte, 46)...)

// receive reads a frame: its length (16 bits, big-endian) and itself.
func (s *Switch) receive() ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(s.out, size[:]); err != nil {
		return nil, err
	}
	f := make([]byte, max(binary.BigEndian.Uint16(size[:]), frameMin))
	_, err := io.ReadFull(s.out, f)
	return f, err
}
