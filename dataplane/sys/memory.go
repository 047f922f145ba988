package sys

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Memory is how many bytes of memory the process may count on: the machine's, or
// the limit of its control group if that is lower. It is 0 if nobody tells.
func Memory() uint64 {
	var total uint64
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		total = info.Totalram * uint64(info.Unit)
	}
	if limit := groupLimit(); limit != 0 && (total == 0 || limit < total) {
		return limit
	}
	return total
}

// groupLimit is the memory limit of the control group (version 2), or 0. In a
// container the group is the root of what can be seen.
func groupLimit() uint64 {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	group := "/"
	for line := range strings.Lines(string(self)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			group = path
		}
	}
	lowest := uint64(0)
	for {
		raw, err := os.ReadFile("/sys/fs/cgroup" + group + "/memory.max")
		if v, bad := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64); err == nil && bad == nil && (lowest == 0 || v < lowest) {
			lowest = v
		}
		if group == "/" || group == "" {
			return lowest
		}
		group = group[:strings.LastIndexByte(group, '/')]
		if group == "" {
			group = "/"
		}
	}
}
