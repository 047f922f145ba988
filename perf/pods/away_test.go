package pods

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/cni/attach"
	"millrace/perf/peers"
)

// TestPluginStepsWhileAway kills the plugin at steps of a DEL that finds no switch. After the next DEL, and when the switch is back,
// nothing is left. Other runs than long ones have every fourth step, of two networks.
func TestPluginStepsWhileAway(t *testing.T) {
	peers.Need(t, "strace")
	n := newNode(t)
	cover(t, "/var/lib")
	long := os.Getenv("MILLRACE_TEST_LONG") != ""
	for i, net := range steppedNetworks {
		if !long && i%3 != 0 {
			continue
		}
		list := n.network("1.0.0", net.kind, net.more)
		for step, killed := 1, 1; killed > 0; {
			if step > stepsMax {
				t.Fatalf("%s: killed at step %d still", net.name, step)
			}
			p := n.newPod()
			p.makeVolume(net)
			p.mustAdd(list)
			n.stop()
			killed = n.killedAt(steps, step, p.env(n, "DEL"), n.conf(list))
			if step%2 == 0 { // half of the switches are back before the next DEL
				n.start()
				n.settled()
			}
			check(t, p.del(list))
			if step%2 != 0 {
				n.start()
			}
			n.settled()
			n.nothingLeft(p)
			if t.Failed() {
				t.Fatalf("%s: killed at step %d", net.name, step)
			}
			if step++; !long {
				step += 3
			}
		}
	}
}

// TestOrphanedIPAM kills the plugin while its IPAM plugin is about to take an address. The IPAM plugin goes on: the DEL that comes next
// waits for it, and gives back what it has taken. Calls about other pods do not wait.
func TestOrphanedIPAM(t *testing.T) {
	n := newNode(t)
	slow, began, goOn, ended := filepath.Join(n.dir, "slow"), filepath.Join(n.dir, "began"), filepath.Join(n.dir, "go-on"), filepath.Join(n.dir, "ended")
	check(t, os.Mkdir(slow, 0o755))
	// The first one waits until it may go on: for a minute, should nobody be there any more who says so.
	script := fmt.Sprintf("#!/bin/sh\nconf=$(cat)\nif [ $CNI_COMMAND != ADD ] || [ -e %[1]s ]; then printf %%s \"$conf\" | %[4]s/host-local; exit; fi\n"+
		": > %[1]s\ni=0; while [ -e %[1]s ] && [ ! -e %[2]s ] && [ $i -lt 1200 ]; do sleep 0.05; i=$((i+1)); done\nprintf %%s \"$conf\" | %[4]s/host-local\n: > %[3]s\n", began, goOn, ended, ipamDir)
	check(t, os.WriteFile(filepath.Join(slow, "host-local"), []byte(script), 0o755))
	list, p, other := n.network("1.0.0", "tap", nil), n.newPod(), n.newPod()
	exists := func(path string) func() bool {
		return func() bool { _, err := os.Stat(path); return err == nil }
	}
	env := func(verb string) []string {
		return append(p.env(n, verb), "CNI_PATH="+slow+":"+ipamDir)
	}
	cmd := exec.Command(filepath.Join(n.bin, "millrace-cni"))
	cmd.Env, cmd.Stdin = env("ADD"), strings.NewReader(string(n.conf(list)))
	check(t, cmd.Start())
	eventually(t, "the IPAM plugin has begun", exists(began))
	check(t, cmd.Process.Signal(syscall.SIGKILL)) // it alone
	_ = cmd.Wait()
	other.mustAdd(list)
	check(t, other.del(list))
	deleted := make(chan error, 1)
	go func() {
		_, err := n.plugin(env("DEL"), n.conf(list))
		deleted <- err
	}()
	select {
	case err := <-deleted:
		t.Fatalf("DEL did not wait for the IPAM plugin: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	check(t, os.WriteFile(goOn, nil, 0o600))
	if err := <-deleted; err != nil {
		t.Errorf("DEL: %v", err)
	}
	eventually(t, "the IPAM plugin has ended", exists(ended))
	n.nothingLeft(p, other)
}

// TestCallerGone: an ADD whose plugin was killed while its call waited makes no port: the DEL that follows may have been there first.
func TestCallerGone(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	c, err := net.Dial("unix", filepath.Join(n.run, attach.SocketName))
	check(t, err)
	check(t, json.NewEncoder(c).Encode(attach.Request{Version: attach.Version, Method: attach.Attach, Attachment: &attach.Attachment{
		Key: p.key(), Kind: attach.TAP, Netns: p.NetNS, Bridge: "br0", MTU: 1500, MAC: p.key().MAC().String(),
	}}))
	check(t, c.Close()) // the agent reads the end, and finds nobody
	eventually(t, "the agent has refused it", func() bool { return strings.Contains(n.log.String(), "has ended before its port was made") })
	n.nothingLeft(p)
}
