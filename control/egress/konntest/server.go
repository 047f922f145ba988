package konntest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// A Server is one proxy-server. Its fields are set before Start.
type Server struct {
	ID      string
	Count   int    // of servers, as it tells agents; 1 if 0
	Old     bool   // takes no notice of DRAIN, as before v0.35
	Token   string // that agents must bear, or empty
	ByHost  bool   // dials go only to agents that name their host, as with --proxy-strategies=destHost
	Options []grpc.ServerOption

	agents   *grpc.Server
	frontend *grpc.Server
	addr     string // where agents connect

	mu        sync.Mutex
	backends  []*backend              // in the order in which they came
	pending   map[int64]*pendingDial  // by the dial's id
	open      map[connKey]client      // established connections
	met       map[konn.PacketType]int // packets of agents
	seen      map[string]metadata.MD  // of agents, by id
	conns     map[net.Conn]struct{}   // of HTTP clients
	frontAddr string                  // where clients of gRPC connect; empty: none has come yet
}

// A connKey is how the server knows a connection.
type connKey struct {
	agent string
	id    int64
}

// A client is one that asked for a connection. Its methods are called by the
// goroutine of the agent's stream, which waits for them.
type client interface {
	connected(b *backend, r *konn.DialResponse)
	data(d *konn.Data)
	closed(r *konn.CloseResponse)
}

type pendingDial struct {
	client  client
	backend *backend
}

// A backend is one Connect stream.
type backend struct {
	id       string
	stream   grpc.ServerStream
	sendMu   sync.Mutex
	hosts    []string   // that it says it is for
	draining bool       // the server's mu
	end      chan error // what its stream ends with
	ended    chan struct{}
}

func (b *backend) send(p *konn.Packet) error {
	b.sendMu.Lock()
	defer b.sendMu.Unlock()
	return b.stream.SendMsg(p)
}

// Start listens for agents at addr, 127.0.0.1:0 for instance, until the test
// ends or Stop is called.
func (s *Server) Start(t testing.TB, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(l)
	t.Cleanup(s.Stop)
}

// Serve serves agents that come by l.
func (s *Server) Serve(l net.Listener) {
	s.addr, s.frontAddr = l.Addr().String(), ""
	s.pending, s.open = map[int64]*pendingDial{}, map[connKey]client{}
	s.met, s.seen, s.conns = map[konn.PacketType]int{}, map[string]metadata.MD{}, map[net.Conn]struct{}{}
	s.agents = grpc.NewServer(s.Options...)
	s.agents.RegisterService(&grpc.ServiceDesc{ServiceName: "AgentService", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Connect", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, st grpc.ServerStream) error { return s.connect(st) },
	}}}, s)
	s.frontend = grpc.NewServer()
	konn.RegisterProxyServiceServer(s.frontend, &proxyService{server: s})
	go s.agents.Serve(l) //nolint:errcheck // ends by Stop
}

// Addr is where agents connect, HOST:PORT.
func (s *Server) Addr() string { return s.addr }

// Stop ends the server and all of its connections at once.
func (s *Server) Stop() {
	s.agents.Stop()
	s.frontend.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Retire has the server take no more agents, and end when those that it has have left: they are
// told to, as by a proxy-server with --graceful-shutdown-timeout. The channel is closed
// at the end.
func (s *Server) Retire() <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.agents.GracefulStop()
	}()
	return over
}

// Backends returns how many streams of agents there are, and how many of them
// have not said DRAIN.
func (s *Server) Backends() (all, ready int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.backends {
		if all++; !b.draining {
			ready++
		}
	}
	return all, ready
}

// Packets returns how many packets of a type agents have sent.
func (s *Server) Packets(t konn.PacketType) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.met[t]
}

// Metadata returns what each agent said of itself, by its id.
func (s *Server) Metadata() map[string]metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]metadata.MD{}
	for id, md := range s.seen {
		all[id] = md
	}
	return all
}

// connect serves one agent's stream.
func (s *Server) connect(st grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(st.Context())
	ids := md.Get("agentID")
	if len(ids) != 1 {
		return status.Error(codes.InvalidArgument, "want one agentID")
	}
	s.mu.Lock()
	token := s.Token
	s.mu.Unlock()
	if token != "" && (len(md.Get("Authorization")) != 1 || md.Get("Authorization")[0] != "Bearer "+token) {
		return status.Error(codes.Unauthenticated, "the token is not valid")
	}
	if err := st.SendHeader(metadata.Pairs("serverID", s.ID, "serverCount", strconv.Itoa(max(1, s.Count)))); err != nil {
		return err
	}
	b := &backend{id: ids[0], stream: st, hosts: hostsOf(md), end: make(chan error, 1), ended: make(chan struct{})}
	s.mu.Lock()
	s.backends = append(s.backends, b)
	s.seen[b.id] = md
	s.mu.Unlock()
	defer s.remove(b)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			p := new(konn.Packet)
			if err := st.RecvMsg(p); err != nil {
				return
			}
			s.fromAgent(b, p)
		}
	}()
	select {
	case err := <-b.end:
		return err
	case <-over:
		return nil
	}
}

// hostsOf returns the hosts for which an agent says it is.
func hostsOf(md metadata.MD) (hosts []string) {
	for _, text := range md.Get("agentIdentifiers") {
		ids, err := url.ParseQuery(text)
		if err != nil {
			continue
		}
		for _, key := range []string{"ipv4", "ipv6", "host"} {
			hosts = append(hosts, ids[key]...)
		}
	}
	return hosts
}

// EndStream ends a stream that waits for dials, with an error for its agent or nil.
func (s *Server) EndStream(why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.chooseLocked("")
	if b == nil {
		return errNoAgent
	}
	select {
	case b.end <- why:
	default: // it ends already
	}
	return nil
}

// SetToken changes what agents must bear from their next stream on.
func (s *Server) SetToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Token = token
}

// Inject sends a packet to an agent on a stream that waits for dials. It need not
// make sense. The channel is closed when that stream has ended, and is chosen no more.
func (s *Server) Inject(p *konn.Packet) (ended <-chan struct{}, err error) {
	s.mu.Lock()
	b := s.chooseLocked("")
	s.mu.Unlock()
	if b == nil {
		return nil, errNoAgent
	}
	return b.ended, b.send(p)
}

// remove forgets a stream, and closes what depends on it.
func (s *Server) remove(b *backend) {
	s.mu.Lock()
	for i, other := range s.backends {
		if other == b {
			s.backends = append(s.backends[:i:i], s.backends[i+1:]...)
			break
		}
	}
	var lost []client
	for key, c := range s.open {
		if key.agent == b.id {
			delete(s.open, key)
			lost = append(lost, c)
		}
	}
	var dials []*pendingDial
	for random, d := range s.pending {
		if d.backend == b {
			delete(s.pending, random)
			dials = append(dials, d)
		}
	}
	s.mu.Unlock()
	close(b.ended)
	for _, c := range lost {
		c.closed(&konn.CloseResponse{Error: "the agent is gone"})
	}
	for _, d := range dials {
		d.client.connected(b, &konn.DialResponse{Error: "the agent is gone"})
	}
}

func (s *Server) fromAgent(b *backend, p *konn.Packet) {
	s.mu.Lock()
	s.met[p.Type]++
	var c client
	switch p.Type {
	case konn.PacketType_DRAIN:
		b.draining = b.draining || !s.Old
	case konn.PacketType_DIAL_RSP:
		c = s.dialled(b, p.GetDialResponse())
	case konn.PacketType_DATA:
		c = s.open[connKey{b.id, p.GetData().GetConnectID()}]
	case konn.PacketType_CLOSE_RSP:
		key := connKey{b.id, p.GetCloseResponse().GetConnectID()}
		c = s.open[key]
		delete(s.open, key)
	}
	s.mu.Unlock()
	if c == nil {
		return
	}
	switch p.Type {
	case konn.PacketType_DIAL_RSP:
		c.connected(b, p.GetDialResponse())
	case konn.PacketType_DATA:
		c.data(p.GetData())
	case konn.PacketType_CLOSE_RSP:
		c.closed(p.GetCloseResponse())
	}
}

// dialled finds who asked for a dial. Called with mu held.
func (s *Server) dialled(b *backend, r *konn.DialResponse) client {
	d := s.pending[r.Random]
	if d == nil {
		go b.send(closeRequest(r.ConnectID)) //nolint:errcheck // the agent is told, or gone
		return nil
	}
	delete(s.pending, r.Random)
	if r.Error == "" {
		s.open[connKey{b.id, r.ConnectID}] = d.client
	}
	return d.client
}

var errNoAgent = errors.New("no agent is connected")

// dial sends a dial for a client to an agent that does not drain, if there is
// one; to any otherwise.
func (s *Server) dial(c client, protocol, address string) (*backend, int64, error) {
	random := rand.Int64()
	s.mu.Lock()
	host, _, _ := net.SplitHostPort(address)
	b := s.chooseLocked(host)
	if b == nil {
		s.mu.Unlock()
		return nil, 0, errNoAgent
	}
	s.pending[random] = &pendingDial{c, b}
	s.mu.Unlock()
	err := b.send(&konn.Packet{Type: konn.PacketType_DIAL_REQ, Payload: &konn.Packet_DialRequest{
		DialRequest: &konn.DialRequest{Protocol: protocol, Address: address, Random: random}}})
	if err != nil {
		return nil, 0, fmt.Errorf("send the dial: %w", err)
	}
	return b, random, nil
}

// chooseLocked returns a stream that does not drain, if there is one, any
// otherwise; with ByHost, of an agent that is for the host. Called with mu held.
func (s *Server) chooseLocked(host string) *backend {
	var fit, ready []*backend
	for _, b := range s.backends {
		if s.ByHost && !slices.Contains(b.hosts, host) {
			continue
		}
		fit = append(fit, b)
		if !b.draining {
			ready = append(ready, b)
		}
	}
	if len(ready) == 0 {
		ready = fit
	}
	if len(ready) == 0 {
		return nil
	}
	return ready[rand.IntN(len(ready))]
}

// abandon tells the agent that nobody waits for a dial any more.
func (s *Server) abandon(b *backend, random int64) {
	s.mu.Lock()
	_, waits := s.pending[random]
	delete(s.pending, random)
	s.mu.Unlock()
	if waits {
		_ = b.send(&konn.Packet{Type: konn.PacketType_DIAL_CLS, Payload: &konn.Packet_CloseDial{CloseDial: &konn.CloseDial{Random: random}}})
	}
}

func closeRequest(id int64) *konn.Packet {
	return &konn.Packet{Type: konn.PacketType_CLOSE_REQ, Payload: &konn.Packet_CloseRequest{CloseRequest: &konn.CloseRequest{ConnectID: id}}}
}

func dataPacket(id int64, b []byte) *konn.Packet {
	return &konn.Packet{Type: konn.PacketType_DATA, Payload: &konn.Packet_Data{Data: &konn.Data{ConnectID: id, Data: b}}}
}
