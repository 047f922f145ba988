package pods

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
)

// addByHand is ADD with what no runtime would give, and its result.
func (p *pod) addByHand(conf []byte) (*types100.Result, error) {
	cmd := exec.Command(filepath.Join(p.n.bin, "millrace-cni"))
	cmd.Env, cmd.Stdin = p.env(p.n, "ADD"), bytes.NewReader(conf)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	r, err := types100.NewResult(out)
	check(p.n.t, err)
	result, err := types100.NewResultFromResult(r)
	check(p.n.t, err)
	return result, nil
}

// refusedWith fails the test unless err has all words.
func refusedWith(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v does not say %s", err, w)
		}
	}
}

// TestChanged: CHECK finds what somebody has changed in the pod, and DEL takes a device whose address is another one by now.
func TestChanged(t *testing.T) {
	n := newNode(t)
	for _, kind := range []string{attach.TAP, attach.Veth} {
		list, p := n.network("1.0.0", kind, nil), n.newPod()
		p.mustAdd(list)
		p.Run(t, "ip", "route", "del", "10.99.0.0/16")
		refusedWith(t, p.check(list), "no route to 10.99.0.0/16")
		p.Run(t, "ip", "route", "add", "10.99.0.0/16", "via", "10.77.0.1")
		check(t, p.check(list))
		p.Run(t, "ip", "link", "set", "dev", "net1", "down")
		refusedWith(t, p.check(list), "down")
		p.Run(t, "ip", "link", "set", "dev", "net1", "up", "address", "02:00:00:00:00:99")
		refusedWith(t, p.check(list), "02:00:00:00:00:99")
		check(t, p.del(list))
		n.nothingLeft(p)
	}
}

// TestSocketGone: CHECK misses the socket that the switch has made.
func TestSocketGone(t *testing.T) {
	n := newNode(t)
	list, p := n.network("1.0.0", attach.VhostUser, fields{"mode": "server"}), n.newPod()
	socket := p.mustAdd(list).Interfaces[0].SocketPath
	check(t, p.check(list))
	check(t, os.Remove(socket))
	refusedWith(t, p.check(list), "vhost.sock", "no such file")
	check(t, p.del(list))
	n.nothingLeft(p)
}

// TestTwice: an ADD after one that nobody has taken back leaves the addresses that it tells of, and no others.
func TestTwice(t *testing.T) {
	n := newNode(t)
	for _, kind := range []string{attach.TAP, attach.Veth} {
		p, list := n.newPod(), n.network("1.0.0", kind, nil)
		p.mustAdd(list)
		want := p.mustAdd(list).IPs
		have := p.Run(t, "ip", "-o", "addr", "show", "dev", "net1", "scope", "global")
		if strings.Count(have, "\n") != 2 || !strings.Contains(have, " "+want[0].Address.String()+" ") || !strings.Contains(have, " "+want[1].Address.String()+" ") {
			t.Errorf("%s: addresses\n%swant %v", kind, have, want)
		}
		check(t, p.check(list))
		check(t, p.del(list))
		n.nothingLeft(p)
	}
}

// TestIPv6: a pod whose runtime has turned IPv6 off has it where it was given an address; an MTU with which there is none
// is refused.
func TestIPv6(t *testing.T) {
	n := newNode(t)
	p, list := n.newPod(), n.network("1.0.0", attach.TAP, nil)
	p.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	r := p.mustAdd(list)
	if have := p.Run(t, "ip", "-6", "addr", "show", "dev", "net1"); !strings.Contains(have, r.IPs[1].Address.String()) {
		t.Errorf("addresses: %s", have)
	}
	check(t, p.del(list))
	_, err := p.add(n.network("1.0.0", attach.TAP, fields{"mtu": 1000}))
	refusedWith(t, err, "1280", "IPv6")
	n.nothingLeft(p)
}

// TestVethQueues: both ends of a veth have as many queues as the network says, and the switch uses all of them.
func TestVethQueues(t *testing.T) {
	n := newNode(t)
	p, list := n.newPod(), n.network("1.0.0", attach.Veth, fields{"queues": 3})
	p.mustAdd(list)
	if out := p.Run(t, "ip", "-d", "link", "show", "dev", "net1"); !strings.Contains(out, "numtxqueues 3 numrxqueues 3") {
		t.Errorf("the pod's end: %s", out)
	}
	if out := n.cli("port", "show", p.key().Port()); !strings.Contains(out, "3 of 3 queues") {
		t.Errorf("port show:\n%s", out)
	}
	check(t, p.del(list))
	n.nothingLeft(p)
}

// TestBehind: the plugin behind others in a list tells of what they have made, too, and checks its own alone.
func TestBehind(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	prev := fields{"cniVersion": "1.0.0", "interfaces": []any{fields{"name": "eth0", "sandbox": p.Path}}, "ips": []any{fields{"interface": 0, "address": "10.9.0.2/16"}}}
	conf := n.conf(n.network("1.0.0", attach.TAP, fields{"prevResult": prev}))
	r, err := p.addByHand(conf)
	check(t, err)
	if len(r.Interfaces) != 2 || r.Interfaces[1].Name != "net1" || len(r.IPs) != 3 || *r.IPs[0].Interface != 0 || *r.IPs[1].Interface != 1 {
		t.Errorf("result %+v", r)
	}
	text, err := json.Marshal(r)
	check(t, err)
	if _, err := n.plugin(p.env(n, "CHECK"), with(t, conf, "prevResult", json.RawMessage(text))); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	_, err = n.plugin(p.env(n, "DEL"), conf)
	check(t, err)
	n.nothingLeft(p)
}

// TestSlotAgain: a slot is one interface's. What a pod that is gone has left of it does not keep the next pod from it: the switch would
// connect two ports to one socket.
func TestSlotAgain(t *testing.T) {
	n := newNode(t)
	check(t, agent.MakeSlot(n.run, "br0-3"))
	conf := n.conf(n.network("1.0.0", attach.VhostUser, fields{"deviceID": "br0-3", "ipam": nil}))
	old, next := n.newPod(), n.newPod()
	_, err := old.addByHand(conf)
	check(t, err)
	_, err = next.addByHand(conf)
	refusedWith(t, err, "br0-3", "still that of interface net1")
	again := *old
	runtime := *old.RuntimeConf
	again.RuntimeConf, runtime.IfName = &runtime, "net2"
	_, err = again.addByHand(conf)
	refusedWith(t, err, "br0-3", "of the same pod")
	old.Delete(t) // and nobody says so
	_, err = next.addByHand(conf)
	check(t, err)
	if list := n.attachments(); len(list) != 1 || list[0].ContainerID != next.ContainerID {
		t.Errorf("attachments %+v", list)
	}
	if _, err := os.Stat(filepath.Join(n.run, "slots/br0-3/interface.json")); err != nil {
		t.Error(err)
	}
	_, err = n.plugin(next.env(n, "DEL"), conf)
	check(t, err)
	n.nothingLeft(next)
}

// TestSameMAC: an address that was asked for is one pod's on a bridge and VLAN; interfaces of one pod may share it.
func TestSameMAC(t *testing.T) {
	n := newNode(t)
	of := func(vlan int, name string) []byte {
		return with(t, n.conf(n.network("1.0.0", attach.TAP, fields{"mac": "02:00:00:00:00:42", "vlan": vlan, "ipam": nil})), "name", name)
	}
	a, b := n.newPod(), n.newPod()
	_, err := a.addByHand(of(5, "fast"))
	check(t, err)
	_, err = b.addByHand(of(5, "fast"))
	refusedWith(t, err, "02:00:00:00:00:42", "pod default/"+a.ContainerID[:8])
	_, err = b.addByHand(of(6, "fast"))
	check(t, err)
	same := *a
	runtime := *a.RuntimeConf
	same.RuntimeConf, runtime.IfName = &runtime, "net2"
	_, err = same.addByHand(of(5, "bond"))
	check(t, err)
	for p, conf := range map[*pod][]byte{a: of(5, "fast"), b: of(6, "fast"), &same: of(5, "bond")} {
		_, err := n.plugin(p.env(n, "DEL"), conf)
		check(t, err)
	}
	n.nothingLeft(a, b)
	n.together(of(5, "fast"), 4, 1)
}

// TestAnnounce: a pod that knows an address as another pod's, which had it before, is told by ADD whose it is now.
func TestAnnounce(t *testing.T) {
	n := newNode(t)
	for _, kind := range []string{attach.TAP, attach.Veth} {
		list, peer, p := n.network("1.0.0", kind, nil), n.newPod(), n.newPod()
		peer.mustAdd(list)
		peer.Run(t, "sysctl", "-qw", "net.ipv4.neigh.net1.locktime=0") // else Linux does not believe what is news within a second
		for _, ip := range []string{"10.77.0.200", "fd77::200"} {
			peer.Run(t, "ip", "neigh", "replace", ip, "lladdr", "02:00:00:00:00:01", "dev", "net1", "nud", "stale")
		}
		conf := n.conf(n.network("1.0.0", kind, fields{"ipam": fields{"type": "static", "addresses": []any{fields{"address": "10.77.0.200/16"}, fields{"address": "fd77::200/64"}}}}))
		r, err := p.addByHand(conf)
		check(t, err)
		for _, ip := range []string{"10.77.0.200", "fd77::200"} {
			eventually(t, kind+": the peer knows "+ip, func() bool {
				return strings.Contains(peer.Run(t, "ip", "neigh", "show", ip, "dev", "net1"), r.Interfaces[0].Mac)
			})
		}
		_, err = n.plugin(p.env(n, "DEL"), conf)
		check(t, err)
		check(t, peer.del(list))
		n.nothingLeft(peer, p)
	}
}
