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
	"millrace/perf/peers"
	"millrace/waittest"
)

// switchSteps are the system calls by which processes of the switch change something or talk to somebody.
const switchSteps = "connect,sendto,sendmsg,write,writev,pwrite64,ioctl,mkdirat,symlinkat,renameat,unlinkat,fchmod,fchmodat,fchownat,fdatasync,fsync,ftruncate,bind,listen,setns,setsockopt,bpf"

// tracerPatience is how long strace may take to let go.
const tracerPatience = 5 * time.Second

// A stepped is a network whose ADD and DEL are gone through step by step.
type stepped struct {
	name, kind string
	more       fields
}

// infoDir is where steppedNetworks have Multus's file. Tests that use them cover /var/lib.
const infoDir = "/var/lib/millrace-test-devinfo"

// steppedNetworks are one for each way by which something comes to a pod.
var steppedNetworks = []stepped{
	{"tap", attach.TAP, nil}, {"veth", attach.Veth, nil}, {"vhost-user", attach.VhostUser, nil},
	{"slot", attach.VhostUser, fields{"mode": "server", "deviceID": "br0-1", "runtimeConfig": fields{"CNIDeviceInfoFile": infoDir + "/device.json"}}},
	{"volume", attach.VhostUser, fields{"socket": fields{"volume": "sockets"}, "userspace": true}},
}

// makeVolume makes the volume that a network's pods have, as kubelet does, if they have one.
func (p *pod) makeVolume(net stepped) {
	p.n.t.Helper()
	if net.more["socket"] != nil {
		check(p.n.t, os.MkdirAll(p.volume(), 0o777))
	}
}

// TestSwitchSteps kills the agent, the dataplane and the database at each step of ADD and of DEL: at the n-th of any of their threads, until
// there is none to be killed at. Afterwards an ADD succeeds, and a DEL leaves nothing. Long runs do the same for each system call alone:
// what is rare comes after more of the frequent ones than one thread makes. Other runs have every other power of two, and
// one network for each.
func TestSwitchSteps(t *testing.T) {
	peers.Need(t, "strace")
	for i, whom := range []string{"control", "db", "dataplane"} { // the dataplane is killed at step 4 of a tap: its device once came back
		t.Run(whom, func(t *testing.T) {
			cover(t, "/var/lib")
			if os.Getenv("MILLRACE_TEST_LONG") == "" {
				switchSomeSteps(newNode(t), whom, i)
				return
			}
			for _, net := range steppedNetworks {
				t.Run(net.name, func(t *testing.T) {
					n := newNode(t)
					for _, calls := range append([]string{switchSteps}, strings.Split(switchSteps, ",")...) {
						n.everyStep(func(step int) bool { return n.switchStep(net, whom, calls, step) > 0 })
					}
				})
			}
		})
	}
}

// everyStep goes through steps, until at two one after the other nobody is killed: how many a thread makes is chance.
func (n *node) everyStep(killed func(step int) bool) {
	n.t.Helper()
	last := 0
	for step := 1; step <= last+2; step++ {
		if step > stepsMax {
			n.t.Fatalf("killed at step %d still", step)
		}
		if killed(step) {
			last = step
		}
	}
}

// switchSomeSteps has a process killed at some steps, each with the next network.
func switchSomeSteps(n *node, whom string, turn int) {
	n.t.Helper()
	for step := 1; n.switchStep(steppedNetworks[turn%len(steppedNetworks)], whom, switchSteps, step) > 0; step *= 4 {
		turn++
	}
}

// switchStep has a process killed at a step of ADD and of DEL, of those that some system calls are, tries again, and looks for what is left. It returns how often it was
// killed.
func (n *node) switchStep(net stepped, whom, calls string, step int) (killed int) {
	t := n.t
	t.Helper()
	list, p := n.network("1.0.0", net.kind, net.more), n.newPod()
	p.makeVolume(net)
	run := func(verb string) {
		stop := n.killAt(whom, calls, step)
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
		t.Fatalf("%s: %s killed at step %d of ADD: the next ADD: %v", net.name, whom, step, err)
	}
	if err := p.check(list); err != nil {
		t.Errorf("%s: %s killed at step %d of ADD: CHECK of the next one: %v", net.name, whom, step, err)
	}
	run("DEL")
	check(t, p.del(list))
	n.settled()
	n.nothingLeft(p)
	if killed > 0 && os.Getenv("MILLRACE_TEST_LONG") != "" {
		t.Logf("%s: %s killed %d times at step %d of %s", net.name, whom, killed, step, calls)
	}
	if t.Failed() {
		t.Fatalf("%s: %s killed at step %d of %s", net.name, whom, step, calls)
	}
	if killed > 0 { // what dies again and again is started later and later
		n.stop()
		n.start()
	}
	return killed
}

// killAt has a process killed at a step of any of its threads from now on. stop ends that, and reports whether it was.
func (n *node) killAt(whom, calls string, step int) (stop func() bool) {
	n.t.Helper()
	pid := n.process(whom)
	log := &waittest.Buffer{}
	cmd := exec.Command("strace", "-f", "-o", "/dev/null", "-p", strconv.Itoa(pid), "-e", "trace="+calls, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, step))
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
