package cni

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// queuesOf is how many queue pairs a pod can make use of: as many as CPUs that it may use, by the limit and the set of CPUs
// of its control group (cgroup v2), or, where that has neither, as CPUs that are its own. cgroups is
// /sys/fs/cgroup, kubelet is kubelet's directory. 0: nothing is known.
func queuesOf(cgroups, kubelet fs.FS, uid string) int {
	if uid == "" {
		return 0
	}
	for _, dir := range podGroups(uid) {
		if _, err := fs.Stat(cgroups, dir); err != nil {
			continue
		}
		n := quotaOf(cgroups, dir)
		set := cpusOf(cgroups, dir+"/cpuset.cpus") // empty unless somebody has set it
		if n > 0 && set == 0 {
			set = cpusOf(cgroups, dir+"/cpuset.cpus.effective") // a limit may be for more than the host has
		}
		if n == 0 || set > 0 && set < n {
			n = set
		}
		if n == 0 {
			n = ownCPUs(kubelet, uid)
		}
		return min(n, queuesMax)
	}
	return 0
}

// kubeletDir is where kubelet keeps what it knows.
const kubeletDir = "/var/lib/kubelet"

// ownCPUs is how many CPUs kubelet has set aside for a pod's containers (CPU manager, policy static); 0: none. When ADD comes
// there is no container yet, and the pod's group never has them: kubelet gives them to containers, and such pods have no limit
// since Kubernetes 1.33. But it has chosen them when it let the pod in, and written them down.
func ownCPUs(kubelet fs.FS, uid string) int {
	text, err := fs.ReadFile(kubelet, "cpu_manager_state")
	if err != nil {
		return 0
	}
	var state struct {
		Entries map[string]map[string]string `json:"entries"` // by pod and container
	}
	if json.Unmarshal(text, &state) != nil {
		return 0
	}
	own := map[int]bool{} // those of init containers are used again
	for _, list := range state.Entries[uid] {
		if !addCPUs(own, list) {
			return 0
		}
	}
	return len(own)
}

// quotaOf is how many CPUs a group may use at once by its quota; 0: there is no limit.
func quotaOf(root fs.FS, dir string) int {
	text, err := fs.ReadFile(root, dir+"/cpu.max")
	if err != nil {
		return 0
	}
	var quota, period int
	if n, _ := fmt.Sscan(string(text), &quota, &period); n != 2 || quota < 1 || period < 1 {
		return 0 // "max"
	}
	return quota/period + min(quota%period, 1)
}

// cpuMax is more than the number of any CPU.
const cpuMax = 1 << 16

// cpusOf counts the CPUs of a file's list such as 0-3,8; 0: there is none.
func cpusOf(root fs.FS, name string) int {
	text, err := fs.ReadFile(root, name)
	set := map[int]bool{}
	if err != nil || !addCPUs(set, string(text)) {
		return 0
	}
	return len(set)
}

// addCPUs adds the CPUs of a list to a set, and reports whether it is one.
func addCPUs(set map[int]bool, list string) bool {
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		lo, err1 := strconv.Atoi(first)
		hi, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || lo < 0 || hi < lo || hi > cpuMax {
			return false
		}
		for n := lo; n <= hi; n++ {
			set[n] = true
		}
	}
	return true
}

// podGroups are the names that kubelet gives a pod's control group, with either of its
// drivers and for each class of pods.
func podGroups(uid string) []string {
	if strings.ContainsAny(uid, "/\\") {
		return nil
	}
	var dirs []string
	slice := strings.ReplaceAll(uid, "-", "_")
	for _, class := range []string{"", "burstable", "besteffort"} {
		systemd, cgroupfs := "kubepods.slice/", "kubepods/"
		prefix := "kubepods"
		if class != "" {
			prefix += "-" + class
			systemd, cgroupfs = systemd+prefix+".slice/", cgroupfs+class+"/"
		}
		dirs = append(dirs, systemd+prefix+"-pod"+slice+".slice", cgroupfs+"pod"+uid)
	}
	return dirs
}
