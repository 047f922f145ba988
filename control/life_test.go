package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/dataplane"
)

// setUp makes a bridge with n ports p0 to pn-1, in one transaction.
func (r *rig) setUp(n int) {
	r.t.Helper()
	r.vsctl(addPorts(n)...)
}

// addPorts are the arguments with which ovs-vsctl does that.
func addPorts(n int) []string {
	args := []string{"add-br", "br0"}
	for i := range n {
		name := fmt.Sprint("p", i)
		args = append(args, "--", "add-port", "br0", name, "--", "set", "interface", name, "type=dpdkvhostuser")
	}
	return args
}

// numbers are the dataplane's port numbers: a port that was made anew has
// another one.
func (r *rig) numbers() string {
	var list []string
	for _, p := range r.sw.Ports() {
		list = append(list, fmt.Sprint(p.Name, "=", p.Number))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// TestControlRestarts: the next control changes nothing that is right, repairs
// the rest, and does what it has missed.
func TestControlRestarts(t *testing.T) {
	r := newRig(t)
	r.setUp(4)
	before := r.numbers()
	r.stop("control")
	r.control()
	r.vsctl("set", "bridge", "br0", "other_config:x=y") // returns when the new control has done it
	if got := r.numbers(); got != before {
		t.Errorf("ports %s, want %s", got, before)
	}

	r.stop("control")
	if err := r.sw.DelPort(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.sw.AddPort(t.Context(), dataplane.PortSpec{Bridge: "br9", Name: "stray", Type: "dpdkvhostuser"}); err != nil {
		t.Fatal(err)
	}
	r.vsctl("--no-wait", "del-port", "p2", "--", "set", "port", "p3", "tag=3")
	r.control()
	r.vsctl("wait-until", "interface", "p1", "ofport=2")
	r.until("repaired", func() bool { return r.ports() == "br0/p0, br0/p3 tag=3, br0/p1" })
	if got := r.numbers(); got != "p0=1 p1=6 p3=4" {
		t.Errorf("ports %s", got)
	}
}

// TestDataplaneRestarts: control notices, and sets up what is missing.
func TestDataplaneRestarts(t *testing.T) {
	r := newRig(t)
	r.setUp(3)
	for range 3 {
		r.stop("dataplane")
		r.vsctl("--no-wait", "set", "port", "p1", "tag=7")
		r.dataplane()
		r.until("ports are back", func() bool { return r.ports() == "br0/p0, br0/p1 tag=7, br0/p2" })
		r.vsctl("clear", "port", "p1", "tag")
	}
}

// TestPortVanishes: what others take from the dataplane comes back.
func TestPortVanishes(t *testing.T) {
	r := newRig(t)
	r.setUp(2)
	if err := r.sw.DelPort(t.Context(), "p0"); err != nil {
		t.Fatal(err)
	}
	r.until("p0 is back", func() bool { return r.numbers() == "p0=3 p1=2" })
}

// TestDatabaseRestarts: while it is gone, nothing changes; when it is back,
// nothing is made anew; what it has learned meanwhile is done.
func TestDatabaseRestarts(t *testing.T) {
	r := newRig(t)
	r.setUp(3)
	before := r.numbers()
	for i := range 3 {
		r.stop("database")
		r.until("status says so", func() bool {
			s, err := ReadStatus(r.dir)
			return err == nil && !s.Database.Connected && len(s.Problems) == 1 && strings.HasPrefix(s.Problems[0], "database not reached")
		})
		r.database()
		r.vsctl("set", "bridge", "br0", fmt.Sprint("other_config:x=", i))
		if got := r.numbers(); got != before {
			t.Fatalf("ports %s, want %s", got, before)
		}
	}
	// What the database does not keep over its restart is written again.
	if got := r.get("p0", "status:mode"); got != "server" {
		t.Errorf("status of p0: %s", got)
	}
	r.stop("database")
	r.stop("dataplane")
	r.dataplane()
	r.until("ports without a database", func() bool { return len(r.sw.Ports()) == 3 })
}

// TestOfflineStart: with no database at the start, the ports are those of the
// last run.
func TestOfflineStart(t *testing.T) {
	r := newRig(t)
	r.setUp(3)
	r.stop("control") // writes what was wanted
	r.stop("database")
	r.stop("dataplane")
	if err := exec.Command("rm", r.file("ports.json")).Run(); err != nil { // as a boot does
		t.Fatal(err)
	}
	r.dataplane()
	r.control()
	r.until("ports of the last run", func() bool { return len(r.sw.Ports()) == 3 })
	before := r.numbers()
	r.until("status says so", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && s.Database.Offline && len(s.Problems) == 1
	})
	r.database()
	r.vsctl("add-port", "br0", "new", "--", "set", "interface", "new", "type=dpdkvhostuser")
	if got := r.numbers(); got != "new=4 "+before {
		t.Errorf("ports %s, before %s", got, before)
	}
}

// TestOfflineKeeps: what the dataplane has may be newer than what was written
// last, if control was killed before it had written it. With no database to
// ask, it stays; only what is missing is added.
func TestOfflineKeeps(t *testing.T) {
	r := newRig(t)
	r.setUp(3)
	r.stop("control") // writes what was wanted
	old, err := os.ReadFile(r.file(desiredName))
	if err != nil {
		t.Fatal(err)
	}
	r.control()
	r.vsctl("del-port", "p1", "--", "set", "port", "p0", "tag=7", "--", "set", "interface", "p2", "options:n_rxq=2",
		"--", "add-port", "br0", "new", "--", "set", "interface", "new", "type=dpdkvhostuser",
		"--", "set", "bridge", "br0", "other_config:mac-aging-time=77")
	r.stop("control")
	r.stop("database")
	if err := os.WriteFile(r.file(desiredName), old, 0o600); err != nil {
		t.Fatal(err)
	}
	before := r.numbers()
	r.control()
	r.until("status says so", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && s.Database.Offline && s.Dataplane && s.Counters.Passes > 0
	})
	if got := r.numbers(); !strings.HasPrefix(got, "new=4 ") || strings.ReplaceAll(got, " p1=6", "") != before {
		t.Errorf("ports %s, before %s, and p1", got, before)
	}
	if got := r.ports(); !strings.Contains(got, "br0/p0 tag=7") {
		t.Errorf("ports %s", got)
	}
	r.database()
	r.vsctl("wait-until", "interface", "p0", "ofport=1", "--", "set", "bridge", "br0", "other_config:x=y")
	if got := r.numbers(); got != before {
		t.Errorf("with the database: ports %s, before %s", got, before)
	}
}

// TestSecondControl refuses, and says whom to stop.
func TestSecondControl(t *testing.T) {
	r := newRig(t)
	r.setUp(1)
	err := Run(t.Context(), Config{RunDir: r.dir, Endpoints: []string{r.endpoint()}})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "stop it, or choose another --run-dir") {
		t.Errorf("second control: %v", err)
	}
}

// TestForeignLock: while another switch serves the database, nothing changes.
func TestForeignLock(t *testing.T) {
	r := newRig(t)
	r.setUp(1)
	ctx, cancel := context.WithCancel(t.Context())
	thief := exec.CommandContext(ctx, "ovsdb-client", "steal", r.endpoint(), databaseLock)
	out, err := thief.StdoutPipe()
	if err == nil {
		err = thief.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = thief.Wait() // killed
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	r.until("status says so", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && len(s.Problems) == 1 && strings.Contains(s.Problems[0], "lock "+databaseLock)
	})
	r.vsctl("--no-wait", "del-port", "p0")
	if got := r.ports(); got != "br0/p0" {
		t.Errorf("the switch has %q", got)
	}
	cancel()
	r.until("done when the thief is gone", func() bool { return r.ports() == "" })
}

// TestWaits: before init, and without a dataplane, control waits.
func TestWaits(t *testing.T) {
	r := newRig(t)
	r.until("status says so", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && len(s.Problems) == 1 && strings.Contains(s.Problems[0], "ovs-vsctl init")
	})
	r.stop("dataplane")
	r.vsctl("--no-wait", "add-br", "br0", "--", "add-port", "br0", "p", "--", "set", "interface", "p", "type=dpdkvhostuser")
	r.until("status says so", func() bool {
		s, err := ReadStatus(r.dir)
		return err == nil && len(s.Problems) == 1 && strings.HasPrefix(s.Problems[0], "no dataplane")
	})
	r.dataplane()
	r.vsctl("--no-wait", "wait-until", "interface", "p", "ofport=1")
}

// TestManyPorts: a transaction with 1,000 ports is in force within a second of its
// commit, and one more port is as quick as the first was.
func TestManyPorts(t *testing.T) {
	r := newRig(t)
	r.vsctl("init")
	most, took := 5*time.Second, time.Hour
	if testing.Short() {
		most = patience // a race detector takes its time
	}
	// Others may have the CPUs for a while: what is slow in itself is slow each time.
	for deadline := time.Now().Add(patience); took > most && time.Now().Before(deadline); {
		r.vsctl("--if-exists", "del-br", "br0")
		r.vsctl(append([]string{"--no-wait"}, addPorts(1000)...)...) // its own time is none of control's
		began := time.Now()
		r.until("1,000 ports", func() bool { return len(r.sw.Ports()) == 1000 })
		took = time.Since(began)
	}
	if took > most {
		t.Errorf("1,000 ports took %v, want at most %v", took, most)
	}
	s := r.last("1000 ports, 1 bridge")
	t.Logf("1,000 ports: %s, with results in the rows %.0f ms", s.Last, 1000*s.LastSeconds)
	r.vsctl("add-port", "br0", "one", "--", "set", "interface", "one", "type=dpdkvhostuser")
	s = r.last("1 port, ")
	t.Logf("one more: %s, with results in the rows %.1f ms", s.Last, 1000*s.LastSeconds)
	r.vsctl("del-br", "br0")
	if n := len(r.sw.Ports()); n != 0 {
		t.Errorf("%d ports are left", n)
	}
}

// TestParting: the end of control does not end a transaction that it waits for, but
// bounds it.
func TestParting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		one, cancel := parting(ctx)
		defer cancel()
		began := time.Now()
		end()
		<-one.Done()
		if took := time.Since(began); took != partingTimeout {
			t.Errorf("ended after %v: %v", took, one.Err())
		}
	})
}

// TestBecause: before the database has been tried there is no reason, and none is announced.
func TestBecause(t *testing.T) {
	if got := "not reached" + because(""); got != "not reached" {
		t.Errorf("no reason: %q", got)
	}
	if got := "not reached" + because("refused"); got != "not reached: refused" {
		t.Errorf("a reason: %q", got)
	}
}
