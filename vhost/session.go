package vhost

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/vhost/guestmem"
	"millrace/vhost/message"
)

// For how long a port serves nobody after its peer was cut off, or after one that
// came and went. A connection costs the workers some time, for memory that is new
// to them and memory that goes away: whatever peers do, they shall not take more
// than a small part of it in this way, nor by holding a worker up.
const (
	penance     = 50 * time.Millisecond  // for misbehaviour, and for a life of less than shortLife
	shortLife   = 200 * time.Millisecond //
	longPenance = time.Second            // for having held up a worker
)

// replyWithin is how long the peer may take to make room for a reply.
const replyWithin = 2 * time.Second

// A session is one connection. All of it belongs to its goroutine, but for
// trouble, done and the socket's deadlines.
type session struct {
	p    *Port
	sock *net.UnixConn
	conn *message.Conn
	peer string // who connected, in words
	log  *zap.Logger

	trouble atomic.Pointer[string] // why the peer is to be cut off; set once, by anybody
	heldUp  atomic.Bool            // it has held up a worker; set by the guard
	born    time.Time              // when the peer connected
	done    chan struct{}          // closed when nothing of the session is left

	offered      message.Features         // as the peer connected
	features     message.Features         // negotiated
	featuresSet  bool                     // SET_FEATURES has come
	protocol     message.ProtocolFeatures // negotiated
	deviceStatus message.Status
	mem          *guestmem.Map
	memChanges   int // while rings ran
	rings        []*vring
	garbage      []func() // frees what workers may still use; run after a Quiesce

	orderly      bool // how it ended
	refusedOther bool // the acceptor's: it was logged that others come
}

// newSession makes c the port's connection. It returns nil if the port closes.
func newSession(p *Port, c *net.UnixConn) *session {
	s := &session{p: p, sock: c, conn: message.NewConn(c, message.BackEnd), peer: peerOf(c), offered: p.offeredFeatures(), born: time.Now(), done: make(chan struct{})}
	s.log = p.opts.Log.With(zap.String("peer", s.peer))
	for i := range 2 * p.opts.Queues {
		s.rings = append(s.rings, &vring{index: uint32(i)})
	}
	p.session.Store(s)
	if p.isClosing() {
		p.session.Store(nil)
		_ = c.Close()
		return nil
	}
	return s
}

// peerOf names the process at the other end (SO_PEERCRED).
func peerOf(c *net.UnixConn) string {
	cred, err := credentials(c)
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("pid %d uid %d", cred.Pid, cred.Uid)
}

// over reports whether the session has ended, or will at once because the peer
// has closed its end.
func (s *session) over() bool {
	if s.trouble.Load() != nil {
		return true
	}
	raw, err := s.sock.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, pollErr := unix.Poll(fds, 0)
		gone = pollErr == nil && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// fail has the peer cut off for a reason. The first reason counts. It does not
// wait, and may be called by any goroutine.
func (s *session) fail(reason string) {
	if s.trouble.CompareAndSwap(nil, &reason) {
		s.p.guard.wake()
	}
}

// cut makes the session's goroutine stop reading.
func (s *session) cut() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) }

// run is the session's goroutine.
func (s *session) run() {
	debug.SetPanicOnFault(true)
	defer close(s.done)
	s.p.update(func(st *State) {
		st.noPeer()
		st.Connects++
		st.Peer = s.peer
		st.Link, st.Reason = LinkSetup, s.missing()
	})
	s.log.Info("peer connected")
	s.end(s.serve())
}

// serve handles messages until there is an error.
func (s *session) serve() error {
	for {
		m, err := s.conn.Read()
		if err != nil {
			return err
		}
		err = s.handle(m)
		m.Close()
		if err != nil {
			return err
		}
	}
}

// errRefused marks a request that is answered with a refusal where the peer
// wants an answer, and does no harm to the connection then.
var errRefused = errors.New("refused")

// handle does what m asks for, brings the rings in line, says so in the port's
// state, and answers.
func (s *session) handle(m message.Message) error {
	reply, err := s.dispatch(m)
	if err == nil {
		err = s.settle()
	}
	if err != nil {
		err = fmt.Errorf("%v: %w", m.Request, err)
	}
	if err == nil {
		s.report()
	}
	switch {
	case err == nil && reply != nil:
		return s.write(m.Reply(reply))
	case !m.NeedReply() || !s.protocol.Has(message.ProtocolFReplyAck):
		return err
	}
	if writeErr := s.write(m.Ack(err == nil)); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	if errors.Is(err, errRefused) {
		s.log.Info("request refused", zap.Error(err))
		return nil
	}
	return err
}

// write sends a reply, and does not wait for ever.
func (s *session) write(m message.Message) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(replyWithin)); err != nil {
		return err
	}
	return s.conn.Write(m)
}

// guarded runs fn, which touches the peer's memory. That the peer has taken the
// memory away is an error.
func (s *session) guarded(fn func() error) (err error) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		var f interface {
			runtime.Error
			Addr() uintptr
		}
		if e, ok := r.(error); !ok || !errors.As(e, &f) || !s.mem.Owns(f.Addr()) {
			panic(r)
		}
		err = errors.New("memory was taken away while it was in use")
	}()
	return fn()
}

// end takes everything down. cause is why the session ended.
func (s *session) end(cause error) {
	p := s.p
	s.haltAll()
	reason, bad := s.verdict(cause)
	if bad {
		s.ringErrors()
	}
	p.setMem(nil)
	s.free()
	_ = s.conn.Close()
	p.update(func(st *State) {
		st.noPeer()
		st.Link, st.Reason = LinkWaiting, reason
		if bad {
			st.Link = LinkBroken
			st.Breaks++
			st.LastBreak = reason
		}
	})
	s.orderly = !bad
	if bad {
		s.log.Warn("peer cut off", zap.String("reason", reason))
	} else {
		s.log.Info("peer gone", zap.String("reason", reason))
	}
	switch {
	case s.heldUp.Load():
		p.pause(longPenance)
	case bad || time.Since(s.born) < shortLife:
		p.pause(penance)
	}
	p.session.Store(nil)
}

// verdict says in words why the session ended, and whether that was the peer's
// misbehaviour.
func (s *session) verdict(cause error) (reason string, bad bool) {
	trouble := s.trouble.Load()
	switch {
	case trouble != nil:
		return *trouble, true
	case s.p.isClosing():
		return "the port is closed", false
	case errors.Is(cause, message.ErrPeerClosed), errors.Is(cause, message.ErrTruncated):
		return "the peer has closed the connection", false
	default:
		return cause.Error(), true
	}
}

// ringErrors signals the error eventfds.
func (s *session) ringErrors() {
	for _, v := range s.rings {
		if v.err != nil {
			v.err.ring()
		}
	}
}

// free closes all that the session owns. No worker is inside any more.
func (s *session) free() {
	s.sweep()
	for _, v := range s.rings {
		_ = v.kick.Close()
		s.p.guard.closeBell(v.call)
		s.p.guard.closeBell(v.err)
	}
	if err := s.mem.Close(); err != nil {
		s.log.Error("cannot unmap memory", zap.Error(err))
	}
}

// sweep frees the garbage.
func (s *session) sweep() {
	for _, fn := range s.garbage {
		fn()
	}
	s.garbage = s.garbage[:0]
}

// report brings the port's state up to date.
func (s *session) report() {
	pairs := 0
	for i := 0; i < len(s.rings); i += 2 {
		if s.rings[i].run != nil && s.rings[i+1].run != nil {
			pairs++
		}
	}
	link, reason := LinkUp, "forwarding"
	if s.rings[0].run == nil || s.rings[1].run == nil {
		link, reason = LinkSetup, s.missing()
	}
	features := s.featureNames()
	regions := len(s.mem.Regions())
	s.p.update(func(st *State) {
		st.Link, st.Reason = link, reason
		st.Queues, st.Features, st.Regions = pairs, features, regions
	})
}

// missing says what queue pair 0 waits for.
func (s *session) missing() string {
	why := ""
	switch {
	case !s.featuresSet:
		why = "features"
	case len(s.mem.Regions()) == 0:
		why = "memory table"
	default:
		for _, v := range s.rings[:2] {
			if why = s.lacks(v); why != "" {
				break
			}
		}
	}
	return "peer connected, waiting for " + why
}

// featureNames lists what was negotiated.
func (s *session) featureNames() []string {
	if !s.featuresSet {
		return nil
	}
	var names []string
	if s.features != 0 {
		names = strings.Split(s.features.String(), "|")
	}
	if s.protocol != 0 {
		for n := range strings.SplitSeq(s.protocol.String(), "|") {
			names = append(names, "PROTOCOL_F_"+n)
		}
	}
	return slices.Clip(names)
}
