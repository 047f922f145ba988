package cni

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// queuesOf is how many queue pairs a pod can make use of: as many as CPUs that it may
// use, by the limit and the set of CPUs of its control group (cgroup v2). root is
// /sys/fs/cgroup. 0: neither is known.
func queuesOf(root fs.FS, uid string) int {
	if uid == "" {
		return 0
	}
	for _, dir := range podGroups(uid) {
		if _, err := fs.Stat(root, dir); err != nil {
			continue
		}
		n := quotaOf(root, dir)
		set := cpusOf(root, dir+"/cpuset.cpus") // empty unless somebody has set it
		if n > 0 && set == 0 {
			set = cpusOf(root, dir+"/cpuset.cpus.effective") // a limit may be for more than the host has
		}
		if n == 0 || set > 0 && set < n {
			n = set
		}
		return min(n, queuesMax)
	}
	return 0
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

// cpusOf counts the CPUs of a list such as 0-3,8; 0: there is none.
func cpusOf(root fs.FS, name string) (n int) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		lo, err1 := strconv.Atoi(first)
		hi, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || lo < 0 || hi < lo || hi > cpuMax {
			return 0
		}
		n += hi - lo + 1
	}
	return n
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
