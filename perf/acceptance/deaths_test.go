package acceptance

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/supervise"
)

// deathsEnv says how many deaths there shall be.
const deathsEnv = "MILLRACE_DEATHS"

// deaths is a switch below a service manager, under traffic.
type deaths struct {
	*unit
	traffic *steady
	args    []string // of run
	settled time.Time
	took    map[string][]time.Duration // until control was at work and knew it
	healed  []time.Duration            // until the traffic went on, after deaths of the dataplane
	lost    []uint64                   // by deaths of the dataplane
}

// TestDeaths kills the processes of a switch at random, while two guests send to
// each other: control, database and supervisor without the loss of a frame;
// after the death of the dataplane frames go both ways again within 500 ms. No
// hand helps; the service manager, which the test is, restarts the supervisor.
// MILLRACE_DEATHS=100 is the full run: each death is healed in time. Otherwise one
// that was not is tried again, for the machine may be busy.
func TestDeaths(t *testing.T) {
	need(t, "ovs-vsctl")
	n, seed := number(t, deathsEnv, 12), uint64(number(t, seedEnv, time.Now().UnixNano()))
	t.Logf("%d deaths; to have them again: %s=%d", n, seedEnv, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	worker, _ := cpus(t)
	d := &deaths{unit: newUnit(t), args: []string{"run", "--cpus", strconv.Itoa(worker)}, took: map[string][]time.Duration{}}
	d.start("run", d.args...)
	d.settled = time.Now()
	d.addPorts()
	d.traffic = newSteady(t, d.path("a"), d.path("b.sock"), d.path("page"))
	d.traffic.goesOn()
	before := d.numbers()
	for i, name := range victims(random, int(n)) {
		time.Sleep(time.Duration(random.IntN(200_000)) * time.Microsecond) // under load
		lost := d.traffic.lost()
		if name == "dataplane" {
			d.killDataplane()
		} else {
			d.killOther(name)
		}
		// All works: what is asked for is done, and nothing else.
		d.vsctl("set", "bridge", "br0", fmt.Sprintf("external_ids:round=%d", i))
		d.traffic.goesOn()
		now := d.traffic.lost() - lost
		if name == "dataplane" {
			d.lost = append(d.lost, now)
		} else if now != 0 {
			t.Errorf("death %d, %s: %d frames lost, want none", i, name, now)
		}
		if next, current := d.vsctl("get", "open_vswitch", ".", "next_cfg"), d.vsctl("get", "open_vswitch", ".", "cur_cfg"); next != current {
			t.Errorf("death %d, %s: cur_cfg is %s, want %s", i, name, current, next)
		}
		if t.Failed() {
			return
		}
	}
	if now := strings.Split(d.numbers(), ", ")[0]; now != strings.Split(before, ", ")[0] {
		t.Errorf("ofports of a and b are %s, were %s", now, before)
	}
	d.vsctl("add-port", "br0", "c", "--", "set", "interface", "c", "type="+listens)
	if got := d.vsctl("get", "interface", "c", "ofport"); got == "-1" || got == "[]" {
		t.Errorf("ofport of a new port is %s", got)
	}
	d.report()
}

// victims are n names in random order: each kind of process comes as often as
// the others, but for the rest.
func victims(random *rand.Rand, n int) []string {
	kinds := []string{"control", "database", "dataplane", "supervisor"}
	var all []string
	for i := range n {
		all = append(all, kinds[i%len(kinds)])
	}
	random.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// killDataplane kills the dataplane and judges how long the traffic stood. The
// process has settled before: to slow down one that dies again and again is
// right.
func (d *deaths) killDataplane() {
	d.t.Helper()
	const most, settles = 500 * time.Millisecond, 1100 * time.Millisecond
	each(d.t, deathsEnv, most, func() time.Duration {
		time.Sleep(time.Until(d.settled.Add(settles)))
		was, began := d.child("dataplane"), time.Now()
		killed := clock()
		check(d.t, syscall.Kill(was.PID, syscall.SIGKILL))
		eventually(d.t, func() bool { c := d.child("dataplane"); return c.PID != was.PID }, "the supervisor has noticed")
		took := time.Duration(d.traffic.resumed() - killed)
		d.healed = append(d.healed, took)
		d.running("dataplane", was)
		d.settled = time.Now()
		eventually(d.t, func() bool { return d.atWork(d.child("control").PID) }, "control has the new dataplane")
		d.took["dataplane"] = append(d.took["dataplane"], time.Since(began))
		return took
	})
}

// killOther kills another process, and waits until all is as it was: the same
// dataplane, and control that has found nothing to change.
func (d *deaths) killOther(name string) {
	d.t.Helper()
	dataplane, old := d.child("dataplane"), d.told()
	began := time.Now()
	if name == "supervisor" {
		was := d.supervisor()
		d.kill("run")
		d.start("run", d.args...)
		for _, c := range was.Children {
			if now := d.child(c.Name); (c.Name == "dataplane") != (now.PID == c.PID) || now.State != supervise.Running {
				d.t.Errorf("%s was process %d of the killed supervisor, is %+v", c.Name, c.PID, now)
			}
		}
		d.settled = time.Now() // adopted just now
	} else {
		was := d.child(name)
		check(d.t, syscall.Kill(was.PID, syscall.SIGKILL))
		d.running(name, was)
	}
	if now := d.child("dataplane").PID; now != dataplane.PID {
		d.t.Errorf("dataplane is process %d, was %d", now, dataplane.PID)
	}
	pid := d.child("control").PID
	eventually(d.t, func() bool { return d.atWork(pid) }, "control is at work after the death of the %s", name)
	d.took[name] = append(d.took[name], time.Since(began))
	changes := d.told().Counters.Changes
	if pid == old.PID {
		changes -= old.Counters.Changes
	}
	if changes != 0 {
		d.t.Errorf("control made %d changes after the death of the %s, want none", changes, name)
	}
}

// running waits until a process has a successor that runs.
func (d *deaths) running(name string, was supervise.Child) {
	d.t.Helper()
	eventually(d.t, func() bool {
		c := d.child(name)
		return c.PID != was.PID && c.State == supervise.Running
	}, "%s %d is replaced", name, was.PID)
}

// report tells what was measured.
func (d *deaths) report() {
	for _, name := range []string{"control", "database", "dataplane", "supervisor"} {
		if l := d.took[name]; len(l) > 0 {
			p50, _ := quantiles(l)
			d.t.Logf("%-10s %3d deaths, control at work, and its file says so, after %v, worst %v", name, len(l), p50, l[len(l)-1])
		}
	}
	if l := d.healed; len(l) > 0 {
		p50, _ := quantiles(l)
		d.t.Logf("dataplane: frames both ways %v after its death, worst %v; frames lost: %v", p50, l[len(l)-1], d.lost)
	}
	d.t.Logf("%d and %d frames were sent; deaths of others lost none", d.traffic.flows[0].sent.Load(), d.traffic.flows[1].sent.Load())
}
