package vhost

import (
	"fmt"

	"millrace/dataplane/sys"
	"millrace/vhost/guestmem"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// offeredFeatures are the device's features. They do not include:
//
//   - CTRL_VQ and STATUS: there is no control queue or configuration space on
//     the socket; QEMU and DPDK virtio-user provide both themselves;
//   - RING_RESET: QEMU as of 7.2 does not tell a vhost-user back-end that the
//     driver reset a ring;
//   - CTRL_GUEST_OFFLOADS, by which a driver would take back at any time what it
//     takes, and UFO, which no driver of today has.
//
// What frames may ask for (offload.go) is offered unless the port says no: what the
// driver sends is finished by the switch where it must be.
func (p *Port) offeredFeatures() message.Features {
	f := message.FVersion1 | message.FAnyLayout | message.RingFIndirectDesc | message.RingFEventIdx |
		message.NetFMrgRxbuf | message.FProtocolFeatures
	if p.opts.Queues > 1 {
		f |= message.NetFMQ
	}
	if p.mtu() > 0 {
		f |= message.NetFMTU
	}
	if !p.opts.Plain {
		f |= offloadFeatures()
	}
	return f
}

// offeredProtocol are the protocol's features.
const offeredProtocol = message.ProtocolFMQ | message.ProtocolFReplyAck | message.ProtocolFConfigureMemSlots |
	message.ProtocolFStatus | message.ProtocolFNetMTU | message.ProtocolFResetDevice

// dispatch changes what is wanted, as m asks. A request with an answer of its
// own returns it.
func (s *session) dispatch(m message.Message) (reply []byte, err error) {
	if needs := requires(m.Request); !s.protocol.Has(needs) && needs&^offeredProtocol != 0 {
		return nil, fmt.Errorf("%w: feature %v was not offered", errRefused, needs)
	}
	switch m.Request {
	case message.GetFeatures:
		return message.MarshalU64(uint64(s.offered)), nil
	case message.SetFeatures:
		return nil, s.setFeatures(m)
	case message.GetProtocolFeatures:
		return message.MarshalU64(uint64(offeredProtocol)), nil
	case message.SetProtocolFeatures:
		return nil, s.setProtocolFeatures(m)
	case message.SetOwner:
		return nil, nil
	case message.ResetOwner, message.ResetDevice:
		s.reset()
		return nil, nil
	case message.SetMemTable:
		return nil, s.setMemTable(m)
	case message.GetMaxMemSlots:
		return message.MarshalU64(guestmem.RegionsMax), nil
	case message.AddMemReg:
		return nil, s.addMemReg(m)
	case message.RemMemReg:
		return nil, s.remMemReg(m)
	case message.SetVringNum:
		return nil, s.setVringNum(m)
	case message.SetVringAddr:
		return nil, s.setVringAddr(m)
	case message.SetVringBase:
		return nil, s.setVringBase(m)
	case message.GetVringBase:
		return s.getVringBase(m)
	case message.SetVringKick:
		return nil, s.setVringKick(m)
	case message.SetVringCall:
		return nil, s.setVringBell(m, "call")
	case message.SetVringErr:
		return nil, s.setVringBell(m, "error")
	case message.SetVringEnable:
		return nil, s.setVringEnable(m)
	case message.GetQueueNum:
		return message.MarshalU64(uint64(s.p.opts.Queues)), nil
	case message.NetSetMTU:
		return nil, s.netSetMTU(m)
	case message.SetStatus:
		return nil, s.setStatus(m)
	case message.GetStatus:
		return message.MarshalU64(uint64(s.deviceStatus)), nil
	}
	return nil, fmt.Errorf("%w: not supported", errRefused)
}

// requires is the protocol feature that request r belongs to, as far as it is
// one that we do not offer.
func requires(r message.Request) message.ProtocolFeatures {
	switch r {
	case message.SetLogBase, message.SetLogFD:
		return message.ProtocolFLogShmFD
	case message.SendRARP:
		return message.ProtocolFRARP
	case message.SetBackendReqFD, message.IOTLBMsg:
		return message.ProtocolFBackendReq
	case message.SetVringEndian:
		return message.ProtocolFCrossEndian
	case message.GetConfig, message.SetConfig:
		return message.ProtocolFConfig
	case message.GetInflightFD, message.SetInflightFD:
		return message.ProtocolFInflightShmFD
	case message.VringKick:
		return message.ProtocolFInbandNotifications
	case message.PostcopyAdvise, message.PostcopyListen, message.PostcopyEnd:
		return message.ProtocolFPageFault
	case message.CreateCryptoSession, message.CloseCryptoSession:
		return message.ProtocolFCryptoSession
	case message.GetSharedObject:
		return message.ProtocolFSharedObject
	case message.SetDeviceStateFD, message.CheckDeviceState:
		return message.ProtocolFDeviceState
	}
	return 0
}

func (s *session) setFeatures(m message.Message) error {
	v, err := message.UnmarshalU64(m.Payload)
	if err != nil {
		return err
	}
	f := message.Features(v)
	if extra := f &^ s.offered; extra != 0 {
		return fmt.Errorf("features %v were not offered", extra)
	}
	s.features, s.featuresSet = f, true
	return nil
}

func (s *session) setProtocolFeatures(m message.Message) error {
	v, err := message.UnmarshalU64(m.Payload)
	if err != nil {
		return err
	}
	f := message.ProtocolFeatures(v)
	if extra := f &^ offeredProtocol; extra != 0 {
		return fmt.Errorf("protocol features %v were not offered", extra)
	}
	s.protocol = f
	return nil
}

// reset stops all rings and forgets what was said of them, but for descriptors
// that a front-end hands over once in its life.
func (s *session) reset() {
	s.deviceStatus = 0
	for _, v := range s.rings {
		v.num, v.addr, v.hasAddr, v.base, v.enabled, v.kicked = 0, message.VringAddr{}, false, 0, false, false
	}
}

// ring returns ring i, or says that there is none.
func (s *session) ring(i uint32) (*vring, error) {
	if uint64(i) >= uint64(len(s.rings)) {
		return nil, fmt.Errorf("ring %d, but the port has %d queue pairs (give it more queues)", i, s.p.opts.Queues)
	}
	return s.rings[i], nil
}

// vringState reads the payload that many requests share.
func (s *session) vringState(m message.Message) (*vring, uint32, error) {
	st, err := message.UnmarshalVringState(m.Payload)
	if err != nil {
		return nil, 0, err
	}
	v, err := s.ring(st.Index)
	return v, st.Num, err
}

func (s *session) setVringNum(m message.Message) error {
	v, n, err := s.vringState(m)
	if err != nil {
		return err
	}
	if n == 0 || n > virtq.SizeMax || n&(n-1) != 0 {
		return fmt.Errorf("ring %d: size %d is not a power of two up to %d", v.index, n, virtq.SizeMax)
	}
	v.num = uint16(n)
	return nil
}

// setVringAddr takes the addresses as they are: whether memory is there shows
// when the ring starts.
func (s *session) setVringAddr(m message.Message) error {
	a, err := message.UnmarshalVringAddr(m.Payload)
	if err != nil {
		return err
	}
	v, err := s.ring(a.Index)
	if err != nil {
		return err
	}
	a.Flags, a.Log = 0, 0 // logging was not offered
	v.addr, v.hasAddr = a, true
	return nil
}

func (s *session) setVringBase(m message.Message) error {
	v, n, err := s.vringState(m)
	if err != nil {
		return err
	}
	if n > 0xffff {
		return fmt.Errorf("ring %d: base %d is over 65535", v.index, n)
	}
	if v.run != nil {
		return fmt.Errorf("ring %d: base was set while the ring runs (GET_VRING_BASE stops it)", v.index)
	}
	v.base = uint16(n)
	return nil
}

// getVringBase stops the ring.
func (s *session) getVringBase(m message.Message) ([]byte, error) {
	v, _, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	v.kicked = false
	if err := s.settle(); err != nil {
		return nil, err
	}
	return message.MarshalVringState(message.VringState{Index: v.index, Num: uint32(v.base)}), nil
}

func (s *session) setVringEnable(m message.Message) error {
	v, n, err := s.vringState(m)
	if err != nil {
		return err
	}
	if n > 1 {
		return fmt.Errorf("ring %d: enable is %d, must be 0 or 1", v.index, n)
	}
	v.enabled = n == 1
	return nil
}

// vringFD reads the payload of requests that bring an eventfd. The descriptor
// is the caller's, if there is no error.
func (s *session) vringFD(m message.Message) (*vring, sys.FD, error) {
	f, err := message.UnmarshalVringFD(m.Payload)
	if err != nil {
		return nil, sys.NoFD, err
	}
	v, err := s.ring(uint32(f.Index))
	if err != nil || f.NoFD {
		return v, sys.NoFD, err
	}
	fd := sys.NewFD(int(m.TakeFile(0)))
	if !sys.IsEvent(fd.Int()) {
		_ = fd.Close()
		return nil, sys.NoFD, fmt.Errorf("ring %d: descriptor is no eventfd", v.index)
	}
	return v, fd, nil
}

// setVringKick gives the ring its wake-up, and says that it may start.
func (s *session) setVringKick(m message.Message) error {
	v, fd, err := s.vringFD(m)
	if err != nil {
		return err
	}
	old := v.kick
	s.garbage = append(s.garbage, func() { _ = old.Close() })
	v.kick, v.kicked = fd, true
	return nil
}

// setVringBell gives the ring its call or error eventfd.
func (s *session) setVringBell(m message.Message, what string) error {
	v, fd, err := s.vringFD(m)
	if err != nil {
		return err
	}
	var b *bell
	if fd.Valid() {
		b = s.p.guard.newBell(s, fd, fmt.Sprintf("%s eventfd of ring %d", what, v.index))
	}
	place := &v.call
	if what == "error" {
		place = &v.err
	}
	old := *place
	s.garbage = append(s.garbage, func() { s.p.guard.closeBell(old) })
	*place = b
	return nil
}

// netSetMTU judges the MTU that the front-end wants to give its driver.
func (s *session) netSetMTU(m message.Message) error {
	mtu, err := message.UnmarshalMTU(m.Payload)
	if err != nil {
		return err
	}
	if most := s.p.mtu(); most > 0 && int(mtu) > most {
		return fmt.Errorf("%w: mtu %d, but the port's is %d", errRefused, mtu, most)
	}
	return nil
}

// setStatus notes the device's status. Zero is a reset (virtio 2.1).
func (s *session) setStatus(m message.Message) error {
	st, err := message.UnmarshalStatus(m.Payload)
	if err != nil {
		return err
	}
	if st == 0 {
		s.reset()
	}
	s.deviceStatus = st
	return nil
}
