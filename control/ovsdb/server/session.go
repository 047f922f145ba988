package server

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"millrace/control/ovsdb/jsonval"
)

// An item is a message that waits to be written: bytes, or a function that
// writes it.
type item struct {
	data   []byte
	stream func(*bufio.Writer)
	holds  int  // bytes that stream keeps from being freed
	last   bool // the session ends after it
}

func (i item) cost() int { return len(i.data) + i.holds }

// A session is one client.
type session struct {
	conn   net.Conn
	srv    *Server
	remote *remote // that it came from; nil for an endpoint of Listen
	since  time.Time
	ended  chan struct{} // closed when all is over
	idle   atomic.Bool   // was asked for an echo and has said nothing since

	mu     sync.Mutex // of the queue
	queue  []item
	queued int // bytes
	closed bool
	wake   chan struct{} // buffered: the queue has something, or closed

	// The hub's.
	monitors map[string]*monitor // by the text of their ids
	waiters  map[string]*waiter  // by the names of their locks
	waiting  map[string]*waiting // by the text of their requests' ids
	waitSize int                 // bytes of the requests that wait
	aware    bool                // the client knows that schemas may change
}

func newSession(srv *Server, conn net.Conn, r *remote) *session {
	return &session{conn: conn, srv: srv, remote: r, since: time.Now(), ended: make(chan struct{}), wake: make(chan struct{}, 1),
		monitors: map[string]*monitor{}, waiters: map[string]*waiter{}, waiting: map[string]*waiting{}}
}

// probe is the silence after which the client is asked for an echo; negative:
// never.
func (s *session) probe() time.Duration {
	if s.remote != nil {
		return s.remote.probe()
	}
	return s.srv.cfg.Probe
}

// push queues a message. A client with too much in its queue is cut off: it
// will connect again and start from the present state.
func (s *session) push(i item) {
	s.mu.Lock()
	queued := s.queued
	full := !s.closed && queued+i.cost() > s.srv.cfg.MaxQueue && queued > 0
	if !s.closed && !full {
		s.queue = append(s.queue, i)
		s.queued += i.cost()
	}
	s.mu.Unlock()
	if full {
		s.srv.cutOff(s, fmt.Errorf("client does not read: %d bytes wait for it", queued))
	}
	s.signal()
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close ends the session; its goroutines notice.
func (s *session) close() {
	s.mu.Lock()
	s.closed = true
	s.queue = nil
	s.mu.Unlock()
	if c, ok := s.conn.(*tls.Conn); ok {
		c.NetConn().Close() // c.Close would wait for a client that does not read
	} else {
		s.conn.Close()
	}
	s.signal()
}

// take returns all that waits, false when the session is over.
func (s *session) take() ([]item, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue
	s.queue = nil
	return q, !s.closed
}

// written notes that a message has left the queue.
func (s *session) written(i item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queued -= i.cost()
}

// deadlineWriter gives every write twice the time of a probe.
type deadlineWriter struct{ *session }

func (w deadlineWriter) Write(b []byte) (int, error) {
	var deadline time.Time
	if p := w.probe(); p > 0 {
		deadline = time.Now().Add(2 * p)
	}
	if err := w.conn.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	return w.conn.Write(b)
}

// writeAll writes messages until the session ends.
func (s *session) writeAll() {
	w := bufio.NewWriterSize(deadlineWriter{s}, 1<<16)
	for range s.wake {
		items, open := s.take()
		if !open {
			return
		}
		over := false
		for _, i := range items {
			if i.stream != nil {
				i.stream(w)
			} else {
				_, _ = w.Write(i.data) // Flush tells
			}
			s.written(i)
			over = over || i.last
		}
		if err := w.Flush(); err != nil || over {
			s.conn.Close()
			return
		}
	}
}

// readAll reads messages and hands them on until the session ends.
func (s *session) readAll() error {
	var framer jsonval.Framer
	var msg []byte
	buf := make([]byte, 1<<16)
	for {
		n, err := s.read(buf)
		if err != nil {
			return err
		}
		for rest := buf[:n]; len(rest) > 0; {
			used, whole, err := framer.Feed(rest)
			if err != nil {
				return err
			}
			if len(msg)+used > s.srv.cfg.MaxMessage {
				return fmt.Errorf("message is larger than %d bytes", s.srv.cfg.MaxMessage)
			}
			msg = append(msg, rest[:used]...)
			rest = rest[used:]
			if !whole {
				continue
			}
			if err := s.receive(msg); err != nil {
				return err
			}
			if msg = msg[:0]; cap(msg) > 1<<20 {
				msg = nil
			}
		}
	}
}

// echoRequest is what a silent client is sent.
const echoRequest = `{"id":"echo","method":"echo","params":[]}`

// read reads some bytes. A client that is silent is asked for an echo once.
func (s *session) read(buf []byte) (int, error) {
	for asked := false; ; asked = true {
		var deadline time.Time
		if p := s.probe(); p > 0 {
			deadline = time.Now().Add(p)
		}
		if err := s.conn.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
		n, err := s.conn.Read(buf)
		if asks := n == 0; s.idle.Swap(asks) != asks && s.remote != nil {
			s.remote.signal()
		}
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if asked {
			return 0, errors.New("client is silent and does not answer")
		}
		s.push(item{data: []byte(echoRequest)})
	}
}

// A message may hold one value for so many of the bytes that it may have:
// some millions of numbers in a list are no transaction.
const bytesPerValue, smallMessage = 8, 1000

// receive handles one message. Requests go to the hub one after another; an
// echo is answered at once, so that a busy server does not look dead.
func (s *session) receive(text []byte) error {
	v, err := jsonval.ParseMax(text, s.srv.cfg.MaxMessage/bytesPerValue+smallMessage)
	if err != nil {
		return err
	}
	method, isCall := v.Get("method")
	id, _ := v.Get("id")
	params, _ := v.Get("params")
	switch {
	case !isCall:
		return nil // an answer to our echo
	case method.Kind != jsonval.String || params.Kind != jsonval.Array && params.Kind != jsonval.Null:
		return errors.New("message is no JSON-RPC request")
	case method.Str == "echo":
		if id.Kind != jsonval.Null {
			s.push(item{data: reply(id, params.Append(nil))})
		}
		return nil
	}
	r := &request{from: s, id: id, method: method.Str, params: params.Elems, text: params, size: len(text), at: time.Now()}
	if !s.srv.hub.call(func() { s.srv.hub.handle(r) }) {
		return io.EOF
	}
	return nil
}

// serve runs a session to its end.
func (s *session) serve() {
	defer s.srv.forget(s)
	go s.writeAll()
	err := s.readAll()
	if !gone(err) {
		s.srv.cutOff(s, err)
	}
	s.close()
}

// gone reports whether err says that the client hung up, or we did.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe)
}

// cutOff ends a session that misbehaves.
func (srv *Server) cutOff(s *session, why error) {
	srv.cut.Add(1)
	srv.cfg.Log.Warn("client cut off", zap.String("client", s.conn.RemoteAddr().String()), zap.Error(why))
	s.close()
}

// reply returns the message that answers a request.
func reply(id jsonval.Value, result []byte) []byte {
	b := append([]byte(`{"id":`), id.Append(nil)...)
	b = append(append(b, `,"result":`...), result...)
	return append(b, `,"error":null}`...)
}

// refusal returns the message that answers a request with an error.
func refusal(id jsonval.Value, err jsonval.Value) []byte {
	b := append([]byte(`{"id":`), id.Append(nil)...)
	b = err.Append(append(b, `,"result":null,"error":`...))
	return append(b, '}')
}
