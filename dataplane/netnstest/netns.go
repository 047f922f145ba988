// Package netnstest gives tests network namespaces of their own, with pods in
// them: namespaces at the other end of a veth.
//
// All of it belongs to processes of the test, which the kernel ends with it:
// nothing is left on the machine whatever becomes of the test.
package netnstest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"millrace/waittest"
)

// inside is set in the environment of a test that runs in its own namespace.
const inside = "MILLRACE_TEST_NETNS"

// Main runs the tests of a package in a network namespace of their own, if this
// machine allows that, and never returns. It is for TestMain.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := start(cmd); err != nil {
		os.Exit(m.Run()) // no namespaces here: tests that need them say so
	}
	_ = cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

// Alone runs a test in a process with a network namespace of its own: it returns
// true there, and false, when the test has passed, in the process that it was
// called in. It is for tests of packages whose others need the namespace that
// there is. The test is skipped where there are no namespaces.
func Alone(t *testing.T) bool {
	t.Helper()
	return AloneFor(t, 5*time.Minute)
}

// AloneFor is Alone for a test that may take so long.
func AloneFor(t *testing.T, most time.Duration) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root (a network namespace of its own)")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout="+most.String(), fmt.Sprintf("-test.short=%t", testing.Short()))
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := start(cmd); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	err := cmd.Wait()
	switch {
	case err != nil:
		t.Errorf("in a namespace of its own: %v\n%s", err, out.Bytes())
	case bytes.Contains(out.Bytes(), []byte("--- SKIP")):
		t.Skipf("%s", reason(out.String()))
	default:
		t.Logf("%s", out.Bytes())
	}
	return false
}

// reason is what a skipped test says it needs.
func reason(out string) string {
	if _, needs, ok := strings.Cut(out, "needs "); ok {
		needs, _, _ = strings.Cut(needs, "\n")
		return "needs " + needs
	}
	return out
}

// starts are commands to start, and starter starts them: on one thread, for the
// kernel ends them when the thread ends that started them.
var (
	starts  = make(chan func())
	starter sync.Once
)

// start starts a command that ends with this process.
func start(cmd *exec.Cmd) error {
	starter.Do(func() {
		go func() {
			runtime.LockOSThread() // never unlocked
			for fn := range starts {
				fn()
			}
		}()
	})
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	done := make(chan error)
	starts <- func() { done <- cmd.Start() }
	return <-done
}

// Need skips a test that is not in a namespace of its own, or that lacks a
// program.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root (a network namespace of its own)")
	}
	for _, p := range append([]string{"ip", "nsenter"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s", p)
		}
	}
}

// IP runs the program ip in the test's namespace. Arguments are split at blanks.
func IP(t testing.TB, format string, args ...any) {
	t.Helper()
	if out, err := ip(fmt.Sprintf(format, args...)); err != nil {
		t.Fatalf("ip %s: %v\n%s", fmt.Sprintf(format, args...), err, out)
	}
}

func ip(line string) ([]byte, error) {
	return exec.Command("ip", strings.Fields(line)...).CombinedOutput()
}

// A Pod is a network namespace with one end of a veth in it, called eth0.
type Pod struct {
	t    testing.TB
	Host string // name of the other end, in the test's namespace
	pid  int
}

// NewPod returns a pod whose veth is called host outside, with n queues. Both
// ends are up; extra arguments are those of ip link add for both ends.
func NewPod(t testing.TB, host string, n int) *Pod {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := start(cmd); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	p := &Pod{t: t, Host: host, pid: cmd.Process.Pid}
	t.Cleanup(func() {
		_, _ = ip("link del " + host)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p.Plug(n)
	return p
}

// Plug makes the pod's veth. It must not be there. Both ends can send when it returns.
func (p *Pod) Plug(n int) {
	p.t.Helper()
	IP(p.t, "link add %s numrxqueues %d numtxqueues %d type veth peer name eth0 netns %d numrxqueues %d numtxqueues %d", p.Host, n, n, p.pid, n, n)
	IP(p.t, "link set %s up", p.Host)
	p.Run("ip link set lo up")
	p.Run("ip link set eth0 up")
	Running(p.t, p.Host)
	Wait(p.t, func() string {
		if err := p.Do(func() error { return running("eth0") }); err != nil {
			return err.Error()
		}
		return ""
	})
}

// Running waits until devices of the test's namespace can send. The kernel takes note of a carrier some
// time after it is there, and drops until then what is sent by a device that was up before.
func Running(t testing.TB, devices ...string) {
	t.Helper()
	for _, d := range devices {
		Wait(t, func() string {
			if err := running(d); err != nil {
				return err.Error()
			}
			return ""
		})
	}
}

func running(device string) error {
	l, err := netlink.LinkByName(device) // it waits for the kernel's lock, which is held meanwhile
	if err == nil && l.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		err = errors.New("it has no carrier yet")
	}
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	return nil
}

// Address gives the pod 10.9.0.n/24 and fd09::n/64, ready for use.
func (p *Pod) Address(n int) {
	p.t.Helper()
	p.Run("ip addr add 10.9.0.%d/24 dev eth0", n)
	p.Run("ip addr add fd09::%d/64 dev eth0 nodad", n)
}

// Counter is a counter of the pod's kernel, as in /proc/net/snmp.
func (p *Pod) Counter(proto, name string) (n int) {
	p.t.Helper()
	var names []string
	for line := range strings.Lines(p.Run("cat /proc/net/snmp")) {
		f := strings.Fields(line)
		switch {
		case f[0] != proto+":":
		case names == nil:
			names = f
		default:
			i := slices.Index(names, name)
			if i < 0 {
				p.t.Fatalf("there is no counter %s of %s", name, proto)
			}
			if _, err := fmt.Sscan(f[i], &n); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	return n
}

// T is the test that the pod is for.
func (p *Pod) T() testing.TB { return p.t }

// PID is a process in the pod's namespace.
func (p *Pod) PID() int { return p.pid }

// Command is a command in the pod. Arguments are split at blanks.
func (p *Pod) Command(format string, args ...any) *exec.Cmd {
	line := fmt.Sprintf("-t %d -n -- %s", p.pid, fmt.Sprintf(format, args...))
	cmd := exec.Command("nsenter", strings.Fields(line)...)
	return cmd
}

// Try runs a command in the pod and returns what it printed.
func (p *Pod) Try(format string, args ...any) (string, error) {
	out, err := p.Command(format, args...).CombinedOutput()
	return string(out), err
}

// Run is Try for a command that must succeed.
func (p *Pod) Run(format string, args ...any) string {
	p.t.Helper()
	out, err := p.Try(format, args...)
	if err != nil {
		p.t.Fatalf("in pod %s: %s: %v\n%s", p.Host, fmt.Sprintf(format, args...), err, out)
	}
	return out
}

// Start starts a command in the pod, which ends with the test.
func (p *Pod) Start(format string, args ...any) *waittest.Buffer {
	p.t.Helper()
	out := &waittest.Buffer{}
	cmd := p.Command(format, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := start(cmd); err != nil {
		p.t.Fatalf("in pod %s: %v", p.Host, err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out
}

// Reach waits until echo requests of size bytes to an address are answered.
func (p *Pod) Reach(to string, size int) {
	p.t.Helper()
	Wait(p.t, func() string {
		if err := p.Ping(to, size, time.Second); err != nil {
			return fmt.Sprintf("pod %s to %s: %v", p.Host, to, err)
		}
		return ""
	})
}

// Patience is how long tests wait for what takes no time on a machine that has
// nothing else to do.
const Patience = waittest.Most

// Wait waits until ok, which says what is missing, returns "".
func Wait(t testing.TB, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		missing := ok()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %s", Patience, missing)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
