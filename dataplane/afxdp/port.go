package afxdp

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"millrace/dataplane/packet"
)

// A Port is a network device as a port. Its queues are fixed from Open to
// Close, whatever becomes of the device.
type Port struct {
	opts  Options
	rx    []*RxQueue
	tx    *TxQueue
	mtu   atomic.Int32 // Options.MTU now
	watch *watch
	state status

	// The port's goroutine's:
	run    *session // nil without a device
	failed failure  // of the last attempt to take it
	ticks  int      // of lookEvery
	asked  int      // the MTU that the device was last told to have
	blind  bool     // the device, which it has, could not be looked at

	faults  chan error    // what sockets and workers have found broken; capacity 1
	stop    chan struct{} // closed by Close
	running sync.WaitGroup
	closing sync.Once
	ended   error // of Close
}

// Open opens a port. It does not wait for a device that is not there, but tells
// at once of one that it cannot have.
func Open(o Options) (*Port, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Port{opts: o, tx: &TxQueue{}, faults: make(chan error, 1), stop: make(chan struct{})}
	p.mtu.Store(int32(o.MTU))
	p.state.init()
	if p.watch, err = o.Watcher.watch(o.Name); err != nil {
		return nil, err
	}
	d, err := look(o.Name)
	if err == nil || errors.Is(err, errNoDevice) {
		p.makeQueues(d)
		err = p.settle()
	}
	if err != nil {
		_ = p.end()
		p.watch.end()
		return nil, fmt.Errorf("open port %s: %w", o.Name, err)
	}
	p.running.Go(p.follow)
	return p, nil
}

// makeQueues makes as many queues as the port can ever use.
func (p *Port) makeQueues(d device) {
	n := p.opts.Queues
	switch {
	case n > 0:
	case d.most > 0:
		n = min(d.most, QueuesMax)
	default:
		n = DefaultQueues
	}
	for range n {
		p.rx = append(p.rx, &RxQueue{})
	}
}

// RxQueues are what the device receives, one for each of its queues. Each is
// for one worker.
func (p *Port) RxQueues() []*RxQueue { return p.rx }

// TxQueue is what the device sends, for all workers.
func (p *Port) TxQueue() *TxQueue { return p.tx }

// SetMTU changes Options.MTU while the port works. The device gets it, too.
func (p *Port) SetMTU(mtu int) {
	p.mtu.Store(int32(mtu))
	p.watch.poke()
}

// Owns reports whether address a is memory that somebody else can take away:
// there is none.
func (p *Port) Owns(uintptr) bool { return false }

// Break has the port begin anew with its device, for a reason. It does not wait.
func (p *Port) Break(reason string) { p.broke(nil, errors.New(reason)) }

// broke tells the port's goroutine that something is broken. Workers call it.
func (p *Port) broke(_ *socket, err error) {
	select {
	case p.faults <- err:
	default: // it knows of one
	}
}

// Close detaches the program and returns when nothing of the port is left.
func (p *Port) Close() error {
	p.closing.Do(func() {
		close(p.stop)
		p.running.Wait()
		p.watch.end()
		p.ended = p.end()
	})
	return p.ended
}

// applyMTU gives the device the MTU that the port is told to have, once: an
// administrator who changes it afterwards is right. Workers get what both
// allow.
func (p *Port) applyMTU(d *device) {
	own := int(p.mtu.Load())
	if own != 0 && own != d.mtu && own != p.asked {
		if err := setMTU(d.index, own); err != nil {
			p.opts.Log.Warn("the device does not take the MTU that is asked for", zap.Int("mtu", own), zap.Error(err))
		} else {
			d.mtu = own
			p.update(func(st *State) { st.Device.MTU = own })
		}
	}
	p.asked = own
	limit := d.mtu
	if own != 0 {
		limit = min(limit, own)
	}
	p.tx.mtu.Store(uint32(min(limit, packet.FrameMax-packet.FrameMin)))
}
