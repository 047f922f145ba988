package control

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
	"millrace/dataplane"
	"millrace/dataplane/service"
	"millrace/dataplane/service/switchtest"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// schemaFile is where Debian's openvswitch-common has the stock schema.
const schemaFile = "/usr/share/openvswitch/vswitch.ovsschema"

// A rig is stock ovsdb-server, a dataplane whose switch is fake, and control.
type rig struct {
	t      testing.TB
	dir    string
	server *exec.Cmd
	sw     *switchtest.Switch
	logs   *observer.ObservedLogs
	stops  map[string]func()

	prepare func(*switchtest.Switch) // what is done to a new switch
	flows   bool                     // the server has the Millrace database
	local   bool                     // Config.LocalPorts

	balanceEvery time.Duration // Config.balanceEvery
	statsEvery   time.Duration // Config.statsEvery; 0: no test lasts so long
}

// newEmbeddedRig is newRig with millrace's own database server.
func newEmbeddedRig(t testing.TB) *rig {
	return startRig(t, func(*switchtest.Switch) {}, (*rig).embedded)
}

// newRig starts all of it.
func newRig(t testing.TB) *rig { return newPrepared(t, func(*switchtest.Switch) {}) }

// newPrepared is newRig with a switch that something was done to.
func newPrepared(t testing.TB, prepare func(*switchtest.Switch)) *rig {
	t.Helper()
	return startRig(t, prepare, (*rig).database)
}

// startRig starts a database, a dataplane and control.
func startRig(t testing.TB, prepare func(*switchtest.Switch), database func(*rig), options ...func(*rig)) *rig {
	t.Helper()
	for _, tool := range []string{"ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovsdb-client"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	if _, err := os.Stat(schemaFile); errors.Is(err, fs.ErrNotExist) {
		t.Skip("needs " + schemaFile)
	}
	dir, err := os.MkdirTemp("", "mr") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, stops: map[string]func(){}, prepare: prepare}
	t.Cleanup(func() {
		for _, what := range []string{"control", "dataplane", "database"} {
			r.stop(what)
		}
	})
	if out, err := exec.Command("ovsdb-tool", "create", r.file("conf.db"), schemaFile).CombinedOutput(); err != nil {
		t.Fatalf("ovsdb-tool: %v: %s", err, out)
	}
	for _, o := range options {
		o(r)
	}
	database(r)
	r.dataplane()
	r.control()
	return r
}

// embedded starts our server on the file that there is.
func (r *rig) embedded() {
	r.t.Helper()
	dbs := []server.Database{{Path: r.file("conf.db"), Schema: schema.OpenVSwitch}}
	if r.flows {
		dbs = append(dbs, server.Database{Path: r.file("flows.db"), Schema: schema.Millrace})
	}
	srv, err := server.Open(server.Config{
		Databases: dbs,
		Listen:    []string{"p" + r.endpoint()}, Remotes: []string{server.ManagerOptions},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx) }()
	r.stops["database"] = func() {
		cancel()
		if err := errors.Join(<-ended, srv.Close()); err != nil {
			r.t.Error(err)
		}
	}
}

func (r *rig) file(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) endpoint() string { return "unix:" + r.file("ovs.sock") }

// stop stops one of the three.
func (r *rig) stop(what string) {
	if stop := r.stops[what]; stop != nil {
		delete(r.stops, what)
		stop()
	}
}

// database starts ovsdb-server on the file that there is.
func (r *rig) database() {
	r.t.Helper()
	var out bytes.Buffer
	args := []string{"--remote=p" + r.endpoint(), "--remote=db:Open_vSwitch,Open_vSwitch,manager_options", "--unixctl=" + r.file("ovs.ctl"), "--no-chdir", "-vconsole:warn", r.file("conf.db")}
	if r.flows {
		args = append(args, r.file("flows.db"))
	}
	cmd := exec.Command("ovsdb-server", args...)
	cmd.Stderr, cmd.SysProcAttr = &out, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.server = cmd
	r.stops["database"] = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}
	r.until("ovsdb-server listens", func() bool {
		c, err := net.Dial("unix", r.file("ovs.sock"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// dataplane starts a dataplane with the ports that its directory remembers.
func (r *rig) dataplane() {
	r.t.Helper()
	d, err := service.OpenDataplane(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.sw = &switchtest.Switch{}
	r.prepare(r.sw)
	s := service.New(service.Config{
		Dir: d, Switch: r.sw, Version: "1.2.3", CPUs: []int{0}, Poll: dataplane.PollAdaptive,
		Types: []string{"dpdkvhostuser", "dpdkvhostuserclient", "patch", "tap", "internal"}, Log: zap.NewNop(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Serve(ctx, false, func() error { close(ready); return nil }) }()
	select {
	case <-ready:
	case err := <-ended:
		r.t.Fatal(err)
	}
	r.stops["dataplane"] = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
		d.Close()
	}
}

// control starts control.
func (r *rig) control() {
	core, logs := observer.New(zap.DebugLevel)
	r.logs = logs
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{RunDir: r.dir, Endpoints: []string{r.endpoint()}, Version: "1.2.3", LocalPorts: r.local, Log: zap.New(core), balanceEvery: r.balanceEvery, statsEvery: cmp.Or(r.statsEvery, time.Hour)})
	}()
	r.stops["control"] = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	}
}

// controlAgain ends control and starts it anew, and returns once it has made a pass over what there
// was.
func (r *rig) controlAgain() {
	r.t.Helper()
	r.stop("control")
	if err := os.Remove(r.file(statusName)); err != nil {
		r.t.Fatal(err)
	}
	r.control()
	r.until("a pass over what there was", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && s.Database.Connected && s.Counters.Passes > 0
	})
}

// until waits for something.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			for _, e := range r.logs.All() {
				r.t.Logf("%s %s %v", e.Level, e.Message, e.ContextMap())
			}
			r.t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// vsctl runs ovs-vsctl, which must succeed in silence, and returns what it
// prints.
func (r *rig) vsctl(args ...string) string {
	r.t.Helper()
	out, stderr, err := r.try(args...)
	if err != nil || stderr != "" {
		r.t.Fatalf("ovs-vsctl %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr)
	}
	return out
}

func (r *rig) try(args ...string) (out, stderr string, err error) {
	var o, e bytes.Buffer
	cmd := exec.Command("ovs-vsctl", append([]string{"--db=" + r.endpoint(), "--timeout=60"}, args...)...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return strings.TrimSpace(o.String()), complaints(e.String()), err
}

// complaints is what ovs-vsctl prints on standard error, without what its
// module timeval says of itself: that this machine gave it no CPU for a second.
func complaints(stderr string) string {
	var kept strings.Builder
	for line := range strings.Lines(stderr) {
		if !strings.Contains(line, "|timeval|") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// get is a column of an interface.
func (r *rig) get(name, column string) string {
	r.t.Helper()
	return r.vsctl("--no-wait", "get", "interface", name, column)
}
