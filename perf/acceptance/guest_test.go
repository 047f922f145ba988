package acceptance

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
	"millrace/waittest"
)

// guestEnv holds the guestConfig of a process that is to be a guest.
const guestEnv = "MILLRACE_ACCEPTANCE_GUEST"

// A guestConfig says what a guest process is.
type guestConfig struct {
	Path   string // of its socket
	Path2  string // if set: the process is a pair of guests, with two sockets
	Steady bool   // it is a steadyPair
	Listen bool
	Page   string // file
	Life   uint64 // number of the process, each higher than the one before
	Me     byte   // last byte of its address
	Peer   byte   // of the address that it sends to
	CPU    int
}

// Layout of a guest's frame after the Ethernet header, big endian; a CRC-32 of
// all that is between header and it comes last.
const (
	atLife  = 14
	atSeq   = 22
	atEpoch = 30
	atBody  = 38
	crcLen  = 4
)

// guestSizes are the lengths of frames, in turns. The longest comes in two
// buffers.
var guestSizes = [...]int{60, 61, 128, 200, 1514, 64, 3000, 60}

// A guest sends frames to another one and checks those that come from it.
type guest struct {
	cfg  guestConfig
	page *page
	port *frontend.Port
	seq  uint64
}

// guestMain is the process of a guest. It ends by being killed.
func guestMain(config string) error {
	g := &guest{}
	if err := json.Unmarshal([]byte(config), &g.cfg); err != nil {
		return err
	}
	switch {
	case g.cfg.Steady:
		return steadyMain(g.cfg)
	case g.cfg.Path2 != "":
		return pairMain(g.cfg)
	}
	var err error
	if g.page, err = mapPage(g.cfg.Page); err != nil {
		return err
	}
	g.port, err = frontend.Open(frontend.Config{
		Path: g.cfg.Path, Listen: g.cfg.Listen, RxBuffer: 2048, TxFrame: 4096, Retry: 5 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	g.page.life.Store(g.cfg.Life)
	g.page.up.Store(clock())
	failed := make(chan error, 1)
	go func() { failed <- g.port.Run(context.Background()) }()
	go func() { failed <- g.work() }()
	return <-failed
}

// work sends and receives.
func (g *guest) work() error {
	runtime.LockOSThread()
	if err := errors.Join(sys.Pin(g.cfg.CPU), g.port.Wait(context.Background())); err != nil {
		return err
	}
	pair := g.port.Pairs()[0]
	for {
		if n := g.page.drop.Load(); n != g.page.dropped.Load() {
			g.page.droppedAt.Store(clock())
			g.page.dropped.Store(n)
			g.port.Drop()
		}
		g.receive(pair)
		if err := g.send(pair); err != nil {
			return err
		}
		if err := errors.Join(pair.Rx.Err(), pair.Tx.Err()); err != nil {
			g.page.blame("ring: %v", err)
			return err
		}
		rest := unix.Timespec{Nsec: 20_000} // the CPU is the other guests', too
		_ = unix.Nanosleep(&rest, nil)      // a shorter one does no harm
	}
}

// send gives the switch as many frames as it takes, up to burst.
func (g *guest) send(pair *frontend.Pair) error {
	const burst = 100
	n := min(pair.Tx.Room(burst), burst)
	epoch := g.page.epoch.Load()
	for i := range n {
		b := pair.Tx.Buffer(i)
		size := guestSizes[g.seq%uint64(len(guestSizes))]
		f := pair.Tx.Frame(b)[:size]
		g.seq++
		ethernet(f, g.cfg.Peer, g.cfg.Me)
		binary.BigEndian.PutUint64(f[atLife:], g.cfg.Life)
		binary.BigEndian.PutUint64(f[atSeq:], g.seq)
		binary.BigEndian.PutUint64(f[atEpoch:], epoch)
		for j := atBody; j < size-crcLen; j++ {
			f[j] = byte(g.seq) + byte(j)
		}
		binary.BigEndian.PutUint32(f[size-crcLen:], crc32.ChecksumIEEE(f[14:size-crcLen]))
		pair.Tx.SetLen(b, size)
	}
	if n <= 0 {
		return nil
	}
	pair.Tx.Send(n)
	g.page.sent.Add(uint64(n))
	if pair.Tx.ShouldKick() {
		return sys.Signal(pair.TxRing.Kick)
	}
	return nil
}

// receive takes and checks what has come.
func (g *guest) receive(pair *frontend.Pair) {
	for {
		f, ok := pair.Rx.Next()
		if !ok {
			break
		}
		g.check(f)
		g.page.received.Add(1)
	}
	pair.Rx.Release()
}

// check judges a frame: it is as it was sent, and comes after all that came
// before it, to this process or to those that were killed.
func (g *guest) check(f []byte) {
	p := g.page
	if len(f) < atBody+crcLen || crc32.ChecksumIEEE(f[14:len(f)-crcLen]) != binary.BigEndian.Uint32(f[len(f)-crcLen:]) {
		p.blame("frame of %d bytes is corrupted: % x", len(f), f[:min(len(f), 64)])
		return
	}
	life, seq, epoch := binary.BigEndian.Uint64(f[atLife:]), binary.BigEndian.Uint64(f[atSeq:]), binary.BigEndian.Uint64(f[atEpoch:])
	if want := guestSizes[(seq-1)%uint64(len(guestSizes))]; len(f) != want || f[5] != g.cfg.Me {
		p.blame("frame %d of life %d has %d bytes, for %d; want %d, for %d", seq, life, len(f), f[5], want, g.cfg.Me)
		return
	}
	wasLife, wasSeq := p.peerLife.Load(), p.peerSeq.Load()
	switch {
	case life == wasLife && seq > wasSeq:
		p.lost.Add(seq - wasSeq - 1)
	case life > wasLife:
	default:
		p.blame("frame %d of life %d came after frame %d of life %d: twice, or late", seq, life, wasSeq, wasLife)
		return
	}
	p.peerLife.Store(life)
	p.peerSeq.Store(seq)
	if epoch > p.newest.Load() {
		p.newestAt.Store(clock())
		p.newest.Store(epoch)
	}
}

// A guestProcess is a guest that can be killed and started again.
type guestProcess struct {
	t    *testing.T
	cfg  guestConfig
	page *page
	cmd  *exec.Cmd
	out  waittest.Buffer
	done chan struct{}
}

// newGuest starts a guest on port name.
func newGuest(t *testing.T, s *switchRun, name, kind string, me, peer byte) *guestProcess {
	t.Helper()
	_, cpu := cpus(t)
	g := &guestProcess{t: t, cfg: guestConfig{
		Path: s.socket(name, kind), Listen: kind == connects, Page: s.path(name + ".page"), Me: me, Peer: peer, CPU: cpu,
	}}
	var err error
	g.page, err = mapPage(g.cfg.Page)
	check(t, err)
	g.start()
	t.Cleanup(func() {
		g.kill()
		if g.cfg.Listen {
			check(t, os.Remove(g.cfg.Path))
		}
	})
	return g
}

// start starts the process, in its next life.
func (g *guestProcess) start() {
	g.t.Helper()
	g.cfg.Life++
	config, err := json.Marshal(g.cfg)
	check(g.t, err)
	self, err := os.Executable()
	check(g.t, err)
	g.cmd, g.done = exec.Command(self), make(chan struct{})
	g.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", guestEnv, config), "GOMAXPROCS=2")
	g.cmd.Stdout, g.cmd.Stderr = &g.out, &g.out
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(g.t, startChild(g.cmd, g.done))
}

// kill ends the process with SIGKILL.
func (g *guestProcess) kill() {
	_ = g.cmd.Process.Kill() // fails if it has ended
	<-g.done
	if out := g.out.String(); out != "" {
		g.t.Errorf("guest %s printed: %s", g.cfg.Path, out)
	}
}
