package frontend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// A Port is a front end with its memory and rings. Its methods may be called by
// any goroutine, one at a time for those that talk to the back end; the rings
// belong to who sends and receives on them.
type Port struct {
	cfg      Config
	mem      *Memory
	pairs    []*Pair
	listener *net.UnixListener // nil if we connect

	mu       sync.Mutex // of what talks to the back end
	attached bool
	features message.Features // of the first connection: drivers depend on them
	session  atomic.Pointer[Session]
	closed   atomic.Bool
}

// Open returns a port with memory and rings and, if it listens, its socket.
// There is no back end yet.
func Open(cfg Config) (*Port, error) {
	cfg = cfg.withDefaults()
	p := &Port{cfg: cfg}
	perRegion := (cfg.Queues + cfg.Regions - 1) / cfg.Regions
	mem, err := NewMemory(cfg.Regions, uint64(2*perRegion)*cfg.ringBytes()+cfg.Extra, cfg.Huge)
	if err != nil {
		return nil, fmt.Errorf("open port %s: %w", cfg.Path, err)
	}
	p.mem = mem
	for i := range cfg.Queues {
		rx, err1 := newRing(mem, 2*i, 2*i, &cfg)
		tx, err2 := newRing(mem, 2*i+1, 2*i+1, &cfg)
		if err := errors.Join(err1, err2); err != nil {
			return nil, errors.Join(fmt.Errorf("open port %s: %w", cfg.Path, err), p.Kill())
		}
		p.pairs = append(p.pairs, &Pair{RxRing: rx, TxRing: tx})
	}
	if cfg.Listen {
		if err := p.listen(); err != nil {
			return nil, errors.Join(fmt.Errorf("open port %s: %w", cfg.Path, err), p.Kill())
		}
	}
	return p, nil
}

func (p *Port) listen() error {
	if st, err := os.Lstat(p.cfg.Path); err == nil && st.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(p.cfg.Path); err != nil {
			return err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.cfg.Path, Net: "unix"})
	p.listener = l
	return err
}

// Pairs lends the queue pairs. Their drivers are there once a back end was.
func (p *Port) Pairs() []*Pair { return p.pairs }

// Memory lends the port's memory.
func (p *Port) Memory() *Memory { return p.mem }

// Session lends the connection of now, which may be lost already; nil before
// the first.
func (p *Port) Session() *Session { return p.session.Load() }

// Up reports whether a back end has the rings.
func (p *Port) Up() bool {
	s := p.Session()
	return s != nil && s.Err() == nil
}

// Connect waits for a back end and gives it all rings, enabled. An error of the
// back end's ends the attempt; that there is no back end does not.
func (p *Port) Connect(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	sock, err := p.meet(ctx)
	if err != nil {
		return fmt.Errorf("connect %s: %w", p.cfg.Path, err)
	}
	s := newSession(sock, p.cfg.Timeout)
	if err := p.start(s); err != nil {
		return errors.Join(fmt.Errorf("connect %s: %w", p.cfg.Path, err), s.close())
	}
	if old := p.session.Swap(s); old != nil {
		_ = old.close() // lost before; closing twice is no news
	}
	return nil
}

// meet returns a connection: the next that comes in, or the first attempt that
// somebody listens to.
func (p *Port) meet(ctx context.Context) (*net.UnixConn, error) {
	if p.listener != nil {
		return p.accept(ctx)
	}
	for {
		if p.closed.Load() {
			return nil, ErrClosed
		}
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.cfg.Path, Net: "unix"})
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(p.cfg.Retry):
		}
	}
}

// accept waits for the next connection, or for the end of ctx. The listener is as it was afterwards.
func (p *Port) accept(ctx context.Context) (*net.UnixConn, error) {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = p.listener.SetDeadline(time.Unix(1, 0)) // fails if it is closed, which also ends the wait
		close(fired)
	})
	c, err := p.listener.AcceptUnix()
	if !stop() {
		<-fired
		err = errors.Join(ctx.Err(), err, p.listener.SetDeadline(time.Time{}))
		if c != nil {
			err = errors.Join(err, c.Close())
		}
		return nil, err
	}
	return c, err
}

// start makes the back end of s run all rings.
func (p *Port) start(s *Session) error {
	if err := s.negotiate(&p.cfg); err != nil {
		return err
	}
	if !p.attached {
		if err := p.attach(s.Features); err != nil {
			return err
		}
	}
	if missing := p.features &^ s.Offered; missing != 0 {
		return fmt.Errorf("%w: %v", ErrChanged, missing)
	}
	s.Features = p.features
	if err := s.setFeatures(); err != nil {
		return err
	}
	if err := s.shareMemory(p.mem); err != nil {
		return err
	}
	return p.startRings(s)
}

func (p *Port) startRings(s *Session) error {
	for _, pair := range p.pairs {
		if err := errors.Join(s.startRing(pair.RxRing), s.startRing(pair.TxRing)); err != nil {
			return err
		}
	}
	for _, pair := range p.pairs {
		if err := errors.Join(s.enable(pair.RxRing, true), s.enable(pair.TxRing, true)); err != nil {
			return err
		}
	}
	return s.status(message.StatusAcknowledge | message.StatusDriver | message.StatusFeaturesOK | message.StatusDriverOK)
}

// attach lays drivers over the rings, once the features are known.
func (p *Port) attach(f message.Features) error {
	p.features = f
	header := uint32(virtq.HeaderLen)
	if f&(message.FVersion1|message.NetFMrgRxbuf) == 0 {
		header = virtq.HeaderLenLegacy
	}
	for _, pair := range p.pairs {
		pair.RxRing.Buffers.Header, pair.TxRing.Buffers.Header = header, header
	}
	if p.cfg.Attach != nil {
		if err := p.cfg.Attach(p); err != nil {
			return err
		}
		p.attached = true
		return nil
	}
	for _, pair := range p.pairs {
		if err := pair.attach(f); err != nil {
			return err
		}
	}
	p.attached = true
	return nil
}

func (q *Pair) attach(f message.Features) error {
	cfg := func(r *Ring) virtq.DriverConfig {
		return virtq.DriverConfig{Layout: r.Layout, Base: r.Base, EventIdx: f.Has(message.RingFEventIdx)}
	}
	rx, err1 := virtq.NewReceiver(cfg(q.RxRing), q.RxRing.Buffers, f.Has(message.NetFMrgRxbuf))
	tx, err2 := virtq.NewSender(cfg(q.TxRing), q.TxRing.Buffers)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	q.Rx, q.Tx = rx, tx
	q.RxRing.position, q.TxRing.position = rx.Used, tx.Used
	return nil
}

// Local lays the drivers over the rings for a device in this process, which
// takes f for granted. Such a port is not connected.
func (p *Port) Local(f message.Features) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached {
		return fmt.Errorf("port %s: drivers are there already", p.cfg.Path)
	}
	return p.attach(f)
}

// Features are those that the drivers were made for. It is valid after the
// first Connect, and in Attach.
func (p *Port) Features() message.Features { return p.features }

// Run connects, and connects again whenever the back end is lost, until ctx is
// done. It then returns nil; a back end that cannot be worked with is an error.
func (p *Port) Run(ctx context.Context) error {
	for {
		err := p.Connect(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrLost):
			continue // it went away in the middle: like one that was not there
		case err != nil:
			return err
		}
		p.tell(nil)
		s := p.Session()
		select {
		case <-ctx.Done():
			return nil
		case <-s.Lost():
			p.tell(s.Err())
		}
	}
}

func (p *Port) tell(err error) {
	if p.cfg.Changed != nil {
		p.cfg.Changed(err)
	}
}

// Wait returns when a back end has the rings.
func (p *Port) Wait(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !p.Up() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a back end at %s: %w", p.cfg.Path, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Enable lets the back end use queue pair i, or not.
func (p *Port) Enable(i int, on bool) error {
	return p.with(func(s *Session) error {
		return errors.Join(s.enable(p.pairs[i].RxRing, on), s.enable(p.pairs[i].TxRing, on))
	})
}

// Reset resets the device (RESET_DEVICE, or status 0 where there is no such
// request) and starts the rings again where they are. Memory stays shared.
func (p *Port) Reset() error {
	return p.with(func(s *Session) error {
		switch {
		case s.Protocol.Has(message.ProtocolFResetDevice):
			if err := s.Do(message.ResetDevice, nil); err != nil {
				return err
			}
		case s.Protocol.Has(message.ProtocolFStatus):
			if err := s.status(0); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: it has neither RESET_DEVICE nor STATUS", ErrRefused)
		}
		if err := s.setFeatures(); err != nil {
			return err
		}
		if !s.Protocol.Has(message.ProtocolFConfigureMemSlots) {
			if err := s.shareMemory(p.mem); err != nil {
				return err
			}
		}
		return p.startRings(s)
	})
}

// Stop takes all rings back from the back end and leaves the connection. It
// returns the index at which each stopped.
func (p *Port) Stop() ([]uint16, error) {
	var bases []uint16
	err := p.with(func(s *Session) error {
		for _, pair := range p.pairs {
			for _, r := range []*Ring{pair.RxRing, pair.TxRing} {
				base, err := s.stopRing(r)
				if err != nil {
					return err
				}
				bases = append(bases, base)
			}
		}
		return s.status(0)
	})
	return bases, err
}

// Start gives the back end all rings again after Stop.
func (p *Port) Start() error {
	return p.with(func(s *Session) error {
		if err := s.setFeatures(); err != nil {
			return err
		}
		return p.startRings(s)
	})
}

// with calls f with the connection of now.
func (p *Port) with(f func(*Session) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.Session()
	if s == nil {
		return fmt.Errorf("port %s: %w: never connected", p.cfg.Path, ErrLost)
	}
	if err := f(s); err != nil {
		return fmt.Errorf("port %s: %w", p.cfg.Path, err)
	}
	return nil
}

// Drop ends the connection without a word, as a crash does. The port stays, and
// can connect again.
func (p *Port) Drop() {
	if s := p.Session(); s != nil {
		_ = s.close() // a crash reports nothing
	}
}

// Close takes the rings back in good order, ends the connection and frees
// everything. Nobody may be using the rings. Run has returned.
func (p *Port) Close() error {
	var err error
	if p.Up() {
		if _, err = p.Stop(); errors.Is(err, ErrLost) {
			err = nil // it went first
		}
	}
	return errors.Join(err, p.Kill())
}

// Kill is Close without a word to the back end.
func (p *Port) Kill() error {
	if p.closed.Swap(true) {
		return nil
	}
	var errs []error
	if p.listener != nil {
		errs = append(errs, p.listener.Close())
	}
	p.Drop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pair := range p.pairs {
		errs = append(errs, pair.RxRing.close(), pair.TxRing.close())
	}
	return errors.Join(append(errs, p.mem.Close())...)
}
