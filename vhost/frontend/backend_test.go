package frontend

import (
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/guestmem"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// An echo is a small back end: each frame that comes from queue pair i goes
// back into it.
type echo struct {
	t        *testing.T
	conn     *message.Conn
	features message.Features
	protocol message.ProtocolFeatures
	refuse   message.Request // answered with no
	silent   message.Request // not answered

	mu     sync.Mutex // of all that follows: the poller and the messages share it
	agreed message.Features
	mem    *guestmem.Map
	rings  map[uint32]*echoRing
	seen   map[message.Request]int
	mtu    uint64
	status uint64
	done   chan struct{}
	batch  *packet.Batch
}

type echoRing struct {
	size, base uint16
	addr       message.VringAddr
	kick, call message.FD
	enabled    bool
	dev        *virtq.Device
}

func newEcho(t *testing.T, sock *net.UnixConn, f message.Features, p message.ProtocolFeatures) *echo {
	e := &echo{
		t: t, conn: message.NewConn(sock, message.BackEnd), features: f, protocol: p,
		rings: map[uint32]*echoRing{}, seen: map[message.Request]int{}, done: make(chan struct{}), batch: packet.NewBatch(),
	}
	t.Cleanup(e.kill)
	return e
}

// serve answers messages, and forwards in between, until the connection ends.
func (e *echo) serve() {
	defer close(e.done)
	stop := make(chan struct{})
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		for {
			select {
			case <-stop:
				return
			default:
				e.poll()
				time.Sleep(20 * time.Microsecond)
			}
		}
	}()
	for {
		m, err := e.conn.Read()
		if err != nil {
			break
		}
		e.mu.Lock()
		e.handle(m)
		e.mu.Unlock()
		m.Close()
	}
	close(stop)
	<-polled
	for _, r := range e.rings {
		r.kick.Close()
		r.call.Close()
	}
	e.mem.Close()
}

// kill ends the back end as a crash does.
func (e *echo) kill() {
	e.conn.Close()
	<-e.done
}

func (e *echo) handle(m message.Message) {
	e.seen[m.Request]++
	num := func() uint64 { n, _ := message.UnmarshalU64(m.Payload); return n }
	reply := func(n uint64) { e.conn.Write(m.Reply(message.MarshalU64(n))) }
	ok := m.Request != e.refuse
	switch m.Request {
	case e.silent:
		return
	case message.GetFeatures:
		reply(uint64(e.features))
		return
	case message.GetProtocolFeatures:
		reply(uint64(e.protocol))
		return
	case message.GetQueueNum:
		reply(4)
		return
	case message.GetMaxMemSlots:
		reply(509)
		return
	case message.GetStatus:
		reply(e.status)
		return
	case message.GetVringBase:
		v, _ := message.UnmarshalVringState(m.Payload)
		r := e.ring(v.Index)
		if r.dev != nil {
			v.Num = uint32(r.dev.Base())
		}
		r.dev = nil
		e.conn.Write(m.Reply(message.MarshalVringState(v)))
		return
	case message.SetFeatures:
		e.agreed = message.Features(num())
	case message.SetStatus:
		e.status = num()
	case message.NetSetMTU:
		e.mtu = num()
	case message.ResetDevice:
		for _, r := range e.rings {
			r.dev, r.enabled = nil, false
		}
	case message.SetMemTable:
		table, err := message.UnmarshalMemTable(m.Payload)
		ok = ok && err == nil
		e.mem.Close()
		e.mem = nil
		for i, r := range table {
			ok = e.addRegion(r, m.TakeFile(i)) && ok
		}
	case message.AddMemReg:
		r, err := message.UnmarshalAddMemReg(m.Payload)
		ok = e.addRegion(r, m.TakeFile(0)) && err == nil && ok
	default:
		ok = e.handleRing(m) && ok
	}
	if m.NeedReply() {
		e.conn.Write(m.Ack(ok))
	}
}

func (e *echo) addRegion(r message.MemRegion, fd message.FD) bool {
	defer fd.Close()
	m, err := e.mem.With(guestmem.Region{GPA: r.GPA, Size: r.Size, User: r.UserAddr, Offset: r.MmapOffset}, int(fd))
	if err != nil {
		e.t.Error(err)
		return false
	}
	e.mem.Close()
	e.mem = m
	return true
}

func (e *echo) ring(i uint32) *echoRing {
	if e.rings[i] == nil {
		e.rings[i] = &echoRing{kick: message.NoFD, call: message.NoFD, enabled: !e.agreed.Has(message.FProtocolFeatures)}
	}
	return e.rings[i]
}

func (e *echo) handleRing(m message.Message) bool {
	v, _ := message.UnmarshalVringState(m.Payload)
	f, _ := message.UnmarshalVringFD(m.Payload)
	switch m.Request {
	case message.SetVringNum:
		e.ring(v.Index).size = uint16(v.Num)
	case message.SetVringBase:
		e.ring(v.Index).base = uint16(v.Num)
	case message.SetVringAddr:
		a, err := message.UnmarshalVringAddr(m.Payload)
		e.ring(a.Index).addr = a
		return err == nil
	case message.SetVringEnable:
		e.ring(v.Index).enabled = v.Num == 1
	case message.SetVringCall:
		r := e.ring(uint32(f.Index))
		r.call.Close()
		r.call = m.TakeFile(0)
	case message.SetVringKick:
		r := e.ring(uint32(f.Index))
		r.kick.Close()
		r.kick = m.TakeFile(0)
		return e.startRing(r)
	}
	return true
}

func (e *echo) startRing(r *echoRing) bool {
	l := virtq.Layout{Size: r.size}
	var ok [3]bool
	l.Desc, ok[0] = e.mem.User(r.addr.Desc, virtq.DescBytes(r.size))
	l.Avail, ok[1] = e.mem.User(r.addr.Avail, virtq.AvailBytes(r.size))
	l.Used, ok[2] = e.mem.User(r.addr.Used, virtq.UsedBytes(r.size))
	d, err := virtq.NewDevice(virtq.Config{
		Layout: l, Mem: e.mem, Base: r.base,
		EventIdx: e.agreed.Has(message.RingFEventIdx), Indirect: e.agreed.Has(message.RingFIndirectDesc),
		Mergeable: e.agreed.Has(message.NetFMrgRxbuf), Legacy: e.agreed&(message.FVersion1|message.NetFMrgRxbuf) == 0,
	})
	if err != nil || ok != [3]bool{true, true, true} {
		e.t.Errorf("start ring %+v: %v, parts in memory: %v", r.addr, err, ok)
		return false
	}
	d.Start()
	r.dev = d
	return true
}

// poll forwards what there is, on each pair.
func (e *echo) poll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := uint32(0); i < 8; i += 2 {
		rx, tx := e.rings[i], e.rings[i+1]
		if rx == nil || tx == nil || rx.dev == nil || tx.dev == nil || !rx.enabled || !tx.enabled {
			continue
		}
		b := e.batch
		b.Reset()
		if err := tx.dev.Dequeue(b); err != nil {
			e.t.Error(err)
			tx.dev = nil
			continue
		}
		list := make([]packet.Ref, b.N)
		for k := range list {
			list[k].Frame = uint16(k)
		}
		if err := rx.dev.Enqueue(b, list); err != nil {
			e.t.Error(err)
			rx.dev = nil
			continue
		}
		tx.dev.Complete()
		rx.dev.Commit(b)
		for _, r := range []*echoRing{rx, tx} {
			if r.dev.ShouldSignal() && r.call >= 0 {
				f := sys.NewFD(int(r.call))
				sys.Signal(f)
			}
		}
	}
}

// backEnds starts an echo for each connection: those that come in, or those
// that it makes, in the other role than the port's.
type backEnds struct {
	t    *testing.T
	path string
	l    *net.UnixListener
	tune func(*echo)
}

func newBackEnds(t *testing.T, path string, listen bool, tune func(*echo)) *backEnds {
	t.Helper()
	b := &backEnds{t: t, path: path, tune: tune}
	if listen {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		b.l = l
	}
	return b
}

// next returns the next back end, which serves already.
func (b *backEnds) next() *echo {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	var sock *net.UnixConn
	var err error
	if b.l != nil {
		b.l.SetDeadline(deadline)
		sock, err = b.l.AcceptUnix()
	} else {
		for {
			sock, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: b.path, Net: "unix"})
			if err == nil || time.Now().After(deadline) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	e := newEcho(b.t, sock, DefaultFeatures, DefaultProtocol)
	if b.tune != nil {
		b.tune(e)
	}
	go e.serve()
	return e
}

func socketPath(t *testing.T) string { return filepath.Join(t.TempDir(), "sock") }

var errNotThere = errors.New("not there in time")

// eventually waits for f.
func eventually(f func() bool) error {
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(deadline) {
			return errNotThere
		}
	}
	return nil
}
