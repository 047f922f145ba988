package api

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"millrace/waittest"
)

// TestErrorRoundTrip: an error that goes over the wire comes back the same.
func TestErrorRoundTrip(t *testing.T) {
	for _, k := range kinds() {
		in := &Error{Kind: k.err, Text: "add port p1: so it is"}
		var out *Error
		if !errors.As(FromStatus(in.GRPCStatus().Err()), &out) || !errors.Is(out, k.err) || out.Text != in.Text || out.Code != k.code {
			t.Errorf("%v came back as %#v", k.err, out)
		}
	}
	var out *Error
	if !errors.As(FromStatus(status.Convert(Invalid("spec.tag", "spec.tag: no")).Err()), &out) || out.Field != "spec.tag" || out.Text != "spec.tag: no" {
		t.Errorf("field is lost: %#v", out)
	}
	if !errors.As(FromStatus((&Error{Code: codes.Internal, Text: "x"}).GRPCStatus().Err()), &out) || out.Kind != nil || out.Code != codes.Internal {
		t.Errorf("error without a kind came back as %#v", out)
	}
}

// TestFromStatusLeaves what did not come from gRPC.
func TestFromStatusLeaves(t *testing.T) {
	for _, err := range []error{nil, io.EOF, os.ErrNotExist} {
		if got := FromStatus(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// leave makes a socket that nobody listens on.
func leave(t *testing.T, dir string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, SocketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

// TestDialSaysWhereItLooked and how to start a switch there.
func TestDialSaysWhereItLooked(t *testing.T) {
	empty, stale := t.TempDir(), t.TempDir()
	leave(t, stale)
	for _, tt := range []struct{ name, dir string }{
		{"no directory", filepath.Join(empty, "x")}, {"no socket", empty}, {"stale socket", stale}, {"a file for a directory", "/proc/version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Dial(t.Context(), tt.dir)
			if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), filepath.Join(tt.dir, SocketName)) || !strings.Contains(err.Error(), "millrace run --run-dir "+tt.dir) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// hangUp takes the place of the socket in dir, and hangs up on all who connect
// until the test ends. It returns the number of those.
func hangUp(t *testing.T, dir string) *atomic.Int32 {
	l, err := net.Listen("unix", filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, SocketName)); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			c.Close()
		}
	}()
	return &calls
}

// TestPatience: Dial waits for one that comes back, and not longer than it may.
func TestPatience(t *testing.T) {
	dir := t.TempDir()
	leave(t, dir)
	const patience = 200 * time.Millisecond
	began := time.Now()
	if _, err := Dial(t.Context(), dir, Patience(patience)); !errors.Is(err, ErrNotRunning) || time.Since(began) < patience {
		t.Fatalf("gave up after %v: %v", time.Since(began), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, dir, Patience(time.Hour)); err == nil {
		t.Fatal("connected to nobody")
	}
	calls := hangUp(t, dir)
	if _, err := Dial(t.Context(), dir, Patience(patience)); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v, want %v", err, ErrDenied)
	}
	ctx, cancel = context.WithCancel(t.Context())
	ended, before := make(chan error, 1), calls.Load()
	go func() {
		_, err := Dial(ctx, dir, Patience(time.Hour))
		ended <- err
	}()
	waittest.Until(t, "it tries again", func() bool { return calls.Load() >= before+3 })
	cancel()
	if err := <-ended; err == nil {
		t.Error("connected to one that hangs up")
	}
}
