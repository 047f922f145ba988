package peers

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is a running program with its own group, which dies with it and
// with us.
type process struct {
	name string
	cmd  *exec.Cmd
	out  *transcript
	in   io.WriteCloser
	tail chan struct{} // closed when all output is in out; nil when Wait sees to it
	done chan struct{} // closed when the program has ended
	over sync.Once     // the group is killed once: later its number may be another's
}

// startPiped starts cmd with its input and output on pipes.
func startPiped(cmd *exec.Cmd) (*process, error) {
	p := newProcess(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.SysProcAttr.Setpgid = true
	return p, p.start()
}

// startOnTerminal starts cmd on a terminal of its own: programs that buffer
// their output in a pipe print line by line on it.
func startOnTerminal(cmd *exec.Cmd) (*process, error) {
	ours, theirs, err := openTerminal()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := newProcess(cmd)
	p.in = ours
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.Setctty = true
	p.tail = make(chan struct{})
	go func() {
		defer close(p.tail)
		_, _ = io.Copy(p.out, ours) // ends with EIO when the program and its children are gone
	}()
	if err := p.start(); err != nil {
		ours.Close()
		return nil, err
	}
	return p, nil
}

// newProcess returns a process for cmd that has not started.
func newProcess(cmd *exec.Cmd) *process {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return &process{name: filepath.Base(cmd.Path), cmd: cmd, out: newTranscript(), done: make(chan struct{})}
}

// start starts the program and returns when it runs.
func (p *process) start() error {
	err := Start(p.cmd, func() {
		p.drain()
		p.out.end()
		close(p.done)
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

// Start starts cmd and returns when it runs; ended is called once it has ended, how stays in
// cmd.ProcessState. The goroutine that waits for it keeps its thread: the kernel sends the signal
// of SysProcAttr.Pdeathsig when the thread that forked ends, not the process. If cmd cannot
// start, ended is not called.
func Start(cmd *exec.Cmd, ended func()) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			ended()
		}
	}()
	return <-started
}

// drain waits for the last output; a child that keeps the terminal open may
// hold it up for a second.
func (p *process) drain() {
	if p.tail == nil {
		return
	}
	select {
	case <-p.tail:
	case <-time.After(time.Second):
	}
}

// PID returns the process id, which is also that of the group.
func (p *process) PID() int { return p.cmd.Process.Pid }

// kill ends the whole group at once, and waits for the program.
func (p *process) kill() { p.finish(func() {}, 0) }

// stop asks the program to end, kills the group when it has not after grace,
// and in any case what the program left in its group.
func (p *process) stop(grace time.Duration) {
	p.finish(func() { _ = syscall.Kill(-p.PID(), syscall.SIGTERM) }, grace)
}

// finish asks the program to end, gives it grace, and kills the group. Only
// the first call does something.
func (p *process) finish(ask func(), grace time.Duration) {
	p.over.Do(func() {
		ask()
		select {
		case <-p.done:
		case <-time.After(grace):
		}
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.done
		p.in.Close()
	})
}

// explain adds the last output to err.
func (p *process) explain(doing string, err error) error {
	if errors.Is(err, errEnded) {
		<-p.done
		err = fmt.Errorf("%w (%s)", err, p.cmd.ProcessState)
	}
	return fmt.Errorf("%s: %s: %w; it printed last:\n%s", p.name, doing, err, p.out.tail(25))
}

// openTerminal returns the two ends of a new pseudo-terminal (pty(7)).
func openTerminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()
	raw, err := ours.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var number uint32
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		if ioctlErr == nil {
			number, ioctlErr = unix.IoctlGetUint32(int(fd), unix.TIOCGPTN)
		}
		// Wide, so that no program folds its lines.
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 1000})
	})
	if err = errors.Join(err, ioctlErr); err != nil {
		return nil, nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	theirs, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(number)), os.O_RDWR|unix.O_NOCTTY, 0)
	return ours, theirs, err
}
