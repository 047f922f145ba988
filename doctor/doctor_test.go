package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// tree is a machine on which nothing is wrong, with changes: a file with no text is not there.
func tree(changes ...string) fs.FS {
	files := map[string]string{
		"proc/sys/kernel/osrelease":        "6.8.0-45-generic\n",
		"proc/net/protocols":               "protocol  size sockets\nXDP       1088      0\nUNIX      1024      5\n",
		"proc/sys/net/core/bpf_jit_enable": "1\n",
		"sys/kernel/btf/vmlinux":           "x",
		"proc/cpuinfo":                     "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc avx2\n",
		"sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
		"proc/7/status": "Name:\tmillrace\nCapEff:\t000001ffffffffff\n",
		"proc/7/limits": "Limit                     Soft Limit           Hard Limit           Units     \nMax locked memory         unlimited            unlimited            bytes     \nMax open files            65536                65536                files     \n",
		"proc/7/cgroup": "0::/pods/p1\n",
		"proc/7/comm":   "millrace\n",
		"proc/meminfo":  "MemAvailable:   8000000 kB\nHugePages_Total:       0\nHugePages_Free:        0\n",
		"sys/kernel/mm/transparent_hugepage/enabled":                "always [madvise] never\n",
		"sys/devices/system/cpu/online":                             "0-3\n",
		"sys/devices/system/cpu/isolated":                           "2-3\n",
		"sys/devices/system/cpu/cpu2/cpufreq/scaling_governor":      "performance\n",
		"sys/devices/system/cpu/cpu3/cpufreq/scaling_governor":      "performance\n",
		"sys/devices/system/cpu/cpu2/topology/thread_siblings_list": "0,2\n",
		"sys/devices/system/cpu/cpu3/topology/thread_siblings_list": "1,3\n",
		"sys/fs/cgroup/pods/p1/cpu.max":                             "max 100000\n",
		"sys/fs/cgroup/pods/p1/cpu.stat":                            "usage_usec 5\nnr_throttled 12\n",
		"proc/stat":                                                 "cpu  100 0 0 900 0 0 0 0 0 0\ncpu2 100 0 0 900 0 0 0 0 0 0\ncpu3 100 0 0 900 0 0 0 0 0 0\n",
		"sys/class/net/eth1/mtu":                                    "1500\n",
		"sys/class/net/eth1/statistics/rx_missed_errors":            "0\n",
		"sys/class/net/eth1/device/numa_node":                       "0\n",
		"sys/devices/system/node/node0/cpulist":                     "0-3\n",
	}
	for _, c := range changes {
		name, text, _ := strings.Cut(c, "=")
		if files[name] = text; text == "" {
			delete(files, name)
		}
	}
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

// healthy is a switch on which nothing is wrong.
func healthy() *Switch {
	return &Switch{PID: 7, Workers: []int{2, 3}, Ports: []Port{
		{Name: "eth1", Type: "afxdp", Link: "up", How: "eth1 (ice): native XDP, zero-copy, need-wakeup, 2 of 2 queues, everything", Device: "eth1", MTU: 1500, Received: 1e6},
		{Name: "vm1", Type: "dpdkvhostuser", Link: "up", Received: 1e6, Dropped: 10},
	}}
}

func twoQueues(string) (Device, error) { return Device{Driver: "ice", Queues: 2, Most: 8}, nil }

// TestNothingWrong: on a healthy machine all is ok, and every check says something.
func TestNothingWrong(t *testing.T) {
	all := Examine(&Patient{Tree: tree(), Root: true, Switch: healthy(), Devices: twoQueues})
	said := map[string]bool{}
	for _, f := range all {
		if f.Grade != OK || f.What == "" || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
		said[f.Check] = true
	}
	if len(said) != len(Checks()) || Worst(all) != OK {
		t.Errorf("%d of %d checks said something; the worst is %s", len(said), len(Checks()), Worst(all))
	}
}

// TestFindings makes one thing wrong after the other, and wants it found, graded,
// and nothing else to be said. Whatever is not ok has a remedy.
func TestFindings(t *testing.T) {
	port := func(change func(*Switch)) *Switch { s := healthy(); change(s); return s }
	for _, tt := range []struct {
		check   string
		grade   Grade
		want    string // in What
		changes []string
		sw      *Switch // nil: healthy
		dev     func(string) (Device, error)
	}{
		{check: "kernel", grade: Problem, want: "Linux 5.4.0 has no AF_XDP", changes: []string{"proc/sys/kernel/osrelease=5.4.0"}},
		{check: "kernel", grade: Notice, want: "zero-copy, so it is tried", changes: []string{"proc/sys/kernel/osrelease=6.1.0-13-amd64"}},
		{check: "kernel", grade: Notice, want: "up to 3,498 bytes", changes: []string{"proc/sys/kernel/osrelease=6.5.1"}},
		{check: "af_xdp", grade: Problem, want: "no AF_XDP", changes: []string{"proc/net/protocols=protocol\nUNIX 1\n"}},
		{check: "bpf", grade: Warning, want: "interpreted", changes: []string{"proc/sys/net/core/bpf_jit_enable=0"}},
		{check: "bpf", grade: Notice, want: "no BTF", changes: []string{"sys/kernel/btf/vmlinux="}},
		{check: "clock", grade: Warning, want: "no nonstop_tsc", changes: []string{"proc/cpuinfo=flags : constant_tsc"}},
		{check: "clock", grade: Notice, want: "clock is hpet", changes: []string{"sys/devices/system/clocksource/clocksource0/current_clocksource=hpet"}},
		{check: "rights", grade: Warning, want: "no CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_SYS_ADMIN: no tap, internal or afxdp ports", changes: []string{"proc/7/status=CapEff: 0"}},
		{check: "rights", grade: Warning, want: "no CAP_SYS_ADMIN: no devices in other", changes: []string{"proc/7/status=CapEff: 0000008000007000"}},
		{check: "limits", grade: Warning, want: "1024 files", changes: []string{"proc/7/limits=Max open files  1024 1024 files\nMax locked memory unlimited unlimited bytes\n"}},
		{check: "limits", grade: Warning, want: "lock 8192 KiB", changes: []string{"proc/7/limits=Max open files  65536 65536 files\nMax locked memory 8388608 8388608 bytes\n", "proc/7/status=CapEff: 0000008000203000"}},
		{check: "hugepages", grade: Notice, want: "no transparent ones", changes: []string{"sys/kernel/mm/transparent_hugepage/enabled=always madvise [never]"}},
		{check: "memory", grade: Warning, want: "97 MiB", changes: []string{"proc/meminfo=MemAvailable: 100000 kB\nHugePages_Total: 0\n"}},
		{check: "cpu isolation", grade: Notice, want: "workers on CPU 2", changes: []string{"sys/devices/system/cpu/isolated=3"}},
		{check: "cpu isolation", grade: Warning, want: "all 2 CPUs have workers", changes: []string{"sys/devices/system/cpu/online=2-3"}},
		{check: "cpu isolation", grade: Warning, want: "one CPU", changes: []string{"sys/devices/system/cpu/online=2"}},
		{check: "cpu frequency", grade: Warning, want: "CPU 3: the frequency governor is powersave", changes: []string{"sys/devices/system/cpu/cpu3/cpufreq/scaling_governor=powersave"}},
		{check: "cpu siblings", grade: Notice, want: "CPUs 2 and 3", changes: []string{"sys/devices/system/cpu/cpu2/topology/thread_siblings_list=2-3"}},
		{check: "cpu quota", grade: Warning, want: "/pods/p1 gives 50000 us in 100000 us of CPU time, then stops all threads (12 times", changes: []string{"sys/fs/cgroup/pods/p1/cpu.max=50000 100000"}},
		{check: "cpu steal", grade: Warning, want: "CPU 3 has lost 9.1 %", changes: []string{"proc/stat=cpu3 100 0 0 900 0 0 0 100 0 0\n"}},
		{check: "rivals", grade: Warning, want: "ovs-vswitchd (process 99) runs on unix:/run/openvswitch/db.sock", changes: []string{"proc/99/comm=ovs-vswitchd"}},
		{check: "rivals", grade: Problem, want: "works on the switch's own database", changes: []string{"proc/99/comm=ovs-vswitchd", "proc/99/cmdline=ovs-vswitchd\x00unix:/x/db.sock\x00--detach\x00"}, sw: port(func(s *Switch) { s.Database = "unix:/x/db.sock" })},
		{check: "rivals", grade: Warning, want: "ovn-controller", changes: []string{"proc/99/comm=ovn-controller"}},
		{check: "rivals", grade: Notice, want: "irqbalance", changes: []string{"proc/99/comm=irqbalance"}},
		{check: "rivals", grade: Notice, want: "names process 98", changes: []string{"run/openvswitch/ovs-vswitchd.pid=98"}},
		{check: "devices", grade: Warning, want: "eth1: rx-vlan-offload is on", dev: func(string) (Device, error) {
			return Device{Queues: 2, Most: 2, InTheWay: []string{"rx-vlan-offload"}}, nil
		}},
		{check: "devices", grade: Notice, want: "1 receive queue, and there are 2 workers", dev: func(string) (Device, error) { return Device{Queues: 1, Most: 4}, nil }},
		{check: "devices", grade: Notice, want: "NUMA node 0, and the worker on CPU 2 is not", changes: []string{"sys/devices/system/node/node0/cpulist=0-1"}},
		{check: "devices", grade: Notice, want: "missed 55 frames", changes: []string{"sys/class/net/eth1/statistics/rx_missed_errors=55"}},
		{check: "switch", grade: Problem, want: "database: no", sw: port(func(s *Switch) { s.Problems = []Finding{{Grade: Problem, What: "database: no", Remedy: "start it"}} })},
		{check: "ports", grade: Problem, want: "port vm1: broken: bad ring", sw: port(func(s *Switch) { s.Ports[1].Link, s.Ports[1].Reason = "broken", "bad ring" })},
		{check: "ports", grade: Notice, want: "port vm1: nobody listens", sw: port(func(s *Switch) { s.Ports[1].Link, s.Ports[1].Reason = "waiting", "nobody listens" })},
		{check: "ports", grade: Warning, want: "port eth1: there is no such device", sw: port(func(s *Switch) {
			s.Ports[0].Link, s.Ports[0].Reason, s.Ports[0].Device = "waiting", "there is no such device", ""
		})},
		{check: "ports", grade: Warning, want: "generic mode", sw: port(func(s *Switch) { s.Ports[0].How = "eth1 (x): generic XDP, copy" })},
		{check: "ports", grade: Warning, want: "port vm1: 9.09 % of its frames", sw: port(func(s *Switch) { s.Ports[1].Dropped = 1e5 })},
	} {
		p := &Patient{Tree: tree(tt.changes...), Root: true, Switch: tt.sw, Devices: tt.dev}
		if p.Switch == nil {
			p.Switch = healthy()
		}
		if p.Devices == nil {
			p.Devices = twoQueues
		}
		all := Examine(p)
		if Worst(all) != tt.grade {
			t.Errorf("%s, %q: the worst is %s, want %s", tt.check, tt.want, Worst(all), tt.grade)
		}
		for i, f := range all {
			switch {
			case i == 0 && (f.Check != tt.check || !strings.Contains(f.What, tt.want)):
				t.Errorf("%s: want %q, got %+v", tt.check, tt.want, f)
			case i > 0 && f.Grade != OK:
				t.Errorf("%s, %q: also %+v", tt.check, tt.want, f)
			case i == 0 && f.Remedy == "" && f.What != "port eth1: there is no such device": // which would say it
				t.Errorf("%s: no remedy for %+v", tt.check, f)
			}
		}
	}
}

// TestBlind: without rights, a switch or a tree, every check says what it could not look at,
// and none invents anything.
func TestBlind(t *testing.T) {
	for _, p := range []*Patient{
		{Tree: fstest.MapFS{}, Absent: "no dataplane answers in /x"},
		{Tree: fstest.MapFS{}, Switch: &Switch{PID: 7, Workers: []int{2}}},
		{Tree: tree(), Switch: healthy(), Devices: func(string) (Device, error) { return Device{}, errors.New("operation not permitted") }},
	} {
		all := Examine(p)
		for _, f := range all {
			if f.Grade == Problem || f.Grade == Warning {
				t.Errorf("%+v", f)
			}
		}
		if g := Worst(all); g != Notice {
			t.Errorf("the worst is %s", g)
		}
	}
	if got := running(&Patient{Root: true, Absent: "x"}); got[0].Grade != Problem || got[0].Remedy == "" {
		t.Errorf("no switch, as root: %+v", got)
	}
}

// TestRivalElsewhere: a rival in a network namespace of its own is none.
func TestRivalElsewhere(t *testing.T) {
	m := tree("proc/99/comm=ovs-vswitchd").(fstest.MapFS)
	link := func(name, to string) { m[name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink} }
	link("proc/self/ns/net", "net:[1]")
	link("proc/99/ns/net", "net:[2]")
	if got := rivals(&Patient{Tree: m}); got[0].Grade != OK {
		t.Errorf("%+v", got)
	}
	link("proc/99/ns/net", "net:[1]")
	if got := rivals(&Patient{Tree: m}); got[0].Grade != Warning {
		t.Errorf("%+v", got)
	}
}

// TestThisMachine runs all checks on the machine itself, whatever it is.
func TestThisMachine(t *testing.T) {
	for _, f := range Examine(&Patient{Tree: os.DirFS("/"), Root: os.Geteuid() == 0, Switch: &Switch{PID: os.Getpid(), Workers: []int{0}}}) {
		if f.Check == "" || f.What == "" {
			t.Errorf("%+v", f)
		}
		t.Logf("%-8s %s: %s", f.Grade, f.Check, f.What)
	}
}

// TestList reads lists of numbers as the kernel writes them.
func TestList(t *testing.T) {
	for in, want := range map[string]string{
		"": "[]", "\n": "[]", "3\n": "[3]", "0-2,5": "[0 1 2 5]", "5,1-1,1": "[1 5]", "x,2": "[2]", "2-x": "[]", "9-3": "[]", "-1": "[]", "0-99999999": "[]",
	} {
		if got := fmt.Sprint(list(in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzTree: whatever is in files, no check fails in another way than by its finding.
func FuzzTree(f *testing.F) {
	f.Add("proc/stat", "cpu2 1 2 3 4 5 6 7 8")
	f.Add("proc/7/limits", "Max open files")
	f.Add("proc/7/cgroup", "0::/../../x")
	f.Add("sys/fs/cgroup/pods/p1/cpu.max", "1")
	f.Fuzz(func(t *testing.T, name, text string) {
		if !fs.ValidPath(name) || name == "." || text == "" || strings.Contains(name, "=") {
			return
		}
		for _, f := range Examine(&Patient{Tree: tree(name + "=" + text), Switch: healthy(), Devices: twoQueues}) {
			if f.What == "" {
				t.Errorf("%+v", f)
			}
		}
	})
}
