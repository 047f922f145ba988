package vhost

import (
	"fmt"
	"sync/atomic"

	"go.uber.org/zap"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/guestmem"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// A vring is what messages have said of one ring: what is wanted. Even ones are
// the driver's receive rings, which the port fills; odd ones are the driver's
// transmit rings.
type vring struct {
	index   uint32
	num     uint16 // descriptors; 0: not said yet
	addr    message.VringAddr
	hasAddr bool
	base    uint16 // where to go on; of a ring that runs, where it began
	kick    sys.FD
	kicked  bool // the kick has come, perhaps without a descriptor: the ring is started
	call    *bell
	err     *bell
	enabled bool

	run *ring // what workers have, or nil
}

// A plan is all that decides how a ring runs. Equal plans need no change.
type plan struct {
	device
	kick int // for WakeFD
	call *bell
}

// device is the part of a plan that the ring's Device is made from.
type device struct {
	num                                   uint16
	desc, avail, used                     uint64 // addresses of the front-end
	mem                                   *guestmem.Map
	eventIdx, indirect, mergeable, legacy bool
	offload                               packet.Takes
}

// A ring is a vring that runs, as workers see it. It is never changed; the
// Device belongs to whoever may use the queue.
type ring struct {
	plan   plan
	dev    *virtq.Device
	s      *session
	index  uint32
	failed atomic.Bool // whoever sets it reports the failure
}

// fail has the peer cut off for what its ring holds. It does so once.
func (r *ring) fail(err error) {
	if r.failed.CompareAndSwap(false, true) {
		r.s.fail(fmt.Sprintf("ring %d: %v", r.index, err))
	}
}

// signal wakes the driver.
func (r *ring) signal() {
	if r.plan.call != nil {
		r.plan.call.ring()
	}
}

// Special values of WakeFD.
const (
	wakeNone = -1 // nothing will come
	wakePoll = -2 // the peer gave no descriptor: the queue must be polled
)

// isOn reports whether v is enabled. Without protocol features it is from the
// start (section "Ring states").
func (s *session) isOn(v *vring) bool {
	return v.enabled || !s.features.Has(message.FProtocolFeatures)
}

// lacks says what v waits for, or "" if it can run.
func (s *session) lacks(v *vring) string {
	switch {
	case v.num == 0:
		return fmt.Sprintf("size of ring %d", v.index)
	case !v.hasAddr:
		return fmt.Sprintf("addresses of ring %d", v.index)
	case !v.kicked:
		return fmt.Sprintf("ring %d to be started (kick)", v.index)
	case !s.isOn(v):
		return fmt.Sprintf("queue %d to be enabled", v.index/2)
	}
	return ""
}

// plan returns how v is to run, and whether it can.
func (s *session) plan(v *vring) (plan, bool) {
	if !s.featuresSet || len(s.mem.Regions()) == 0 || s.lacks(v) != "" {
		return plan{}, false
	}
	kick := wakePoll
	if v.kick.Valid() {
		kick = v.kick.Int()
	}
	f := s.features
	return plan{
		device: device{
			num: v.num, desc: v.addr.Desc, avail: v.addr.Avail, used: v.addr.Used, mem: s.mem,
			eventIdx:  f.Has(message.RingFEventIdx),
			indirect:  f.Has(message.RingFIndirectDesc),
			mergeable: f.Has(message.NetFMrgRxbuf),
			legacy:    f&(message.FVersion1|message.NetFMrgRxbuf) == 0,
			offload:   offloadOf(f, v.isTx()),
		},
		kick: kick,
		call: v.call,
	}, true
}

// layout finds the three parts of a ring in memory, each whole in one region.
func (d *device) layout() (virtq.Layout, error) {
	l := virtq.Layout{Size: d.num}
	for _, part := range []struct {
		name string
		at   uint64
		n    uint64
		to   *uintptr
	}{
		{"descriptor table", d.desc, virtq.DescBytes(d.num), &l.Desc},
		{"available ring", d.avail, virtq.AvailBytes(d.num), &l.Avail},
		{"used ring", d.used, virtq.UsedBytes(d.num), &l.Used},
	} {
		p, ok := d.mem.User(part.at, part.n)
		if !ok {
			return l, fmt.Errorf("%s at %#x, %d bytes, is outside of memory", part.name, part.at, part.n)
		}
		*part.to = p
	}
	return l, l.Check()
}

// build makes the ring that pl plans for v, and publishes its first state.
func (s *session) build(v *vring, pl plan) (*ring, error) {
	r := &ring{plan: pl, s: s, index: v.index}
	err := s.guarded(func() error {
		l, err := pl.layout()
		if err != nil {
			return err
		}
		v.base = s.resume(v, l)
		r.dev, err = virtq.NewDevice(virtq.Config{
			Layout: l, Mem: pl.mem, Base: v.base,
			EventIdx: pl.eventIdx, Indirect: pl.indirect, Mergeable: pl.mergeable, Legacy: pl.legacy,
			Offload: pl.offload,
		})
		if err == nil {
			r.dev.Start()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ring %d: %w", v.index, err)
	}
	return r, nil
}

// resume says where to go on in a ring: where its used index stands. That is
// the base that the front-end gave, unless the front-end lives on from another
// back-end's time, which it could not ask for the base.
func (s *session) resume(v *vring, l virtq.Layout) uint16 {
	used := usedIndex(l)
	if used != v.base {
		s.log.Info("ring goes on at the used index in memory",
			zap.Uint32("ring", v.index), zap.Uint16("base", v.base), zap.Uint16("used", used))
	}
	return used
}
