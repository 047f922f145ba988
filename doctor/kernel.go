package doctor

import (
	"fmt"
	"strings"
)

// A release is the first two numbers of a kernel's.
type release struct{ major, minor int }

func (r release) before(major, minor int) bool {
	return r.major < major || r.major == major && r.minor < minor
}

// kernel looks at the release. What is asked for: a BPF link of XDP needs 5.9, sharing memory
// between sockets 5.10, and frames in several chunks 6.6.
func kernel(p *Patient) []Finding {
	text := p.text("proc/sys/kernel/osrelease")
	var r release
	if _, err := fmt.Sscanf(text, "%d.%d", &r.major, &r.minor); err != nil {
		return one(Unknown, "", "the kernel's release cannot be read")
	}
	switch {
	case r.before(5, 10):
		return one(Problem, "Linux 5.10 or newer, better 6.6", "Linux %s has no AF_XDP as ports of type afxdp need it; vhost-user and tap ports work", text)
	case r.before(6, 3):
		return one(Notice, "Linux 6.6 or newer", "Linux %s: drivers do not tell whether they have zero-copy, so it is tried; AF_XDP frames are up to 3,498 bytes long", text)
	case r.before(6, 6):
		return one(Notice, "Linux 6.6 or newer, for jumbo frames", "Linux %s: AF_XDP frames are up to 3,498 bytes long", text)
	}
	return one(OK, "", "Linux %s", text)
}

// sockets looks whether the kernel has AF_XDP.
func sockets(p *Patient) []Finding {
	text := p.text("proc/net/protocols")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "XDP ") {
			return one(OK, "", "the kernel has AF_XDP")
		}
	}
	if text == "" {
		return one(Unknown, "", "the kernel's protocols cannot be read")
	}
	return one(Problem, "a kernel with CONFIG_XDP_SOCKETS=y; use tap or vhost-user ports with this one", "the kernel has no AF_XDP: ports of type afxdp and system cannot work")
}

// bpf looks at what the XDP program needs and likes.
func bpf(p *Patient) (all []Finding) {
	switch p.text("proc/sys/net/core/bpf_jit_enable") {
	case "0":
		all = append(all, one(Warning, "sysctl -w net.core.bpf_jit_enable=1", "BPF programs are interpreted: every frame of an AF_XDP port pays for it")...)
	case "":
		all = append(all, one(Unknown, "", "whether BPF programs are compiled cannot be read (it is the machine's own affair in a container)")...)
	}
	if !p.exists("sys/kernel/btf/vmlinux") {
		all = append(all, one(Notice, "a kernel with CONFIG_DEBUG_INFO_BTF=y, if you want bpftool and the like to name things", "the kernel has no BTF; millrace does not need it")...)
	}
	if all == nil {
		all = one(OK, "", "BPF programs are compiled, and the kernel has BTF")
	}
	return all
}

// clock looks whether the time stamp counter can be trusted: workers measure their turns
// by it.
func clock(p *Patient) []Finding {
	source := p.text("sys/devices/system/clocksource/clocksource0/current_clocksource")
	flags, ok := field(p.text("proc/cpuinfo"), "flags")
	if !ok {
		return one(Unknown, "", "what the CPU can do cannot be read")
	}
	for _, f := range []string{"constant_tsc", "nonstop_tsc"} {
		if !strings.Contains(" "+flags+" ", " "+f+" ") {
			return one(Warning, "pass the host's CPU through to the virtual machine (-cpu host,+invtsc)", "the CPU has no %s: loads and gaps of workers are wrong when its frequency changes", f)
		}
	}
	if source != "" && source != "tsc" && source != "kvm-clock" && source != "hyperv_clocksource_tsc_page" {
		return one(Notice, "look in dmesg for why the kernel does not trust the time stamp counter", "the kernel's clock is %s: to ask for the time is slow", source)
	}
	return one(OK, "", "time stamp counter is constant; the kernel's clock is %s", source)
}
