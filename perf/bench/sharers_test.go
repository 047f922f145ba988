package main

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"millrace/dataplane/sys"
)

// TestForeign: what another process takes of the CPU is foreign, and what a goroutine of this one
// takes is not.
func TestForeign(t *testing.T) {
	cpus, err := sys.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	cpu := cpus[0]
	err = onCPU(cpu, func() error {
		other := exec.Command("sh", "-c", "while :; do :; done") // on our CPU, as all that this thread starts
		if err := other.Start(); err != nil {
			return err
		}
		defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
		s, err := newSharers(cpu, 0)
		if err != nil {
			return err
		}
		defer s.close()
		most := time.Duration(0)
		for end := time.Now().Add(20 * time.Second); most < time.Millisecond && time.Now().Before(end); {
			before := s.share()
			for until := time.Now().Add(50 * time.Millisecond); time.Now().Before(until); {
			}
			most = s.foreign(before)
		}
		if most < time.Millisecond {
			t.Errorf("beside a process that wants the CPU, it was ours but for %v", most)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHuddle keeps threads together, and lets them go again.
func TestHuddle(t *testing.T) {
	before, err := sys.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	undo, err := huddle(before[0])
	if err != nil {
		t.Fatal(err)
	}
	if during, _ := sys.AllowedCPUs(); len(during) != 1 || during[0] != before[0] {
		t.Errorf("huddled on CPUs %v, want %d", during, before[0])
	}
	undo()
	if after, _ := sys.AllowedCPUs(); len(after) != len(before) {
		t.Errorf("CPUs %v afterwards, want %v", after, before)
	}
	if _, err := huddle(1023); err == nil {
		t.Error("huddled on a CPU that is not ours")
	}
}
