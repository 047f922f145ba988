package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/service"
	"millrace/dataplane/service/switchtest"
	"millrace/supervise"
	"millrace/waittest"
)

// endWithin is how long `millrace run` may take to end, where nobody else has
// the CPUs.
const endWithin = 2 * time.Second

// A process is a real `millrace`, which this binary is when it is told so.
type process struct {
	*exec.Cmd
	out   *bufio.Reader
	log   waittest.Buffer
	ended chan struct{} // closed when it has ended
}

// spawn starts a process, which dies with the test.
func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command("/proc/self/exe", args...), ended: make(chan struct{})}
	// The race detector would have each process wait a second at its end.
	p.Env = append(os.Environ(), mainEnv+"=1", "GORACE=atexit_sleep_ms=0")
	p.Stderr = &p.log
	p.WaitDelay = time.Second // a dataplane that is kept holds the pipe
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout = w
	p.out = bufio.NewReader(r)
	err = p.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.stop()
		r.Close()
		if t.Failed() {
			t.Logf("log of the process:\n%s", p.log.String())
		}
	})
	return p
}

// stop ends the process, in good order if it can: a supervisor that is killed
// leaves its dataplane.
func (p *process) stop() {
	_ = p.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(testTimeout):
		_ = p.Process.Kill()
		<-p.ended
	}
}

// line reads a line from standard output.
func (p *process) line(t *testing.T) string {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		s, err := p.out.ReadString('\n')
		if err != nil {
			s = err.Error()
		}
		got <- s
	}()
	select {
	case s := <-got:
		return s
	case <-time.After(testTimeout):
		t.Fatal("no line in time")
		return ""
	}
}

// end sends a signal and waits for the end.
func (p *process) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(testTimeout):
		t.Fatalf("not ended %v after %v", testTimeout, sig)
	}
}

// await waits until ok holds.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waittest.Until(t, what, ok)
}

// pidOf is the process id of the dataplane of dir, or 0.
func pidOf(t *testing.T, dir string) int {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := api.Dial(ctx, dir)
	if err != nil {
		return 0
	}
	defer c.Close()
	return int(c.Info.GetPid())
}

// gone reports whether process pid has ended.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || strings.Contains(string(b), ") Z ")
}

// sockets lists the sockets in dir.
func sockets(t *testing.T, dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type() == os.ModeSocket {
			names = append(names, e.Name())
		}
	}
	return names
}

// startSwitch starts `millrace run` and waits until it is ready.
func startSwitch(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	t.Cleanup(func() { // runs after that of spawn
		if pid, err := service.DataplaneOf(dir); err == nil && pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	p := spawn(t, append([]string{"run", "--run-dir", dir}, args...)...)
	if got := p.line(t); got != "ready\n" {
		t.Fatalf("first line is %q", got)
	}
	return p
}

// addRow adds a port, with a bridge of its own, in the embedded database of dir, and waits until
// the dataplane has it.
func addRow(t *testing.T, dir, name, kind string) {
	t.Helper()
	options := `["map",[]]`
	if kind == "dpdkvhostuserclient" {
		options = fmt.Sprintf(`["map",[["vhost-server-path",%q]]]`, filepath.Join(dir, name+".peer"))
	}
	transact(t, dir, fmt.Sprintf(`{"op":"insert","table":"Interface","uuid-name":"i","row":{"name":%q,"type":%q,"options":%s}}`, name, kind, options),
		fmt.Sprintf(`{"op":"insert","table":"Port","uuid-name":"p","row":{"name":%q,"interfaces":["named-uuid","i"]}}`, name),
		fmt.Sprintf(`{"op":"insert","table":"Bridge","uuid-name":"b","row":{"name":%q,"ports":["named-uuid","p"]}}`, "br-"+name),
		`{"op":"mutate","table":"Open_vSwitch","where":[],"mutations":[["bridges","insert",["named-uuid","b"]]]}`)
	await(t, "port "+name, func() bool { return hasPort(t, dir, name) })
}

// transact makes a transaction in the embedded database of dir.
func transact(t *testing.T, dir string, ops ...string) {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(dir, embeddedDB))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	fmt.Fprintf(c, `{"method":"transact","id":1,"params":["Open_vSwitch",%s]}`, strings.Join(ops, ","))
	var answer map[string]any
	if err := json.NewDecoder(c).Decode(&answer); err != nil || strings.Contains(fmt.Sprint(answer), "error:") && !strings.Contains(fmt.Sprint(answer), "error:<nil>") {
		t.Fatalf("transaction: %v, %v", answer, err)
	}
}

// hasPort reports whether the dataplane of dir answers and has a port.
func hasPort(t *testing.T, dir, name string) bool {
	r := run(t, "--run-dir", dir, "port", "list")
	return r.code == 0 && strings.Contains(r.out, name+" ")
}

// statusOf is what the supervisor of dir says.
func statusOf(t *testing.T, dir string) supervise.Status {
	t.Helper()
	s, err := supervise.ReadStatus(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// childOf is a process of the supervisor of dir.
func childOf(t *testing.T, dir, name string) supervise.Child {
	t.Helper()
	s := statusOf(t, dir)
	for _, c := range s.Children {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no process %s: %+v", name, s)
	return supervise.Child{}
}

// commandLine is how a process was started.
func commandLine(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\x00", " ")
}

// TestRun goes through the life of a switch: processes that are killed come
// back, and ports with them; SIGTERM ends all and leaves no socket.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	p := startSwitch(t, dir)
	addRow(t, dir, "p1", "dpdkvhostuser")
	addRow(t, dir, "p2", "dpdkvhostuserclient")
	if got, want := commandLine(t, pidOf(t, dir)), "millrace dataplane --run-dir "+dir+" "; !strings.HasPrefix(got, want) {
		t.Errorf("ps shows %q; want %q", got, want)
	}
	for range 2 {
		pid := pidOf(t, dir)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// A command that comes while nobody listens waits for the next one.
		if out := must(t, dir, "port", "list"); !strings.Contains(out, "p1 ") || !strings.Contains(out, "p2 ") {
			t.Fatalf("ports after a restart:\n%s", out)
		}
		if now := pidOf(t, dir); now == pid || now == 0 {
			t.Fatalf("process %d is still there", pid)
		}
	}
	for _, name := range []string{"database", "control"} {
		was := childOf(t, dir, name)
		if err := syscall.Kill(was.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await(t, name+" is back", func() bool {
			c := childOf(t, dir, name)
			return c.State == supervise.Running && c.PID != was.PID && c.Restarts == was.Restarts+1 && c.LastExit == "signal: killed"
		})
	}
	addRow(t, dir, "p3", "dpdkvhostuser")
	await(t, "all sockets", func() bool { // the agent's comes beside the ports
		return strings.Join(sockets(t, dir), " ") == "cni.sock dataplane.sock db.sock p1 p3"
	})
	last := statusOf(t, dir)
	p.end(t, syscall.SIGTERM)
	if code := p.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, c := range last.Children {
		if !gone(c.PID) {
			t.Errorf("%s is left", c.Name)
		}
	}
	if _, err := supervise.ReadStatus(dir); len(sockets(t, dir)) > 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: sockets %v, %s: %v", sockets(t, dir), supervise.StatusName, err)
	}
	if rest, _ := io.ReadAll(p.out); len(rest) > 0 {
		t.Errorf("standard output has more than ready: %q", rest)
	}
}

// TestRunEnds within two seconds of SIGTERM. Others may have the CPUs for a while:
// what is slow in itself is slow each time.
func TestRunEnds(t *testing.T) {
	took := 2 * testTimeout
	for deadline := time.Now().Add(2 * testTimeout); took > endWithin && time.Now().Before(deadline); {
		p := startSwitch(t, t.TempDir())
		began := time.Now()
		p.end(t, syscall.SIGTERM)
		took = time.Since(began)
	}
	if took > endWithin {
		t.Errorf("the last one took %v to end, want at most %v", took, endWithin)
	}
}

// TestRunFresh: the dataplane begins without ports, once, and gets those that
// are in the database.
func TestRunFresh(t *testing.T) {
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	p := startSwitch(t, dir, "--state-dir", state)
	addRow(t, dir, "p1", "dpdkvhostuser")
	p.end(t, syscall.SIGTERM)
	p = startSwitch(t, dir, "--state-dir", state, "--fresh")
	pid := pidOf(t, dir)
	if got := commandLine(t, pid); !strings.Contains(got, " --fresh ") {
		t.Errorf("started as %s", got)
	}
	await(t, "the database's ports", func() bool { return hasPort(t, dir, "p1") })
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the next dataplane", func() bool { now := pidOf(t, dir); return now != 0 && now != pid })
	if got := commandLine(t, pidOf(t, dir)); strings.Contains(got, " --fresh ") {
		t.Errorf("restarted as %s", got)
	}
	p.end(t, syscall.SIGINT)
	for _, name := range []string{"conf.db", "desired.json"} {
		if _, err := os.Stat(filepath.Join(state, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestRunOfHangingDataplane: one that does not end is killed in time, and its
// sockets do not stay.
func TestRunOfHangingDataplane(t *testing.T) {
	dir := t.TempDir()
	p := startSwitch(t, dir)
	addRow(t, dir, "p1", "dpdkvhostuser")
	pid := pidOf(t, dir)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.end(t, syscall.SIGTERM)
	if got := sockets(t, dir); len(got) > 0 || !gone(pid) {
		t.Errorf("left: sockets %v, dataplane gone: %v", got, gone(pid))
	}
}

// TestDataplaneDiesWithSupervisor if it shall.
func TestDataplaneDiesWithSupervisor(t *testing.T) {
	dir := t.TempDir()
	p := startSwitch(t, dir, "--keep-dataplane=false")
	addRow(t, dir, "p1", "dpdkvhostuser")
	children := statusOf(t, dir).Children
	p.end(t, syscall.SIGKILL)
	for _, c := range children {
		await(t, c.Name+" ends", func() bool { return gone(c.PID) })
	}
	if got := strings.Join(sockets(t, dir), " "); got != "cni.sock db.sock" { // control and the database are killed, not asked
		t.Errorf("left: sockets %v", got)
	}
}

// TestAdoption: the dataplane outlives its supervisor, the next one takes it
// over as it is, restarts it when it dies, and ends it when it ends.
func TestAdoption(t *testing.T) {
	dir := t.TempDir()
	p := startSwitch(t, dir)
	addRow(t, dir, "p1", "dpdkvhostuser")
	children, pid := statusOf(t, dir).Children, pidOf(t, dir)
	p.end(t, syscall.SIGKILL)
	p = startSwitch(t, dir, "--poll", "busy") // at once, with a flag that only a new dataplane could obey
	if c := childOf(t, dir, "dataplane"); c.PID != pid || !c.Adopted || c.State != supervise.Running || pidOf(t, dir) != pid {
		t.Errorf("dataplane %d was not adopted: %+v", pid, c)
	}
	for _, c := range children {
		if c.Name != "dataplane" {
			await(t, c.Name+" of the killed supervisor ends", func() bool { return gone(c.PID) })
		}
	}
	await(t, "the log says that --poll is not obeyed", func() bool {
		log := p.log.String()
		return strings.Contains(log, "polls otherwise") && strings.Contains(log, fmt.Sprint("kill ", pid))
	})
	if strings.Contains(p.log.String(), "other CPUs") {
		t.Error("the log says that other CPUs were asked for")
	}
	addRow(t, dir, "p2", "dpdkvhostuser")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "another dataplane", func() bool {
		c := childOf(t, dir, "dataplane")
		return c.PID != pid && !c.Adopted && c.State == supervise.Running && c.Restarts == 1
	})
	await(t, "its ports", func() bool { return hasPort(t, dir, "p1") && hasPort(t, dir, "p2") })
	p.end(t, syscall.SIGKILL)
	pid = pidOf(t, dir)
	p = startSwitch(t, dir)
	if now := pidOf(t, dir); now != pid {
		t.Errorf("dataplane is process %d, was %d", now, pid)
	}
	p.end(t, syscall.SIGTERM)
	if got := sockets(t, dir); len(got) > 0 || !gone(pid) {
		t.Errorf("left: sockets %v, dataplane gone: %v", got, gone(pid))
	}
}

// TestHangUp: a terminal that goes away, which tells all processes, ends a
// switch in good order. By itself, the signal is no reason for a child to die,
// and for none to whom it was said that it is not (nohup(1)).
func TestHangUp(t *testing.T) {
	signal.Ignore(syscall.SIGHUP) // which processes inherit
	nohup := startSwitch(t, t.TempDir())
	if err := nohup.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	hungUp := make(chan os.Signal, 1)
	signal.Notify(hungUp, syscall.SIGHUP) // what is handled, processes do not inherit
	defer signal.Stop(hungUp)
	dir := t.TempDir()
	p := startSwitch(t, dir)
	for _, c := range statusOf(t, dir).Children {
		if err := syscall.Kill(c.PID, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	transact(t, dir, `{"op":"comment","comment":"x"}`)
	for _, c := range statusOf(t, dir).Children {
		if c.Restarts != 0 || c.State != supervise.Running || gone(c.PID) {
			t.Errorf("after SIGHUP: %+v", c)
		}
	}
	p.end(t, syscall.SIGHUP)
	if code := p.ProcessState.ExitCode(); code != exitOK || len(sockets(t, dir)) > 0 {
		t.Errorf("exit code %d, sockets %v", code, sockets(t, dir))
	}
	select {
	case <-nohup.ended:
		t.Error("the one with nohup has ended, too")
	default:
	}
}

// TestBothDie: with the supervisor the dataplane is killed, too; the next run
// begins with all ports.
func TestBothDie(t *testing.T) {
	dir := t.TempDir()
	p := startSwitch(t, dir)
	addRow(t, dir, "p1", "dpdkvhostuser")
	pid := pidOf(t, dir)
	p.end(t, syscall.SIGKILL)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	startSwitch(t, dir)
	if now := pidOf(t, dir); now == pid || !hasPort(t, dir, "p1") {
		t.Errorf("dataplane is process %d, was %d; has its port: %v", now, pid, hasPort(t, dir, "p1"))
	}
}

// TestSecondControl beside the one that run keeps alive refuses, and says what
// helps.
func TestSecondControl(t *testing.T) {
	dir := t.TempDir()
	startSwitch(t, dir)
	p := spawn(t, "control", "--run-dir", dir)
	select {
	case <-p.ended:
	case <-time.After(testTimeout):
		t.Fatal("it goes on")
	}
	says := fmt.Sprintf("process %d holds %s: stop it, or choose another --run-dir", childOf(t, dir, "control").PID, filepath.Join(dir, "control.lock"))
	if code := p.ProcessState.ExitCode(); code != exitInUse || !strings.Contains(p.log.String(), says) {
		t.Errorf("exit code %d, want %d, and %q", code, exitInUse, says)
	}
}

// TestFreshEndsTheOldDataplane that a killed supervisor has left.
func TestFreshEndsTheOldDataplane(t *testing.T) {
	dir := t.TempDir()
	p := startSwitch(t, dir)
	pid := pidOf(t, dir)
	p.end(t, syscall.SIGKILL)
	startSwitch(t, dir, "--fresh")
	if now := pidOf(t, dir); now == pid || now == 0 || !gone(pid) {
		t.Errorf("dataplane is process %d, was %d, which is gone: %v", now, pid, gone(pid))
	}
}

// TestRunGivesUp where another try cannot go better, with an exit code that
// says why.
func TestRunGivesUp(t *testing.T) {
	alone := func(args ...string) string {
		dir := t.TempDir()
		if got := spawn(t, append(args, "--run-dir", dir)...).line(t); got != "ready\n" {
			t.Fatalf("%v says %q", args, got)
		}
		return dir
	}
	running, bad := t.TempDir(), t.TempDir()
	startSwitch(t, running)
	if err := os.WriteFile(filepath.Join(bad, "ports.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir string
		flags     []string
		code      int
		says      string
	}{
		{"switch runs there", running, nil, exitInUse, "run.lock"},
		{"control runs there", alone("control"), nil, exitInUse, "run directory has a control process: process"},
		{"database runs there", alone("db", "serve"), nil, exitInUse, "another process uses the database; stop it first"},
		{"bad ports.json", bad, nil, exitError, "--fresh"},
		{"bad endpoint", t.TempDir(), []string{"--db", "http:x"}, exitUsage, "--db: bad database endpoint"},
		{"two databases", t.TempDir(), []string{"--db", "tcp:x:1", "--db-listen", "ptcp:0"}, exitUsage, "--db-listen"},
		{"bad listener", t.TempDir(), []string{"--db-listen", "http:x"}, exitUsage, "want punix:PATH"},
		{"bad port", t.TempDir(), []string{"--db-listen", "ptcp:66666"}, exitUsage, `"66666" is not a port`},
		{"listener without a key", t.TempDir(), []string{"--db-listen", "pssl:6640"}, exitUsage, "pssl:6640 needs --private-key, --certificate and --ca-cert"},
		{"endpoint without a key", t.TempDir(), []string{"--db", "ssl:x:6640", "-p", "k.pem"}, exitUsage, "ssl:x:6640 needs --private-key"},
		{"no name", "", nil, exitUsage, "--run-dir: it is empty"},
		{"no directory", "/proc/version", nil, exitError, "make run directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := spawn(t, append([]string{"run", "--run-dir", tt.dir}, tt.flags...)...)
			select {
			case <-p.ended:
			case <-time.After(testTimeout):
				t.Fatal("it goes on")
			}
			if code := p.ProcessState.ExitCode(); code != tt.code || !strings.Contains(p.log.String(), tt.says) {
				t.Errorf("exit code %d, want %d, and %q", code, tt.code, tt.says)
			}
			if pid, err := service.DataplaneOf(tt.dir); tt.dir != running && tt.dir != "/proc/version" && tt.dir != "" && (pid != 0 || err != nil) {
				t.Errorf("a dataplane is left: %d, %v", pid, err)
			}
		})
	}
}

// TestGivesUpAlone: a run that cannot start leaves the dataplane that it found.
func TestGivesUpAlone(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"dataplane"}, {"control"}} {
		if got := spawn(t, append(args, "--run-dir", dir)...).line(t); got != "ready\n" {
			t.Fatalf("%v: first line is %q", args, got)
		}
	}
	pid := pidOf(t, dir)
	p := spawn(t, "run", "--run-dir", dir)
	select {
	case <-p.ended:
	case <-time.After(testTimeout):
		t.Fatal("it goes on")
	}
	if now := pidOf(t, dir); now != pid || p.ProcessState.ExitCode() != exitInUse {
		t.Errorf("dataplane is process %d, was %d; exit code %d", now, pid, p.ProcessState.ExitCode())
	}
}

// TestDamagedDatabase: a switch whose database's file is damaged starts with
// what the database said last, says what is wrong, and has the database when its
// file is good again.
func TestDamagedDatabase(t *testing.T) {
	dir := t.TempDir()
	p := startSwitch(t, dir)
	addRow(t, dir, "p1", "dpdkvhostuser")
	await(t, "desired.json", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "desired.json"))
		return err == nil && strings.Contains(string(b), `"p1"`)
	})
	p.end(t, syscall.SIGTERM)
	file, kept := filepath.Join(dir, "conf.db"), filepath.Join(dir, "kept")
	if err := os.Rename(file, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "ports.json")); err != nil {
		t.Fatal(err)
	}
	p = spawn(t, "run", "--run-dir", dir)
	await(t, "port of the last run", func() bool { return hasPort(t, dir, "p1") })
	r := run(t, "--run-dir", dir, "status")
	if r.code != 1 || !strings.Contains(r.out, "database: ") {
		t.Errorf("status: exit code %d:\n%s%s", r.code, r.out, r.err)
	}
	await(t, "the log names the file", func() bool { return strings.Contains(p.log.String(), "conf.db") })
	if err := os.Rename(kept, file); err != nil {
		t.Fatal(err)
	}
	if got := p.line(t); got != "ready\n" {
		t.Errorf("it says %q", got)
	}
	addRow(t, dir, "p2", "dpdkvhostuser")
	if !hasPort(t, dir, "p1") {
		t.Error("p1 is gone")
	}
}

// TestDataplaneAlone: without a supervisor, ready comes on standard output,
// and real patch ports connect two bridges.
func TestDataplaneAlone(t *testing.T) {
	dir := t.TempDir()
	p := spawn(t, "dataplane", "--run-dir", dir)
	if got := p.line(t); got != "ready\n" {
		t.Fatalf("first line is %q", got)
	}
	c, err := api.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, spec := range []*api.PortSpec{{Bridge: "br0", Name: "a", Type: "patch", Peer: "b"}, {Bridge: "br1", Name: "b", Type: "patch", Peer: "a"}} {
		if _, err := c.AddPort(t.Context(), &api.AddPortRequest{Spec: spec}); err != nil {
			t.Fatal(err)
		}
	}
	if out := must(t, dir, "drops"); !strings.Contains(out, "no drops") || strings.Count(out, "exact") != 2 {
		t.Errorf("drops:\n%s", out)
	}
	p.end(t, syscall.SIGTERM)
	if code := p.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestSwitchFits: the real switch and the fake one are what the service offers.
func TestSwitchFits(t *testing.T) {
	var _ service.Switch = (*dataplane.Switch)(nil)
	var _ closingSwitch = (*switchtest.Switch)(nil)
}
