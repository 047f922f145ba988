package vhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// here returns a path by which the port's socket is found, good until leave. Where others may write (NoFollow), it is that of
// the directory as it is now, whoever puts another one, or a symbolic link, in its place meanwhile.
func (p *Port) here() (path string, leave func(), err error) {
	if !p.opts.NoFollow {
		return p.opts.Path, func() {}, nil
	}
	dir, err := openDir(filepath.Dir(p.opts.Path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("%s/%s", descriptor(dir), filepath.Base(p.opts.Path)), func() { _ = unix.Close(dir) }, nil
}

// openDir opens a directory to look into. A symbolic link at path is followed, once: whoever has chosen the path has made it, as
// paths to sockets must be short. What it leads to is the directory itself: its parent may be one that others write to.
func openDir(path string) (int, error) {
	const how = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	dir, err := unix.Open(path, how, 0)
	if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return dir, err
	}
	to, bad := os.Readlink(path)
	if bad != nil {
		return -1, err
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(path), to)
	}
	return unix.Open(to, how, 0)
}

// openSocket opens the socket that is at path itself, to look at and to give to system calls as descriptor: it stays
// the same one, whoever changes the directory meanwhile.
func openSocket(path string, st *unix.Stat_t) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Fstat(fd, st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = unix.ENOTSOCK
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// descriptor is a path that leads to what a descriptor has open.
func descriptor(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
