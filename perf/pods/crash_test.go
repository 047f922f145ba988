package pods

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/cni/attach"
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

// TestCrashes kills the plugin, the agent, the dataplane and the database at many moments
// of ADD and of DEL. Afterwards a DEL leaves nothing, and an ADD succeeds.
func TestCrashes(t *testing.T) {
	n := newNode(t)
	long := os.Getenv("MILLRACE_TEST_LONG") != ""
	for k, kind := range []string{attach.TAP, attach.Veth, attach.VhostUser} {
		for _, whom := range []string{"plugin", "control", "dataplane", "db"} {
			switch {
			case long:
				for i := range 40 {
					n.crash(kind, whom, time.Duration(i)*time.Millisecond)
				}
			case whom == "plugin":
				for i := range 4 {
					n.crash(kind, whom, time.Duration(4*i+k)*time.Millisecond)
				}
			default:
				n.crash(kind, whom, time.Duration(6*k+1)*time.Millisecond)
			}
		}
	}
}

// crash kills somebody some time after an ADD and a DEL have begun, tries again, and
// looks for what is left.
func (n *node) crash(kind, whom string, after time.Duration) {
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
	if after%2 == 0 { // half of the runtimes call DEL first
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

// settled waits until a switch whose parts were killed is whole again, and has carried
// out notes.
func (n *node) settled() {
	n.t.Helper()
	eventually(n.t, "the switch is whole again", func() bool {
		notes, err := attach.Notes(n.run)
		return n.status() == nil && err == nil && len(notes) == 0 && n.process("dataplane") != 0
	})
}
