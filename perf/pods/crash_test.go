package pods

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/cni/attach"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
	"millrace/perf/peers"
)

func killProcess(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// A killer is how libcni runs plugins: it kills the plugin, or a process of the switch,
// some time after the plugin has begun.
type killer struct {
	n     *node
	whom  string // plugin, control, dataplane or db
	after time.Duration
}

// ExecPlugin implements invoke.Exec.
func (k *killer) ExecPlugin(ctx context.Context, plugin string, stdin []byte, env []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, plugin)
	cmd.Env, cmd.Stdin = env, strings.NewReader(string(stdin))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	done := make(chan struct{})
	t := time.AfterFunc(k.after, func() {
		defer close(done)
		k.kill(cmd)
	})
	defer func() {
		if !t.Stop() {
			<-done // what is killed is dead when we return
		}
	}()
	return cmd.Output()
}

// kill kills the plugin, with the IPAM plugin below it, or a process of the switch.
func (k *killer) kill(cmd *exec.Cmd) {
	pid := k.n.process(k.whom)
	if k.whom == "plugin" {
		if cmd.Process == nil {
			return
		}
		pid = -cmd.Process.Pid
	}
	if pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// TestCrashes kills the plugin, the agent, the dataplane and the database at moments that are spread
// over the time that an ADD takes here and now, and of a DEL. Afterwards a DEL leaves
// nothing, and an ADD succeeds. Long runs have forty moments for each, others one of the agent.
func TestCrashes(t *testing.T) {
	n := newNode(t)
	moments := map[string]int{"control": 1} // TestPluginSteps and TestSwitchSteps have steps of all of them
	for _, kind := range []string{attach.TAP, attach.Veth, attach.VhostUser} {
		for _, whom := range []string{"plugin", "control", "dataplane", "db"} {
			count := moments[whom]
			if os.Getenv("MILLRACE_TEST_LONG") != "" {
				count = 40
			}
			for i := range count {
				n.crash(kind, whom, n.usual(kind)*time.Duration(2*i+1)/time.Duration(2*count), i)
			}
		}
	}
}

// usual is how long an ADD takes that nobody disturbs.
func (n *node) usual(kind string) time.Duration {
	n.t.Helper()
	list, p := n.network("1.0.0", kind, nil), n.newPod()
	took, err := n.plugin(p.env(n, "ADD"), n.conf(list))
	check(n.t, err)
	check(n.t, p.del(list))
	return took
}

// crash kills somebody some time after an ADD and a DEL have begun, tries again, and
// looks for what is left. It is the i-th of its kind.
func (n *node) crash(kind, whom string, after time.Duration, i int) {
	t := n.t
	t.Helper()
	list := n.network("1.0.0", kind, nil)
	p := n.newPod()
	k := &killer{n, whom, after}
	run := func(verb string) {
		_, _ = k.ExecPlugin(t.Context(), n.bin+"/millrace-cni", n.conf(list), p.env(n, verb)) // whatever comes of it
		n.settled()
	}
	run("ADD")
	if i%2 == 0 { // half of the runtimes call DEL first
		check(t, p.del(list))
		n.settled()
	}
	if _, err := p.add(list); err != nil {
		t.Fatalf("%s: %s killed after %v of ADD: the next ADD: %v", kind, whom, after, err)
	}
	if err := p.check(list); err != nil {
		t.Errorf("%s: %s killed after %v of ADD: CHECK of the next one: %v", kind, whom, after, err)
	}
	run("DEL")
	check(t, p.del(list))
	n.settled()
	n.nothingLeft(p)
	if t.Failed() {
		t.Fatalf("%s: %s killed after %v", kind, whom, after)
	}
}

// settled waits until a switch whose parts were killed is whole again, has carried out notes, and has
// made of rows what they say: a DEL that finds none does not wait for that.
func (n *node) settled() {
	n.t.Helper()
	eventually(n.t, "the switch is whole again", func() bool {
		notes, err := attach.Notes(n.run)
		return n.status() == nil && err == nil && len(notes) == 0 && n.process("dataplane") != 0 && n.inForce()
	})
}

// inForce reports whether the switch is as its database says.
func (n *node) inForce() bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := ovsdb.Dial(ctx, ovsdb.Config{Endpoints: []string{"unix:" + n.run + "/db.sock"}, Schema: model.Schema(),
		Tables: []ovsdb.Table{{Name: model.OpenvSwitchTable, Row: &model.OpenvSwitch{}, Watch: []string{"cur_cfg", "next_cfg"}}}})
	if err != nil {
		return false
	}
	defer d.Close()
	rows, err := d.Select(ctx, model.OpenvSwitchTable, []any{})
	if err != nil || len(rows) != 1 {
		return false
	}
	root := rows[0].Row.(*model.OpenvSwitch)
	return root.CurCfg == root.NextCfg
}

// steps are the system calls by which the plugin changes something or talks to somebody. The IPAM plugin
// is left alone: host-local that is killed leaves addresses that belong to nobody.
const steps = "connect,sendto,write,clone,clone3,renameat,unlinkat,mkdirat,fchmod"

// stepsMax is more than a thread of it makes.
const stepsMax = 200

// TestPluginSteps kills the plugin at each of its steps: at the n-th of a thread, until there is none to be
// killed at. Afterwards an ADD succeeds, and a DEL leaves nothing. Long runs do the same for each system call alone, as
// TestSwitchSteps does.
func TestPluginSteps(t *testing.T) {
	peers.Need(t, "strace")
	cover(t, "/var/lib")
	n := newNode(t)
	all := []string{steps}
	if os.Getenv("MILLRACE_TEST_LONG") != "" {
		all = append(all, strings.Split(steps, ",")...)
	}
	for _, net := range steppedNetworks {
		kills := 0
		for _, calls := range all {
			n.everyStep(func(step int) bool {
				killed := n.pluginStep(net, calls, step)
				kills += killed
				return killed > 0
			})
		}
		t.Logf("%s: killed %d times", net.name, kills)
	}
}

// pluginStep has the plugin killed at a step of ADD and of DEL, of those that some system calls are, tries again, and looks for what is
// left. It returns how often it was killed.
func (n *node) pluginStep(net stepped, calls string, step int) (killed int) {
	t := n.t
	t.Helper()
	list, p := n.network("1.0.0", net.kind, net.more), n.newPod()
	p.makeVolume(net)
	killed += n.killedAt(calls, step, p.env(n, "ADD"), n.conf(list))
	if _, err := p.add(list); err != nil {
		t.Fatalf("%s: killed at step %d of %s of ADD: the next ADD: %v", net.name, step, calls, err)
	}
	if err := p.check(list); err != nil {
		t.Errorf("%s: killed at step %d of %s of ADD: CHECK of the next one: %v", net.name, step, calls, err)
	}
	killed += n.killedAt(calls, step, p.env(n, "DEL"), n.conf(list))
	check(t, p.del(list))
	n.settled()
	n.nothingLeft(p)
	if t.Failed() {
		t.Fatalf("%s: killed at step %d of %s", net.name, step, calls)
	}
	return killed
}

// killedAt runs the plugin and has it killed at a step. It returns 0 if it came to its end before.
func (n *node) killedAt(calls string, step int, env []string, conf []byte) int {
	n.t.Helper()
	cmd := exec.Command("strace", "-f", "-b", "execve", "-qq", "-o", "/dev/null", "-e", "trace="+calls, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, step), n.bin+"/millrace-cni")
	cmd.Env, cmd.Stdin = env, strings.NewReader(string(conf))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return 0
	}
	if strings.Contains(string(out), "ptrace") || strings.Contains(string(out), "strace:") {
		n.t.Skipf("needs ptrace: %s", out)
	}
	return 1
}
