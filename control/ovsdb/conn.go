package ovsdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/control/ovsdb/jsonval"
)

// ErrLost says that the connection ended before the answer came. Whether the
// server has done what it was asked is not known.
var ErrLost = errors.New("connection to the database lost")

// writeTimeout is how long the server may take no bytes from us.
const writeTimeout = 10 * time.Second

// A conn is one JSON-RPC 1.0 connection (RFC 7047 section 4). Notifications
// are handled one after the other by its reader, in the order in which they
// and the answers to calls came.
type conn struct {
	c      net.Conn
	notify func(method string, params json.RawMessage) error

	sending sync.Mutex // held while a message is written
	mu      sync.Mutex // guards what follows
	last    uint64     // id of the latest call
	calls   map[uint64]waiting
	err     error         // why it ended
	done    chan struct{} // closed when it has ended
	gone    chan struct{} // closed when its reader has ended, too: notify is not called any more

	heard    atomic.Uint64 // bytes that came
	handling atomic.Bool   // the reader is busy with a message
}

// waiting is a call without an answer yet.
type waiting struct {
	c    chan<- message              // has room for the answer
	then func(json.RawMessage) error // what the reader does with a result first; may be nil
}

// A message is a request, a notification (no id) or an answer (no method).
type message struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
	ID     json.RawMessage `json:"id"`
}

type request struct {
	Method string `json:"method"`
	Params any    `json:"params"`
	ID     any    `json:"id"`
}

type answer struct {
	Result any `json:"result"`
	Error  any `json:"error"`
	ID     any `json:"id"`
}

// newConn speaks over c, which it closes when anything is wrong with it.
func newConn(c net.Conn, notify func(string, json.RawMessage) error) *conn {
	k := &conn{c: c, notify: notify, calls: map[uint64]waiting{}, done: make(chan struct{}), gone: make(chan struct{})}
	go k.read()
	return k
}

// close ends the connection for a reason. Only the first reason counts.
func (k *conn) close(why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return
	}
	k.err = why
	_ = k.c.Close() // there is nothing to save
	close(k.done)
}

// cause is why the connection has ended.
func (k *conn) cause() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// A hearing counts what it reads.
type hearing struct{ *conn }

func (h hearing) Read(b []byte) (int, error) {
	n, err := h.c.Read(b)
	h.heard.Add(uint64(n))
	return n, err
}

// read hands on messages until the connection ends. A message that nobody keeps lends its memory to
// the next.
func (k *conn) read() {
	defer close(k.gone)
	in := bufio.NewReaderSize(hearing{k}, 64<<10)
	var room []byte // of a message that nobody has any more
	for {
		text, err := readMessage(in, room)
		if err != nil {
			k.close(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
		k.handling.Store(true)
		m, err := parseMessage(text)
		if err == nil {
			err = k.handle(m)
		}
		k.handling.Store(false)
		if err != nil {
			k.close(err)
			return
		}
		if room = nil; m.Method != "" && cap(text) <= roomMax {
			room = text[:0] // an answer is its caller's
		}
	}
}

// roomMax is how many bytes are kept for the next message: an update of ten
// thousand rows.
const roomMax = 4 << 20

// readMessage reads one JSON object, into text if there is room.
func readMessage(in *bufio.Reader, text []byte) ([]byte, error) {
	var f jsonval.Framer
	for {
		if _, err := in.Peek(1); err != nil {
			if err == io.EOF && len(text) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		b, _ := in.Peek(in.Buffered()) // is there
		n, done, err := f.Feed(b)
		if need := len(text) + n; need > cap(text) {
			text = slices.Grow(text, max(need, 2*cap(text))-len(text)) // append grows large slices by a quarter: that is five copies
		}
		text = append(text, b[:n]...)
		if _, ok := in.Discard(n); ok != nil || err != nil {
			return nil, errors.Join(err, ok)
		}
		if done {
			return text, nil
		}
	}
}

// parseMessage finds the parts of a message. They are looked into where they are
// used.
func parseMessage(text []byte) (m message, err error) {
	in := &scanner{text: text}
	in.object(func(name []byte) {
		switch string(name) {
		case "method":
			if !in.word("null") {
				m.Method = in.str()
			}
		case "params":
			m.Params = in.skip()
		case "result":
			m.Result = in.skip()
		case "error":
			m.Error = in.skip()
		case "id":
			m.ID = in.skip()
		default:
			in.skip()
		}
	})
	if in.err != nil {
		return m, fmt.Errorf("message from the database: %w", in.err)
	}
	return m, nil
}

// errSilent says that a server has the connection open, and says nothing.
var errSilent = errors.New("the server is silent")

// attentive returns a context that ends when nothing has come for so long, and
// nothing that came is being read: a large message takes its time.
func (k *conn) attentive(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		t := time.NewTicker(limit)
		defer t.Stop()
		for last := k.heard.Load(); ; {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			now := k.heard.Load()
			if now == last && !k.handling.Load() {
				cancel(fmt.Errorf("%w for %v", errSilent, limit))
			}
			last = now
		}
	}()
	return ctx, func() { cancel(nil) }
}

// handle takes one message from the server.
func (k *conn) handle(m message) error {
	switch m.Method {
	case "":
		return k.answered(m)
	case "echo":
		return k.send(answer{Result: m.Params, ID: m.ID})
	}
	return k.notify(m.Method, m.Params)
}

// answered gives an answer to whoever waits for it. Others have given up.
func (k *conn) answered(m message) error {
	var id uint64
	if err := json.Unmarshal(m.ID, &id); err != nil {
		return fmt.Errorf("answer of the database: id %.40q: %w", m.ID, err)
	}
	k.mu.Lock()
	w, ok := k.calls[id]
	delete(k.calls, id)
	k.mu.Unlock()
	if !ok {
		return nil
	}
	if w.then != nil && !failed(m) {
		if err := w.then(m.Result); err != nil {
			return err
		}
	}
	w.c <- m
	return nil
}

func (k *conn) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a message to the database: %w", err)
	}
	return k.write(b)
}

// write sends a message.
func (k *conn) write(b []byte) error {
	k.sending.Lock()
	defer k.sending.Unlock()
	if err := k.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if _, err := k.c.Write(b); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// call makes a request and puts its result into result, unless that is nil.
func (k *conn) call(ctx context.Context, method string, params, result any) error {
	return k.callThen(ctx, method, params, result, nil)
}

// callRaw is call with parameters that are JSON already.
func (k *conn) callRaw(ctx context.Context, method string, params []byte, result any) error {
	return k.ask(ctx, method, result, nil, func(id uint64) error {
		b := make([]byte, 0, len(params)+len(method)+64)
		b = append(append(append(b, `{"id":`...), strconv.FormatUint(id, 10)...), `,"method":"`...)
		b = append(append(append(b, method...), `","params":`...), params...)
		return k.write(append(b, '}'))
	})
}

// callThen is call; the reader runs then on the result before it reads on.
func (k *conn) callThen(ctx context.Context, method string, params, result any, then func(json.RawMessage) error) error {
	return k.ask(ctx, method, result, then, func(id uint64) error { return k.send(request{method, params, id}) })
}

// ask has a request sent, and waits for the answer.
func (k *conn) ask(ctx context.Context, method string, result any, then func(json.RawMessage) error, send func(id uint64) error) error {
	c := make(chan message, 1)
	k.mu.Lock()
	k.last++
	id := k.last
	k.calls[id] = waiting{c, then}
	k.mu.Unlock()
	defer k.forget(id)
	if err := send(id); err != nil {
		k.close(err)
		return err
	}
	select {
	case m := <-c:
		return decode(method, m, result)
	case <-k.done:
		return k.cause()
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
}

func (k *conn) forget(id uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.calls, id)
}

// failed reports whether an answer is an error.
func failed(m message) bool { return len(m.Error) > 0 && string(m.Error) != "null" }

// decode reads an answer.
func decode(method string, m message, result any) error {
	if failed(m) {
		return &CallError{method, string(m.Error)}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Result, result); err != nil {
		return fmt.Errorf("%s: answer of the database: %w", method, err)
	}
	return nil
}
