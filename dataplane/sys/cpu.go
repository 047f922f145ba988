package sys

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Pin keeps the calling thread on cpu. The caller has locked its goroutine to
// the thread.
func Pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin thread to CPU %d (not in this process's cpuset, or offline?): %w", cpu, err)
	}
	return nil
}

// Thread is the kernel's number of the calling thread.
func Thread() int { return unix.Gettid() }

// Place moves all threads of this process to cpus, but for some, and with them
// those that they will make. A thread that shall be elsewhere pins itself
// afterwards.
func Place(cpus []int, but ...int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	err := eachThread(but, func(id int) error { return unix.SchedSetaffinity(id, &set) })
	if err != nil {
		return fmt.Errorf("place threads on CPUs %v: %w", cpus, err)
	}
	return nil
}

// Yield gives all threads of this process a nice value of n, and with them those
// that they will make: others come first where they share a CPU. Threads that
// yield more already stay so.
func Yield(n int) error {
	err := eachThread(nil, func(id int) error {
		// The system call returns 20 minus the value (getpriority(2), notes).
		if raw, err := unix.Getpriority(unix.PRIO_PROCESS, id); err != nil || 20-raw >= n {
			return err
		}
		return unix.Setpriority(unix.PRIO_PROCESS, id, n)
	})
	if err != nil {
		return fmt.Errorf("give threads a nice value of %d: %w", n, err)
	}
	return nil
}

// eachThread calls fn for every thread of this process but some, also for those
// that are made meanwhile. A thread that ends is no error.
func eachThread(but []int, fn func(id int) error) error {
	done := map[int]bool{}
	for _, id := range but {
		done[id] = true
	}
	for {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		fresh := false
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil || done[id] {
				continue
			}
			fresh, done[id] = true, true
			if err := fn(id); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("thread %d: %w", id, err)
			}
		}
		if !fresh {
			return nil // also those have been met that others made meanwhile
		}
	}
}

// AllowedCPUs returns the CPUs that this process may run on, in order.
func AllowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read CPU affinity: %w", err)
	}
	var cpus []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// ParseCPUs reads a list as the kernel writes it: "1,4-6". The result is
// sorted and has no CPU twice.
func ParseCPUs(s string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 10)
		b, errB := strconv.ParseUint(last, 10, 10)
		if errA != nil || errB != nil || a > b {
			return nil, fmt.Errorf("CPU list %q: %w: %q is neither a number below 1024 nor a range like 2-5", s, errCPUList, part)
		}
		for c := a; c <= b; c++ {
			cpus = append(cpus, int(c))
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

var errCPUList = errors.New("malformed")
