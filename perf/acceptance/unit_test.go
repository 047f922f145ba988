package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control"
	"millrace/dataplane/api"
	"millrace/supervise"
)

// A unit is processes of the program on one run directory, as a service manager
// has them: who is killed leaves the others alone, and is started again.
type unit struct {
	t     *testing.T
	dir   string
	log   *os.File // of all processes: a pipe would wait for the last one
	procs map[string]*unitProcess
}

// A unitProcess is a process of a unit.
type unitProcess struct {
	cmd  *exec.Cmd
	out  string // file of its standard output
	done chan struct{}
}

// newUnit makes a run directory without processes.
func newUnit(t *testing.T) *unit {
	t.Helper()
	dir, err := os.MkdirTemp("", "mr-accept-") // short: a socket's path has 107 bytes
	check(t, err)
	u := &unit{t: t, dir: dir, procs: map[string]*unitProcess{}}
	u.log, err = os.Create(u.path("log"))
	check(t, err)
	t.Cleanup(u.finish)
	return u
}

func (u *unit) path(name string) string { return filepath.Join(u.dir, name) }

// database is where the embedded database listens.
func (u *unit) database() string { return "unix:" + u.path("db.sock") }

// start starts a process called name, and waits until it is ready.
func (u *unit) start(name string, args ...string) {
	u.t.Helper()
	p := &unitProcess{out: u.path(name + ".out"), done: make(chan struct{})}
	out, err := os.Create(p.out)
	check(u.t, err)
	defer out.Close()
	p.cmd = exec.Command(program, append(args, "--run-dir", u.dir)...)
	p.cmd.Stdout, p.cmd.Stderr = out, u.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	check(u.t, startChild(p.cmd, p.done))
	u.procs[name] = p
	eventually(u.t, func() bool {
		b, err := os.ReadFile(p.out)
		return err == nil && string(b) == "ready\n" || ended(p.done)
	}, "%s is ready", name)
	if ended(p.done) {
		u.t.Fatalf("%s ended at once: %v", name, p.cmd.ProcessState)
	}
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// kill ends a process with SIGKILL, and returns when it has ended.
func (u *unit) kill(name string) {
	_ = u.procs[name].cmd.Process.Kill() // fails if it has ended
	<-u.procs[name].done
	delete(u.procs, name)
}

// end ends a process as its user would, and says how it did not go well.
func (p *unitProcess) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-p.done:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("exit code %d on SIGTERM, want 0", code)
		}
		return nil
	case <-time.After(patience):
		_ = p.cmd.Process.Kill() // it may end just now
		<-p.done
		return fmt.Errorf("no end in %v on SIGTERM", patience)
	}
}

// finish ends all, and looks for what should be gone.
func (u *unit) finish() {
	defer os.RemoveAll(u.dir)
	defer func() {
		if b, err := os.ReadFile(u.path("log")); err == nil && u.t.Failed() {
			u.t.Logf("the processes logged last:\n%s", tail(string(b)))
		}
	}()
	for name, p := range u.procs {
		if err := p.end(); err != nil {
			u.t.Errorf("%s: %v", name, err)
		}
	}
	endDataplane(u.dir)
	check(u.t, u.log.Close())
	(&switchRun{t: u.t, dir: u.dir}).checkLeftovers()
}

// vsctl runs stock ovs-vsctl, which waits until control has done what it says.
func (u *unit) vsctl(args ...string) string {
	u.t.Helper()
	out, err := u.tryVsctl(args...)
	if err != nil {
		u.t.Fatalf("ovs-vsctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func (u *unit) tryVsctl(args ...string) (string, error) {
	out, err := exec.Command("ovs-vsctl", append([]string{"--db=" + u.database(), "--timeout=" + strconv.Itoa(int(patience.Seconds()))}, args...)...).CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

// addPorts adds ports a, where the switch listens, and b, where it connects.
func (u *unit) addPorts() {
	u.t.Helper()
	u.vsctl("add-br", "br0",
		"--", "add-port", "br0", "a", "--", "set", "interface", "a", "type="+listens,
		"--", "add-port", "br0", "b", "--", "set", "interface", "b", "type="+connects, "options:vhost-server-path="+u.path("b.sock"))
}

// numbers are what the rows say of ports a and b, and what the dataplane says.
func (u *unit) numbers() string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := api.Dial(ctx, u.dir, api.Patience(patience))
	check(u.t, err)
	defer c.Close()
	r, err := c.ListPorts(ctx, &api.ListPortsRequest{})
	check(u.t, err)
	var have []string
	for _, p := range r.GetPorts() {
		have = append(have, fmt.Sprint(p.GetSpec().GetName(), "=", p.GetNumber()))
	}
	return u.vsctl("--bare", "get", "interface", "a", "ofport") + " " + u.vsctl("--bare", "get", "interface", "b", "ofport") + ", " + strings.Join(have, " ")
}

// supervisor is what run.json says; there is one while `millrace run` lives.
func (u *unit) supervisor() supervise.Status {
	u.t.Helper()
	s, err := supervise.ReadStatus(u.dir)
	check(u.t, err)
	return s
}

// child is a process of the supervisor.
func (u *unit) child(name string) supervise.Child {
	u.t.Helper()
	for _, c := range u.supervisor().Children {
		if c.Name == name {
			return c
		}
	}
	u.t.Fatalf("the supervisor has no %s", name)
	return supervise.Child{}
}

// control is what control.json says.
func (u *unit) control() control.Status {
	s, err := control.ReadStatus(u.dir)
	if err != nil {
		return control.Status{} // nothing yet
	}
	return s
}

// told is what control.json says that was written from now on. Control writes it
// a moment after anything was said to it, so something is.
func (u *unit) told() control.Status {
	u.t.Helper()
	began := time.Now()
	var s control.Status
	for i := 0; ; i++ {
		u.vsctl("set", "bridge", "br0", fmt.Sprintf("external_ids:told=%d-%d", began.UnixNano(), i))
		for range 20 {
			if s = u.control(); s.Written.After(began) {
				return s
			}
			time.Sleep(20 * time.Millisecond)
		}
		if time.Since(began) > patience {
			u.t.Fatalf("control has written nothing for %v: %+v", patience, s)
		}
	}
}

// atWork reports whether control pid has database and dataplane, and nothing
// to complain of.
func (u *unit) atWork(pid int) bool {
	c := u.control()
	return c.PID == pid && c.Database.Connected && c.Database.Owner && c.Dataplane && len(c.Problems) == 0
}
