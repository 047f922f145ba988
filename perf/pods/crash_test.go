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
	t := time.AfterFunc(k.after, func() {
		if k.whom == "plugin" {
			if p := cmd.Process; p != nil {
				_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // and the IPAM plugin below it
			}
		} else if pid := k.n.process(k.whom); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	defer t.Stop()
	return cmd.Output()
}

// TestCrashes kills the plugin, the agent, the dataplane and the database at many moments
// of ADD and of DEL. Afterwards a DEL leaves nothing, and an ADD succeeds.
func TestCrashes(t *testing.T) {
	n := newNode(t)
	steps, most := 4, 16*time.Millisecond
	if os.Getenv("MILLRACE_TEST_LONG") != "" {
		steps, most = 40, 40*time.Millisecond
	}
	for _, kind := range []string{attach.TAP, attach.Veth, attach.VhostUser} {
		list := n.network("1.0.0", kind, nil)
		for _, whom := range []string{"plugin", "control", "dataplane", "db"} {
			for i := range steps {
				p := n.newPod()
				crash := &killer{n, whom, most * time.Duration(i) / time.Duration(steps)}
				for _, verb := range []string{"ADD", "DEL"} {
					if verb == "DEL" {
						n.settled()
						if _, err := p.add(list); err != nil {
							t.Fatalf("%s: %s killed after %v of ADD: the next ADD: %v", kind, whom, crash.after, err)
						}
					}
					_, _ = crash.ExecPlugin(t.Context(), n.bin+"/millrace-cni", n.conf(list), p.env(n, verb))
					if verb == "ADD" && i%2 == 0 { // half of the runtimes call DEL first
						check(t, p.del(list))
					}
				}
				n.settled()
				check(t, p.del(list))
				n.settled()
				n.nothingLeft(p)
				t.Logf("%s: %s killed after %v", kind, whom, crash.after)
				if t.Failed() {
					t.Fatalf("%s: %s killed after %v", kind, whom, crash.after)
				}
			}
		}
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
