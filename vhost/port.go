package vhost

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/vhost/guestmem"
)

// Role says which side of the socket the port is.
type Role uint8

// The roles. The front-end is the other one.
const (
	Listen  Role = iota // the port makes the socket and waits (dpdkvhostuser)
	Connect             // the port connects, and tries again for ever (dpdkvhostuserclient)
)

const (
	// QueuesMax is the most queue pairs that a port offers.
	QueuesMax = 64

	// DefaultQueues is what is offered where Options say nothing.
	DefaultQueues = 8

	// DefaultMode is the mode of the socket where Options say nothing.
	DefaultMode fs.FileMode = 0o660

	pathMax = 107 // bytes in sockaddr_un.sun_path, without the final zero
)

// ErrOptions is the error of options that no port can have.
var ErrOptions = errors.New("bad vhost-user port")

// Options say what a port shall be and what surrounds it.
type Options struct {
	Name   string // for logs
	Path   string // of the socket
	Role   Role
	Queues int         // most queue pairs; 0: DefaultQueues
	MTU    int         // longest payload of a frame to the peer in bytes; 0: no limit. SetMTU changes it
	Mode   fs.FileMode // of a listening socket; 0: DefaultMode
	Plain  bool        // offer the driver no checksum or segmentation offload

	Peer     *uint32 // the only user who may be the peer; nil: anybody who reaches the socket
	Owner    *Owner  // of a listening socket; nil: the process's user
	NoFollow bool    // no symbolic link at Path, or in the place of its directory, leads anywhere: others may write there. Path may come to the directory by one

	// Quiesce returns when every worker has ended the turn it was in and has
	// taken note of WakeFD of all queues. It is called by goroutines of the
	// port, also while Close runs, and must not wait for any of the port's
	// methods. Nil: there are no workers.
	Quiesce func()

	// Changed is told that State is different now. It must not wait for any
	// of the port's methods but State. Nil: nobody wants to know.
	Changed func()

	Finder *Finder // tells ports that connect when to; nil: they try all the time

	Log *zap.Logger // nil: no log

	// told is for tests: the shortest pause of a port that looks in vain while
	// Finder would tell.
	told time.Duration
}

// An Owner is whose a file is.
type Owner struct{ UID, GID int }

// withDefaults fills in what o leaves open, and refuses what cannot be.
func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Path == "" || len(o.Path) > pathMax:
		return o, fmt.Errorf("%w: path of the socket has %d bytes, must be 1 to %d", ErrOptions, len(o.Path), pathMax)
	case o.Role > Connect:
		return o, fmt.Errorf("%w: unknown role %d", ErrOptions, o.Role)
	case o.Queues < 0 || o.Queues > QueuesMax:
		return o, fmt.Errorf("%w: %d queue pairs, at most %d", ErrOptions, o.Queues, QueuesMax)
	case o.MTU != 0 && (o.MTU < mtuMin || o.MTU > packet.FrameMax-packet.FrameMin):
		return o, fmt.Errorf("%w: mtu %d, must be %d to %d", ErrOptions, o.MTU, mtuMin, packet.FrameMax-packet.FrameMin)
	}
	if o.Queues == 0 {
		o.Queues = DefaultQueues
	}
	if o.Mode == 0 {
		o.Mode = DefaultMode
	}
	if o.Quiesce == nil {
		o.Quiesce = func() {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.With(zap.String("port", o.Name))
	return o, nil
}

// mtuMin is the smallest MTU that virtio allows (virtio 5.1.4.1).
const mtuMin = 68

// A Port is a vhost-user back-end. Its queues are fixed from Open to Close.
type Port struct {
	opts Options
	rx   []*RxQueue
	tx   *TxQueue

	listener *net.UnixListener // nil in role Connect
	inode    unix.Stat_t       // of the socket that listener made
	session  atomic.Pointer[session]
	guard    guard
	status   status

	refusedWhy string // the acceptor's: what was logged last of strangers

	memLock sync.Mutex    // held while mem is exchanged and while Owns looks at it
	mem     *guestmem.Map // what workers may touch now

	stop    chan struct{}  // closed by Close
	running sync.WaitGroup // goroutines but the guard
	closing sync.Once
}

// Open opens a port and does not wait for its peer.
func Open(o Options) (*Port, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := newPort(o)
	serve := p.connectLoop
	if o.Role == Listen {
		if err := p.listen(); err != nil {
			return nil, fmt.Errorf("open port %s: %w", o.Name, err)
		}
		serve = p.acceptLoop
	}
	p.running.Go(serve)
	go p.guard.run(p)
	return p, nil
}

// newPort makes a port that nobody can connect to yet. o is complete.
func newPort(o Options) *Port {
	p := &Port{opts: o, tx: newTxQueue(o.MTU, o.Queues), stop: make(chan struct{})}
	for range o.Queues {
		p.rx = append(p.rx, &RxQueue{})
	}
	p.guard.init()
	p.status.init("no peer has connected to " + o.Path)
	return p
}

// RxQueues are what the peer sends, one for each queue pair. Each is for one
// worker.
func (p *Port) RxQueues() []*RxQueue { return p.rx }

// TxQueue is what the peer receives, for all workers.
func (p *Port) TxQueue() *TxQueue { return p.tx }

// SetMTU changes Options.MTU while the port works. The peer keeps its connection
// and what it has negotiated: it is not told, as no message of the protocol can.
// A new one is.
func (p *Port) SetMTU(mtu int) { p.tx.mtu.Store(uint32(mtu)) }

// mtu is the longest payload of a frame to the peer now; 0: no limit.
func (p *Port) mtu() int { return int(p.tx.mtu.Load()) }

// Owns reports whether address a lies in the memory of the peer. It may be
// called by any goroutine, and waits for none that touches that memory.
func (p *Port) Owns(a uintptr) bool {
	p.memLock.Lock()
	defer p.memLock.Unlock()
	return p.mem.Owns(a)
}

// setMem makes m what Owns goes by. Nobody looks at the one before afterwards.
func (p *Port) setMem(m *guestmem.Map) {
	p.memLock.Lock()
	defer p.memLock.Unlock()
	p.mem = m
}

// Break takes the rings away from the workers at once and has the peer cut off,
// for a reason. Workers call it when the peer's memory is gone; it does not
// wait.
func (p *Port) Break(reason string) {
	for _, q := range p.rx {
		q.ring.Store(nil)
	}
	p.tx.set.Store(nil)
	if s := p.session.Load(); s != nil {
		s.fail(reason)
	}
}

// Close cuts off the peer, removes the socket and returns when nothing of the
// port is left.
func (p *Port) Close() error {
	p.closing.Do(func() {
		close(p.stop)
		if p.listener != nil {
			p.unlisten()
		}
		if s := p.session.Load(); s != nil {
			s.cut()
		}
		p.running.Wait()
		p.guard.end()
	})
	return nil
}

// isClosing reports whether Close was called.
func (p *Port) isClosing() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

// quiesce returns when no worker is inside a ring that it cannot reach now.
func (p *Port) quiesce() { p.opts.Quiesce() }
