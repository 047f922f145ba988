package agent

import (
	"net"
	"sync"
	"testing"
	"time"

	"millrace/control/egress/konntest"
)

// A gate is a listener that takes connections while it is not locked.
type gate struct {
	net.Listener
	sync.Mutex
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	g.Lock()
	defer g.Unlock()
	return c, err
}

// TestIdleAfterFailures: a link that fails has its idle streams made up for by others, and
// when it is back there are no more of them than before.
func TestIdleAfterFailures(t *testing.T) {
	t.Parallel() // it waits, for the most part
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, g := &konntest.Server{ID: "s1"}, &gate{Listener: l}
	s.Serve(g)
	t.Cleanup(s.Stop)
	r := start(t, nil, s)
	whole := func() bool {
		_, ready := s.Backends()
		return ready == r.cfg.Idle
	}
	for range 2 {
		eventually(t, "the links have their idle streams, and no more", whole)
		g.Lock()
		open := sync.OnceFunc(g.Unlock)
		t.Cleanup(open)
		r.anyLink().tcp.Load().Close()
		eventually(t, "the link is missed", func() bool { return r.linkCount() < r.cfg.Links })
		eventually(t, "the other makes up for it", func() bool { return r.waiting() == r.cfg.Idle && whole() })
		open()
		eventually(t, "the link is back", func() bool { return r.linkCount() == r.cfg.Links })
	}
	time.Sleep(2 * linger) // until it has its streams
	eventually(t, "there are as many idle streams as before", func() bool { return r.waiting() == r.cfg.Idle && whole() })
	for _, w := range ways {
		if err := probe(t, w, s, listen(t, echo)); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
	}
}

func (r *rig) linkCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.links)
}

// waiting is how many streams of links that are there wait for dials.
func (r *rig) waiting() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.links {
		n += l.waiting()
	}
	return n
}

func (r *rig) anyLink() *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.links {
		return l
	}
	panic("no link")
}
