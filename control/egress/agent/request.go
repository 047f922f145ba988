package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// A request is one dial, and the connection that comes of it.
//
// Three goroutines have part in it: run dials, and then carries what the target
// sends; the stream's hands over what the client sends, if it is little and the target
// takes it at once, and puts the rest into the queue; write, which begins when that is needed,
// carries it. The first that finds an end calls leave or close, which tell the others.
type request struct {
	stream           *stream
	random           int64
	protocol, target string // as asked for
	started          time.Time
	ctx              context.Context // of the dial
	cancel           context.CancelCauseFunc

	id    int64 // connect id; 0 while it is dialled
	conn  net.Conn
	queue *queue
	raw   *rawSocket    // the connection's; nil: it has none
	spoke chan struct{} // closed when the client has sent something, or has closed
	wrote chan struct{} // closed when write has ended
	once  struct{ spoke, write, grow, part, tell, close sync.Once }

	visit   visit
	first   atomic.Int64 // nanoseconds from started to the target's first byte, or 0
	toward  atomic.Int64 // bytes to the target
	back    atomic.Int64 // bytes to the client
	stalled [2]stall     // by side
	state   atomic.Int32

	retransmits atomic.Uint64 // segments to the target, when it was closed
	accounted   bool          // by Agent.mu: its traffic is among that of requests that have ended
	unused      atomic.Pointer[time.Timer]
	silent      atomic.Bool  // the target has said that nothing follows, before the client has closed
	left        atomic.Bool  // the target has all that the client sent, and knows that nothing follows
	forgotten   atomic.Int64 // bytes that the target said after that
}

// States of a request.
const (
	dialing int32 = iota
	open
	closing // one side has closed; the target gets what is left
)

// Who closed a connection.
const (
	byClient = "client"
	byTarget = "target"
	byTunnel = "tunnel"
	byUs     = "agent"
)

// newRequest returns a request that the link has admitted.
func newRequest(s *stream, d *konn.DialRequest) *request {
	r := &request{stream: s, random: d.Random, protocol: named(d.Protocol), target: named(d.Address), started: time.Now(),
		queue: newQueue(s.link.agent.budget), spoke: make(chan struct{}), wrote: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// namedMost is longer than any target or protocol that may be: what is cut there is none.
const namedMost = 1024

// named returns the name of something that is dialled. It keeps no MiB while that goes on.
func named(text string) string {
	if len(text) <= namedMost {
		return text
	}
	return strings.Clone(text[:namedMost])
}

// run is the whole of a request.
func (r *request) run() {
	a := r.stream.link.agent
	defer r.stream.link.leaveRequests()
	a.began(r)
	defer a.ended(r)
	if !r.connect() {
		return
	}
	r.watchUse(-1)
	defer func() { r.unused.Load().Stop() }()
	r.read()           // returns when the connection was closed, or left
	_ = r.conn.Close() // what it could tell, Read and Write have told
}

// connect dials the target, tells the client what has come of it, and reports whether
// there is a connection.
func (r *request) connect() bool {
	defer r.stream.link.leaveDials()
	a := r.stream.link.agent
	ctx, stop := context.WithTimeout(r.ctx, a.cfg.DialTimeout)
	conn, v, err := a.reach(ctx, r.protocol, r.target)
	stop()
	r.visit = v
	if err != nil {
		r.refuse(err)
		return false
	}
	r.conn, r.raw = conn, newRawSocket(conn)
	if !r.stream.connected(r) {
		_ = conn.Close()
		a.finished(r, resultCanceled, byTunnel, nil)
		return false
	}
	if r.ctx.Err() != nil { // canceled at the last moment
		r.close(byClient, nil)
		return false
	}
	r.state.CompareAndSwap(dialing, open)
	a.metrics.dialed(time.Since(r.started))
	if err := r.stream.send(dialResponse(r.random, r.id, "")); err != nil {
		r.close(byTunnel, err)
		return false
	}
	return true
}

// refuse answers a dial that failed. It is counted by then: who hears of it may look.
func (r *request) refuse(err error) {
	r.stream.link.nuisance()
	word, text := judge(r.ctx, err)
	r.stream.forget(r)
	r.stream.link.agent.finished(r, word, byUs, err)
	if word != resultCanceled {
		_ = r.stream.send(dialResponse(r.random, 0, text))
	}
}

// read carries what the target sends to the client.
func (r *request) read() {
	buf := buffers.Get().(*[readSize]byte)
	defer buffers.Put(buf)
	from := io.Reader(r.conn)
	if r.raw != nil {
		from = r.raw
	}
	n, err := from.Read(buf[:])
	r.holdFirst()
	for {
		if n > 0 && !r.toClient(buf[:n]) {
			return
		}
		if err != nil {
			r.targetEnded(err)
			return
		}
		n, err = from.Read(buf[:])
	}
}

// targetEnded closes a connection whose target says no more. If it has ended in good order it may
// read on: it gets what the client has sent, for a time. The client is told at once.
func (r *request) targetEnded(err error) {
	if errors.Is(err, io.EOF) && !r.left.Load() && r.queue.finish() {
		if r.state.CompareAndSwap(open, closing) {
			r.silent.Store(true)
			r.lastWrites()
			r.tellClosed("")
		}
		r.needWriter()
		<-r.wrote
	}
	r.close(byTarget, notEOF(err))
}

// lastWrites gives what is left for the target its time.
func (r *request) lastWrites() {
	_ = r.conn.SetWriteDeadline(time.Now().Add(r.stream.link.agent.cfg.CloseTimeout)) // fails only if the connection is closed
}

// toClient sends what a target has said, and reports whether to go on. Nobody
// wants it when the client has closed: see leave.
func (r *request) toClient(b []byte) bool {
	if r.state.Load() == closing {
		return !r.left.Load() || r.forgotten.Add(int64(len(b))) <= forgetMost
	}
	r.first.CompareAndSwap(0, int64(time.Since(r.started)))
	if r.back.Load()+int64(len(b)) > shortSize {
		r.outgrow(true)
	}
	wait := &r.stalled[clientSide]
	wait.begin(time.Since(r.started))
	err := r.stream.send(dataPacket(r.id, b))
	wait.end(time.Since(r.started))
	if err != nil {
		r.close(byTunnel, err)
		return false
	}
	r.back.Add(int64(len(b)))
	return true
}

// buffers are what targets are read into. A packet is marshalled before send
// returns, so one serves all packets of a request.
var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// holdFirst waits until the client has spoken, or long enough for it to have
// heard that it is connected.
func (r *request) holdFirst() {
	select {
	case <-r.spoke:
		return
	default:
	}
	wait := time.NewTimer(r.stream.link.agent.cfg.hold)
	defer wait.Stop()
	select {
	case <-r.spoke:
	case <-wait.C:
	}
}

func (r *request) hasSpoken() { r.once.spoke.Do(func() { close(r.spoke) }) }

var errUnused = errors.New("neither side has said anything for long, and the client never has: the server has forgotten it, perhaps")

// watchUse ends a connection whose client says nothing from the start, if the
// target says nothing for a time either. Proxy-servers do not tell of a client
// that went while its dial was under way (HTTP CONNECT), so nobody else would.
// back is how much the target had said before.
func (r *request) watchUse(back int64) {
	r.unused.Store(time.AfterFunc(r.stream.link.agent.cfg.UnusedTimeout, func() {
		select {
		case <-r.spoke:
			return
		default:
		}
		if now := r.back.Load(); now != back {
			r.watchUse(now)
			return
		}
		r.close(byUs, errUnused)
	}))
}

// write carries what the client has sent to the target, to the end.
func (r *request) write() {
	defer close(r.wrote)
	wait := &r.stalled[targetSide]
	for {
		b, ok := r.queue.take()
		if !ok {
			if !r.silent.Load() { // read closes it, then
				r.leave()
			}
			return
		}
		wait.begin(time.Since(r.started))
		err := r.toTarget(b)
		wait.end(time.Since(r.started))
		if err != nil {
			r.close(byTarget, notEOF(err))
			return
		}
	}
}

// toTarget writes b. A target that takes some of it in StallTimeout has as long again for the rest.
func (r *request) toTarget(b []byte) error {
	for {
		if r.state.Load() == open {
			_ = r.conn.SetWriteDeadline(time.Now().Add(r.stream.link.agent.cfg.StallTimeout)) // fails only if the connection is closed: Write says so
			// It may have closed just now, and this deadline have come after that one.
			if r.state.Load() != open {
				r.lastWrites()
			}
		}
		n, err := r.conn.Write(b)
		r.toward.Add(int64(n))
		if n == 0 || !timedOut(err) || r.state.Load() != open {
			return err
		}
		b = b[n:]
	}
}

// timedOut reports whether an error is that a deadline has passed, by any stack. That the peer is
// dead is another one.
func timedOut(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}

// leave parts from a target after the client: it is told that nothing follows,
// and may read what is on its way for a time. What it says meanwhile is read and
// forgotten, for a connection that is closed with bytes unread is reset, and
// takes those on their way with it. One that says more than forgetMost does not
// care: a client has left a download.
func (r *request) leave() {
	r.once.close.Do(func() {
		r.left.Store(true)
		r.countRetransmits()
		r.conclude(byClient, nil)
		if c, ok := r.conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
			_ = r.conn.SetReadDeadline(time.Now().Add(r.stream.link.agent.cfg.CloseTimeout))
			return
		}
		_ = r.conn.Close()
	})
}

// A retransmitter counts for itself what its stack has sent again.
type retransmitter interface{ Retransmits() uint64 }

func (r *request) countRetransmits() { r.retransmits.Store(r.resent()) }

// resent is how many segments were sent to the target again. It is asked of a request
// that is, or was, connected.
func (r *request) resent() uint64 {
	n := r.retransmits.Load()
	if c, ok := r.conn.(retransmitter); ok {
		return max(n, c.Retransmits())
	} else if i, ok := infoOf(r.conn); ok {
		return max(n, i.retransmits)
	}
	return n
}

// fromClient takes a packet, and what it keeps of its bytes it copies. It waits while the target takes less than comes,
// unless others depend on the stream being read and it takes nothing at all.
func (r *request) fromClient(b []byte) {
	r.hasSpoken()
	if b = r.atOnce(b); len(b) == 0 {
		return
	}
	r.needWriter()
	r.outgrow(false)
	if !r.stream.shared() {
		r.queue.put(bytes.Clone(b), softQueue)
		return
	}
	if !r.queue.putWithin(bytes.Clone(b), hardQueue, hardWait) {
		r.close(byUs, errTooSlow)
	}
}

var errTooSlow = errors.New("the target takes nothing of what the client sends, and others share the stream")

// smallPacket is the size of packets up to which the short way is the better one. With
// larger ones it is of use that they are read from the stream and written at the same time.
const smallPacket = 8 << 10

// atOnce carries what the target takes at once, which spares waking the goroutine that
// waits for the queue, and returns the rest: all, if something waits already, or it is much.
func (r *request) atOnce(b []byte) []byte {
	if r.raw == nil || len(b) == 0 || len(b) > smallPacket || !r.queue.idle() {
		return b
	}
	n, err := r.raw.writeNow(b)
	r.toward.Add(int64(n))
	if err != nil {
		r.close(byTarget, err)
	}
	return b[n:]
}

func (r *request) needWriter() {
	r.once.write.Do(func() { r.stream.link.agent.work.Go(r.write) })
}

// clientClosed has the target get what is left, for a time, and closes then.
func (r *request) clientClosed() {
	r.hasSpoken()
	if !r.state.CompareAndSwap(open, closing) && !r.state.CompareAndSwap(dialing, closing) {
		return
	}
	nothingLeft := r.queue.idle()
	if !nothingLeft {
		r.lastWrites()
	}
	r.queue.end()
	if nothingLeft && r.stream.alone() { // nobody else waits for the stream's goroutine
		r.leave()
		return
	}
	r.needWriter()
}

// streamEnded closes a request whose stream is gone: there is nobody to tell.
func (r *request) streamEnded() {
	r.cancel(context.Canceled)
	if r.stream.request(r.id) == r {
		r.close(byTunnel, errors.New("the tunnel's stream ended"))
	}
}

// close breaks an open connection off, and tells the client. Only the first end
// of a request counts.
func (r *request) close(by string, err error) {
	r.once.close.Do(func() {
		r.countRetransmits()
		_ = r.conn.Close()
		r.queue.breakOff()
		r.conclude(by, err)
	})
}

// cut has a request end whatever it does.
func (r *request) cut() {
	r.cancel(context.Canceled)
	if r.state.Load() != dialing {
		_ = r.conn.Close()
	}
}

// conclude takes the account of a connection, and tells the client, if it can be told.
func (r *request) conclude(by string, err error) {
	r.hasSpoken()
	r.stream.forget(r)
	res := resultOK
	if err != nil {
		res = resultBroken
	}
	r.stream.link.agent.finished(r, res, by, err)
	if by == byTunnel {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	r.tellClosed(text)
}

// tellClosed tells the client that its connection is closed. Only the first call does.
func (r *request) tellClosed(why string) {
	r.once.tell.Do(func() { _ = r.stream.send(closeResponse(r.id, why)) })
}

// notEOF returns what is wrong with an end: nothing, if it was in good order.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	if timedOut(err) {
		return errors.New("timeout: the target takes nothing")
	}
	return err
}
