package doctor

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

const sysCPU = "sys/devices/system/cpu"

// workers are the CPUs of workers, or a finding that says that there are none to look at.
func (p *Patient) workers() ([]int, []Finding) {
	if p.Switch == nil {
		return nil, one(Unknown, "", "which CPUs the workers have is not known: no dataplane answers")
	}
	return p.Switch.Workers, nil
}

// isolation looks whether the kernel keeps others off the workers' CPUs.
func isolation(p *Patient) []Finding {
	workers, none := p.workers()
	if none != nil {
		return none
	}
	online := list(p.text(sysCPU + "/online"))
	isolated := list(p.text(sysCPU + "/isolated"))
	shared := slices.DeleteFunc(slices.Clone(workers), func(c int) bool { return slices.Contains(isolated, c) })
	switch {
	case len(online) == 1:
		return one(Warning, "a machine with two CPUs or more", "there is one CPU: the worker shares it with all else")
	case len(workers) >= len(online) && len(online) > 0:
		return one(Warning, "fewer workers: `ovs-vsctl set Open_vSwitch . other_config:pmd-cpu-mask=...`, or `millrace run --cpus`", "all %d CPUs have workers: nothing is left for the machine's other work", len(online))
	case len(shared) == 0:
		return one(OK, "", "workers have %s, which are isolated", cpus(workers))
	}
	return one(Notice, fmt.Sprintf("isolcpus=%s nohz_full=%s rcu_nocbs=%s on the kernel's command line, if the longest gaps of `millrace stats` are too long for you", numbers(shared), numbers(shared), numbers(shared)),
		"the scheduler may put others beside the workers on %s", cpus(shared))
}

// frequency looks whether the workers' CPUs run at full speed.
func frequency(p *Patient) []Finding {
	workers, none := p.workers()
	if none != nil {
		return none
	}
	slow, known := map[string][]int{}, false
	for _, c := range workers {
		g := p.text(sysCPU+"/cpu%d/cpufreq/scaling_governor", c)
		if known = known || g != ""; g != "" && g != "performance" {
			slow[g] = append(slow[g], c)
		}
	}
	if !known {
		return one(OK, "", "the machine leaves frequencies alone, or to its host")
	}
	var all []Finding
	for _, g := range sorted(slow) {
		all = append(all, one(Warning, "cpupower frequency-set -g performance", "%s: the frequency governor is %s: after a pause the first frames are slow", cpus(slow[g]), g)...)
	}
	if all == nil {
		all = one(OK, "", "the frequency governor of the workers' CPUs is performance")
	}
	return all
}

// siblings looks for workers that share a core with another worker.
func siblings(p *Patient) []Finding {
	workers, none := p.workers()
	if none != nil {
		return none
	}
	for i, a := range workers {
		together := list(p.text(sysCPU+"/cpu%d/topology/thread_siblings_list", a))
		for _, b := range workers[i+1:] {
			if slices.Contains(together, b) {
				return one(Notice, "give the second one a CPU of another core: `lscpu -e` shows which CPUs have which core", "the workers on CPUs %d and %d are threads of one core: together they do about 1.3 times what one does", a, b)
			}
		}
	}
	return one(OK, "", "no two workers share a core")
}

// quota looks whether a control group takes CPU time away.
func quota(p *Patient) []Finding {
	dir, whose := p.process()
	group := p.group(dir)
	if group == "" {
		return one(Unknown, "", "the control group of %s is not known", whose)
	}
	for at := group; at != "."; at = path.Dir(at) {
		limit := strings.Fields(p.text("sys/fs/cgroup/%s/cpu.max", at))
		if len(limit) < 2 || limit[0] == "max" {
			continue
		}
		stat := p.text("sys/fs/cgroup/%s/cpu.stat", at)
		return one(Warning, "no CPU limit for the pod of the switch (in Kubernetes: requests without limits, or whole CPUs with the static policy)",
			"control group /%s gives %s us in %s us of CPU time, then stops all threads (%s times until now): frames wait meanwhile", at, limit[0], limit[1], throttled(stat))
	}
	return one(OK, "", "no control group takes CPU time away from %s", whose)
}

// group is the control group of a process in the unified hierarchy, relative to its root.
func (p *Patient) group(dir string) string {
	for line := range strings.Lines(p.text("%s/cgroup", dir)) {
		if g, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok {
			return path.Clean(strings.TrimLeft(g, "/"))
		}
	}
	return ""
}

// throttled is how often a group was stopped.
func throttled(stat string) string {
	for line := range strings.Lines(stat) {
		if n, ok := strings.CutPrefix(line, "nr_throttled "); ok {
			return strings.TrimSpace(n)
		}
	}
	return "?"
}

// stealWarn is the share of its time that a CPU may miss before it is said.
const stealWarn = 0.01

// steal looks whether the machine's host takes time from the workers' CPUs.
func steal(p *Patient) []Finding {
	workers, none := p.workers()
	if none != nil {
		return none
	}
	var all []Finding
	for line := range strings.Lines(p.text("proc/stat")) {
		words := strings.Fields(line)
		if len(words) < 9 || !strings.HasPrefix(words[0], "cpu") {
			continue
		}
		cpu, err := strconv.Atoi(words[0][3:])
		if err != nil || !slices.Contains(workers, cpu) {
			continue
		}
		var total, stolen float64
		for i, w := range words[1:9] {
			n, _ := strconv.ParseFloat(w, 64) // the kernel writes numbers
			total += n
			if i == 7 {
				stolen = n
			}
		}
		if total > 0 && stolen/total > stealWarn {
			all = append(all, one(Warning, "pin the virtual machine's CPUs to CPUs of the host that nobody else has", "CPU %d has lost %.1f %% of its time since the boot to other machines on the host", cpu, 100*stolen/total)...)
		}
	}
	if all == nil {
		all = one(OK, "", "no time is stolen from the workers' CPUs")
	}
	return all
}

// sorted are the keys of a map, sorted.
func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
