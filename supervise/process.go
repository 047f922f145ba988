package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyFD is the descriptor by which a child says that it is ready: the first
// of exec.Cmd.ExtraFiles.
const readyFD = 3

// A process is a child of ours, or one that we watch.
type process interface {
	pid() int
	signal(sig syscall.Signal) error // no error if it has ended
	wait() *ExitError                // returns when it has ended; called once
}

// spawned is a child of ours.
type spawned struct {
	name  string
	cmd   *exec.Cmd
	ready chan struct{} // closed when it says that it is
}

// spawn starts a child. The caller is locked to a thread that lives as long as
// the supervisor: orphan is sent when that thread ends (PR_SET_PDEATHSIG,
// prctl(2)).
func spawn(spec *Spec, cfg *Config, first bool) (*spawned, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	args := append([]string{"millrace"}, spec.Args(first)...)
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", // ours, also when the file was replaced since
		Args: append(args, "--ready-fd", fmt.Sprint(readyFD)), Env: os.Environ(),
		Stdout: cfg.Err, Stderr: cfg.Err, ExtraFiles: []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: spec.Orphan},
	}
	err = cmd.Start()
	_ = w.Close() // the child's copy is what counts
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p := &spawned{spec.Name, cmd, make(chan struct{})}
	go func() {
		defer r.Close()
		if line, err := bufio.NewReader(r).ReadString('\n'); err == nil && line == "ready\n" {
			close(p.ready)
		}
	}()
	return p, nil
}

func (p *spawned) pid() int { return p.cmd.Process.Pid }

func (p *spawned) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (p *spawned) wait() *ExitError {
	status := "exit status 0"
	if err := p.cmd.Wait(); err != nil {
		status = err.Error()
	}
	return &ExitError{p.name, p.cmd.ProcessState.ExitCode(), status}
}

// adopted is a process that another supervisor has started.
type adopted struct {
	name string
	id   int
	fd   int // pidfd: names this process, whatever becomes of its pid
}

// adopt watches the process that find returns, or returns nil if there is none.
func adopt(name string, find func() (int, error)) (*adopted, error) {
	pid, err := find()
	if err != nil || pid == 0 {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch %s, process %d: %w", name, pid, err)
	}
	// It is that one still, or the pid may have become another's in between.
	if again, err := find(); err != nil || again != pid {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &adopted{name, pid, fd}, nil
}

func (p *adopted) pid() int { return p.id }

func (p *adopted) signal(sig syscall.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// wait leaves the pidfd open: signal may be called at the same time. There is
// one for the life of a supervisor.
func (p *adopted) wait() *ExitError {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, -1)
		if n > 0 {
			return &ExitError{p.name, -1, "gone (nobody told us how)"}
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return &ExitError{p.name, -1, fmt.Sprintf("watch process %d: %v", p.id, err)}
		}
	}
}
