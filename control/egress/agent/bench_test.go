package agent

import (
	"io"
	"net"
	"sync"
	"testing"

	"millrace/control/egress/konntest"
)

// benched is an agent, its server, and an echo. The server shares the process.
func benched(b *testing.B) (s *konntest.Server, target string) {
	b.Helper()
	s = &konntest.Server{ID: "s1"}
	start(b, nil, s)
	return s, listen(b, echo)
}

// BenchmarkConnect is a new connection on which a KiB comes back, 16 at a time.
func BenchmarkConnect(b *testing.B) {
	s, target := benched(b)
	b.ReportAllocs()
	var all sync.WaitGroup
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	b.ResetTimer()
	for range 16 {
		all.Go(func() {
			for range work {
				if err := probe(b, ways[1], s, target); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
}

// opened are connections to a target.
func opened(b *testing.B, s *konntest.Server, target string, n int) (conns []net.Conn) {
	b.Helper()
	for range n {
		c, err := s.DialHTTP(b, b.Context(), target)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// BenchmarkExchange has a KiB come back on each of 16 open connections.
func BenchmarkExchange(b *testing.B) {
	s, target := benched(b)
	conns := opened(b, s, target, 16)
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for i, c := range conns {
		all.Go(func() {
			for range (b.N + i) / len(conns) {
				if err := ping(c, 1024); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
}

// BenchmarkDown is a MiB of a download.
func BenchmarkDown(b *testing.B) {
	s, _ := benched(b)
	c := opened(b, s, listen(b, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = io.Copy(c, zeros{})
	}), 1)[0]
	if _, err := c.Write([]byte("x")); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := io.CopyN(io.Discard, c, int64(b.N)<<20); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
}

// BenchmarkUp is a MiB of an upload.
func BenchmarkUp(b *testing.B) {
	s, _ := benched(b)
	got := make(chan struct{})
	c := opened(b, s, listen(b, func(c *net.TCPConn) { _, _ = io.CopyN(io.Discard, c, int64(b.N)<<20); got <- struct{}{} }), 1)[0]
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := io.CopyN(c, zeros{}, int64(b.N)<<20); err != nil {
		b.Fatal(err)
	}
	<-got
	b.StopTimer()
}
