package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"gopkg.in/yaml.v3"

	"millrace/control/cni/attach"
)

// argsOf is a call for a pod's interface net1.
func argsOf(conf string) *skel.CmdArgs {
	return &skel.CmdArgs{ContainerID: "0958c8871b32", Netns: "/run/netns/x", IfName: "net1", StdinData: []byte(conf),
		Args: "IgnoreUnknown=true;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=b5c0"}
}

// TestAttachment: what a configuration asks of the switch.
func TestAttachment(t *testing.T) {
	c, err := parsePod(argsOf(`{"cniVersion":"1.0.0","name":"n","type":"millrace-cni","kind":"vhost-user","bridge":"br0","mode":"server","mtu":9000,
		"trunk":[{"id":9},{"minID":3,"maxID":5},{"id":4}],"queues":4,"mac":"02:00:00:00:00:01","socket":{"user":1000,"group":2000,"volume":"v","mount":"/m"},
		"deviceID":"br0-1","ingressRate":8000000,"egressRate":1000,"egressBurst":5000,"portSecurity":true,"args":{"cni":{"mac":"02:00:00:00:00:02","other":"x"}},"ipam":{"type":"static"},"runtimeConfig":{"mac":"02-00-00-00-00-03","ips":["10.0.0.1"]}}`), true)
	if err != nil {
		t.Fatal(err)
	}
	at, err := c.attachment()
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(at)
	want := `{"network":"n","container_id":"0958c8871b32","ifname":"net1","pod":{"namespace":"ns","name":"pod","uid":"b5c0"},"kind":"vhost-user","netns":"/run/netns/x","bridge":"br0","trunk":[3,4,5,9],` +
		`"mtu":9000,"mac":"02:00:00:00:00:03","queues":4,"send":{"bits":1000,"burst":5000},"receive":{"bits":8000000,"burst":2000000},"security":"addresses","server":true,"owner":{"uid":1000,"gid":2000},"device_id":"br0-1","volume":"v","mount":"/m"}`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

// TestRuntimeRates: what runtimes say where pods' annotations do: with a burst of their own, and rates that no machine has.
func TestRuntimeRates(t *testing.T) {
	for bandwidth, want := range map[string]*attach.Rate{
		`{"ingressRate":1000000,"ingressBurst":4294967295}`:           {Bits: 1e6, Burst: 4294967295},      // containerd
		`{"ingressRate":1000000,"ingressBurst":34359738360}`:          {Bits: 1e6, Burst: 34359738360},     // CRI-O
		`{"ingressRate":1000000000000000,"ingressBurst":34359738360}`: {Bits: rateMax, Burst: 34359738360}, // the most that kubelet takes
		`{"ingressRate":0,"ingressBurst":0,"egressRate":1000}`:        nil,                                 // of the other way alone
		`{"ingressRate":1000000}`:                                     {Bits: 1e6, Burst: burstLeast},      // Multus
		`{"ingressRate":1000000000000}`:                               {Bits: rateMax, Burst: burstMost},   // the same
		`{"ingressRate":8000000}`:                                     {Bits: 8000000, Burst: 8000000 / 4}, // a quarter of a second
		`{"ingressRate":1000}`:                                        {Bits: rateMin, Burst: burstLeast},  // the least that kubelet takes
	} {
		c, err := parsePod(argsOf(`{"cniVersion":"1.0.0","name":"n","kind":"tap","bridge":"br0","ingressRate":5000,"runtimeConfig":{"bandwidth":`+bandwidth+`}}`), true)
		if err != nil {
			t.Fatal(err)
		}
		at, err := c.attachment()
		if err != nil || (at.Receive == nil) != (want == nil) || want != nil && *at.Receive != *want {
			t.Errorf("%s: %+v, %v", bandwidth, at, err)
		}
	}
}

// TestSlotID: devices of other plugins are told from ours.
func TestSlotID(t *testing.T) {
	for id, want := range map[string]bool{"br0-0": true, "br-int-4095": true, "0000:03:02.0": false, "br0": false, "-1": false, "br0-x": false, "br0-+1": false, "br0-99999": false, "eth0": false} {
		if isSlot(id) != want {
			t.Errorf("%s: %v", id, !want)
		}
	}
}

// TestChained: a result has what the plugins before had, before our own, and our addresses belong to our
// interface.
func TestChained(t *testing.T) {
	args := argsOf(`{"cniVersion":"1.0.0","name":"n","kind":"tap","bridge":"br0","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"br9"},{"name":"eth0","sandbox":"/x"}],
		"ips":[{"interface":1,"address":"10.9.0.2/16"}],"routes":[{"dst":"10.8.0.0/16"}],"dns":{"nameservers":["1.1.1.1"]}}}`)
	c, err := parsePod(args, true)
	if err != nil {
		t.Fatal(err)
	}
	at, err := c.attachment()
	if err != nil {
		t.Fatal(err)
	}
	leased := &types100.Result{IPs: []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(10, 1, 0, 2), Mask: net.CIDRMask(16, 32)}}}}
	r, err := c.resultOf(at, &attach.Attached{}, leased)
	if err != nil {
		t.Fatal(err)
	}
	r.CNIVersion = "1.0.0"
	got, err := json.Marshal(r)
	want := `{"cniVersion":"1.0.0","dns":{"nameservers":["1.1.1.1"]},"interfaces":[{"name":"br9"},{"name":"eth0","sandbox":"/x"},{"mac":"` + at.MAC + `","mtu":1500,"name":"net1","sandbox":"/run/netns/x"}],` +
		`"ips":[{"address":"10.9.0.2/16","interface":1},{"address":"10.1.0.2/16","interface":2}],"routes":[{"dst":"10.8.0.0/16"}]}`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if interfaceOf(r, "net1") != 2 || interfaceOf(r, "net2") != -1 {
		t.Errorf("%d, %d", interfaceOf(r, "net1"), interfaceOf(r, "net2"))
	}
	for _, bad := range []string{`5`, `{"cniVersion":"1.0.0","interfaces":[null]}`, `{"cniVersion":"1.0.0","ips":[null]}`} {
		c.PrevResult = json.RawMessage(bad)
		if _, err := c.resultOf(at, &attach.Attached{}, &types100.Result{}); err == nil {
			t.Errorf("prevResult %s is taken", bad)
		}
	}
}

// TestExamples: the networks that we hand out are such as the plugin takes.
func TestExamples(t *testing.T) {
	names, err := filepath.Glob("../../deploy/examples/network-*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var nad struct {
			Kind string
			Spec struct{ Config string }
		}
		if err := yaml.Unmarshal(text, &nad); err != nil || nad.Kind != "NetworkAttachmentDefinition" {
			t.Fatalf("%s: %v, %s", name, err, nad.Kind)
		}
		c, err := parsePod(argsOf(nad.Spec.Config), true)
		if err == nil {
			_, err = c.attachment()
		}
		if err != nil || c.ipam == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestQueues: a pod has as many queues as it may use CPUs, by limit and set of CPUs, with either driver of kubelet's.
func TestQueues(t *testing.T) {
	root := fstest.MapFS{}
	for name, text := range map[string]string{
		"kubepods.slice/kubepods-poda_b.slice/cpu.max":                                  "200000 100000\n",
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podc.slice/cpu.max": "150000 100000\n",
		"kubepods/besteffort/podd/cpu.max":                                              "max 100000\n",
		"kubepods/besteffort/podd/cpuset.cpus":                                          "\n",
		"kubepods/besteffort/podd/cpuset.cpus.effective":                                "0-127\n",
		"kubepods/pode/cpu.max":                                                         "90000000 100000\n",
		"kubepods/podf/cpu.max":                                                         "x",
		"kubepods/podh/cpu.max":                                                         "max 100000\n",
		"kubepods/podh/cpuset.cpus":                                                     "1,3-5,64\n",
		"kubepods/podi/cpu.max":                                                         "800000 100000\n",
		"kubepods/podi/cpuset.cpus":                                                     "2-3\n",
		"kubepods/podj/cpu.max":                                                         "6400000 100000\n",
		"kubepods/podj/cpuset.cpus.effective":                                           "0-3\n",
		"kubepods/podk/cpu.max":                                                         "9223372036854775807 100000\n",
		"kubepods/podk/cpuset.cpus":                                                     "3-1,x\n",
		"kubepods/podl/cpuset.cpus":                                                     "0-99999999999\n",
		"kubepods/podm/cpu.max":                                                         "5000 100000\n",
	} {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	for uid, want := range map[string]int{"a-b": 2, "c": 2, "d": 0, "e": 64, "f": 0, "g": 0, "": 0, "../a": 0, "h": 5, "i": 2, "j": 4, "k": 64, "l": 0, "m": 1} {
		if got := queuesOf(root, fstest.MapFS{}, uid); got != want {
			t.Errorf("pod %q: %d queues, want %d", uid, got, want)
		}
	}
}

// TestQueuesOfOwnCPUs: a pod with CPUs of its own, whose group has no limit, has as many queues as those; a limit or a set comes first, and what
// kubelet has written that makes no sense is nothing.
func TestQueuesOfOwnCPUs(t *testing.T) {
	const state = `{"policyName":"static","defaultCpuSet":"0-1","entries":{"own":{"init":"2-3","app":"2-4,9"},"limit":{"app":"2-4"},"bad":{"app":"x"},"none":{}},"checksum":7}`
	cgroups := fstest.MapFS{"kubepods/podlimit/cpu.max": {Data: []byte("200000 100000\n")}}
	for _, uid := range []string{"own", "bad", "none", "missing"} {
		cgroups["kubepods/pod"+uid+"/cpu.max"] = &fstest.MapFile{Data: []byte("max 100000\n")}
	}
	for text, want := range map[string]map[string]int{
		state: {"own": 4, "limit": 2, "bad": 0, "none": 0, "missing": 0, "elsewhere": 0},
		`{"policyName":"none","defaultCpuSet":"","checksum":7}`: {"own": 0},
		`{"entries":{"own":"2-3"}}`:                             {"own": 0}, // older than Kubernetes 1.18
		`{`:                                                     {"own": 0},
	} {
		kubelet := fstest.MapFS{"cpu_manager_state": {Data: []byte(text)}}
		for uid, n := range want {
			if got := queuesOf(cgroups, kubelet, uid); got != n {
				t.Errorf("%s: pod %s: %d queues, want %d", text, uid, got, n)
			}
		}
	}
}

// TestOlder: an IPAM plugin that is older is asked in its version, with all the rest.
func TestOlder(t *testing.T) {
	text, err := olderConf([]byte(`{"cniVersion":"1.1.0","name":"n","prevResult":{"cniVersion":"1.1.0","ips":[]},"x":{"y":1}}`))
	if want := `{"cniVersion":"1.0.0","name":"n","prevResult":{"cniVersion":"1.0.0","ips":[]},"x":{"y":1}}`; err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}

// FuzzConf: whatever comes on standard input and in CNI_ARGS is an error of CNI with a
// code, or an attachment that the agent can have.
func FuzzConf(f *testing.F) {
	f.Add(`{"cniVersion":"1.0.0","name":"n","kind":"tap","bridge":"br0"}`, "K8S_POD_UID=x;MAC=02:00:00:00:00:01")
	f.Add(`{"name":"n","kind":"vhost-user","bridge":"br0","trunk":[{"minID":0,"maxID":4094}],"queues":"auto","socket":{}}`, "")
	f.Add(`{"name":"n","kind":"veth","bridge":"br0","unknown":1}`, "=;=")
	f.Add(`{"name":"n","ipam":{"type":"x"},"args":{"cni":null},"runtimeConfig":null}`, "MAC")
	f.Fuzz(func(t *testing.T, conf, args string) {
		a := argsOf(conf)
		a.Args = args
		c, err := parsePod(a, true)
		var at *attach.Attachment
		if err == nil {
			at, err = c.attachment()
		}
		if err != nil {
			var e *types.Error
			if !errors.As(err, &e) || e.Code == 0 || e.Msg == "" {
				t.Fatalf("%v is no error of CNI", err)
			}
			return
		}
		if at.Key.Check() != nil || attach.CheckName(at.Bridge) != nil || at.MTU < 68 || at.VLAN > 4094 || at.Queues > 64 || len(at.Port()) != 15 {
			t.Fatalf("%+v", at)
		}
	})
}

// FuzzOlder: a configuration of the older version says what it said, but for the versions.
func FuzzOlder(f *testing.F) {
	for _, s := range []string{`{"cniVersion":"1.1.0","name":"n","prevResult":{"cniVersion":"1.1.0","ips":[]},"x":{"y":1}}`, `{"prevResult":null}`, `{"prevResult":[]}`, `{}`, `null`, `[]`, `{"prevResult":{}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		was, err := anyObject([]byte(text))
		bad := err != nil || was == nil
		older, err := olderConf([]byte(text))
		if (err != nil) != bad {
			t.Fatalf("%s became %s, %v", text, older, err)
		}
		if bad {
			return
		}
		is, err := anyObject(older)
		if err != nil || is["cniVersion"] != "1.0.0" {
			t.Fatalf("%s became %s, %v", text, older, err)
		}
		was["cniVersion"] = "1.0.0"
		if prev, ok := was["prevResult"].(map[string]any); ok {
			prev["cniVersion"] = "1.0.0"
		}
		if !reflect.DeepEqual(was, is) {
			t.Fatalf("%s became %s", text, older)
		}
	})
}

// anyObject reads an object with numbers of any size.
func anyObject(text []byte) (m map[string]any, err error) {
	if !json.Valid(text) {
		return nil, errors.New("not one value")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return m, d.Decode(&m)
}

// FuzzQueues: whatever files of a control group say, there are as many queues as a count of
// its CPUs says, and no more than there may be.
func FuzzQueues(f *testing.F) {
	f.Add("max 100000\n", "", "0-3,8")
	f.Add("250000 100000\n", "1,3-5,64\n", "0-127")
	f.Add("5000 100000", "", "")
	f.Add("x", "3-1,x", "0-99999999999")
	f.Fuzz(func(t *testing.T, quota, set, effective string) {
		const dir = "kubepods/podu/"
		got := queuesOf(fstest.MapFS{dir + "cpu.max": {Data: []byte(quota)}, dir + "cpuset.cpus": {Data: []byte(set)}, dir + "cpuset.cpus.effective": {Data: []byte(effective)}}, fstest.MapFS{}, "u")
		cpus := countCPUs(set)
		var most, period int
		n, _ := fmt.Sscan(quota, &most, &period)
		limited := n == 2 && most > 0 && period > 0
		if limited && cpus == 0 {
			cpus = countCPUs(effective)
		}
		want := cpus
		if limited {
			want = int(math.Ceil(float64(most) / float64(period)))
			if cpus > 0 {
				want = min(want, cpus)
			}
		}
		if got != min(want, queuesMax) && most < 1<<50 {
			t.Fatalf("%d queues, want %d of %d", got, want, queuesMax)
		}
		if got < 0 || got > queuesMax {
			t.Fatalf("%d queues", got)
		}
	})
}

// countCPUs counts the CPUs of a list one by one; 0: it is none.
func countCPUs(list string) (n int) {
	for _, part := range strings.Split(strings.TrimSpace(list), ",") {
		ends := strings.Split(part, "-")
		lo, err := strconv.Atoi(ends[0])
		hi, err2 := strconv.Atoi(ends[len(ends)-1])
		if err != nil || err2 != nil || len(ends) > 2 || lo < 0 || hi < lo || hi > cpuMax {
			return 0
		}
		for range hi - lo + 1 {
			n++
		}
	}
	return n
}

// FuzzValid: of a list of attachments come as many keys of this network as it has, or an error of CNI; never fewer:
// what is not in it is removed.
func FuzzValid(f *testing.F) {
	for _, s := range []string{"", "null", "[]", `[{"containerID":"c","ifname":"i"}]`, `[{"containerID":"c","ifname":"i"},{"containerID":"c"}]`, `[null]`, `[{"containerID":"..","ifname":"i"}]`, `{"containerID":"c"}`, `[{"containerID":"c","ifname":"i"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &call{}
		c.Name, c.Valid = "n", json.RawMessage(text)
		keys, err := c.valid()
		var e *types.Error
		if err != nil {
			if !errors.As(err, &e) || e.Code == 0 || keys != nil {
				t.Fatalf("%v, %v", keys, err)
			}
			return
		}
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(text), &list); text != "" && err != nil || len(list) != len(keys) {
			t.Fatalf("%s has %d keys, %v", text, len(keys), err)
		}
		for _, k := range keys {
			if k.Check() != nil || k.Network != "n" {
				t.Fatalf("%+v", k)
			}
		}
	})
}
