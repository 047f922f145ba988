package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

	"millrace/control/egress/konntest"
	"millrace/waittest"
)

// A halfClosed is a stream as gRPC has it: a packet after CloseSend is an error, and
// breaks it.
type halfClosed struct {
	grpc.ClientStream
	closed, broken bool
	sent           int
}

func (h *halfClosed) CloseSend() error { h.closed = true; return nil }

func (h *halfClosed) SendMsg(any) error {
	h.sent++
	h.broken = h.broken || h.closed
	return nil
}

// TestLatePackets: packets about connections that are long gone, on a stream that was
// closed, are not answered any more: gRPC would break the stream off with an error.
func TestLatePackets(t *testing.T) {
	h := new(halfClosed)
	a := New(Config{})
	s := &stream{link: &link{agent: a}, cs: h, cancel: func() {}, dials: map[int64]*request{}, requests: map[int64]*request{}}
	late := []*konn.Packet{dataPacket(1, []byte("x")), {Type: konn.PacketType_CLOSE_REQ}, {Type: konn.PacketType_DRAIN}}
	for _, p := range late {
		s.take(p)
	}
	if h.sent != 2 || h.closed {
		t.Fatalf("%d packets were answered, want 2: the test shows nothing", h.sent)
	}
	s.finish()
	s.finish()
	for _, p := range late {
		s.take(p)
	}
	s.drain()
	if h.broken || !h.closed {
		t.Errorf("a packet was sent on a closed stream: %+v", h)
	}
}

// TestFinishDoesNotWait: a stream on which a packet waits for the server does not hold
// up who looks after all of them.
func TestFinishDoesNotWait(t *testing.T) {
	canceled := make(chan struct{})
	s := &stream{link: &link{agent: New(Config{})}, cs: new(halfClosed), cancel: func() { close(canceled) }}
	s.sendMu.Lock() // as one does who waits
	defer s.sendMu.Unlock()
	finished := make(chan struct{})
	go func() { defer close(finished); s.finish() }()
	select {
	case <-finished:
	case <-time.After(waittest.Most):
		t.Fatal("it waits")
	}
	select {
	case <-canceled:
	case <-time.After(waittest.Most):
		t.Error("the stream is not broken off")
	}
}

// TestStreamEnds: a server that ends a stream, in good order or not, ends no other:
// connections on the same link go on, and another stream takes its place.
func TestStreamEnds(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	full := func() bool { _, ready := s.Backends(); return ready == 8 }
	eventually(t, "all idle streams", full)
	target := listen(t, echo)
	long, err := s.DialHTTP(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	eventually(t, "both connections to the server", func() bool { return len(r.Status().Links) == 2 })
	links := r.Status().Links
	for _, why := range []error{nil, errors.New("no reason"), status.Error(codes.Canceled, "retired"), status.Error(codes.Internal, "broken")} {
		for range 8 {
			seen := len(s.Metadata())
			if err := s.EndStream(why); err != nil {
				t.Fatal(err)
			}
			eventually(t, "another stream", func() bool { return len(s.Metadata()) > seen })
		}
		eventually(t, "all idle streams again", full)
		_ = long.SetDeadline(time.Now().Add(probeTime))
		if err := ping(long, 100); err != nil {
			t.Fatalf("after streams that ended with %v: %v", why, err)
		}
	}
	for i, l := range r.Status().Links {
		if !l.Since.Equal(links[i].Since) {
			t.Errorf("the connection to the server was given up: %+v", l)
		}
	}
}

// TestTokenExpires: a server that takes no more streams, for the token has expired,
// is told of in words, and what is open goes on. A new token is taken when it is there.
func TestTokenExpires(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	s := &konntest.Server{ID: "s1", Token: "old"}
	r := start(t, func(c *Config) { c.Files.Token = file }, s)
	eventually(t, "both connections to the server", func() bool { return len(r.Status().Links) == 2 })
	links := r.Status().Links
	target := listen(t, echo)
	long, err := s.DialHTTP(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	s.SetToken("new")
	// Idle streams are still there: requests are answered, and their replacements refused.
	for range 20 {
		if err := probe(t, ways[1], s, target); err != nil {
			t.Fatalf("with a token that has expired: %v", err)
		}
	}
	eventually(t, "trouble", func() bool { return strings.Contains(r.Status().Trouble, "token is not valid") })
	failures := "konnectivity_network_proxy_agent_server_connection_failure_count"
	if r.metric(t, failures, "", "") == 0 {
		t.Error("no failure is counted")
	}
	if err := ping(long, 100); err != nil {
		t.Fatalf("a connection that was open: %v", err)
	}
	write("new")
	eventually(t, "no trouble", func() bool { return r.Status().Trouble == "" })
	eventually(t, "all idle streams again", func() bool { _, ready := s.Backends(); return ready >= 8 })
	if err := ping(long, 100); err != nil {
		t.Fatalf("a connection that was open: %v", err)
	}
	for i, l := range r.Status().Links {
		if !l.Since.Equal(links[i].Since) {
			t.Errorf("the connection to the server was given up: %+v", l)
		}
	}
}
