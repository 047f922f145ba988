package acceptance

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"millrace/dataplane/api"
	"millrace/vhost/frontend"
)

// threeAlone starts the three processes of a switch, each by itself, with
// traffic between ports a and b.
func threeAlone(t *testing.T) (*unit, *steady) {
	t.Helper()
	need(t, "ovs-vsctl")
	u := newUnit(t)
	worker, _ := cpus(t)
	u.start("database", "db", "serve")
	u.start("dataplane", "dataplane", "--cpus", strconv.Itoa(worker))
	u.start("control", "control")
	u.addPorts()
	s := newSteady(t, u.path("a"), u.path("b.sock"), u.path("page"))
	s.goesOn()
	return u, s
}

// knows reports whether the dataplane has learned an address of ours.
func (u *unit) knows(last byte) bool {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := api.Dial(ctx, u.dir)
	check(u.t, err)
	defer c.Close()
	all, err := c.Entries(ctx, "br0")
	check(u.t, err)
	for _, e := range all.GetEntries() {
		if e.GetMac() == net.HardwareAddr([]byte{2, 0, 0, 0, 0, last}).String() {
			return true
		}
	}
	return false
}

// TestControlAway: while control is dead, frames go on and addresses are
// learned; the next control changes nothing that is right, and does what it has
// missed.
func TestControlAway(t *testing.T) {
	u, s := threeAlone(t)
	u.vsctl("add-port", "br0", "c", "--", "set", "interface", "c", "type="+listens)
	guest := openGuest(t, frontend.Config{Path: u.path("c"), RxBuffer: 2048, TxFrame: 2048})
	check(t, guest.Wait(t.Context()))
	before, lost := u.numbers(), s.lost()
	u.kill("control")
	const stranger = 0x77
	if u.knows(stranger) {
		t.Fatal("an address is known before it has sent")
	}
	check(t, sendOne(guest.Pairs()[0], goodA, stranger, 1))
	eventually(t, func() bool { return u.knows(stranger) }, "the address is learned without control")
	s.goesOn()
	u.start("control", "control")
	if n := u.told().Counters.Changes; n != 0 || u.numbers() != before {
		t.Errorf("the next control made %d changes; ports are %s, were %s", n, u.numbers(), before)
	}
	u.kill("control")
	u.vsctl("--no-wait", "set", "port", "c", "tag=7", "--", "add-port", "br0", "d", "--", "set", "interface", "d", "type="+listens)
	u.start("control", "control")
	u.vsctl("wait-until", "interface", "d", "ofport>0")
	if got := u.numbers(); got != before+" d=4" {
		t.Errorf("ports are %s, were %s", got, before)
	}
	s.goesOn()
	if n := s.lost() - lost; n != 0 {
		t.Errorf("%d frames lost", n)
	}
}

// TestDatabaseAway: while the database is dead, the configuration stays, and
// control.json says so; when it is back, nothing is made anew.
func TestDatabaseAway(t *testing.T) {
	u, s := threeAlone(t)
	before, lost := u.numbers(), s.lost()
	changes := u.told().Counters.Changes
	for range 3 {
		u.kill("database")
		eventually(t, func() bool {
			c := u.control()
			return !c.Database.Connected && len(c.Problems) == 1 && strings.HasPrefix(c.Problems[0], "database not reached, the configuration stays as it is")
		}, "control says that the database is away")
		s.goesOn()
		u.start("database", "db", "serve")
		u.vsctl("set", "bridge", "br0", "external_ids:x=1")
		if got := u.numbers(); got != before {
			t.Fatalf("ports are %s, were %s", got, before)
		}
	}
	if n := u.told().Counters.Changes; n != changes {
		t.Errorf("control made %d changes, want none", n-changes)
	}
	if n := s.lost() - lost; n != 0 {
		t.Errorf("%d frames lost", n)
	}
}

// TestBootWithoutDatabase: a switch whose database cannot be reached has the
// ports of its last run, after a boot too: nothing but the state directory is
// left then.
func TestBootWithoutDatabase(t *testing.T) {
	need(t, "ovs-vsctl")
	u := newUnit(t)
	state := t.TempDir()
	worker, _ := cpus(t)
	run := []string{"run", "--cpus", strconv.Itoa(worker), "--state-dir", state}
	u.start("run", run...)
	u.addPorts()
	u.stop("run") // control has written what was wanted
	for _, name := range []string{"ports.json", "control.json"} {
		check(t, os.Remove(u.path(name)))
	}
	u.start("run", append(run, "--db", "unix:"+u.path("nowhere.sock"), "--db", "tcp:127.0.0.1:1")...)
	s := newSteady(t, u.path("a"), u.path("b.sock"), u.path("page"))
	s.goesOn()
	eventually(t, func() bool {
		c := u.control()
		return c.Database.Offline && len(c.Problems) == 1 && strings.HasPrefix(c.Problems[0], "database not reached since the start")
	}, "control says that the database is away")
	if got := u.supervisor(); got.Embedded || len(got.Children) != 2 || len(got.DB) != 2 {
		t.Errorf("supervisor: %+v", got)
	}
}

// stop ends a process in good order.
func (u *unit) stop(name string) {
	u.t.Helper()
	p := u.procs[name]
	delete(u.procs, name)
	check(u.t, p.end())
}
