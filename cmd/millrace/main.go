// Command millrace is a userspace fast-path switch: the program that runs it,
// and the one that shows and changes what runs.
//
// Each command has its file. The way in:
//
//	main.go       exit codes
//	root.go       flags of all commands
//	run.go        millrace run: says what package supervise keeps alive
//	dataplane.go  millrace dataplane: wire.go puts switch and ports together
//	client.go     connects commands to a running dataplane
//	db_client.go  connects commands to the database; db_rows.go reads its rows,
//	              db_edit.go writes them
//	port.go ...   the commands
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"millrace/control"
	"millrace/control/egress/admin"
	"millrace/control/ovsdb/server"
	"millrace/control/ovsdb/storage"
	"millrace/dataplane/api"
	"millrace/dataplane/service"
	"millrace/supervise"
)

// version is the release. The linker sets it (-X main.version).
var version = "dev"

// Exit codes. They are part of the command line: `millrace run --help` says what
// they mean.
const (
	exitOK         = 0
	exitError      = 1
	exitUsage      = 2
	exitNotRunning = 3
	exitInUse      = 4
	exitWarnings   = 5 // of doctor
)

func main() { os.Exit(execute()) }

// execute runs the command line of this process.
func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		// The second Ctrl-C ends us at once. Not so SIGTERM: the kernel sends
		// it to an orphaned dataplane once for each thread of its parent.
		signal.Reset(os.Interrupt)
	}()
	a := &app{version: version, in: os.Stdin, out: os.Stdout, err: os.Stderr, newSwitch: newSwitch, types: portTypes()}
	return a.main(ctx, os.Args[1:])
}

// main runs one command line and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	report(a.err, err)
	return exitCode(err)
}

// report says what went wrong.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(w, "millrace: %v\n", err)
	if u := (*usageError)(nil); errors.As(err, &u) {
		fmt.Fprintf(w, "Try `%s --help`.\n", u.command)
	}
}

// A usageError is a command line that makes no sense.
type usageError struct {
	command string // to ask for help
	err     error
}

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

// exitCode is the exit code for err.
func exitCode(err error) int {
	var u *usageError
	var ended *supervise.ExitError
	var absent *noDatabaseError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &u), errors.Is(err, api.ErrInvalid):
		return exitUsage
	case errors.Is(err, fs.ErrPermission):
		return exitError // whoever asks may not know whether it runs
	case errors.Is(err, api.ErrNotRunning), errors.Is(err, admin.ErrNoAgent), errors.As(err, &absent):
		return exitNotRunning
	case errors.Is(err, service.ErrInUse), errors.Is(err, control.ErrInUse), errors.Is(err, storage.ErrLocked), errors.Is(err, server.ErrInUse), errors.Is(err, admin.ErrInUse):
		return exitInUse
	case errors.Is(err, errWarnings):
		return exitWarnings
	case errors.As(err, &ended) && ended.Code > 0:
		return ended.Code
	}
	return exitError
}
