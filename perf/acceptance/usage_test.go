package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cpuTime returns how long all threads of process pid have run (Linux,
// Documentation/scheduler/sched-stats.rst).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	check(t, err)
	if len(names) == 0 {
		t.Fatalf("process %d is gone", pid)
	}
	sum := time.Duration(0)
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		check(t, err)
		sum += time.Duration(ns)
	}
	return sum
}

// A resident is what a process has in memory, in KiB (proc(5), status).
type resident struct{ all, anon, file, shared int }

func residentOf(t *testing.T, pid int) resident {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err)
	var r resident
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if to, ok := map[string]*int{"VmRSS:": &r.all, "RssAnon:": &r.anon, "RssFile:": &r.file, "RssShmem:": &r.shared}[f[0]]; ok {
			*to, err = strconv.Atoi(f[1])
			check(t, err)
		}
	}
	return r
}

// workerDelay returns how long the worker's thread in process pid was ready to
// run and did not: somebody else had its CPU. It is the thread that may run
// there only.
func workerDelay(t *testing.T, pid, cpu int) time.Duration {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	check(t, err)
	for _, name := range names {
		status, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(status), fmt.Sprintf("Cpus_allowed_list:\t%d\n", cpu)) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(name), "schedstat"))
		check(t, err)
		ns, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
		check(t, err)
		return time.Duration(ns)
	}
	t.Fatalf("process %d has no thread for CPU %d alone", pid, cpu)
	return 0
}

// mostOthers is the share of the CPUs that others may have for a time to be
// judged.
const mostOthers = 0.05

// others is what the CPUs have done for all but us and our children, and the
// hypervisor for other machines, until a moment.
type others struct{ theirs, all time.Duration }

// watchOthers begins to watch.
func watchOthers(t *testing.T) others {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	check(t, err)
	line, _, _ := strings.Cut(string(b), "\n")
	var o others
	for i, v := range ticks(t, strings.Fields(line)[1:9]) { // user nice system idle iowait irq softirq steal
		o.all += v
		if i != 3 && i != 4 {
			o.theirs += v
		}
	}
	o.theirs -= ourTime(t)
	return o
}

// share is the part of the CPUs' time that others have had since watchOthers.
func (o others) share(t *testing.T) float64 {
	t.Helper()
	now := watchOthers(t)
	return float64(now.theirs-o.theirs) / float64(max(1, now.all-o.all))
}

// ourTime is what we and our children have run, those that have ended included.
func ourTime(t *testing.T) time.Duration {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	check(t, err)
	type process struct {
		parent string
		ran    time.Duration
	}
	all := map[string]process{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from field 3 on: the name may have blanks
		p := process{parent: f[1]}
		for _, v := range ticks(t, f[11:15]) { // utime stime cutime cstime
			p.ran += v
		}
		all[filepath.Base(filepath.Dir(name))] = p
	}
	sum := time.Duration(0)
	for pid := range all {
		for up := pid; up != ""; up = all[up].parent {
			if up == strconv.Itoa(os.Getpid()) {
				sum += all[pid].ran
				break
			}
		}
	}
	return sum
}

// ticks reads times in USER_HZ, which is 100 (proc(5)).
func ticks(t *testing.T, fields []string) (times []time.Duration) {
	t.Helper()
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		check(t, err)
		times = append(times, time.Duration(n)*10*time.Millisecond)
	}
	return times
}

// TestOthers: work of ours is not others', and that of others is.
func TestOthers(t *testing.T) {
	o, before := watchOthers(t), ourTime(t)
	for end := time.Now().Add(patience); ourTime(t)-before < time.Second && time.Now().Before(end); {
	}
	if ran := ourTime(t) - before; ran < time.Second {
		t.Errorf("we have run for %v", ran)
	}
	if now := watchOthers(t); now.all-o.all < 900*time.Millisecond || now.theirs-o.theirs > now.all-o.all-900*time.Millisecond {
		t.Errorf("others have had %v of %v, of which a second was ours", now.theirs-o.theirs, now.all-o.all)
	}
	if share := o.share(t); share < -0.5 || share > 1 {
		t.Errorf("others have %.2f of the CPUs", share)
	}
}
