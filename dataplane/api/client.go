package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// SocketName is the name of the dataplane's socket in its run directory.
const SocketName = "dataplane.sock"

// A Client speaks to the dataplane of one run directory. Its calls return
// errors of type *Error.
type Client struct {
	DataplaneClient
	Flows       FlowsClient
	Connections ConnectionsClient
	Info        *GetInfoResponse // as it was at Dial

	conn *grpc.ClientConn
}

// A DialOption changes how Dial goes about it.
type DialOption func(*dialer)

// Patience makes Dial try for d when the socket is there and nobody answers: a
// dataplane that has crashed comes back within that time, if it is supervised.
func Patience(d time.Duration) DialOption { return func(l *dialer) { l.patience = d } }

// Dial connects to the dataplane of runDir and makes sure that its version
// fits. The error wraps ErrNotRunning, ErrDenied or ErrVersion where one of
// them is the cause.
func Dial(ctx context.Context, runDir string, opts ...DialOption) (*Client, error) {
	l := &dialer{dir: runDir, path: filepath.Join(runDir, SocketName)}
	for _, o := range opts {
		o(l)
	}
	for end := time.Now().Add(l.patience); ; {
		c, err := l.try(ctx)
		if err == nil {
			return c, nil
		}
		if !mayComeBack(err) || time.Now().After(end) {
			return nil, l.explain(err)
		}
		select {
		case <-ctx.Done():
			return nil, l.explain(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A dialer connects to the socket of a run directory.
type dialer struct {
	dir, path string
	patience  time.Duration
}

func (l *dialer) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", l.path)
}

// try connects and makes the first call.
func (l *dialer) try(ctx context.Context) (*Client, error) {
	first, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := l.overGRPC(first)
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	c := &Client{DataplaneClient: NewDataplaneClient(conn), Flows: NewFlowsClient(conn), Connections: NewConnectionsClient(conn), conn: conn}
	c.Info, err = c.GetInfo(ctx, &GetInfoRequest{})
	if err == nil && c.Info.GetApiMajor() != Major {
		err = mismatch(Version(), c.Info.GetVersion(), strconv.Itoa(int(c.Info.GetApiMajor())))
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// answerMax is the longest answer in bytes. A port that names all VLANs takes 8 kB
// of a listing, so that gRPC's own limit would do for 500.
const answerMax = 256 << 20

// overGRPC returns a gRPC connection that begins with first and connects again
// when that ends.
func (l *dialer) overGRPC(first net.Conn) (*grpc.ClientConn, error) {
	spare := make(chan net.Conn, 1)
	spare <- first
	conn, err := grpc.NewClient("passthrough:///"+l.path,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the socket's mode and the server's check of our uid protect it
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case c := <-spare:
				return c, nil
			default:
				return l.dial(ctx)
			}
		}),
		grpc.WithAuthority("localhost"), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerMax)),
		grpc.WithUnaryInterceptor(callUnary), grpc.WithStreamInterceptor(callStream))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", l.path, err)
	}
	return conn, nil
}

// mayComeBack reports whether err looks like a dataplane that has died just
// now: nobody listens on its socket, or it hung up.
func mayComeBack(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) || hungUp(err) }

func hungUp(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == nil && e.Code == codes.Unavailable
}

// explain says what a failed attempt means.
func (l *dialer) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: looked at %s; start it with `millrace run --run-dir %s`", ErrNotRunning, l.path, l.dir)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody listens on %s, which an earlier one left; start it with `millrace run --run-dir %s`", ErrNotRunning, l.path, l.dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s belongs to another user: call as that user or as root", ErrDenied, l.path)
	case hungUp(err):
		return fmt.Errorf("%w: whoever listens on %s hangs up on us (it is of another user, or no dataplane): %w", ErrDenied, l.path, err)
	case errors.As(err, new(*Error)):
		return err
	}
	return fmt.Errorf("connect to %s: %w", l.path, err)
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

func withVersion(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, VersionKey, Version())
}

func callUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return FromStatus(invoke(withVersion(ctx), method, req, reply, cc, opts...))
}

func callStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(withVersion(ctx), desc, cc, method, opts...)
	return typedStream{s}, FromStatus(err)
}

// A typedStream returns errors of this API.
type typedStream struct{ grpc.ClientStream }

// RecvMsg implements grpc.ClientStream.
func (s typedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if _, ok := status.FromError(err); ok {
		return FromStatus(err)
	}
	return err // io.EOF
}

// Entries collects what ListEntries streams. An empty bridge means all.
func (c *Client) Entries(ctx context.Context, bridge string) (*ListEntriesResponse, error) {
	s, err := c.ListEntries(ctx, &ListEntriesRequest{Bridge: bridge})
	if err != nil {
		return nil, err
	}
	all := &ListEntriesResponse{}
	for {
		part, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all.Entries = append(all.Entries, part.GetEntries()...)
		all.Wires = append(all.Wires, part.GetWires()...)
	}
}

// changesPerMessage is how many changes of a transaction go into one message.
// Sets of many members take a message by themselves.
const (
	changesPerMessage = 256
	numbersPerMessage = 1 << 15
)

// Transact makes one transaction of changes, in their order. What is refused is
// in the answer, or, if that refuses the whole transaction, in Error.Refused.
func (c *Client) Transact(ctx context.Context, allowPartial bool, changes iter.Seq[*FlowChange]) (*TransactResponse, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream where we return early
	defer cancel()
	stream, err := c.Flows.Transact(ctx)
	if err != nil {
		return nil, err
	}
	m, numbers := &TransactRequest{AllowPartial: allowPartial}, 0
	for change := range changes {
		m.Changes = append(m.Changes, change)
		numbers += len(change.GetSet().GetMembers()) + len(change.GetAddMembers().GetMembers())
		if len(m.GetChanges()) < changesPerMessage && numbers < numbersPerMessage {
			continue
		}
		if err := stream.Send(m); err != nil {
			return answer(stream) // which knows why
		}
		m, numbers = &TransactRequest{Changes: m.GetChanges()[:0]}, 0
	}
	if len(m.GetChanges()) > 0 || m.GetAllowPartial() {
		if err := stream.Send(m); err != nil {
			return answer(stream)
		}
	}
	return answer(stream)
}

// answer closes a stream of changes and takes the answer.
func answer(stream Flows_TransactClient) (*TransactResponse, error) {
	r, err := stream.CloseAndRecv()
	if err != nil {
		return nil, FromStatus(err)
	}
	return r, nil
}
