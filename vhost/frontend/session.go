package frontend

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"millrace/vhost/message"
)

// A Session is one connection with a back end.
type Session struct {
	// Features and Protocol are what was agreed on, Offered what the back end
	// could have done, Queues how many queue pairs it has. They do not change
	// after Connect.
	Features, Offered message.Features
	Protocol          message.ProtocolFeatures
	Queues            int

	conn    *message.Conn
	timeout time.Duration
	replies chan message.Message
	lost    chan struct{} // closed when the connection has ended
	why     error         // set before lost is closed

	mu sync.Mutex // one request at a time
}

func newSession(sock *net.UnixConn, timeout time.Duration) *Session {
	s := &Session{
		conn: message.NewConn(sock, message.FrontEnd), timeout: timeout,
		replies: make(chan message.Message, 1), lost: make(chan struct{}), Queues: 1,
	}
	go s.read()
	return s
}

// read passes on replies until the connection ends.
func (s *Session) read() {
	for {
		m, err := s.conn.Read()
		if err != nil {
			s.why = fmt.Errorf("%w: %w", ErrLost, err)
			close(s.lost)
			return
		}
		m.Close() // no reply that we ask for has descriptors
		select {
		case s.replies <- m:
		default: // nobody asked
		}
	}
}

// Lost is closed when the connection has ended; Err says why then.
func (s *Session) Lost() <-chan struct{} { return s.lost }

// Err is why the connection ended, or nil while it lasts.
func (s *Session) Err() error {
	select {
	case <-s.lost:
		return s.why
	default:
		return nil
	}
}

// close ends the connection and waits for its reader.
func (s *Session) close() error {
	err := s.conn.Close()
	<-s.lost
	return err
}

// Call sends a request and returns the payload of its reply.
func (s *Session) Call(r message.Request, payload []byte, fds ...message.FD) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exchange(message.Message{Request: r, Payload: payload}, fds)
}

// Do sends a request that has no reply. If the back end acknowledges requests
// (REPLY_ACK), Do waits, and returns ErrRefused if the answer is no.
func (s *Session) Do(r message.Request, payload []byte, fds ...message.FD) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Protocol.Has(message.ProtocolFReplyAck) {
		return s.write(message.Message{Request: r, Payload: payload}, fds)
	}
	reply, err := s.exchange(message.Message{Request: r, Flags: message.FlagNeedReply, Payload: payload}, fds)
	if err != nil {
		return err
	}
	if code, err := message.UnmarshalU64(reply); err != nil || code != 0 {
		return fmt.Errorf("%v: %w: answer %#x", r, ErrRefused, reply)
	}
	return nil
}

// exchange sends m and waits for the reply to it.
func (s *Session) exchange(m message.Message, fds []message.FD) ([]byte, error) {
	select {
	case <-s.replies: // came after its request had given up
	default:
	}
	if err := s.write(m, fds); err != nil {
		return nil, err
	}
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	select {
	case reply := <-s.replies:
		if reply.Request != m.Request {
			return nil, fmt.Errorf("%v: %w: answer to %v", m.Request, ErrRefused, reply.Request)
		}
		return reply.Payload, nil
	case <-s.lost:
		select {
		case reply := <-s.replies: // its last words
			if reply.Request == m.Request {
				return reply.Payload, nil
			}
		default:
		}
		return nil, fmt.Errorf("%v: %w", m.Request, s.why)
	case <-timer.C:
		return nil, fmt.Errorf("%v: no answer in %v (is the back end stuck?)", m.Request, s.timeout)
	}
}

func (s *Session) write(m message.Message, fds []message.FD) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return errors.Join(ErrLost, err)
	}
	if err := s.conn.Write(m, fds...); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// number is Call for requests that ask for a number.
func (s *Session) number(r message.Request) (uint64, error) {
	b, err := s.Call(r, nil)
	if err != nil {
		return 0, err
	}
	n, err := message.UnmarshalU64(b)
	if err != nil {
		return 0, fmt.Errorf("%v: %w", r, err)
	}
	return n, nil
}

// doNumber is Do for requests that carry a number.
func (s *Session) doNumber(r message.Request, n uint64) error {
	return s.Do(r, message.MarshalU64(n))
}

// doRing is Do for requests about a number of one ring.
func (s *Session) doRing(r message.Request, index int, n uint32) error {
	return s.Do(r, message.MarshalVringState(message.VringState{Index: uint32(index), Num: n}))
}
