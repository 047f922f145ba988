package vhost

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Finder tells connecting ports that something has come to be at the path of
// their socket, so that many ports without a peer cost nothing. One serves all
// ports of a process; it has an inotify instance while a port uses it. The zero
// Finder is ready for use.
//
// It is an aid, not a promise: what happens above the directory (a mount, a
// symbolic link that is changed) is not seen. Ports look for themselves besides,
// seldom.
type Finder struct {
	mu      sync.Mutex
	events  *os.File // the inotify instance, nil while there are no watches
	fd      int      // of events, which is not blocking
	byDir   map[string]*findDir
	byWatch map[int32]*findDir // by inotify's watch descriptor
}

// A findDir is one directory that is watched.
type findDir struct {
	watch   int32
	waiting map[*find]struct{}
}

// A find is one port's interest in a path.
type find struct {
	f    *Finder
	name string        // in its directory
	dir  *findDir      // nil when nothing is watched; guarded by f.mu
	news chan struct{} // capacity 1: look again
}

// findMask is what a directory's watch reports: names that appear, and that the
// directory itself is there no more (inotify(7)).
const findMask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// find returns an interest in nothing yet. f may be nil: it never will be more.
func (f *Finder) find() *find { return &find{f: f, news: make(chan struct{}, 1)} }

// watch begins to watch for path, unless it does already, and reports whether
// it can. News may come from now on; what was there before is none.
func (w *find) watch(path string) bool {
	f := w.f
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.dir != nil {
		return true
	}
	dir, err := f.open(filepath.Dir(path))
	if err != nil {
		return false
	}
	w.name, w.dir = filepath.Base(path), dir
	dir.waiting[w] = struct{}{}
	return true
}

// end ends the interest.
func (w *find) end() {
	if w.f == nil {
		return
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if d := w.dir; d != nil {
		w.dir = nil
		delete(d.waiting, w)
		if len(d.waiting) == 0 {
			_, _ = unix.InotifyRmWatch(w.f.fd, uint32(d.watch)) // fails if the directory is gone
			w.f.forget(d)
		}
	}
}

// tell makes the port look again.
func (w *find) tell() {
	select {
	case w.news <- struct{}{}:
	default: // it will
	}
}

// open returns the watch for the directory at path. The caller holds mu.
func (f *Finder) open(path string) (*findDir, error) {
	if d := f.byDir[path]; d != nil {
		return d, nil
	}
	if f.events == nil {
		if err := f.start(); err != nil {
			return nil, err
		}
	}
	n, err := unix.InotifyAddWatch(f.fd, path, findMask)
	if err != nil {
		f.stopIfIdle()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	d := f.byWatch[int32(n)]
	if d == nil {
		d = &findDir{watch: int32(n), waiting: map[*find]struct{}{}}
		f.byWatch[d.watch] = d
	}
	f.byDir[path] = d // two paths may lead to one directory
	return d, nil
}

// start makes the inotify instance and the goroutine that reads it.
func (f *Finder) start() error {
	n, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("create inotify instance: %w", err)
	}
	f.events, f.fd = os.NewFile(uintptr(n), "inotify"), n
	f.byDir, f.byWatch = map[string]*findDir{}, map[int32]*findDir{}
	go f.read(f.events)
	return nil
}

// forget drops d, and the instance with the last one. The caller holds mu.
func (f *Finder) forget(d *findDir) {
	delete(f.byWatch, d.watch)
	for path, o := range f.byDir {
		if o == d {
			delete(f.byDir, path)
		}
	}
	f.stopIfIdle()
}

// stopIfIdle closes the instance, and so ends its goroutine, when nothing is
// watched.
func (f *Finder) stopIfIdle() {
	if len(f.byWatch) == 0 && f.events != nil {
		_ = f.events.Close()
		f.events = nil
	}
}

// read passes on what inotify reports on events until it is closed.
func (f *Finder) read(events *os.File) {
	b := make([]byte, 16<<10) // holds at least one event: the longest has 272 bytes
	for {
		n, err := events.Read(b)
		if err != nil {
			return
		}
		f.mu.Lock()
		if f.events == events {
			f.report(b[:n])
		}
		f.mu.Unlock()
	}
}

// report reads the events in b: struct inotify_event of inotify(7). The caller
// holds mu.
func (f *Finder) report(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		watch := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
		b = b[end:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, d := range f.byWatch {
				d.tellAll("")
			}
		}
		d := f.byWatch[watch]
		if d == nil {
			continue
		}
		if mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 {
			f.lose(d)
			continue
		}
		d.tellAll(name)
	}
}

// tellAll tells those that wait for name; "" is every name.
func (d *findDir) tellAll(name string) {
	for w := range d.waiting {
		if name == "" || w.name == name {
			w.tell()
		}
	}
}

// lose gives up a directory that is gone from its path: those who waited for
// something in it look, and begin anew. The caller holds mu.
func (f *Finder) lose(d *findDir) {
	_, _ = unix.InotifyRmWatch(f.fd, uint32(d.watch)) // gone already, unless it was renamed
	for w := range d.waiting {
		w.dir = nil
		w.tell()
	}
	f.forget(d)
}
