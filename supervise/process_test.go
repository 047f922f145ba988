package supervise

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// sleeper starts a process that is not watched by os/exec as ours would be.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	return cmd
}

// TestAdopt: a process that is found is signalled, and its end is noticed.
func TestAdopt(t *testing.T) {
	cmd := sleeper(t)
	p, err := adopt("sleeper", func() (int, error) { return cmd.Process.Pid, nil })
	if err != nil || p == nil || p.pid() != cmd.Process.Pid {
		t.Fatalf("adopted %v, %v", p, err)
	}
	ended := make(chan *ExitError, 1)
	go func() { ended <- p.wait() }()
	select {
	case e := <-ended:
		t.Fatalf("it has ended already: %v", e)
	case <-time.After(20 * time.Millisecond):
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-ended:
		if !e.signalled() {
			t.Errorf("ended %+v", e)
		}
	case <-time.After(time.Minute):
		t.Fatal("its end is not noticed")
	}
	_ = cmd.Wait() // killed
	if err := p.signal(syscall.SIGTERM); err != nil {
		t.Errorf("signal to who has ended: %v", err)
	}
}

// TestAdoptNobody: who ends, or is another, while we look, is not adopted.
func TestAdoptNobody(t *testing.T) {
	one, two := sleeper(t).Process.Pid, sleeper(t).Process.Pid
	for _, tt := range []struct {
		name  string
		found []int
	}{
		{"nobody", []int{0}},
		{"gone", []int{1 << 22}}, // higher than pids go (PID_MAX_LIMIT)
		{"ended between", []int{one, 0}},
		{"another between", []int{one, two}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := -1
			p, err := adopt("sleeper", func() (int, error) { i++; return tt.found[i], nil })
			if p != nil || err != nil {
				t.Errorf("adopted %+v, %v", p, err)
			}
		})
	}
}
