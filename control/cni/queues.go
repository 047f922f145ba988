package cni

import (
	"fmt"
	"io/fs"
	"strings"
)

// queuesOf is how many queue pairs a pod can make use of: as many as CPUs that it may
// use, by the limit of its control group (cgroup v2, cpu.max). root is
// /sys/fs/cgroup. 0: no limit is known.
func queuesOf(root fs.FS, uid string) int {
	if uid == "" {
		return 0
	}
	for _, dir := range podGroups(uid) {
		text, err := fs.ReadFile(root, dir+"/cpu.max")
		if err != nil {
			continue
		}
		var quota, period int
		if n, _ := fmt.Sscan(string(text), &quota, &period); n != 2 || quota < 1 || period < 1 {
			return 0 // "max": no limit
		}
		return min((quota+period-1)/period, queuesMax)
	}
	return 0
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
