package agent

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A slowConn is a peer that takes a write when it is let, and keeps what it took.
type slowConn struct {
	net.Conn
	let  chan error
	mu   sync.Mutex
	took [][]byte
	over chan struct{}
	once sync.Once
}

func newSlowConn() *slowConn { return &slowConn{let: make(chan error), over: make(chan struct{})} }

func (c *slowConn) Write(b []byte) (int, error) {
	select {
	case err := <-c.let:
		if err != nil {
			return 0, err
		}
	case <-c.over:
		return 0, net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, bytes.Clone(b))
	return len(b), nil
}

func (c *slowConn) Close() error {
	c.once.Do(func() { close(c.over) })
	return nil
}

func (c *slowConn) sizes() (all []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.took {
		all = append(all, len(b))
	}
	return all
}

// TestGather: what is written while the peer takes nothing goes out together, and what
// fills a record by itself, after what was before it.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSlowConn()
		g := newGatherer(c)
		write(t, g, 10)
		synctest.Wait() // it waits for the peer
		for range 20 {
			write(t, g, 1024)
		}
		go func() { write(t, g, gatherLarge) }()
		synctest.Wait()
		for range 3 {
			c.let <- nil
			synctest.Wait()
		}
		if got := c.sizes(); len(got) != 3 || got[0] != 10 || got[1] != 20*1024 || got[2] != gatherLarge {
			t.Errorf("writes of %v bytes", got)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

func write(t *testing.T, c io.Writer, n int) {
	t.Helper()
	if got, err := c.Write(make([]byte, n)); got != n || err != nil {
		t.Errorf("%d of %d bytes were written: %v", got, n, err)
	}
}

// TestGatherBounded: a peer that takes nothing makes its writers wait, and does not keep
// Close for longer than closeMost.
func TestGatherBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGatherer(newSlowConn())
		ends := make(chan error, 1)
		var written int
		go func() {
			for {
				if _, err := g.Write(make([]byte, 1000)); err != nil {
					ends <- err
					return
				}
				written += 1000
			}
		}()
		synctest.Wait()
		if written > 2*gatherMost {
			t.Errorf("%d bytes wait", written)
		}
		start := time.Now()
		_ = g.Close()
		if took := time.Since(start); took != closeMost {
			t.Errorf("Close took %v", took)
		}
		if err := <-ends; !errors.Is(err, net.ErrClosed) {
			t.Errorf("who waited for the peer got %v", err)
		}
	})
}

// TestGatherFails: the next write has the error of what was sent, and whoever reads the
// connection sees it closed.
func TestGatherFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSlowConn()
		g := newGatherer(c)
		write(t, g, 10)
		c.let <- io.ErrShortWrite
		<-c.over
		synctest.Wait()
		if _, err := g.Write(make([]byte, 10)); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("the error of a later write is %v", err)
		}
		if _, err := g.Write(make([]byte, gatherLarge)); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("the error of a later large write is %v", err)
		}
	})
}

// TestGatherOrder: writes of all sizes come out in order, up to Close.
func TestGatherOrder(t *testing.T) {
	near, far := tcpPair(t)
	g := newGatherer(near)
	r := rand.New(rand.NewPCG(1, 2))
	var want []byte
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(far)
		got <- b
	}()
	for i := range 2000 {
		n := 1 + r.IntN(2000)
		if i%50 == 0 {
			n = gatherLarge + r.IntN(50000)
		}
		b := bytes.Repeat([]byte{byte(i)}, n)
		want = append(want, b...)
		if _, err := g.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("%d bytes were written, %d others came", len(want), len(b))
	}
}
