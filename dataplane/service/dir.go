package service

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/sys"
)

// ErrInUse says that another process holds the run directory.
var ErrInUse = errors.New("run directory is in use")

// socketPathMax is the longest path of a Unix socket in bytes (unix(7): 108
// with the closing zero).
const socketPathMax = 107

// Files of the run directory besides api.SocketName.
const (
	lockName  = "dataplane.lock"
	stateName = "ports.json"
	newSuffix = ".new" // of files that are about to take their place

	// RunLock is the lock of whoever supervises the dataplane.
	RunLock = "run.lock"
)

// A Dir is a run directory that this process holds.
type Dir struct {
	path string
	lock *os.File
}

// OpenDir makes the directory if need be, and takes the lock called name in
// it. While the Dir is open, nobody else gets that lock. The error wraps
// ErrInUse when somebody has it.
func OpenDir(path, name string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("run directory %q: %w", path, err)
	}
	if n := len(filepath.Join(path, api.SocketName+newSuffix)); n > socketPathMax {
		return nil, fmt.Errorf("run directory %s: its sockets would have paths of over %d bytes, more than the kernel takes: choose a shorter one", path, socketPathMax)
	}
	// Guests' processes look for their sockets here: others may pass.
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	lock, err := takeLock(filepath.Join(path, name))
	if err != nil {
		return nil, err
	}
	return &Dir{path, lock}, nil
}

// OpenDataplane is OpenDir with the lock of the dataplane.
func OpenDataplane(path string) (*Dir, error) { return OpenDir(path, lockName) }

// DataplaneOf returns the pid of the process that serves the run directory, or
// 0 if there is none. One that is about to begin may not be found yet, and one
// in another pid namespace never is.
func DataplaneOf(path string) (int, error) { return HolderOf(path, lockName) }

// HolderOf is DataplaneOf for the lock called name (see OpenDir).
func HolderOf(path, name string) (int, error) {
	name = filepath.Join(path, name)
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find who holds %s: %w", name, err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case err == nil:
		return 0, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		return 0, fmt.Errorf("find who holds %s: %w", name, err)
	}
	pid, err := strconv.Atoi(sys.LockHolder(f))
	if err != nil || pid <= 0 || !hasOpen(pid, f) {
		return 0, nil // it is about to write it
	}
	return pid, nil
}

// hasOpen reports whether process pid has the file open: it is who wrote that
// pid, and no later or other one that the number means here.
func hasOpen(pid int, f *os.File) bool {
	want, err := f.Stat()
	if err != nil {
		return false
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(name string) bool {
		have, err := os.Stat(name)
		return err == nil && os.SameFile(have, want)
	})
}

// takeLock locks the file at path.
func takeLock(path string) (*os.File, error) {
	f, err := sys.LockFile(path)
	if held := (*sys.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("%w: %w: stop it, or choose another --run-dir", ErrInUse, held)
	}
	return f, err
}

// Path is the absolute path of the directory.
func (d *Dir) Path() string { return d.path }

// Close lets go of the lock. The file stays: who removes it could take it from
// under another process.
func (d *Dir) Close() error { return d.lock.Close() }

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

// listen listens on the directory's socket, in place of what an earlier
// process left: that there is none alive is what the lock says. The socket
// has its mode before it has its name.
func (d *Dir) listen() (net.Listener, error) {
	path := d.file(api.SocketName)
	tmp := path + newSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it knows the wrong name
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close(), os.Remove(tmp))
	}
	return l, nil
}

// unlink removes the socket.
func (d *Dir) unlink() error {
	if err := os.Remove(d.file(api.SocketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}

// Sweep removes the sockets that a dataplane of the directory left when it
// could not end by itself: its API's, and those of the ports that listen.
// The caller knows that it is dead.
func (d *Dir) Sweep() error {
	errs := []error{d.unlink()}
	st, err := d.readState()
	errs = append(errs, err)
	for _, p := range st.Ports {
		if p.GetType() == dataplane.TypeVhostServer {
			errs = append(errs, removeSocket(p.GetPath()))
		}
	}
	return errors.Join(errs...)
}

// removeSocket removes the file at path if it is a socket.
func removeSocket(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Mode().Type() != fs.ModeSocket {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}
