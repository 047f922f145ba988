package cni

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

const (
	lockName    = "cni.lock"           // in the run directory
	lockTimeout = 20 * time.Second     // until an IPAM plugin that nobody waits for any more has ended
	lockLook    = 5 * time.Millisecond // between two looks
	lockMask    = 1<<62 - 1            // offsets of files are positive
)

// lock keeps other calls about the same attachment away. The runtime makes one at a time; but a plugin that is killed leaves its
// IPAM plugin running, which takes an address after DEL has given back none. So the lock is for what we start as well: a byte of a
// file that is open in it, too, which the kernel unlocks when the last of them has ended.
func (c *call) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(c.RunDir, lockName)
	fail := func(err error) (func(), error) {
		return nil, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("lock %s: %v", path, err), "")
	}
	if err := os.MkdirAll(c.RunDir, 0o700); err != nil {
		return fail(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o600) // without O_CLOEXEC: see above
	if err != nil {
		return fail(err)
	}
	sum := fnv.New64a()
	sum.Write([]byte(c.key.Port()))
	one := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(sum.Sum64() & lockMask), Len: 1}
	for end := time.Now().Add(lockTimeout); ; time.Sleep(lockLook) {
		err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &one)
		if err == nil {
			return func() { _ = unix.Close(fd) }, nil
		}
		if again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINTR); !again || ctx.Err() != nil || time.Now().After(end) {
			_ = unix.Close(fd)
			return fail(fmt.Errorf("a call about the same interface, or the IPAM plugin of one that was killed, still runs: %w", err))
		}
	}
}
