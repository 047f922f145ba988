package supervise

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// A Spec says how one process is started, and how one is found that another
// supervisor has left behind.
type Spec struct {
	Name string
	// Args returns the command line behind the program's name. first holds
	// until a process of this Spec has been ready. The flag --ready-fd is added.
	Args func(first bool) []string
	// Orphan is the signal that the process gets if the supervisor dies, or 0
	// if it is to work on.
	Orphan syscall.Signal
	// Spare says that the others do their work without it: if it gives up
	// before it was ever ready, it is tried again, unless Hopeless says that
	// its exit code leaves no hope.
	Spare    bool
	Hopeless func(code int) bool
	// Sweep removes what a process leaves that is killed. May be nil.
	Sweep func() error

	// Grace is how long a process of Config.More may take to end by itself when
	// it is wanted no more; it is killed then.
	Grace time.Duration

	// Find returns the pid of the process that does the work already, or 0. Nil:
	// nobody is looked for.
	Find func() (pid int, err error)
	// Await returns when the process that Find has found is ready, or ctx ends.
	Await func(ctx context.Context, pid int)
	// Replace has the first process that Find finds ended, not adopted.
	Replace bool
}

// A Config says what to keep alive.
type Config struct {
	RunDir string // where run.json is written
	Status Status // what is known beforehand: all but PID, times and Children
	Specs  []Spec // in the order in which they are started; the last one is ended first
	InUse  int    // exit code of a process that finds another one at its work
	Ready  func() // called once, when all have been ready
	// More yields which other processes there shall be, all of them each time.
	// They come and go while the others run, and whatever becomes of them is no
	// reason to give up. May be nil.
	More <-chan []Spec
	Err  io.Writer // where the processes log to
	Log  *zap.Logger
}

// An ExitError says how a process ended.
type ExitError struct {
	Name   string
	Code   int    // -1: by a signal, or not known
	Status string // in words
}

func (e *ExitError) Error() string { return e.Name + " ended: " + e.Status }

// signalled reports whether somebody ended the process: it did not give up.
func (e *ExitError) signalled() bool { return e.Code < 0 }

// cannotStart is the error of a process that gave up before it was ready.
func cannotStart(e *ExitError) error {
	return fmt.Errorf("%s cannot start (its log says why): %w", e.Name, e)
}
