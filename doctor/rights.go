package doctor

import (
	"strconv"
	"strings"
)

// Capabilities, as numbered in linux/capability.h.
const (
	capNetAdmin = 12
	capNetRaw   = 13
	capIPCLock  = 14
	capSysAdmin = 21
	capBPF      = 39
)

// capabilities are the effective ones of a process.
func (p *Patient) capabilities(dir string) (uint64, bool) {
	v, ok := field(p.text("%s/status", dir), "CapEff")
	n, err := strconv.ParseUint(v, 16, 64)
	return n, ok && err == nil
}

// rights looks at what the switch may do.
func rights(p *Patient) []Finding {
	dir, whose := p.process()
	have, ok := p.capabilities(dir)
	if !ok {
		return one(Unknown, "", "the capabilities of %s cannot be read", whose)
	}
	has := func(c int) bool { return have&(1<<c) != 0 }
	var missing []string
	var cost []string
	if !has(capNetAdmin) {
		missing = append(missing, "CAP_NET_ADMIN")
		cost = append(cost, "no tap, internal or afxdp ports")
	}
	if !has(capNetRaw) || !has(capBPF) && !has(capSysAdmin) {
		if !has(capNetRaw) {
			missing = append(missing, "CAP_NET_RAW")
		}
		if !has(capBPF) && !has(capSysAdmin) {
			missing = append(missing, "CAP_BPF")
		}
		if has(capNetAdmin) {
			cost = append(cost, "no afxdp ports")
		}
	}
	if !has(capSysAdmin) {
		missing = append(missing, "CAP_SYS_ADMIN")
		cost = append(cost, "no devices in other network namespaces")
	}
	if missing == nil {
		return one(OK, "", "%s may do all that ports need", whose)
	}
	return one(Warning, "run the switch as root, or with these capabilities, if you want such ports", "%s has no %s: %s; vhost-user ports need none of them", whose, strings.Join(missing, ", "), strings.Join(cost, ", "))
}
