package pods

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/cni/attach"
	"millrace/waittest"
)

// switchSteps are the system calls by which processes of the switch change something or talk to somebody.
const switchSteps = "connect,sendto,sendmsg,write,writev,pwrite64,ioctl,mkdirat,symlinkat,renameat,unlinkat,fchmod,fchmodat,fchownat,fdatasync,fsync,ftruncate"

// tracerPatience is how long strace may take to let go.
const tracerPatience = 5 * time.Second

// TestSwitchSteps kills the agent, the dataplane and the database at each step of ADD and of DEL: at the n-th of any of their threads, until
// there is none to be killed at. Afterwards an ADD succeeds, and a DEL leaves nothing. Other runs than long ones have every other power
// of two, and one kind of interface for each.
func TestSwitchSteps(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace: apt-get install strace")
	}
	n := newNode(t)
	kinds := []string{attach.TAP, attach.Veth, attach.VhostUser}
	long := os.Getenv("MILLRACE_TEST_LONG") != ""
	for _, whom := range []string{"control", "dataplane", "db"} {
		all, turn := 0, 0
		for step, killed := 1, 1; killed > 0; {
			if step > stepsMax {
				t.Fatalf("%s: killed at step %d still", whom, step)
			}
			killed = 0
			if long {
				for _, kind := range kinds {
					killed += n.switchStep(kind, whom, step)
				}
				step++
			} else {
				killed = n.switchStep(kinds[turn%len(kinds)], whom, step)
				step, turn = 4*step, turn+1
			}
			all += killed
		}
		t.Logf("%s: killed %d times", whom, all)
	}
}

// switchStep has a process killed at a step of ADD and of DEL, tries again, and looks for what is left. It returns how often it was
// killed.
func (n *node) switchStep(kind, whom string, step int) (killed int) {
	t := n.t
	t.Helper()
	list, p := n.network("1.0.0", kind, nil), n.newPod()
	run := func(verb string) {
		stop := n.killAt(whom, step)
		_, _ = n.plugin(p.env(n, verb), n.conf(list)) // whatever comes of it
		if stop() {
			killed++
		}
		n.settled()
	}
	run("ADD")
	if step%2 == 0 { // half of the runtimes call DEL first
		check(t, p.del(list))
		n.settled()
	}
	if _, err := p.add(list); err != nil {
		t.Fatalf("%s: %s killed at step %d of ADD: the next ADD: %v", kind, whom, step, err)
	}
	if err := p.check(list); err != nil {
		t.Errorf("%s: %s killed at step %d of ADD: CHECK of the next one: %v", kind, whom, step, err)
	}
	run("DEL")
	check(t, p.del(list))
	n.settled()
	n.nothingLeft(p)
	if t.Failed() {
		t.Fatalf("%s: %s killed at step %d", kind, whom, step)
	}
	if killed > 0 { // what dies again and again is started later and later
		n.stop()
		n.start()
	}
	return killed
}

// killAt has a process killed at a step of any of its threads from now on. stop ends that, and reports whether it was.
func (n *node) killAt(whom string, step int) (stop func() bool) {
	n.t.Helper()
	pid := n.process(whom)
	log := &waittest.Buffer{}
	cmd := exec.Command("strace", "-f", "-o", "/dev/null", "-p", strconv.Itoa(pid), "-e", "trace="+switchSteps, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", switchSteps, step))
	cmd.Stderr = log
	cmd.WaitDelay = time.Second
	done := n.startBeside(cmd, syscall.SIGKILL)
	n.t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(n.t, "strace follows "+whom, func() bool {
		if strings.Contains(log.String(), "ptrace") {
			n.t.Skipf("needs ptrace: %s", log)
		}
		return strings.Contains(log.String(), "attached") || n.process(whom) != pid // killed at something else
	})
	return func() bool {
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-done:
		case <-time.After(tracerPatience): // it waits for threads that it has killed, now and then for ever
			_ = cmd.Process.Kill()
			<-done
		}
		return n.process(whom) != pid
	}
}
