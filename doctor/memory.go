package doctor

import (
	"fmt"
	"strconv"
	"strings"
)

// Limits that are enough for hundreds of ports.
const (
	filesEnough   = 16384
	memlockEnough = 1 << 30
)

// limits looks at descriptors and locked memory.
func limits(p *Patient) []Finding {
	dir, whose := p.process()
	text := p.text("%s/limits", dir)
	if text == "" {
		return one(Unknown, "run it as root", "the limits of %s cannot be read", whose)
	}
	var all []Finding
	if n, ok := limit(text, "Max open files"); ok && n < filesEnough {
		all = append(all, one(Warning, "LimitNOFILE=65536 in the unit of the service, or ulimit -n 65536", "%s can have %d files open: each vhost-user queue takes three, each port some", whose, n)...)
	}
	effective, _ := p.capabilities(dir)
	n, ok := limit(text, "Max locked memory")
	if ok && n < memlockEnough && effective&(1<<capIPCLock) == 0 {
		all = append(all, one(Warning, "LimitMEMLOCK=infinity in the unit of the service, or CAP_IPC_LOCK", "%s can lock %d KiB of memory: an AF_XDP queue takes 12 MiB or more", whose, n>>10)...)
	}
	if all == nil {
		all = one(OK, "", "open files and locked memory of %s are enough", whose)
	}
	return all
}

// limit is the soft limit of a line of /proc/PID/limits, a large number for unlimited.
func limit(text, name string) (uint64, bool) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		words := strings.Fields(rest)
		if len(words) > 0 && words[0] == "unlimited" {
			return 1 << 62, true
		}
		if len(words) > 0 {
			n, err := strconv.ParseUint(words[0], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// hugePages looks at huge pages, which millrace uses where there are any.
func hugePages(p *Patient) []Finding {
	text := p.text("proc/meminfo")
	total, ok := field(text, "HugePages_Total")
	if !ok {
		return one(Unknown, "", "whether there are huge pages cannot be read")
	}
	free, _ := field(text, "HugePages_Free")
	thp := p.text("sys/kernel/mm/transparent_hugepage/enabled")
	switch {
	case total != "0":
		return one(OK, "", "%s of %s huge pages are free; none are needed", free, total)
	case strings.Contains(thp, "[never]"):
		return one(Notice, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", "there are no huge pages, and no transparent ones: large tables cost more TLB misses")
	}
	return one(OK, "", "no huge pages are set aside, and none are needed; transparent ones are used")
}

// memoryLow is the available memory below which it is said.
const memoryLow = 512 << 10 // KiB

// memory looks whether there is some left.
func memory(p *Patient) []Finding {
	value, ok := field(p.text("proc/meminfo"), "MemAvailable")
	var kib uint64
	if _, err := fmt.Sscan(value, &kib); !ok || err != nil {
		return one(Unknown, "", "how much memory is available cannot be read")
	}
	if kib < memoryLow {
		return one(Warning, "smaller tables and caches (`millrace mem` shows them), or more memory", "%d MiB of memory are available: flow tables and connections grow as they are used", kib>>10)
	}
	return one(OK, "", "%d MiB of memory are available", kib>>10)
}
