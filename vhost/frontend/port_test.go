package frontend

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"millrace/dataplane/sys"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// exchange sends n numbered frames on pair q and waits for all of them to come
// back, in order.
func exchange(t *testing.T, q *Pair, first, n int) {
	t.Helper()
	next := first
	for sent := 0; sent < n || next < first+n; {
		k := min(q.Tx.Room(16), n-sent, 16)
		for i := range k {
			b := q.Tx.Buffer(i)
			binary.BigEndian.PutUint32(q.Tx.Frame(b)[14:], uint32(first+sent+i))
			q.Tx.SetLen(b, 60+(sent+i)%1400)
		}
		q.Tx.Send(k)
		sent += k
		if q.Tx.ShouldKick() {
			sys.Signal(q.TxRing.Kick)
		}
		err := eventually(func() bool {
			for {
				f, ok := q.Rx.Next()
				if !ok {
					break
				}
				if got := int(binary.BigEndian.Uint32(f[14:])); got != next || len(f) != 60+(next-first)%1400 {
					t.Fatalf("frame %d of %d bytes, want %d", got, len(f), next)
				}
				next++
			}
			q.Rx.Release()
			return next == first+sent
		})
		if err != nil {
			t.Fatalf("frame %d: %v (%v, %v)", next, err, q.Tx.Err(), q.Rx.Err())
		}
	}
}

func connect(t *testing.T, cfg Config, b *backEnds) (*Port, *echo) {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return p, reconnect(t, p, b)
}

func reconnect(t *testing.T, p *Port, b *backEnds) *echo {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Connect(ctx) }()
	e := b.next()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return e
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// TestExchange carries frames in every role and with every kind of back end.
func TestExchange(t *testing.T) {
	const none = message.Features(0)
	for _, tt := range []struct {
		name     string
		cfg      Config
		features message.Features
		protocol message.ProtocolFeatures
	}{
		{"connect", Config{}, DefaultFeatures, DefaultProtocol},
		{"listen", Config{Listen: true}, DefaultFeatures, DefaultProtocol},
		{"four pairs", Config{Queues: 4}, DefaultFeatures, DefaultProtocol},
		{"memory table", Config{Regions: 5, Queues: 3}, DefaultFeatures, DefaultProtocol &^ message.ProtocolFConfigureMemSlots},
		{"memory slots", Config{Regions: 12, Queues: 4}, DefaultFeatures, DefaultProtocol},
		{"no acknowledgements", Config{}, DefaultFeatures, message.ProtocolFMQ},
		{"no protocol features", Config{}, DefaultFeatures &^ message.FProtocolFeatures, 0},
		{"nothing", Config{}, none, 0},
		{"merged", Config{RxBuffer: 500}, DefaultFeatures, DefaultProtocol},
		{"no event index", Config{Without: message.RingFEventIdx | message.NetFMrgRxbuf}, DefaultFeatures, DefaultProtocol},
		{"near the wrap of indices", Config{RingSize: 32, Interrupt: true}, DefaultFeatures, DefaultProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := openFiles(t)
			tt.cfg.Path = socketPath(t)
			b := newBackEnds(t, tt.cfg.Path, !tt.cfg.Listen, func(e *echo) { e.features, e.protocol = tt.features, tt.protocol })
			p, e := connect(t, tt.cfg, b)
			for i, q := range p.Pairs() {
				exchange(t, q, 1000*i, 700)
			}
			if want := tt.features &^ tt.cfg.Without; p.Session().Features != want {
				t.Errorf("features %v, want %v", p.Session().Features, want)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			e.kill()
			if b.l != nil {
				b.l.Close()
			}
			if n := openFiles(t); n != before {
				t.Errorf("%d open files, %d before", n, before)
			}
		})
	}
}

// TestResume loses the back end in several ways: the rings go on where they
// were, with nothing lost and nothing twice.
func TestResume(t *testing.T) {
	for _, listen := range []bool{false, true} {
		cfg := Config{Path: socketPath(t), Listen: listen, MTU: 9000}
		b := newBackEnds(t, cfg.Path, !listen, nil)
		p, e := connect(t, cfg, b)
		q := p.Pairs()[0]
		exchange(t, q, 0, 300)
		e.mu.Lock()
		if e.mtu != 9000 || e.status != 15 {
			t.Errorf("back end was told MTU %d and status %#x", e.mtu, e.status)
		}
		e.mu.Unlock()

		e.kill()
		<-p.Session().Lost()
		if p.Up() || !errors.Is(p.Session().Err(), ErrLost) {
			t.Errorf("up after a kill: %v", p.Session().Err())
		}
		q.Tx.Send(0)
		e = reconnect(t, p, b)
		exchange(t, q, 300, 300)

		p.Drop()
		e.kill()
		e = reconnect(t, p, b)
		exchange(t, q, 600, 300)

		if err := p.Reset(); err != nil {
			t.Fatal(err)
		}
		exchange(t, q, 900, 300)
		bases, err := p.Stop()
		if err != nil || bases[0] != 1200 || bases[1] != 1200 {
			t.Fatalf("stopped at %v: %v", bases, err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		exchange(t, q, 1200, 100)
		if err := p.Enable(0, false); err != nil {
			t.Error(err)
		}
		e.mu.Lock()
		if e.rings[0].enabled || e.rings[1].enabled {
			t.Error("enabled after Enable(0, false)")
		}
		e.mu.Unlock()
		if err := p.Enable(0, true); err != nil {
			t.Error(err)
		}
		exchange(t, q, 1300, 100)
	}
}

// TestRun keeps a port connected while its back end comes and goes.
func TestRun(t *testing.T) {
	news := make(chan error, 100)
	cfg := Config{Path: socketPath(t), Changed: func(err error) { news <- err }}
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	b := newBackEnds(t, cfg.Path, true, nil)
	for i := range 20 {
		e := b.next()
		if err := p.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-news; err != nil {
			t.Fatal(err)
		}
		exchange(t, p.Pairs()[0], i*50, 50)
		e.kill()
		if err := <-news; !errors.Is(err, ErrLost) {
			t.Fatalf("told %v, want ErrLost", err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestRefused meets back ends that cannot be worked with.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		tune func(*echo)
		want error
		text string
	}{
		{"refuses memory", func(e *echo) { e.refuse = message.AddMemReg }, ErrRefused, "ADD_MEM_REG"},
		{"refuses a ring", func(e *echo) { e.refuse = message.SetVringAddr }, ErrRefused, "ring 0"},
		{"says nothing", func(e *echo) { e.silent = message.SetOwner }, nil, "no answer"},
		{"too few queues", func(e *echo) { e.protocol &^= message.ProtocolFMQ }, ErrRefused, "queue pairs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := openFiles(t)
			path := socketPath(t)
			b := newBackEnds(t, path, true, tt.tune)
			timeout := time.Minute
			if tt.want == nil { // an answer that does not come is waited for
				timeout = 200 * time.Millisecond
			}
			p, err := Open(Config{Path: path, Queues: 2, Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- p.Connect(context.Background()) }()
			e := b.next()
			err = <-done
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got error %v, want %v with %q", err, tt.want, tt.text)
			}
			p.Kill()
			e.kill()
			b.l.Close()
			if n := openFiles(t); n != before {
				t.Errorf("%d open files, %d before", n, before)
			}
		})
	}
}

// TestChanged meets a back end that offers less than the one before it.
func TestChanged(t *testing.T) {
	path := socketPath(t)
	less := message.Features(0)
	b := newBackEnds(t, path, true, func(e *echo) { e.features &^= less })
	p, e := connect(t, Config{Path: path}, b)
	e.kill()
	less = message.NetFMrgRxbuf
	done := make(chan error, 1)
	go func() { done <- p.Run(context.Background()) }()
	b.next()
	if err := <-done; !errors.Is(err, ErrChanged) {
		t.Errorf("got error %v, want ErrChanged", err)
	}
}

// TestGiveUp ends a wait for a back end that does not come.
func TestGiveUp(t *testing.T) {
	for _, listen := range []bool{false, true} {
		p, err := Open(Config{Path: socketPath(t), Listen: listen})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			if err := p.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got error %v", err)
			}
			cancel()
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
}

// TestAttach lays a driver for chains over the rings by hand.
func TestAttach(t *testing.T) {
	path := socketPath(t)
	b := newBackEnds(t, path, true, nil)
	var d *virtq.Driver
	p, _ := connect(t, Config{Path: path, Extra: 1 << 16, Attach: func(p *Port) error {
		r := p.Pairs()[0].TxRing
		r.Base = 65535
		var err error
		d, err = virtq.NewDriver(virtq.DriverConfig{Layout: r.Layout, Base: r.Base, EventIdx: p.Features().Has(message.RingFEventIdx)}, virtq.Area{})
		r.SetPosition(d.Used)
		return err
	}}, b)
	a, err := p.Memory().Area(0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, ok := d.Add([]virtq.Buffer{{GPA: a.GPA, Len: 7}, {GPA: a.GPA + 7, Len: 80}}, 0); !ok {
			t.Fatal("no room in an empty ring")
		}
		d.Show()
		if err := eventually(func() bool { _, ok := d.Reap(); return ok }); err != nil {
			t.Fatal(err, d.Err())
		}
	}
}
