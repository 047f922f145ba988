package control

import (
	"sync"

	"go.uber.org/zap"
)

// A filer writes files for the loop, which cannot wait for a disk. It writes
// the latest of what it was given, and may leave out what came before.
type filer struct {
	cfg  Config
	kick chan struct{} // has room for one: there is something to write
	done chan struct{} // closed when all is written after stop

	mu      sync.Mutex
	desired *desired // nil: written
	status  *Status  // nil: written
}

func newFiler(cfg Config) *filer {
	f := &filer{cfg: cfg, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for range f.kick {
			f.write()
		}
		f.write()
	}()
	return f
}

// put has files written. What is nil stays as it is.
func (f *filer) put(d *desired, s *Status) {
	f.mu.Lock()
	if d != nil {
		f.desired = d
	}
	f.status = s
	f.mu.Unlock()
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// stop returns when all is written. There is no put after it.
func (f *filer) stop() {
	close(f.kick)
	<-f.done
}

// write writes what was put last. Nobody waits for it, so its errors end here.
func (f *filer) write() {
	f.mu.Lock()
	d, s := f.desired, f.status
	f.desired, f.status = nil, nil
	f.mu.Unlock()
	if s != nil {
		if err := writeJSON(f.cfg.RunDir, statusName, s, false); err != nil {
			f.cfg.Log.Error("status not written", zap.Error(err))
		}
	}
	if d != nil {
		if err := writeJSON(f.cfg.StateDir, desiredName, d, true); err != nil {
			f.cfg.Log.Error("a start without the database would miss the last change", zap.Error(err))
		}
	}
}
