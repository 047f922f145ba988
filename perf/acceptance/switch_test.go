package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/dataplane/service"
	"millrace/dataplane/sys"
	"millrace/perf/peers"
	"millrace/waittest"
)

// patience bounds every wait for something that should come soon; the machine
// may be busy with other things.
const patience = time.Minute

// need skips the test in short runs, and where one of the peers is missing
// (see peers.Missing).
func need(t *testing.T, names ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs time and whole cores: left out of short runs")
	}
	peers.SkipMissing(t, peers.Missing(names...))
}

// cpus returns where the switch's worker runs, and where its guests do: the
// last and the first CPU.
func cpus(t *testing.T) (worker, guests int) {
	t.Helper()
	all, err := sys.AllowedCPUs()
	check(t, err)
	return all[len(all)-1], all[0]
}

// check ends the test on an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for f to report true, and fails the test with what when it
// does not in time.
func eventually(t *testing.T, f func() bool, what string, args ...any) {
	t.Helper()
	came := false
	defer func() {
		if !came { // args may have changed meanwhile
			t.Logf("in the end: "+what, args...)
		}
	}()
	waittest.Until(t, fmt.Sprintf(what, args...), f)
	came = true
}

// tail returns the end of a log.
func tail(log string) string {
	const most = 6000
	return log[max(0, len(log)-most):]
}

// A switchRun is one `millrace run`, or `millrace dataplane`, with a run directory
// of its own.
type switchRun struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	out  waittest.Buffer // standard output
	log  waittest.Buffer // standard error, of all processes
	done chan struct{}
	api  *api.Client

	killed bool // by the test, with all its processes: it cannot end well, and leaves its files
}

// runSwitch starts a switch for the length of the test, with one worker. flags
// are more flags of run.
func runSwitch(t *testing.T, flags ...string) *switchRun {
	t.Helper()
	return begin(t, "run", flags...)
}

// runDataplane starts a dataplane alone: the API says what ports it has.
func runDataplane(t *testing.T, flags ...string) *switchRun {
	t.Helper()
	return begin(t, "dataplane", flags...)
}

func begin(t *testing.T, command string, flags ...string) *switchRun {
	t.Helper()
	return beginIn(t, 0, command, flags...)
}

// beginIn is begin in namespaces of its own (clone(2)).
func beginIn(t *testing.T, clone uintptr, command string, flags ...string) *switchRun {
	t.Helper()
	return beginAs(t, &syscall.SysProcAttr{Cloneflags: clone}, nil, command, flags...)
}

// beginAs is begin for a process that another program becomes, if there is one.
func beginAs(t *testing.T, attr *syscall.SysProcAttr, by []string, command string, flags ...string) *switchRun {
	t.Helper()
	dir, err := os.MkdirTemp("", "mr-accept-") // short: a socket's path has 107 bytes
	check(t, err)
	s := &switchRun{t: t, dir: dir, done: make(chan struct{})}
	worker, _ := cpus(t)
	args := append([]string{command, "--run-dir", dir, "--cpus", strconv.Itoa(worker), "--log-level", "info"}, flags...)
	line := append(append(slices.Clone(by), program), args...)
	s.cmd = exec.Command(line[0], line[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.log
	attr.Pdeathsig = syscall.SIGTERM
	s.cmd.SysProcAttr = attr
	check(t, startChild(s.cmd, s.done))
	t.Cleanup(s.finish)
	eventually(t, func() bool { return s.ended() || strings.Contains(s.out.String(), "ready\n") }, "ready")
	if s.ended() {
		t.Fatalf("the switch ended at once: %v", s.cmd.ProcessState)
	}
	s.dial()
	return s
}

// startChild starts cmd and closes done when it has ended, or cannot start.
func startChild(cmd *exec.Cmd, done chan<- struct{}) error {
	err := peers.Start(cmd, func() { close(done) })
	if err != nil {
		close(done)
	}
	return err
}

// ended reports whether the supervisor has ended.
func (s *switchRun) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// dial connects to the dataplane, also one that is being restarted.
func (s *switchRun) dial() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := api.Dial(ctx, s.dir, api.Patience(patience))
	check(s.t, err)
	if s.api != nil {
		_ = s.api.Close()
	}
	s.api = c
}

// path returns the socket of port name.
func (s *switchRun) path(name string) string { return filepath.Join(s.dir, name) }

// cli runs a command of the program and returns what it prints.
func (s *switchRun) cli(args ...string) []byte {
	s.t.Helper()
	out, err := s.tryCLI(args...)
	check(s.t, err)
	return out
}

func (s *switchRun) tryCLI(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"--run-dir", s.dir}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("millrace %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, err
}

// add adds a port to bridge br0 in the embedded database, as an access port of
// VLAN tag unless that is 0, and waits until the dataplane has it.
func (s *switchRun) add(name, kind string, tag int) {
	s.t.Helper()
	path := ""
	if kind == connects {
		path = s.socket(name, kind)
	}
	addRow(s.t, filepath.Join(s.dir, "db.sock"), name, kind, path, tag)
	eventually(s.t, func() bool {
		r, err := s.api.ListPorts(s.t.Context(), &api.ListPortsRequest{Name: name})
		return err == nil && len(r.GetPorts()) == 1
	}, "port %s", name)
}

// Types of vhost-user ports.
const (
	listens  = "dpdkvhostuser"       // the switch makes the socket
	connects = "dpdkvhostuserclient" // the guest does
)

// socket is where a guest finds port name of a kind, or makes it.
func (s *switchRun) socket(name, kind string) string {
	if kind == connects {
		return s.path(name + ".sock")
	}
	return s.path(name)
}

// port returns the state of port name.
func (s *switchRun) port(name string) *api.Port {
	s.t.Helper()
	r, err := s.api.ListPorts(s.t.Context(), &api.ListPortsRequest{Name: name})
	check(s.t, err)
	return r.GetPorts()[0]
}

// awaitLink waits until port name is in state l.
func (s *switchRun) awaitLink(name string, l api.Link) *api.Port {
	s.t.Helper()
	var p *api.Port
	eventually(s.t, func() bool { p = s.port(name); return p.GetState().GetLink() == l }, "%s is %v", name, l)
	return p
}

// stats returns the counters of the ports called names, in their order.
func (s *switchRun) stats(names ...string) []*api.PortStats {
	s.t.Helper()
	r, err := s.api.GetStats(context.Background(), &api.GetStatsRequest{})
	check(s.t, err)
	var all []*api.PortStats
	for _, n := range names {
		for _, p := range r.GetPorts() {
			if p.GetName() == n {
				all = append(all, p)
			}
		}
	}
	if len(all) != len(names) {
		s.t.Fatalf("statistics of %v lack one of %v", r.GetPorts(), names)
	}
	return all
}

// dropped returns how many frames l says were dropped, but for some reasons.
func dropped(l []*api.Drop, but ...string) uint64 {
	n := uint64(0)
	for _, d := range l {
		if !slices.Contains(but, d.GetReason()) {
			n += d.GetFrames()
		}
	}
	return n
}

// dataplane returns the process of the dataplane that runs now.
func (s *switchRun) dataplane() int { return int(s.api.Info.GetPid()) }

// crash ends the dataplane with SIGKILL and returns when its successor answers.
func (s *switchRun) crash() {
	s.t.Helper()
	old := s.dataplane()
	check(s.t, syscall.Kill(old, syscall.SIGKILL))
	eventually(s.t, func() bool { s.dial(); return s.dataplane() != old }, "another dataplane than %d", old)
}

// finish asks the questions that every test ends with.
func (s *switchRun) finish() {
	defer os.RemoveAll(s.dir)
	defer func() {
		if s.t.Failed() {
			names, _ := filepath.Glob(s.dir + "/*")
			s.t.Logf("left in the run directory: %v", names)
			s.t.Logf("the switch logged last:\n%s", tail(s.log.String()))
		}
	}()
	if s.api != nil {
		s.checkBalance()
		_ = s.api.Close()
	}
	if s.killed {
		<-s.done
		return
	}
	s.stop()
	s.checkLeftovers()
}

// checkBalance fails the test unless `millrace drops` finds every account
// exact, and no worker has survived a panic of our own.
func (s *switchRun) checkBalance() {
	out, err := s.tryCLI("drops", "--json")
	var drops struct {
		Balance struct {
			Exact bool `json:"exact"`
		} `json:"balance"`
	}
	if err = errors.Join(err, json.Unmarshal(out, &drops)); err != nil || !drops.Balance.Exact {
		s.t.Errorf("the accounts do not balance: %v\n%s", err, out)
	}
}

// stop ends the switch as its user would, and checks that it goes well.
func (s *switchRun) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			s.t.Errorf("the switch ended with exit code %d on SIGTERM, want 0", code)
		}
	case <-time.After(patience):
		s.t.Errorf("the switch did not end in %v on SIGTERM", patience)
		_ = s.cmd.Process.Kill()
		<-s.done
		endDataplane(s.dir)
	}
}

// endDataplane kills what a killed supervisor leaves.
func endDataplane(dir string) {
	if pid, err := service.DataplaneOf(dir); err == nil && pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may end just now
	}
}

// checkLeftovers looks for processes, sockets and hugepages that should be gone.
func (s *switchRun) checkLeftovers() {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, n := range names {
		if line, err := os.ReadFile(n); err == nil && bytes.Contains(line, []byte(s.dir)) {
			s.t.Errorf("process left: %s: %s", n, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	_ = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == fs.ModeSocket {
			s.t.Errorf("socket left: %s", path)
		}
		return nil
	})
	if claims, _ := filepath.Glob(fmt.Sprintf("/run/millrace-hugepages/%d.*", os.Getpid())); len(claims) > 0 {
		s.t.Errorf("hugepages are still reserved: %v", claims)
	}
}

// workers returns the counters of the workers.
func (s *switchRun) workers() []*api.WorkerStats {
	s.t.Helper()
	r, err := s.api.GetStats(context.Background(), &api.GetStatsRequest{})
	check(s.t, err)
	return r.GetWorkers()
}
