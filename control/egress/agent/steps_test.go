package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/control/egress/konntest"
	"millrace/waittest"
)

// ping has n bytes come back.
func ping(c net.Conn, n int) error {
	sent, got := pattern(n, uint32(n)), make([]byte, n)
	if _, err := c.Write(sent); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(sent) != string(got) {
		return fmt.Errorf("of %d bytes others came back than were sent", n)
	}
	return nil
}

// TestGet is HTTP through both ways in.
func TestGet(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	start(t, nil, s)
	page := pattern(100_000, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })}
	go web.Serve(l)
	t.Cleanup(func() { _ = web.Close() })
	for _, w := range ways {
		c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return w.dial(s, t, ctx, addr) }}}
		for range 3 { // the second and third on the connection of the first
			resp, err := c.Get("http://" + l.Addr().String())
			if err != nil {
				t.Fatalf("%s: %v", w.name, err)
			}
			got, err := io.ReadAll(bufio.NewReader(resp.Body))
			_ = resp.Body.Close()
			if err != nil || string(got) != string(page) {
				t.Errorf("%s: %d bytes of the page: %v", w.name, len(got), err)
			}
		}
		c.CloseIdleConnections()
	}
}

// TestLongStreams are connections as websockets are: messages of any size go
// both ways at any time, with pauses, for long.
func TestLongStreams(t *testing.T) {
	t.Parallel()
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	target := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1)) // the library of clients loses what comes before it knows the connection
		go func() {                            // it speaks unasked, too
			for i := range 100 {
				time.Sleep(20 * time.Millisecond)
				if _, err := fmt.Fprintf(c, "!%06d", i); err != nil {
					return
				}
			}
		}()
		_, _ = io.Copy(io.Discard, c)
	})
	echoes := listen(t, echo)
	var all sync.WaitGroup
	for _, w := range ways {
		all.Go(func() { // hears
			c, err := w.dial(s, t, t.Context(), target)
			if err != nil {
				t.Errorf("%s: %v", w.name, err)
				return
			}
			defer c.Close()
			dead := time.AfterFunc(probeTime, func() { _ = c.Close() })
			defer dead.Stop()
			go func() {
				for range 50 {
					_, _ = c.Write(make([]byte, 1+rand.IntN(5000)))
					time.Sleep(37 * time.Millisecond)
				}
			}()
			for i := range 100 {
				got := make([]byte, 7)
				if _, err := io.ReadFull(c, got); err != nil || string(got) != fmt.Sprintf("!%06d", i) {
					open, ended := r.Requests()
					t.Errorf("%s: message %d is %q: %v; open %+v, ended %+v", w.name, i, got, err, open, ended)
					return
				}
			}
		})
		for range 5 { // talks
			all.Go(func() {
				c, err := w.dial(s, t, t.Context(), echoes)
				if err != nil {
					t.Errorf("%s: %v", w.name, err)
					return
				}
				defer c.Close()
				dead := time.AfterFunc(probeTime, func() { _ = c.Close() })
				defer dead.Stop()
				for range 60 {
					if err := ping(c, 1+rand.IntN(20_000)); err != nil {
						t.Errorf("%s: %v", w.name, err)
						return
					}
					time.Sleep(time.Duration(rand.IntN(70)) * time.Millisecond)
				}
			})
		}
	}
	all.Wait()
	eventually(t, "all have ended", func() bool { open, _ := r.Requests(); return len(open) == 0 })
}

// TestThousandOpen has a thousand connections open at the same time.
func TestThousandOpen(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			n, atOnce := 1000, 1000
			if w.name == "grpc" { // each is a gRPC connection of its own, with a patience of 10 s
				atOnce = 50
				if testing.Short() { // they take seconds with the race detector
					n = 200
				}
			}
			s := &konntest.Server{ID: "s1"}
			r := start(t, nil, s)
			target := listen(t, echo)
			conns := make([]net.Conn, n)
			each := func(what string, do func(i int) error) {
				t.Helper()
				var all sync.WaitGroup
				var next atomic.Int64
				for range atOnce {
					all.Go(func() {
						for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
							if err := do(i); err != nil {
								t.Errorf("%s %d: %v", what, i, err)
							}
						}
					})
				}
				all.Wait()
			}
			each("dial", func(i int) (err error) { conns[i], err = w.dial(s, t, t.Context(), target); return err })
			if t.Failed() {
				return
			}
			if open := r.Status().Requests; open != n {
				t.Errorf("%d of %d requests are open", open, n)
			}
			each("exchange", func(i int) error { return ping(conns[i], 1+i) })
			each("close", func(i int) error { return conns[i].Close() })
			eventually(t, "all have ended", func() bool { return r.Status().Requests == 0 })
			eventually(t, "their streams are gone", func() bool { all, ready := s.Backends(); return all == ready })
		})
	}
}

// TestClientAborts: a client goes at each step of a request's life. Each time the
// target is left, nothing stays open, and another connection goes on.
func TestClientAborts(t *testing.T) {
	t.Parallel() // it waits, for the most part
	s := &konntest.Server{ID: "s1"}
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	r := start(t, func(c *Config) {
		c.DialTimeout, c.CloseTimeout = 2*time.Second, time.Second
		c.StallTimeout = time.Second // a server that cannot send does not hear of its client
		c.Host = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "127.0.0.1:9" { // a target that does not answer
				select {
				case <-ctx.Done():
				case <-hang:
				}
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		})
	}, s)
	left := make(chan struct{}, 1)
	sink := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); left <- struct{}{} })
	deaf := listen(t, func(c *net.TCPConn) { <-hang })
	flood := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = io.Copy(c, zeros{})
		left <- struct{}{}
	})
	echoes := listen(t, echo)
	other, err := s.DialHTTP(t, t.Context(), echoes)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, step := range []struct {
		name, target string
		leaves       bool // the target sees it go
		act          func(c net.Conn)
	}{
		{"while the target is dialled", "127.0.0.1:9", false, nil},
		{"as soon as it is connected", sink, true, func(net.Conn) {}},
		{"after a byte", sink, true, func(c net.Conn) { _, _ = c.Write([]byte("x")) }},
		{"within an upload", sink, true, func(c net.Conn) { _, _ = c.Write(make([]byte, 300<<10)) }},
		{"within an upload that nobody reads", deaf, false, func(c net.Conn) {
			_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			go io.Copy(c, zeros{})
			time.Sleep(300 * time.Millisecond)
		}},
		{"within a download", flood, true, func(c net.Conn) {
			_, _ = c.Write([]byte("x"))
			_, _ = io.ReadFull(c, make([]byte, 100<<10))
		}},
		{"within a download that it does not read", flood, true, func(c net.Conn) {
			_, _ = c.Write([]byte("x"))
			time.Sleep(300 * time.Millisecond)
		}},
	} {
		for _, w := range ways {
			name := w.name + " " + step.name
			ctx, cancel := context.WithTimeout(t.Context(), probeTime)
			if step.act == nil {
				time.AfterFunc(200*time.Millisecond, cancel)
			}
			c, err := w.dial(s, t, ctx, step.target)
			if (err == nil) != (step.act != nil) {
				t.Fatalf("%s: %v", name, err)
			}
			if err == nil {
				step.act(c)
				_ = c.Close()
			}
			cancel()
			if step.leaves {
				select {
				case <-left:
				case <-time.After(waittest.Most):
					t.Fatalf("%s: the target is not left", name)
				}
			}
			for end := time.Now().Add(waittest.Most); r.Status().Requests != 1; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					open, ended := r.Requests()
					t.Fatalf("%s: %d requests stay open: %+v\nended: %+v", name, r.Status().Requests-1, open, ended)
				}
			}
			if err := ping(other, 1000); err != nil {
				t.Fatalf("%s: another connection: %v", name, err)
			}
		}
	}
}

// TestLeftDownload: a client that leaves a download leaves no download behind.
func TestLeftDownload(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	left := make(chan int64, 1)
	flood := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		n, _ := io.Copy(c, zeros{})
		left <- n
	})
	for _, w := range ways {
		c, err := w.dial(s, t, t.Context(), flood)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("x"))
		_, _ = io.ReadFull(c, make([]byte, 100<<10))
		_ = c.Close()
		select {
		case n := <-left:
			t.Logf("%s: the target has sent %d MiB", w.name, n>>20)
		case <-time.After(waittest.Most):
			t.Fatalf("%s: the target sends on", w.name)
		}
	}
	eventually(t, "nothing stays open", func() bool { return r.Status().Requests == 0 })
}
