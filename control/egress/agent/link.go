package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// A link is one gRPC connection to a server, with its streams.
type link struct {
	agent *Agent
	addr  *address
	cc    *grpc.ClientConn
	tcp   atomic.Pointer[serverConn] // for its signs of life
	// Server is known when the first stream has been greeted.
	server string
	since  time.Time

	want    chan struct{} // a stream was used: another is wanted
	failed  chan error    // a stream that should not have ended has ended
	noDrain atomic.Bool   // the server takes no notice of DRAIN
	refused atomic.Bool   // the last stream that was asked for
	resent  atomic.Uint64 // segments sent again, as of the last tick
	used    atomic.Int64  // streams that have had a dial
	taken   atomic.Int64  // the same, those that have ended too
	bad     atomic.Int64  // streams that ended by themselves in this minute
	rank    int           // among links to its address: see place
	dials   atomic.Int64  // in this second
	hurry   atomic.Bool   // they come in a hurry
	busy    atomic.Bool   // it has carried much in the last second
	carried uint64        // bytes, as of the last tick

	dialing, requests atomic.Int64 // under way; dialled or open: see bounds.go
	turned            atomic.Int64 // dials that were refused in this second
	failing           atomic.Int64 // dials that failed, and packets that made no sense, in this second

	mu      sync.Mutex
	streams map[*stream]struct{}
	opening int // streams that were asked for, and are on their way
	closing bool
	spares  spares
}

// errKnown says that there are links enough to the server that an address led to.
var errKnown = errors.New("the address leads to a server that has its links already")

// runLink connects, and serves until the connection fails or ctx ends; then it
// drains. A nil error: ctx ended.
func (a *Agent) runLink(ctx context.Context, ad *address, rank int, spare bool) error {
	l := &link{agent: a, addr: ad, rank: rank, since: time.Now(), streams: map[*stream]struct{}{}, opening: 1,
		want: make(chan struct{}, a.cfg.MaxStreams+a.cfg.Idle), failed: make(chan error, 1)}
	if err := l.connect(); err != nil {
		return err
	}
	base, cancel := context.WithCancel(context.Background())
	ad.links.Add(1)
	end := func() {
		ad.links.Add(-1)
		a.abandon(l)
		l.close()
		l.tcp.Load().leave()
		cancel()
		_ = l.cc.Close() // its error would say only that streams were left
		ad.lose(l.tcp.Load())
	}
	first, err := l.open(base)
	if err != nil {
		end()
		return err
	}
	a.work.Go(func() { l.attend(first) })
	if !a.adopt(l, spare) {
		l.retire()
		end()
		return errKnown
	}
	a.cfg.Log.Info("connected to a server", zap.String("address", ad.text), zap.String("server_id", l.server))
	for range l.share() - 1 {
		l.replace()
	}
	a.work.Go(func() { l.heed(base) })
	err = l.serve(ctx, base)
	if errors.Is(err, errLeft) { // what is open goes on there, if the link lives
		a.work.Go(func() { defer end(); l.retire(); l.await(a.ending) })
		return err
	}
	end()
	return err
}

func (l *link) connect() error {
	creds, err := l.agent.cfg.Files.transport(l.addr.host)
	if err != nil {
		return err
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		l.addr.lose(l.tcp.Load()) // gRPC has given up one that it had
		c, err := dialServer(ctx, l.addr.addrPort.String())
		if err != nil {
			return nil, err
		}
		l.addr.knock(ctx)
		if l.addr.far.Load() {
			c.goFar()
		}
		l.tcp.Store(c)
		return c, nil
	}
	l.cc, err = grpc.NewClient("passthrough:///"+l.addr.text, grpc.WithTransportCredentials(gathering{creds}), grpc.WithContextDialer(dial),
		grpc.WithMaxHeaderListSize(headerMost), grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize), grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
		grpc.WithUserAgent("millrace"), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
	if err != nil {
		return fmt.Errorf("prepare a connection to %s: %w", l.addr.text, err)
	}
	return nil
}

// headerMost is what a server may say of itself, in bytes.
const headerMost = 16 << 10

// bufferSize is of gRPC's buffers before the socket, each way, in bytes.
const bufferSize = 256 << 10

// open opens one more stream, of those in opening, which the caller has attended. There is
// none if the link closes.
func (l *link) open(base context.Context) (*stream, error) {
	s, count, err := openStream(base, l)
	if err == nil {
		l.agent.counted(count)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opening--
	if err != nil {
		return nil, err
	}
	if l.server == "" {
		l.server = s.server // the first stream's, before anybody else knows the link
	}
	if l.closing {
		s.finish()
		return nil, nil
	}
	l.streams[s] = struct{}{}
	return s, nil
}

// another opens one more stream on a link that serves, and serves it. A server that
// refuses it, for a token that has expired perhaps, leaves the others as they are:
// level asks again.
func (l *link) another(base context.Context) {
	s, err := l.open(base)
	switch {
	case err == nil:
		if l.refused.Swap(false) {
			l.agent.recovered()
		}
		l.attend(s)
	case errors.Is(err, context.DeadlineExceeded):
		l.fail(fmt.Errorf("%w: %w", err, errLeft))
	case itsOwn(err) && !l.isClosing():
		l.refused.Store(true)
		l.agent.failed("no more streams on a connection to a server; trying again", l.addr.text, err)
	default: // there is no other connection, and those on this one say themselves if it has failed
		l.fail(fmt.Errorf("%w: %w", err, errLeft))
	}
}

// attend serves a stream to its end; nil is none.
func (l *link) attend(s *stream) {
	if s == nil {
		return
	}
	err := s.run()
	l.mu.Lock()
	delete(l.streams, s)
	l.mu.Unlock()
	if s.wasUsed() {
		l.used.Add(-1)
	}
	switch {
	case err == nil:
	case itsOwn(err) && !l.isClosing() && l.bad.Add(1) <= badMost:
		l.agent.cfg.Log.Warn("a stream ended, and the connection goes on", zap.String("address", l.addr.text), zap.String("agent_id", s.id), zap.Error(err))
		if !s.wasUsed() {
			l.replace()
		}
	default:
		l.fail(fmt.Errorf("a stream ended: %w", err))
	}
}

// badMost is how many streams of a link may end by themselves in a minute before the
// link does.
const badMost = 64

// itsOwn reports whether the end of a stream is no other's: the server has ended it,
// or sent what is too large or no packet. What becomes of a connection is
// Unavailable to its streams.
func itsOwn(err error) bool {
	return errors.Is(err, io.EOF) || status.Code(err) != codes.Unavailable
}

// errGoAway says that the server takes no more streams on a connection, for it is about to end, say.
var errGoAway = fmt.Errorf("the server takes no more streams on it: %w", errLeft)

// heed has the link be left when gRPC has no use for its connection any more. One that has
// failed says so by its streams, which then have a moment for it.
func (l *link) heed(base context.Context) {
	for l.cc.GetState() == connectivity.Connecting { // gRPC makes it known in a moment that it has
		l.cc.WaitForStateChange(base, connectivity.Connecting)
	}
	if l.cc.WaitForStateChange(base, connectivity.Ready) && sleep(base, settled/3) {
		l.fail(errGoAway)
	}
}

// fail has the link end for an error, if it is one.
func (l *link) fail(err error) {
	if err == nil {
		return
	}
	select {
	case l.failed <- err:
	default: // somebody else has said so
	}
}

// serve keeps idle streams there until the connection fails, or ctx ends.
func (l *link) serve(ctx, base context.Context) error {
	tick, clean := time.NewTicker(linger), time.NewTicker(settled/3)
	defer tick.Stop()
	defer clean.Stop()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	w := watch{link: l, free: make(chan struct{}, 1)}
	for {
		select {
		case <-ctx.Done():
			l.retire()
			l.await(l.agent.ending)
			return nil
		case err := <-l.failed:
			return err
		case <-l.want:
			l.mu.Lock()
			l.opening++
			l.mu.Unlock()
			l.agent.work.Go(func() { l.another(base) })
		case <-minute.C:
			l.bad.Store(0)
		case <-clean.C:
			l.sweep()
			l.outgrow()
		case <-tick.C:
			l.noteHurry()
			l.noteRefused()
			l.shrink()
			l.level()
			if i, ok := l.info(); ok {
				l.resent.Store(i.retransmits)
				l.busy.Store(i.carried-l.carried > busyBytes)
				l.carried = i.carried
			}
			if l.addr.hasLost() {
				l.agent.work.Go(func() { l.addr.knock(ctx) })
			}
			if w.look(ctx) {
				return errSilent
			}
		case <-w.free:
			return errSilent
		}
	}
}

// trustAfter is after how many streams a server is trusted to heed DRAIN: one that does not
// would have sent a dial to a drained stream.
const trustAfter = 256

// trusted reports whether the server is known to heed DRAIN.
func (l *link) trusted() bool { return l.taken.Load() >= trustAfter && !l.noDrain.Load() }

// sweep ends streams that have done their work. A server that takes no notice of
// DRAIN may send a dial there at any moment, so it loses none while the link serves.
func (l *link) sweep() {
	if l.noDrain.Load() && !l.isClosing() {
		return
	}
	for _, s := range l.list() {
		if s.unused() {
			s.finish()
		}
	}
}

func (l *link) list() []*stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*stream, 0, len(l.streams))
	for s := range l.streams {
		list = append(list, s)
	}
	return list
}

// close says that a link takes no more streams.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
}

// retire has the server send dials elsewhere.
func (l *link) retire() {
	l.close()
	for _, s := range l.list() {
		l.agent.work.Go(s.drain) // which waits if a packet does that the server does not take
	}
}

// await waits until no stream is left, but when over is closed no longer than
// DrainTimeout.
func (l *link) await(over <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var late <-chan time.Time
	for len(l.list()) > 0 {
		select {
		case <-over:
			over, late = nil, time.After(l.agent.cfg.DrainTimeout)
		case <-late:
			return
		case <-tick.C:
			l.sweep()
		}
	}
}

// replace asks for another idle stream.
func (l *link) replace() {
	select {
	case l.want <- struct{}{}:
	default: // there are as many as there may be; the next will be shared
	}
}

// wantsDrain reports whether a stream that gets its first dial is to be the
// request's alone.
func (l *link) wantsDrain() bool {
	if l.agent.cfg.Shared || l.noDrain.Load() || l.floods() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closing && len(l.streams) < l.agent.cfg.MaxStreams
}

// undrainable notes that the server sends dials to streams that were drained.
func (l *link) undrainable() {
	l.mu.Lock()
	closing := l.closing
	l.mu.Unlock()
	if !closing && l.hasIdle() && !l.noDrain.Swap(true) {
		l.agent.cfg.Log.Warn("the server takes no notice of DRAIN, so requests share streams: one that stalls may be closed; proxy-server v0.35 or later does better",
			zap.String("address", l.addr.text), zap.String("server_id", l.server))
	}
}

func (l *link) isUndrainable() bool { return l.noDrain.Load() || l.agent.cfg.Shared }

// hasIdle reports whether a stream waits that the server could have used.
func (l *link) hasIdle() bool {
	for _, s := range l.list() {
		if s.passedOver() {
			return true
		}
	}
	return false
}

// lastSeen returns how long ago the server's machine gave a sign of life.
func (l *link) lastSeen() (time.Duration, bool) {
	info, ok := l.info()
	return info.seen, ok
}

// info is what the kernel knows of the connection, if there is one.
func (l *link) info() (socketInfo, bool) {
	c := l.tcp.Load()
	if c == nil {
		return socketInfo{}, false
	}
	return infoOf(c)
}
