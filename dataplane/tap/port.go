package tap

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// A Port is a TAP device. Its queues are fixed from Open to Close, whatever
// becomes of the device.
type Port struct {
	opts Options // but for Settings, which are in want
	rx   []*RxQueue
	tx   *TxQueue

	status  status
	trouble atomic.Pointer[trouble] // why a worker has let go of the device
	news    chan struct{}           // capacity 1: look at the device
	stop    chan struct{}           // closed by Close
	done    chan struct{}           // closed when the goroutine has ended
	closing sync.Once

	mu    sync.Mutex // held to change the device or its settings
	want  Settings
	dev   *device // nil: none
	view  View    // of dev, or of the last one
	home  uint64  // network namespace in which it was made
	index int     // that the watcher knows; 0: none
	wrong error   // what dev could not be given
	blind error   // why dev could not be looked at last
	open  bool    // Open has returned: workers may have the queues
}

// A trouble is what a worker has met.
type trouble struct {
	what string // "read" or "write"
	err  unix.Errno
}

// Open opens a port. Its device is there when it returns, if it can be had: what
// is in the way is in State, and the port tries on.
func Open(o Options) (*Port, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Port{opts: o, want: o.Settings, news: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	if err := p.makeQueues(); err != nil {
		return nil, errors.Join(fmt.Errorf("open port %s: %w", o.Name, err), p.freeQueues())
	}
	p.status.init()
	again := p.examine()
	p.open = true
	go p.run(again)
	return p, nil
}

func (p *Port) makeQueues() (err error) {
	for range p.opts.Queues {
		q, err := newRxQueue(p)
		if err != nil {
			return err
		}
		p.rx = append(p.rx, q)
	}
	p.tx, err = newTxQueue(p)
	return err
}

func (p *Port) freeQueues() error {
	var errs []error
	for _, q := range p.rx {
		errs = append(errs, q.mem.Close())
	}
	if p.tx != nil {
		errs = append(errs, p.tx.mem.Close())
	}
	return errors.Join(errs...)
}

// RxQueues are what the kernel sends, one for each queue of the device. Each is
// for one worker.
func (p *Port) RxQueues() []*RxQueue { return p.rx }

// TxQueue is what the kernel receives, for all workers.
func (p *Port) TxQueue() *TxQueue { return p.tx }

// Set changes the port's settings. The device has them when it returns; what it
// cannot have is in State.
func (p *Port) Set(s Settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.want
	p.want = s
	if p.dev == nil || s.Equal(old) {
		return
	}
	p.apply(s, old)
	p.follow()
}

// Settings are those of Open, or of the last Set.
func (p *Port) Settings() Settings {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want
}

// apply gives the device settings, and notes what it could not be given.
func (p *Port) apply(s, old Settings) {
	p.wrong = nil
	err := p.dev.apply(s, old)
	if err != nil && !errors.Is(err, errGone) {
		p.wrong = err
		p.opts.Log.Warn("the device could not be given all that was asked for", zap.Error(err))
	}
}

// Owns reports whether address a is memory of the peer: the kernel shares none.
func (p *Port) Owns(uintptr) bool { return false }

// Break lets go of the device for a reason, and makes it anew.
func (p *Port) Break(reason string) {
	p.status.broke(reason)
	p.letGo(&trouble{what: reason})
}

// lost lets go of the device, to which fd leads, because of an error. Workers
// call it.
func (p *Port) lost(fd int32, what string, errno unix.Errno) {
	if slices.ContainsFunc(p.rx, func(q *RxQueue) bool { return q.fd.Load() == fd }) {
		p.letGo(&trouble{what, errno})
	}
}

// letGo takes the device away from the workers and has the goroutine look.
func (p *Port) letGo(t *trouble) {
	for _, q := range p.rx {
		q.fd.Store(wakeNone)
	}
	p.tx.dest.Store(nil)
	p.trouble.Store(t)
	p.wake()
}

// wake has the goroutine look at the device. It does not wait.
func (p *Port) wake() {
	select {
	case p.news <- struct{}{}:
	default: // it will
	}
}

// run looks at the device when there is news, and when it is time.
func (p *Port) run(again time.Duration) {
	defer close(p.done)
	t := time.NewTimer(again)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-p.news:
		case <-t.C:
		}
		t.Reset(p.examine())
	}
}

// Times after which a port looks again.
const (
	soon   = 250 * time.Millisecond // something is missing that may come at any moment
	later  = 2 * time.Second        // something else is wrong, or nobody tells of changes
	seldom = time.Hour              // netlink tells
)

// examine looks at the device, and makes one if there is none. It returns when to
// look again.
func (p *Port) examine() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.trouble.Swap(nil)
	if p.dev != nil && (t != nil || !p.follow()) {
		p.drop(t)
	}
	if p.dev == nil {
		if err := p.make(); err != nil {
			p.waiting(err)
			return patience(err)
		}
	}
	own, err := ownNetns()
	if p.blind != nil || !p.opts.Kernel.watcher.hears(err != nil || p.view.Netns != own) {
		return later
	}
	return seldom
}

// patience is how long to wait before what has failed is tried again.
func patience(err error) time.Duration {
	if errors.Is(err, errNetns) || errors.Is(err, errTaken) {
		return soon
	}
	return later
}

// make makes the device as the settings say, or as the last one was.
func (p *Port) make() error {
	d, err := newDevice(&p.opts)
	if err != nil {
		return err
	}
	settings := p.asItWas()
	p.dev, p.home = d, 0
	p.apply(settings, Settings{})
	if !p.follow() {
		return errors.Join(errGone, p.shut())
	}
	for i, q := range p.rx {
		if err := q.look.add(q, d.files[i].Int()); err != nil {
			p.unlook()
			return errors.Join(err, p.shut())
		}
		q.takes = d.takes
		q.ready.Store(true)
		q.fd.Store(int32(d.files[i].Int()))
	}
	p.quiesce() // workers take note of WakeFD
	p.opts.Log.Info("device made", zap.String("device", p.view.Name), zap.String("mac", p.view.MAC), zap.Int("mtu", p.view.MTU))
	return nil
}

// quiesce returns when no worker is in a call of a queue that began before.
func (p *Port) quiesce() {
	if p.open {
		p.opts.Quiesce()
	}
}

// asItWas are the settings of a new device: with what others have changed of the
// last one, unless that had been moved away.
func (p *Port) asItWas() Settings {
	s := p.want
	if p.view.Name == "" || p.view.Netns != p.home {
		return s
	}
	s.MTU, s.Up = p.view.MTU, p.view.Up
	if mac, err := net.ParseMAC(p.view.MAC); err == nil {
		s.MAC = mac
	}
	return s
}

// follow looks how the device is, and reports whether it is there.
func (p *Port) follow() bool {
	for {
		v, err := p.dev.look()
		if errors.Is(err, errGone) {
			return false
		}
		if p.blind = err; err != nil {
			break
		}
		known := p.index == v.Index && p.view.Netns == v.Netns
		p.view = v
		p.hearOf(v.Index)
		if known {
			break
		} // else look again: what has changed since nobody was told of
	}
	if p.home == 0 {
		p.home = p.view.Netns
	}
	p.present()
	return true
}

// hearOf has the watcher tell of the device with an index, and no other.
func (p *Port) hearOf(index int) {
	p.opts.Kernel.watcher.follow(p, index, p.index)
	p.index = index
}

// drop gives up the device.
func (p *Port) drop(t *trouble) {
	reason := "it was deleted by somebody else"
	if t != nil && t.err != unix.EBADFD {
		reason = t.what
		if t.err != 0 {
			reason += ": " + t.err.Error()
		}
	}
	p.opts.Log.Warn("device lost, it is made anew", zap.String("device", p.view.Name), zap.String("reason", reason))
	p.unlook()
	p.trouble.Store(nil) // what a worker has met until now was this device's, not the next one's
	if err := p.shut(); err != nil {
		p.opts.Log.Warn("device not closed cleanly", zap.Error(err))
	}
}

// unlook takes the queues from the workers and the lookout.
func (p *Port) unlook() {
	p.tx.dest.Store(nil)
	for _, q := range p.rx {
		q.fd.Store(wakeNone)
	}
	p.quiesce()
	for i, q := range p.rx {
		q.look.remove(q, p.dev.files[i].Int())
	}
}

// shut closes the device, which workers do not have any more.
func (p *Port) shut() error {
	p.hearOf(0)
	err := p.dev.close()
	p.dev = nil
	return err
}

// Close ends the port. The device goes, unless it is to persist.
func (p *Port) Close() error {
	var err error
	p.closing.Do(func() {
		close(p.stop)
		<-p.done
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.dev != nil {
			p.unlook()
			err = p.shut()
		}
		err = errors.Join(err, p.freeQueues())
	})
	return err
}
