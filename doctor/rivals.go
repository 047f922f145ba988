package doctor

import (
	"path"
	"strconv"
	"strings"
)

// rival processes, and what they dispute with us.
var rivalry = map[string]struct {
	grade        Grade
	what, remedy string
}{
	"ovn-controller": {Warning, "programs Open vSwitch, which does not carry the frames here", "systemctl disable --now ovn-host"},
	"dpdk-testpmd":   {Notice, "may hold network devices and CPUs", "keep it off the workers' CPUs"},
	"vpp_main":       {Warning, "is another switch: it may hold network devices and CPUs", "stop it, or keep it off the workers' CPUs and devices"},
	"cilium-agent":   {Notice, "attaches XDP and tc programs to devices of its own choice", "leave devices of afxdp ports out of its --devices"},
	"irqbalance":     {Notice, "moves interrupts to the workers' CPUs, too", "IRQBALANCE_BANNED_CPULIST= with the workers' CPUs in /etc/default/irqbalance"},
	"calico-felix":   {Notice, "may attach XDP programs to devices of the host", "xdpEnabled: false in its FelixConfiguration, for devices of afxdp ports"},
}

// rivals looks for processes that dispute something with the switch.
func rivals(p *Patient) []Finding {
	var all []Finding
	readable := false
	for _, name := range p.names("proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		comm := p.text("proc/%d/comm", pid)
		readable = readable || comm != ""
		if comm == "ovs-vswitchd" && p.ours(pid) {
			all = append(all, p.vswitchd(pid)...)
		} else if r, ok := rivalry[comm]; ok && p.ours(pid) {
			all = append(all, one(r.grade, r.remedy, "%s (process %d) %s", comm, pid, r.what)...)
		}
	}
	for _, dir := range []string{"run/openvswitch", "var/run/openvswitch"} {
		if pid := p.text("%s/ovs-vswitchd.pid", dir); pid != "" && !p.exists(path.Join("proc", pid)) {
			return append(all, one(Notice, "rm /"+dir+"/ovs-vswitchd.pid", "/%s/ovs-vswitchd.pid names process %s, which is gone", dir, pid)...)
		}
	}
	switch {
	case !readable:
		return one(Unknown, "", "processes cannot be listed")
	case all == nil:
		return one(OK, "", "no other switch runs here")
	}
	return all
}

// defaultDatabase is where ovs-vswitchd looks for its database unless it is told.
const defaultDatabase = "unix:/run/openvswitch/db.sock"

// vswitchd looks at an ovs-vswitchd: whether it has the switch's own database.
func (p *Patient) vswitchd(pid int) []Finding {
	database := defaultDatabase
	for arg := range strings.SplitSeq(p.text("proc/%d/cmdline", pid), "\x00") {
		if strings.HasPrefix(arg, "unix:") || strings.HasPrefix(arg, "tcp:") || strings.HasPrefix(arg, "ssl:") {
			database = arg
		}
	}
	if p.Switch != nil && p.Switch.Database == database {
		return one(Problem, "systemctl disable --now openvswitch-switch, with ovsdb-server left running, or `millrace run` without --db", "ovs-vswitchd (process %d) works on the switch's own database, %s: each undoes what the other does", pid, database)
	}
	return one(Warning, "systemctl disable --now openvswitch-switch, if millrace is to take its place", "ovs-vswitchd (process %d) runs on %s: it may hold network devices, CPUs and huge pages", pid, database)
}

// ours reports whether a process is in our network namespace, as far as that can be seen:
// one in a container of its own disputes nothing with us.
func (p *Patient) ours(pid int) bool {
	mine, theirs := p.link("proc/self/ns/net"), p.link("proc/%d/ns/net", pid)
	return mine == "" || theirs == "" || mine == theirs
}
