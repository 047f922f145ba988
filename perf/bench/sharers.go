package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// Whoever changes the switch, what of the switch does not poll, and the generator share a CPU.
// While a process that is none of them has it, no frame is made and nothing is changed; while
// one has the CPU where the switch polls, no frame is forwarded. What takes long then says nothing
// of the switch. So the kernel is asked how long the threads that take part have run, and have
// waited: what is missing of the time was somebody else's.

// sharers are the threads that take part in a measurement. They belong to a goroutine that is
// locked to a thread on the CPU that they share: all others are off it when it asks, and what the
// kernel says of them is exact.
type sharers struct {
	here  []int // files of those that may run on this CPU: of this process and the switch
	there []int // of those of the switch that poll elsewhere
}

// newSharers are the threads of this process and of a switch's, but for the calling one, which runs
// on cpu.
func newSharers(cpu, pid int) (*sharers, error) {
	s := &sharers{}
	for _, p := range []int{os.Getpid(), pid, supervisorOf(pid)} {
		if err := s.add(cpu, p); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// supervisorOf returns the process that has started a switch, or 0 if that is this one, or init.
func supervisorOf(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ") // state, parent
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	if parent, _ := strconv.Atoi(fields[1]); parent != os.Getpid() && parent != 1 {
		return parent
	}
	return 0
}

// add adds the threads of a process. Process 0 has none.
func (s *sharers) add(cpu, pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || pid == 0 {
		return err
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(filepath.Base(task))
		var set unix.CPUSet
		if tid == unix.Gettid() || unix.SchedGetaffinity(tid, &set) != nil {
			continue // or it has ended
		}
		f, err := unix.Open(filepath.Join(task, "schedstat"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s/schedstat (a kernel with CONFIG_SCHED_INFO?): %w", task, err)
		}
		if set.IsSet(cpu) {
			s.here = append(s.here, f)
		} else {
			s.there = append(s.there, f)
		}
	}
	return nil
}

// A share is what threads have had so far.
type share struct {
	at     time.Time
	ran    time.Duration // on the CPU that they share
	waited time.Duration // for a CPU where they poll
}

// share returns what the threads have had so far, and the calling one.
func (s *sharers) share() share {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // always there
	sh := share{ran: time.Duration(t.Nano())}
	for _, f := range s.here {
		sh.ran += schedstat(f, 0)
	}
	for _, f := range s.there {
		sh.waited += schedstat(f, 1)
	}
	sh.at = time.Now()
	return sh
}

// foreign is how long others have kept the threads from their CPUs since then.
func (s *sharers) foreign(since share) time.Duration {
	now := s.share()
	return max(now.at.Sub(since.at)-(now.ran-since.ran), 0) + now.waited - since.waited
}

// schedstat reads a time of a thread: 0 is how long it has run, 1 how long it has waited to
// (Documentation/scheduler/sched-stats.rst). It is 0 if the thread has ended.
func schedstat(file, which int) time.Duration {
	var b [64]byte
	n, _ := unix.Pread(file, b[:], 0)
	fields := strings.Fields(string(b[:max(n, 0)]))
	if len(fields) <= which {
		return 0
	}
	ns, _ := strconv.ParseInt(fields[which], 10, 64)
	return time.Duration(ns)
}

func (s *sharers) close() error {
	var errs []error
	for _, f := range append(s.here, s.there...) {
		errs = append(errs, unix.Close(f))
	}
	return errors.Join(errs...)
}

// huddle keeps all threads of this process on a CPU until it is undone: its garbage collector
// has nothing to do on the CPU of a switch.
func huddle(cpu int) (undo func(), err error) {
	allowed, err := sys.AllowedCPUs()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(allowed, cpu) {
		return nil, fmt.Errorf("CPU %d is not one of ours: %v", cpu, allowed)
	}
	if err := sys.Place([]int{cpu}); err != nil {
		return nil, err
	}
	return func() { _ = sys.Place(allowed) }, nil
}
