package frontend

import (
	"fmt"

	"millrace/vhost/message"
)

// negotiate agrees on features: first those of the protocol, which decide how
// the rest is said.
func (s *Session) negotiate(cfg *Config) error {
	offered, err := s.number(message.GetFeatures)
	if err != nil {
		return err
	}
	s.Offered = message.Features(offered)
	s.Features = s.Offered & cfg.Features
	if s.Features.Has(message.FProtocolFeatures) {
		if err := s.negotiateProtocol(cfg); err != nil {
			return err
		}
	}
	if s.Protocol.Has(message.ProtocolFMQ) {
		n, err := s.number(message.GetQueueNum)
		if err != nil {
			return err
		}
		s.Queues = int(min(n, 1<<15))
	}
	if cfg.Queues > s.Queues {
		return fmt.Errorf("%w: it has %d queue pairs, want %d", ErrRefused, s.Queues, cfg.Queues)
	}
	if err := s.Do(message.SetOwner, nil); err != nil {
		return err
	}
	if s.Protocol.Has(message.ProtocolFNetMTU) && cfg.MTU != 0 {
		return s.doNumber(message.NetSetMTU, uint64(cfg.MTU))
	}
	return nil
}

func (s *Session) negotiateProtocol(cfg *Config) error {
	offered, err := s.number(message.GetProtocolFeatures)
	if err != nil {
		return err
	}
	agreed := message.ProtocolFeatures(offered) & cfg.Protocol
	if err := s.doNumber(message.SetProtocolFeatures, uint64(agreed)); err != nil {
		return err
	}
	s.Protocol = agreed
	return nil
}

// status tells the back end how far the driver is, if it wants to know.
func (s *Session) status(st message.Status) error {
	if !s.Protocol.Has(message.ProtocolFStatus) {
		return nil
	}
	return s.doNumber(message.SetStatus, uint64(st))
}

// setFeatures is the driver's half of negotiation (virtio 3.1.1).
func (s *Session) setFeatures() error {
	const driver = message.StatusAcknowledge | message.StatusDriver
	if err := s.status(driver); err != nil {
		return err
	}
	if err := s.doNumber(message.SetFeatures, uint64(s.Features)); err != nil {
		return err
	}
	if err := s.status(driver | message.StatusFeaturesOK); err != nil {
		return err
	}
	if !s.Protocol.Has(message.ProtocolFStatus) {
		return nil
	}
	got, err := s.number(message.GetStatus)
	if err == nil && message.Status(got)&message.StatusFeaturesOK == 0 {
		err = fmt.Errorf("%w: features %v are not OK (status %#x)", ErrRefused, s.Features, got)
	}
	return err
}

// shareMemory gives the back end all regions, one by one if it has slots for
// them.
func (s *Session) shareMemory(m *Memory) error {
	table, fds := m.Table()
	if !s.Protocol.Has(message.ProtocolFConfigureMemSlots) {
		return s.Do(message.SetMemTable, message.MarshalMemTable(table), fds...)
	}
	slots, err := s.number(message.GetMaxMemSlots)
	if err != nil {
		return err
	}
	if uint64(len(table)) > slots {
		return fmt.Errorf("%w: it has %d memory slots, want %d", ErrRefused, slots, len(table))
	}
	for i, r := range table {
		if err := s.Do(message.AddMemReg, message.MarshalMemRegion(r), fds[i]); err != nil {
			return err
		}
	}
	return nil
}

// startRing gives the back end a ring. It is started by its kick descriptor,
// and enabled apart from that if there are protocol features.
func (s *Session) startRing(r *Ring) error {
	call, fds := message.VringFD{Index: uint8(r.Index), NoFD: true}, []message.FD(nil)
	if r.Call.Valid() {
		call.NoFD, fds = false, []message.FD{message.FD(r.Call.Int())}
	}
	kick := message.MarshalVringFD(message.VringFD{Index: uint8(r.Index)})
	for _, step := range []func() error{
		func() error { return s.doRing(message.SetVringNum, r.Index, uint32(r.Size)) },
		func() error { return s.doRing(message.SetVringBase, r.Index, uint32(r.base())) },
		func() error { return s.Do(message.SetVringAddr, message.MarshalVringAddr(r.Addr())) },
		func() error { return s.Do(message.SetVringCall, message.MarshalVringFD(call), fds...) },
		func() error { return s.Do(message.SetVringKick, kick, message.FD(r.Kick.Int())) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("start ring %d: %w", r.Index, err)
		}
	}
	return nil
}

// enable lets the back end use a ring, or not.
func (s *Session) enable(r *Ring, on bool) error {
	if !s.Features.Has(message.FProtocolFeatures) {
		return nil
	}
	n := uint32(0)
	if on {
		n = 1
	}
	if err := s.doRing(message.SetVringEnable, r.Index, n); err != nil {
		return fmt.Errorf("enable ring %d: %w", r.Index, err)
	}
	return nil
}

// stopRing takes a ring back, and returns the index at which the back end has
// stopped.
func (s *Session) stopRing(r *Ring) (uint16, error) {
	b, err := s.Call(message.GetVringBase, message.MarshalVringState(message.VringState{Index: uint32(r.Index)}))
	if err != nil {
		return 0, fmt.Errorf("stop ring %d: %w", r.Index, err)
	}
	st, err := message.UnmarshalVringState(b)
	if err != nil {
		return 0, fmt.Errorf("stop ring %d: %w", r.Index, err)
	}
	return uint16(st.Num), nil
}
