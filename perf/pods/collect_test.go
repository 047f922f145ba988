package pods

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"millrace/perf/peers"
)

// gcConf is what the plugin gets for GC of a network, with the pods that are valid.
func (n *node) gcConf(list *libcni.NetworkConfigList, valid ...*pod) []byte {
	n.t.Helper()
	keep := []any{}
	for _, p := range valid {
		keep = append(keep, fields{"containerID": p.ContainerID, "ifname": p.IfName})
	}
	return with(n.t, n.conf(list), "cni.dev/valid-attachments", keep)
}

// gcEnv is its environment.
func (n *node) gcEnv() []string {
	return []string{"CNI_COMMAND=GC", "CNI_PATH=" + n.bin + ":" + ipamDir, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
}

// TestPluginStepsOfOthers kills the plugin at each of its steps of GC and of CHECK. CHECK changes nothing; after another GC nothing is
// left of a pod that is not valid, and a valid one has all that it had.
func TestPluginStepsOfOthers(t *testing.T) {
	peers.Need(t, "strace")
	n := newNode(t)
	cover(t, "/var/lib")
	for _, net := range steppedNetworks {
		more := net.with(fields{"ipam": nil}) // those that there are do not know GC
		list, bystander := n.network("1.1.0", net.kind, more), n.newPod()
		if net.more["deviceID"] == nil {
			bystander.mustAdd(list)
		}
		valid := []*pod{bystander}
		n.everyStep(func(step int) bool {
			p := n.newPod()
			p.makeVolume(net)
			result := p.mustAdd(list)
			prev, err := json.Marshal(result)
			check(t, err)
			killed := n.killedAt(steps, step, p.env(n, "CHECK"), with(t, n.conf(list), "prevResult", json.RawMessage(prev)))
			if err := p.check(list); err != nil {
				t.Errorf("%s: killed at step %d of CHECK: the next CHECK: %v", net.name, step, err)
			}
			killed += n.killedAt(steps, step, n.gcEnv(), n.gcConf(list, valid...))
			n.collected(list, valid, p)
			if t.Failed() {
				t.Fatalf("%s: killed at step %d", net.name, step)
			}
			return killed > 0
		})
		if net.more["deviceID"] == nil {
			check(t, bystander.check(list))
			check(t, bystander.del(list))
		}
		n.nothingLeft(bystander)
	}
}

// collected fails the test unless another GC succeeds and leaves nothing of a pod.
func (n *node) collected(list *libcni.NetworkConfigList, valid []*pod, p *pod) {
	n.t.Helper()
	n.settled()
	if _, err := n.plugin(n.gcEnv(), n.gcConf(list, valid...)); err != nil {
		n.t.Errorf("the next GC: %v", err)
	}
	n.settled()
	for _, at := range n.attachments() {
		if at.ContainerID == p.ContainerID {
			n.t.Errorf("attachment left: %+v", at)
		}
	}
	n.nothingOf(p)
}

// with is a network with other fields, too.
func (s stepped) with(more fields) fields {
	all := fields{}
	for _, f := range []fields{s.more, more} {
		for k, v := range f {
			all[k] = v
		}
	}
	return all
}

// TestSwitchStepsOfGC kills the agent, the dataplane and the database at steps of GC: another GC leaves nothing.
func TestSwitchStepsOfGC(t *testing.T) {
	peers.Need(t, "strace")
	for i, whom := range []string{"control", "db", "dataplane"} {
		t.Run(whom, func(t *testing.T) {
			cover(t, "/var/lib")
			n := newNode(t)
			if os.Getenv("MILLRACE_TEST_LONG") == "" {
				turn := i
				for step := 2; n.gcStep(steppedNetworks[turn%len(steppedNetworks)], whom, switchSteps, step); step *= 4 {
					turn++
				}
				return
			}
			for _, net := range steppedNetworks {
				for _, calls := range append([]string{switchSteps}, strings.Split(switchSteps, ",")...) {
					n.everyStep(func(step int) bool { return n.gcStep(net, whom, calls, step) })
				}
			}
		})
	}
}

// gcStep has a process killed at a step of GC, and reports whether it was.
func (n *node) gcStep(net stepped, whom, calls string, step int) bool {
	t := n.t
	t.Helper()
	list, p := n.network("1.1.0", net.kind, net.with(fields{"ipam": nil})), n.newPod()
	p.makeVolume(net)
	p.mustAdd(list)
	stop := n.killAt(whom, calls, step)
	_, _ = n.plugin(n.gcEnv(), n.gcConf(list)) // whatever comes of it
	killed := stop()
	n.collected(list, nil, p)
	n.nothingLeft(p)
	if t.Failed() {
		t.Fatalf("%s: %s killed at step %d of %s of GC", net.name, whom, step, calls)
	}
	if killed { // what dies again and again is started later and later
		n.stop()
		n.start()
	}
	return killed
}
