package sys

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watchMask are the events that mean that a file of a directory is new, another, or
// gone (inotify(7)).
const watchMask = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ONLYDIR

// Watch yields something when files of a directory may have changed, at least once
// after the last change, until ctx ends. It is closed if that is no longer known:
// the directory is gone.
func Watch(ctx context.Context, dir string) (<-chan struct{}, error) {
	n, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: create inotify instance: %w", dir, err)
	}
	f := os.NewFile(uintptr(n), "inotify")
	if _, err := unix.InotifyAddWatch(n, dir, watchMask); err != nil {
		_ = f.Close() // nothing was written to it
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	go func() {
		defer close(changed)
		defer func() { stop(); _ = f.Close() }()
		for b := make([]byte, 4096); ; {
			n, err := f.Read(b)
			if err != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
			if gone(b[:n]) {
				return
			}
		}
	}()
	return changed, nil
}

// gone reports whether one of the events in b says that the directory is not
// watched any more. An event is 16 bytes, its mask at 4 and at 12 the length of the
// name behind it.
func gone(b []byte) bool {
	word := func(at int) uint32 {
		return uint32(b[at]) | uint32(b[at+1])<<8 | uint32(b[at+2])<<16 | uint32(b[at+3])<<24
	}
	for len(b) >= unix.SizeofInotifyEvent {
		if word(4)&unix.IN_IGNORED != 0 {
			return true
		}
		b = b[min(len(b), unix.SizeofInotifyEvent+int(word(12))):]
	}
	return false
}
