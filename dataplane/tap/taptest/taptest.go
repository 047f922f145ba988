// Package taptest gives tests of TAP ports network namespaces of their own, so
// that nothing they make is ever seen by the machine, and nothing is left, however
// they end.
package taptest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// inside names the variable that tells the test binary that it runs in its own
// namespace, or why it does not.
const inside = "MILLRACE_TEST_TAP"

// Main is TestMain of a package whose tests make network devices: it runs the
// test binary again, in a network and a mount namespace of its own. Where the
// machine does not let it, tests that call Need are skipped.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for who has something to do at the end: it returns the exit code.
func Run(m *testing.M) int {
	if os.Getenv(inside) != "" {
		runtime.LockOSThread() // the first thread cannot be thrown away: no other goroutine shall have it
		return m.Run()
	}
	code, err := again()
	if err == nil {
		return code
	}
	_ = os.Setenv(inside, "needs root or user namespaces: "+err.Error())
	return m.Run()
}

// again runs the test binary in namespaces of its own. It fails if they cannot be
// had.
func again() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	passOn(cmd.Process) // the deadline of `go test` is a signal to us
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	return 1, nil // by a signal
}

// passOn gives signals that ask us to end to p.
func passOn(p *os.Process) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for s := range signals {
			_ = p.Signal(s)
		}
	}()
}

// Need skips the test if it does not run in namespaces of its own, or cannot make
// TAP devices.
func Need(t testing.TB) {
	t.Helper()
	why := os.Getenv(inside)
	if why == "" {
		t.Fatal("the package has no TestMain that calls taptest.Main")
	}
	if why != "yes" {
		t.Skip(why)
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs /dev/net/tun: " + err.Error())
	}
	_ = f.Close()
	private(t)
}

// private makes mounts of this process its own.
var private = func() func(testing.TB) {
	err := sync.OnceValue(func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") })
	return func(t testing.TB) {
		t.Helper()
		if err := err(); err != nil {
			t.Skip("needs a mount namespace of its own: " + err.Error())
		}
	}
}()

// A Namespace is a network namespace at a path.
type Namespace struct{ Path string }

// New makes a namespace. It goes with the test, unless Delete was called.
func New(t testing.TB) *Namespace {
	t.Helper()
	Need(t)
	ns := At(t, filepath.Join(t.TempDir(), "ns"))
	t.Cleanup(ns.remove)
	return ns
}

// At makes a namespace at path, where there is none. The caller deletes it.
func At(t testing.TB, path string) *Namespace {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := sys.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	ns := &Namespace{path}
	ns.Run(t, "ip", "link", "set", "lo", "up")
	return ns
}

// Delete takes the namespace's name away, as `ip netns del` does. It is gone when
// nothing is in it and nobody has it open.
func (ns *Namespace) Delete(t testing.TB) {
	t.Helper()
	if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
		t.Fatalf("delete network namespace: %v", err)
	}
	if err := os.Remove(ns.Path); err != nil {
		t.Fatalf("delete network namespace: %v", err)
	}
}

func (ns *Namespace) remove() {
	_ = unix.Unmount(ns.Path, unix.MNT_DETACH)
	_ = os.Remove(ns.Path)
}

// Do runs fn on a thread in the namespace. Sockets that it opens stay there.
func (ns *Namespace) Do(t testing.TB, fn func() error) {
	t.Helper()
	if err := sys.OnThread(func() error { return ns.enter(fn) }); err != nil {
		t.Fatalf("in network namespace %s: %v", ns.Path, err)
	}
}

func (ns *Namespace) enter(fn func() error) error {
	f, err := os.Open(ns.Path)
	if err != nil {
		return err
	}
	err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return fn()
}

// Command is a program that will run in the namespace, with `nsenter`. A nil
// namespace is the tests' own.
func (ns *Namespace) Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	for _, name := range []string{args[0], "nsenter"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s: %v", name, err)
		}
	}
	if ns != nil {
		args = append([]string{"nsenter", "--net=" + ns.Path, "--"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Run runs a program in the namespace and returns what it prints. That it fails
// fails the test.
func (ns *Namespace) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := ns.Try(t, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Run of a program that may fail.
func (ns *Namespace) Try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := ns.Command(t, args...)
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	return string(out), err
}
