package konntest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	konnclient "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/pkg/client"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// DialGRPC asks for a connection as an API server with proxyProtocol: GRPC does,
// by the library that it uses.
func (s *Server) DialGRPC(t testing.TB, ctx context.Context, address string) (net.Conn, error) {
	return s.DialProtocol(t, ctx, "tcp", address)
}

// DialProtocol is DialGRPC for another protocol.
func (s *Server) DialProtocol(t testing.TB, ctx context.Context, protocol, address string) (net.Conn, error) {
	t.Helper()
	front, err := s.front()
	if err != nil {
		return nil, err
	}
	tunnelCtx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	tunnel, err := konnclient.CreateSingleUseGrpcTunnelWithContext(ctx, tunnelCtx, front, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return tunnel.DialContext(ctx, protocol, address)
}

// front is where clients come by gRPC, HOST:PORT. It is there from the first one on.
func (s *Server) front() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frontAddr != "" {
		return s.frontAddr, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go s.frontend.Serve(l) //nolint:errcheck // ends by Stop
	s.frontAddr = l.Addr().String()
	return s.frontAddr, nil
}

// A proxyService is the gRPC way in.
type proxyService struct {
	konn.UnimplementedProxyServiceServer
	server *Server
}

// Proxy serves one client's stream.
func (p *proxyService) Proxy(st konn.ProxyService_ProxyServer) error {
	c := &grpcClient{server: p.server, stream: st}
	defer c.gone()
	for {
		pkt, err := st.Recv()
		if err != nil {
			return nil
		}
		if err := c.take(pkt); err != nil {
			return err
		}
	}
}

// A grpcClient is one that came by gRPC.
type grpcClient struct {
	server *Server
	stream konn.ProxyService_ProxyServer

	mu      sync.Mutex
	backend *backend
	random  int64 // of the dial, the agent's
	asked   int64 // of the dial, the client's
	id      int64
	open    bool
}

func (c *grpcClient) take(p *konn.Packet) error {
	switch p.Type {
	case konn.PacketType_DIAL_REQ:
		d := p.GetDialRequest()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked = d.Random
		var err error
		if c.backend, c.random, err = c.server.dial(c, d.Protocol, d.Address); err != nil {
			return c.stream.Send(&konn.Packet{Type: konn.PacketType_DIAL_RSP, Payload: &konn.Packet_DialResponse{
				DialResponse: &konn.DialResponse{Random: d.Random, Error: err.Error()}}})
		}
	case konn.PacketType_DATA, konn.PacketType_CLOSE_REQ:
		c.mu.Lock()
		b := c.backend
		c.mu.Unlock()
		if b != nil {
			return b.send(p)
		}
	case konn.PacketType_DIAL_CLS:
		c.server.abandon(c.backend, c.random)
	}
	return nil
}

func (c *grpcClient) connected(b *backend, r *konn.DialResponse) {
	c.mu.Lock()
	c.id, c.open = r.ConnectID, r.Error == ""
	again := &konn.DialResponse{Random: c.asked, ConnectID: r.ConnectID, Error: r.Error}
	c.mu.Unlock()
	_ = c.stream.Send(&konn.Packet{Type: konn.PacketType_DIAL_RSP, Payload: &konn.Packet_DialResponse{DialResponse: again}})
}

func (c *grpcClient) data(d *konn.Data) {
	_ = c.stream.Send(&konn.Packet{Type: konn.PacketType_DATA, Payload: &konn.Packet_Data{Data: d}})
}

func (c *grpcClient) closed(r *konn.CloseResponse) {
	c.mu.Lock()
	c.open = false
	c.mu.Unlock()
	_ = c.stream.Send(&konn.Packet{Type: konn.PacketType_CLOSE_RSP, Payload: &konn.Packet_CloseResponse{CloseResponse: r}})
}

// gone tells the agent that the client's stream has ended.
func (c *grpcClient) gone() {
	c.mu.Lock()
	b, random, id, open := c.backend, c.random, c.id, c.open
	c.mu.Unlock()
	switch {
	case b == nil:
	case open:
		_ = b.send(closeRequest(id))
	default:
		c.server.abandon(b, random)
	}
}

// DialHTTP asks for a connection as an API server with proxyProtocol:
// HTTPConnect does.
func (s *Server) DialHTTP(t testing.TB, ctx context.Context, address string) (net.Conn, error) {
	t.Helper()
	near, far := tcpPair(t)
	s.mu.Lock()
	s.conns[far] = struct{}{}
	s.mu.Unlock()
	go s.serveHTTP(far)
	stop := context.AfterFunc(ctx, func() { _ = near.Close() })
	defer stop()
	return Connect(near, address)
}

// ServeHTTP takes clients that ask by CONNECT, until l is closed.
func (s *Server) ServeHTTP(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		go s.serveHTTP(c)
	}
}

// Connect asks a proxy-server at the other end of c for a connection, by HTTP CONNECT.
// The connection takes c over, and c is closed if it is refused.
func Connect(c net.Conn, address string) (net.Conn, error) {
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the answer to CONNECT: %w", err), c.Close())
	}
	if resp.StatusCode != http.StatusOK {
		_ = c.Close()
		return nil, fmt.Errorf("CONNECT %s: %s", address, resp.Status)
	}
	return &bufferedConn{Conn: c, r: r}, nil
}

// A bufferedConn is a connection of which some bytes have been read already.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing is lost
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

// An httpClient is one that came by CONNECT.
type httpClient struct {
	conn net.Conn
	up   chan *konn.DialResponse
}

func (s *Server) serveHTTP(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	c := &httpClient{conn: conn, up: make(chan *konn.DialResponse, 1)}
	b, _, err := s.dial(c, "tcp", req.Host)
	if err != nil {
		fmt.Fprintf(conn, "HTTP/1.1 503 %s\r\nContent-Length: 0\r\n\r\n", err)
		return
	}
	resp := <-c.up
	if resp.Error != "" {
		fmt.Fprintf(conn, "HTTP/1.1 502 %s\r\nContent-Length: 0\r\n\r\n", resp.Error)
		return
	}
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 && b.send(dataPacket(resp.ConnectID, buf[:n])) != nil {
			return
		}
		if err != nil {
			_ = b.send(closeRequest(resp.ConnectID))
			return
		}
	}
}

func (c *httpClient) connected(_ *backend, r *konn.DialResponse) {
	if r.Error == "" {
		_, _ = fmt.Fprint(c.conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	}
	c.up <- r
}

func (c *httpClient) data(d *konn.Data) { _, _ = c.conn.Write(d.Data) }

func (c *httpClient) closed(*konn.CloseResponse) { _ = c.conn.Close() }
