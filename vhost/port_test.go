package vhost

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/vhost/message"
)

// meet connects a peer to a port of either role: listener is the peer's, for
// role Connect.
func meet(t testing.TB, p *Port, front *peer, listener *net.UnixListener) {
	t.Helper()
	if listener == nil {
		front.dial(p.opts.Path)
		return
	}
	_ = listener.SetDeadline(time.Now().Add(deadline))
	c, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	front.attach(c)
}

func listenAt(t testing.TB, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestForward sends frames through a port in both roles, with each kind of
// header and of rings, loses the peer twice, and sends more: the rings go on
// where they were.
func TestForward(t *testing.T) {
	for _, role := range []struct {
		name string
		role Role
	}{{"listen", Listen}, {"connect", Connect}} {
		for _, tt := range []struct {
			name  string
			feats message.Features
		}{
			{"modern", modern},
			{"no mergeable buffers", modern &^ message.NetFMrgRxbuf},
			{"no event index", modern &^ message.RingFEventIdx},
			{"no protocol features", modern &^ message.FProtocolFeatures},
			{"legacy", message.FProtocolFeatures},
		} {
			t.Run(role.name+" "+tt.name, func(t *testing.T) {
				leaks(t)
				l := newLoop(t)
				path := socket(t)
				var listener *net.UnixListener
				if role.role == Connect {
					listener = listenAt(t, path)
				}
				p := l.open(t, Options{Name: "p", Path: path, Role: role.role})
				front := newPeer(t, true)
				for life := range 3 {
					meet(t, p, front, listener)
					front.setUp(tt.feats, 1)
					st := p.State()
					if st.Link != LinkUp || st.Queues != 1 || st.Regions != 1 || st.Connects != uint64(life+1) {
						t.Fatalf("life %d: state %+v", life, st)
					}
					front.pump(300)
					front.hangUp()
				}
				st := waitLink(t, p, LinkWaiting)
				if st.Breaks != 0 || st.Peer != "" || len(st.Features) != 0 {
					t.Errorf("state %+v", st)
				}
			})
		}
	}
}

// TestAttach measures the time from a peer's first message to its first frame.
func TestAttach(t *testing.T) {
	leaks(t)
	l := newLoop(t)
	front := newPeer(t, true)
	const most = 5 * time.Millisecond
	best := time.Hour
	// Others may have the CPUs for a while: what is slow in itself is slow each time.
	deadline := time.Now().Add(30 * time.Second)
	for try := 0; try < 20 || best > most && time.Now().Before(deadline); try++ {
		p := l.open(t, Options{Path: socket(t)}) // another port: one that has just lost a peer pauses
		front.dial(p.opts.Path)
		start := time.Now()
		front.setUp(modern, 1)
		front.pump(1)
		best = min(best, time.Since(start))
		front.hangUp()
		waitLink(t, p, LinkWaiting)
	}
	t.Logf("attached in %v", best)
	if best > most {
		t.Errorf("the fastest took %v, want at most %v", best, most)
	}
}

// TestReasons follows the state of a port from nothing to forwarding.
func TestReasons(t *testing.T) {
	leaks(t)
	l := newLoop(t)
	path := socket(t)
	p := l.open(t, Options{Path: path, Role: Connect, MTU: 1500})
	reason := func(want string) {
		t.Helper()
		eventually(t, want+", at the end "+p.State().Reason, func() bool { return strings.Contains(p.State().Reason, want) })
	}
	reason("no such socket")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reason("nobody listens")
	_ = os.Remove(path)
	listener := listenAt(t, path)
	front := newPeer(t, true)
	meet(t, p, front, listener)
	reason("waiting for features")
	front.greet(modern | message.NetFMTU)
	reason("waiting for memory table")
	front.makeRings(modern, 1)
	front.tell(message.SetMemTable, front.table(), message.FD(front.fd))
	reason("waiting for size of ring 0")
	front.startRing(0, 0)
	reason("waiting for queue 0 to be enabled")
	front.tell(message.SetVringEnable, state(0, 1))
	reason("waiting for size of ring 1")
	front.startRing(1, 0)
	front.tell(message.SetVringEnable, state(1, 1))
	reason("forwarding")
	st := p.State()
	if !strings.Contains(st.Peer, "pid") || !slices.Contains(st.Features, "NET_F_MTU") || !slices.Contains(st.Features, "PROTOCOL_F_MQ") {
		t.Errorf("state %+v", st)
	}
	front.pump(10)
	front.tell(message.SetVringEnable, state(0, 0))
	reason("waiting for queue 0 to be enabled")
	front.hangUp()
	waitLink(t, p, LinkWaiting)
}

// TestListen makes sockets where something is already.
func TestListen(t *testing.T) {
	leaks(t)
	t.Run("stale", func(t *testing.T) {
		path := socket(t)
		old := listenAt(t, path)
		old.SetUnlinkOnClose(false)
		_ = old.Close()
		p, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != DefaultMode {
			t.Errorf("socket has mode %v, %v", st.Mode(), err)
		}
		_ = p.Close()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket after Close: %v", err)
		}
	})
	t.Run("alive", func(t *testing.T) {
		path := socket(t)
		listenAt(t, path)
		if _, err := Open(Options{Path: path}); !errors.Is(err, ErrInUse) {
			t.Errorf("got %v, want ErrInUse", err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		path := socket(t)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Path: path}); !errors.Is(err, ErrInUse) {
			t.Errorf("got %v, want ErrInUse", err)
		}
	})
	t.Run("replaced", func(t *testing.T) {
		path := socket(t)
		p, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path)
		other := listenAt(t, path)
		_ = p.Close()
		if _, err := os.Stat(path); err != nil {
			t.Errorf("another's socket was removed: %v", err)
		}
		_ = other.Close()
	})
	for _, o := range []Options{{}, {Path: strings.Repeat("x", 108)}, {Path: "p", Queues: QueuesMax + 1}, {Path: "p", MTU: 60}, {Path: "p", MTU: 9715}, {Path: "p", Role: 2}} {
		if _, err := Open(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: got %v, want ErrOptions", o, err)
		}
	}
}

// TestSecondConnection turns away a second peer while the first lives, and
// takes one at once when the first is dead, however fast it comes.
func TestSecondConnection(t *testing.T) {
	leaks(t)
	l := newLoop(t)
	p := l.open(t, Options{Path: socket(t)})
	first, second := newPeer(t, true), newPeer(t, true)
	first.dial(p.opts.Path)
	first.setUp(modern, 1)
	for range 3 {
		second.dial(p.opts.Path)
		if _, err := second.conn.Read(); !errors.Is(err, message.ErrPeerClosed) {
			t.Fatalf("second connection: %v", err)
		}
		second.hangUp()
	}
	first.pump(100)
	if st := p.State(); st.Refused != 3 || st.Connects != 1 {
		t.Errorf("state %+v", st)
	}
	for range 20 {
		first.hangUp()
		first.dial(p.opts.Path)
		first.setUp(modern, 1)
		first.pump(5)
	}
	if st := p.State(); st.Refused != 3 || st.Connects != 21 || st.Breaks != 0 {
		t.Errorf("state %+v", st)
	}
}

// TestClose ends a port in each of its phases.
func TestClose(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(p *Port, front *peer)
	}{
		{"waiting", func(*Port, *peer) {}},
		{"connected", func(p *Port, front *peer) { front.dial(p.opts.Path) }},
		{"in a message", func(p *Port, front *peer) {
			c, err := net.Dial("unix", p.opts.Path)
			if err != nil {
				t.Fatal(err)
			}
			front.attach(c.(*net.UnixConn))
			_, _ = c.Write([]byte{1, 0, 0})
		}},
		{"up", func(p *Port, front *peer) {
			front.dial(p.opts.Path)
			front.setUp(modern, 1)
			front.pump(10)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaks(t)
			l := newLoop(t)
			p := l.open(t, Options{Path: socket(t)})
			front := newPeer(t, true)
			tt.do(p, front)
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if p.State().Link != LinkWaiting || p.rx[0].WakeFD() != wakeNone {
				t.Errorf("state %+v", p.State())
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("connecting", func(t *testing.T) {
		leaks(t)
		p, err := Open(Options{Path: socket(t), Role: Connect})
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Close()
	})
}

// TestNoDirectory: the error says which one to make.
func TestNoDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := Open(Options{Path: filepath.Join(dir, "p")}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "make directory "+dir+" first") {
		t.Errorf("got error %v", err)
	}
}

// TestCallFull fills the call eventfd and makes it blocking, as only a hostile
// peer does: the worker that signals must get on, and the peer must go.
func TestCallFull(t *testing.T) {
	l, p, front := joined(t, Options{})
	front.setUp(modern&^message.RingFEventIdx, 1)
	front.pump(10)
	front.recvs[0].Arm()
	if err := unix.SetNonblock(front.calls[0].Int(), false); err != nil {
		t.Fatal(err)
	}
	sys8 := [8]byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for { // a signal may slip in between
		var b [8]byte
		_ = unix.SetNonblock(front.calls[0].Int(), true)
		_, _ = unix.Read(front.calls[0].Int(), b[:])
		if _, err := unix.Write(front.calls[0].Int(), sys8[:]); err == nil {
			break
		}
	}
	_ = unix.SetNonblock(front.calls[0].Int(), false)
	front.send(0, 1)
	eventually(t, "peer cut off", func() bool { return p.State().Breaks == 1 })
	if st := p.State(); !strings.Contains(st.LastBreak, "call eventfd of ring 0 was full") {
		t.Errorf("reason %q", st.LastBreak)
	}
	l.quiesce() // the worker is not held up any more
}
