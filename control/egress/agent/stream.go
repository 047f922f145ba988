package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// connectMethod is the one method of the service. Its messages have no package,
// so we define no service of our own: their names are global in a process.
const connectMethod = "/AgentService/Connect"

var connectDesc = &grpc.StreamDesc{StreamName: "Connect", ServerStreams: true, ClientStreams: true}

// A stream is one Connect stream: to the server an agent of its own.
type stream struct {
	link   *link
	id     string // agent id
	server string // server id
	cs     grpc.ClientStream
	cancel context.CancelFunc

	sendMu   sync.Mutex // cs.SendMsg is for one goroutine at a time
	finished bool       // nothing is sent any more

	mu       sync.Mutex
	dials    map[int64]*request // by what the server calls the dial
	requests map[int64]*request // by connect id
	drained  time.Time          // when DRAIN was sent, or zero
	used     bool               // it was drained for a dial
	loaded   time.Time          // when the first of those dials came that it has had since it was idle
	after    int64              // connect ids beyond this one were given after that DRAIN
	heeded   time.Time          // when the server first answered what came after that DRAIN, or zero
	idled    time.Time          // when it last had a dial or a request
	over     bool               // nothing is accepted any more
	part     chan struct{}      // closed when no more than one request is left; nil: nobody waits for that
}

// openStream opens a stream on a link, and waits until the server has it.
// count is how many servers there are, as this one says.
func openStream(ctx context.Context, l *link) (s *stream, count int, err error) {
	s = &stream{link: l, id: agentID(l.agent.cfg.Name), dials: map[int64]*request{}, requests: map[int64]*request{}, idled: time.Now()}
	ctx, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	if ctx, err = s.introduce(ctx); err != nil {
		return nil, 0, err
	}
	impatient := time.AfterFunc(l.agent.cfg.headerTimeout, cancel)
	defer func() {
		if !impatient.Stop() && err != nil {
			err = fmt.Errorf("the server has not greeted a stream in %v: %w", l.agent.cfg.headerTimeout, context.DeadlineExceeded)
		}
	}()
	if s.cs, err = l.cc.NewStream(ctx, connectDesc, connectMethod); err != nil {
		return nil, 0, fmt.Errorf("open a stream: %w", err)
	}
	header, err := s.cs.Header()
	if err == nil && len(header) == 0 {
		err = s.cs.RecvMsg(new(konn.Packet)) // says why it was refused
	}
	if err != nil {
		return nil, 0, fmt.Errorf("wait for the server's header: %w", err)
	}
	s.server, count, err = readHeader(header)
	return s, count, err
}

// agentID returns a name that no stream has had before.
func agentID(node string) string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return node + "-" + hex.EncodeToString(b[:])
}

// introduce adds what the server wants to know of an agent.
func (s *stream) introduce(ctx context.Context) (context.Context, error) {
	cfg := &s.link.agent.cfg
	auth, err := cfg.Files.authorization()
	if err != nil {
		return nil, err
	}
	pairs := []string{"agentID", s.id}
	if cfg.Identifiers != nil {
		if ids := cfg.Identifiers(); ids != "" {
			pairs = append(pairs, "agentIdentifiers", ids)
		}
	}
	if auth != "" {
		pairs = append(pairs, "Authorization", auth)
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...), nil
}

// readHeader reads what a server says of itself.
func readHeader(h metadata.MD) (id string, count int, err error) {
	ids, counts := h.Get("serverID"), h.Get("serverCount")
	if len(ids) != 1 || ids[0] == "" || len(counts) != 1 {
		return "", 0, fmt.Errorf("the server's header has %d serverID and %d serverCount, not one of each: is it a konnectivity proxy-server's agent port?", len(ids), len(counts))
	}
	if count, err = strconv.Atoi(counts[0]); err != nil || count < 0 {
		return "", 0, fmt.Errorf("the server's header has a serverCount that is no number: %.20q", counts[0])
	}
	return ids[0], count, nil
}

// run serves the stream until it ends. A nil error: it was to end.
func (s *stream) run() error {
	ctx := s.cs.Context()
	stop := context.AfterFunc(ctx, s.breakOff) // also while a request makes us wait
	defer stop()
	defer s.breakOff()
	for {
		p := new(konn.Packet)
		err := s.cs.RecvMsg(p)
		if err == nil && ctx.Err() != nil { // what came before a break, and was not taken, is nobody's
			err = status.FromContextError(ctx.Err()).Err()
		}
		if err != nil {
			if err = s.ending(err); err != nil {
				s.link.agent.metrics.unread(err)
			}
			return err
		}
		s.link.agent.metrics.received(p)
		s.take(p)
	}
}

// ending tells an end that was wanted from one that was not.
func (s *stream) ending(err error) error {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over && (errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled) {
		return nil
	}
	return err
}

// take carries out one packet. Unknown ones are for newer agents.
func (s *stream) take(p *konn.Packet) {
	switch p.Type {
	case konn.PacketType_DIAL_REQ:
		s.takeDial(p.GetDialRequest())
	case konn.PacketType_DATA:
		s.takeData(p.GetData())
	case konn.PacketType_CLOSE_REQ:
		s.takeClose(p.GetCloseRequest().GetConnectID())
	case konn.PacketType_DIAL_CLS:
		s.takeDialClose(p.GetCloseDial().GetRandom())
	default:
		s.link.nuisance()
	}
}

func (s *stream) takeDial(d *konn.DialRequest) {
	l := s.link
	if d == nil {
		l.nuisance() // type 0 is also what a packet without a type has
		return
	}
	if err := l.admit(); err != nil {
		s.refuse(d, err)
		return
	}
	s.use()
	r := newRequest(s, d)
	if err := s.begin(r); err != nil {
		l.leaveDials()
		l.leaveRequests()
		s.refuse(d, err)
		return
	}
	l.agent.work.Go(r.run)
}

// refuse answers a dial that does not begin. While the server does not take the answer, no
// more of the stream is read.
func (s *stream) refuse(d *konn.DialRequest, err error) {
	s.link.nuisance()
	_ = s.send(dialResponse(d.Random, 0, err.Error()))
}

// begin takes note of a dial.
func (s *stream) begin(r *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errFinished
	}
	if s.dials[r.random] != nil {
		return errTwice
	}
	s.dials[r.random] = r
	return nil
}

var errTwice = errors.New("a dial of this id is under way")

// use notes that a dial has come. The first one takes the stream out of those that
// wait for dials, at once or, when there are very many, as soon as it needs be: see hurry.go.
func (s *stream) use() {
	l := s.link
	l.dials.Add(1)
	s.mu.Lock()
	drained, heeded, busy := s.drained, s.heeded, len(s.dials)+len(s.requests) > 0
	if drained.IsZero() && !busy {
		s.loaded = time.Now()
	}
	s.mu.Unlock()
	switch {
	case drained.IsZero() && l.hurry.Load():
		if busy {
			l.tooFew() // the more there are, the fewer meet
		}
	case drained.IsZero():
		s.isolate()
	case !heeded.IsZero() && time.Since(heeded) > linger:
		l.undrainable()
	default:
		l.tooFew()
	}
}

// isolate has the server send no more dials here, and another stream wait for them. Only
// the first call does.
func (s *stream) isolate() {
	if !s.link.wantsDrain() {
		return
	}
	s.mu.Lock()
	first := s.drained.IsZero() && !s.used
	s.used = s.used || first
	s.mu.Unlock()
	if !first {
		return
	}
	s.link.used.Add(1)
	s.link.taken.Add(1)
	s.drain()
	s.mu.Lock()
	s.after = s.link.agent.lastID.Load()
	s.mu.Unlock()
	s.link.agent.place(s.link).replace()
}

func (s *stream) wasUsed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// drain has the server send no dials here, if it has a choice. Only the first call does.
func (s *stream) drain() {
	s.mu.Lock()
	first := s.drained.IsZero()
	if first {
		s.drained = time.Now()
	}
	s.mu.Unlock()
	if first {
		_ = s.send(&konn.Packet{Type: konn.PacketType_DRAIN, Payload: &konn.Packet_Drain{Drain: &konn.Drain{}}})
	}
}

func (s *stream) takeData(d *konn.Data) {
	r := s.meant(d.GetConnectID())
	if r == nil {
		s.link.nuisance()
		_ = s.send(closeResponse(d.GetConnectID(), "unrecognized connectID"))
		return
	}
	r.fromClient(d.GetData())
}

func (s *stream) takeClose(id int64) {
	r := s.meant(id)
	if r == nil {
		s.link.nuisance()
		_ = s.send(closeResponse(id, "Unknown connectID"))
		return
	}
	r.clientClosed()
}

func (s *stream) takeDialClose(random int64) {
	s.mu.Lock()
	r := s.dials[random]
	s.mu.Unlock()
	if r == nil {
		s.link.nuisance()
		return
	}
	r.cancel(context.Canceled)
}

func (s *stream) request(id int64) *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[id]
}

// meant returns the request that a packet is for. Servers take packets of a stream in
// order, so one that knows the connect id has heeded a DRAIN before it.
func (s *stream) meant(id int64) *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[id]
	if s.heeded.IsZero() && s.used && r != nil && id > s.after {
		s.heeded = time.Now()
	}
	return r
}

// connected gives a request that was a dial its connect id. It fails if the
// stream has ended.
func (s *stream) connected(r *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dials, r.random)
	if s.over {
		s.partLocked()
		return false
	}
	r.id = s.link.agent.nextID()
	s.requests[r.id] = r
	return true
}

// forget takes a request out, whatever it was.
func (s *stream) forget(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dials[r.random] == r {
		delete(s.dials, r.random)
	}
	delete(s.requests, r.id)
	s.idled = time.Now()
	s.partLocked()
}

// unused reports whether a drained stream has nothing left to do. The server may have
// chosen it for a dial just before it heeded DRAIN, so it stays for a moment.
func (s *stream) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained.IsZero() || len(s.dials)+len(s.requests) > 0 {
		return false
	}
	wait := linger
	if !s.heeded.IsZero() && s.link.trusted() {
		wait = settled
	}
	return time.Since(s.idled) >= wait && time.Since(s.drained) >= wait
}

// passedOver reports whether the stream has waited for a first dial for so long
// that the server must know of it.
func (s *stream) passedOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drained.IsZero() && !s.over && len(s.dials)+len(s.requests) == 0 && time.Since(s.idled) > linger
}

// alone reports whether there is no other request now.
func (s *stream) alone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aloneLocked()
}

func (s *stream) aloneLocked() bool { return len(s.dials)+len(s.requests) <= 1 }

// parted returns what is closed when a request is alone on a stream that has been drained.
// It is nil if there is nothing to wait for: it is alone, or others may always come.
func (s *stream) parted() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained.IsZero() && !s.used || s.aloneLocked() {
		return nil
	}
	if s.part == nil {
		s.part = make(chan struct{})
	}
	return s.part
}

// partLocked tells who waits for it that a request is alone, if one is. Called with mu held.
func (s *stream) partLocked() {
	if s.part != nil && s.aloneLocked() {
		close(s.part)
		s.part = nil
	}
}

// shared reports whether several requests may depend on the stream being read.
func (s *stream) shared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drained.IsZero() || len(s.dials)+len(s.requests) > 1 || s.link.isUndrainable()
}

// errFinished says that a packet came too late. gRPC would end the stream for it
// with an error, as if something had broken.
var errFinished = errors.New("our side of the stream is closed")

// send sends a packet; it waits while the server takes none.
func (s *stream) send(p *konn.Packet) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if s.finished {
		return errFinished
	}
	err := s.cs.SendMsg(p)
	s.link.agent.metrics.sent(p, err)
	return err
}

// finish closes a stream in good order. It does not wait: if a packet does that the
// server takes none of, the stream is broken off.
func (s *stream) finish() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	if s.sendMu.TryLock() {
		s.finished = true
		_ = s.cs.CloseSend() // the server ends the stream then
		s.sendMu.Unlock()
	}
	time.AfterFunc(linger, s.cancel)
}

// breakOff ends what is left on a stream that has ended.
func (s *stream) breakOff() {
	s.cancel()
	s.mu.Lock()
	s.over = true
	var left []*request
	for _, m := range []map[int64]*request{s.dials, s.requests} {
		for _, r := range m {
			left = append(left, r)
		}
	}
	s.mu.Unlock()
	for _, r := range left {
		r.streamEnded()
	}
}

func dialResponse(random, id int64, why string) *konn.Packet {
	return &konn.Packet{Type: konn.PacketType_DIAL_RSP, Payload: &konn.Packet_DialResponse{
		DialResponse: &konn.DialResponse{Random: random, ConnectID: id, Error: why}}}
}

func closeResponse(id int64, why string) *konn.Packet {
	return &konn.Packet{Type: konn.PacketType_CLOSE_RSP, Payload: &konn.Packet_CloseResponse{
		CloseResponse: &konn.CloseResponse{ConnectID: id, Error: why}}}
}

func dataPacket(id int64, b []byte) *konn.Packet {
	return &konn.Packet{Type: konn.PacketType_DATA, Payload: &konn.Packet_Data{Data: &konn.Data{ConnectID: id, Data: b}}}
}
