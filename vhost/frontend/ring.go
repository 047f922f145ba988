package frontend

import (
	"errors"

	"millrace/dataplane/sys"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// A Ring is one virtqueue of a port: memory for its parts and its buffers, and
// its eventfds.
type Ring struct {
	virtq.Layout
	Index   int           // even: the device sends; odd: the driver does
	Buffers virtq.Buffers // Header is set at negotiation
	Base    uint16        // where a fresh device begins
	Kick    sys.FD        // we signal
	Call    sys.FD        // the device signals; none without Config.Interrupt

	desc, avail, used virtq.Area
	position          func() uint16 // where a new device goes on; nil before Attach
}

// A Pair is a queue pair with the drivers that a port lays over it.
type Pair struct {
	Rx *virtq.Receiver // nil with Config.Attach
	Tx *virtq.Sender   // nil with Config.Attach

	RxRing, TxRing *Ring
}

// newRing takes a ring and its buffers from region i of m.
func newRing(m *Memory, index, region int, cfg *Config) (*Ring, error) {
	n := cfg.RingSize
	r := &Ring{Index: index}
	stride := virtq.Stride(cfg.RxBuffer)
	if index%2 == 1 {
		stride = virtq.Stride(cfg.TxFrame)
	}
	var errs [4]error
	r.desc, errs[0] = m.Area(region, virtq.DescBytes(n))
	r.avail, errs[1] = m.Area(region, virtq.AvailBytes(n))
	r.used, errs[2] = m.Area(region, virtq.UsedBytes(n))
	r.Buffers = virtq.Buffers{Stride: stride, Header: virtq.HeaderLen}
	r.Buffers.Area, errs[3] = m.Area(region, uint64(n)*uint64(stride))
	r.Layout = virtq.Layout{Size: n, Desc: r.desc.Addr, Avail: r.avail.Addr, Used: r.used.Addr}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	var err error
	if r.Kick, err = sys.NewEvent(); err == nil && cfg.Interrupt {
		r.Call, err = sys.NewEvent()
	}
	return r, err
}

func (r *Ring) close() error {
	return errors.Join(r.Kick.Close(), r.Call.Close())
}

// Addr is what SET_VRING_ADDR says of the ring.
func (r *Ring) Addr() message.VringAddr {
	return message.VringAddr{Index: uint32(r.Index), Desc: User(r.desc.GPA), Avail: User(r.avail.GPA), Used: User(r.used.GPA)}
}

// base is where the next device begins.
func (r *Ring) base() uint16 {
	if r.position == nil {
		return r.Base
	}
	return r.position()
}

// SetPosition tells a port that was attached by hand where a device that comes
// after a lost one goes on; without, it begins at Base.
func (r *Ring) SetPosition(used func() uint16) { r.position = used }
