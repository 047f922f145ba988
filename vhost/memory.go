package vhost

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"millrace/vhost/guestmem"
	"millrace/vhost/message"
)

func regionOf(r message.MemRegion) guestmem.Region {
	return guestmem.Region{GPA: r.GPA, Size: r.Size, User: r.UserAddr, Offset: r.MmapOffset}
}

// setMemTable replaces all memory. Rings that run go on in the new one.
func (s *session) setMemTable(m message.Message) error {
	table, err := message.UnmarshalMemTable(m.Payload)
	if err != nil {
		return err
	}
	var next *guestmem.Map
	for i, r := range table {
		fd := m.TakeFile(i)
		more, err := next.With(regionOf(r), int(fd))
		_ = fd.Close()
		_ = next.Close()
		if err != nil {
			return fmt.Errorf("region %d: %w", i, err)
		}
		next = more
	}
	s.replaceMem(next)
	return nil
}

// addMemReg adds a region. That the very same one is there already is no error:
// QEMU before 8.0 says everything about memory once for each queue pair.
func (s *session) addMemReg(m message.Message) error {
	r, err := message.UnmarshalAddMemReg(m.Payload)
	if err != nil {
		return err
	}
	if slices.Contains(s.mem.Regions(), regionOf(r)) {
		return nil
	}
	fd := m.TakeFile(0)
	next, err := s.mem.With(regionOf(r), int(fd))
	_ = fd.Close()
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	s.replaceMem(next)
	return nil
}

// remMemReg removes a region. That it is not there is no error, as in addMemReg.
func (s *session) remMemReg(m message.Message) error {
	r, err := message.UnmarshalRemMemReg(m.Payload)
	if err != nil {
		return err
	}
	next, err := s.mem.Without(regionOf(r))
	if err != nil {
		s.log.Debug("no such region to remove", zap.Error(err))
		return nil
	}
	s.replaceMem(next)
	return nil
}

// Exchanging memory under rings that run costs the workers some time, for memory
// that goes away and memory that is new. After the first changesFree a connection
// gets one each changePause.
const (
	changesFree = 32
	changePause = time.Millisecond
)

// replaceMem makes next what is wanted. What there was is unmapped when no ring
// is in it any more.
func (s *session) replaceMem(next *guestmem.Map) {
	if slices.ContainsFunc(s.rings, func(v *vring) bool { return v.run != nil }) {
		if s.memChanges++; s.memChanges > changesFree {
			s.p.pause(changePause)
		}
	}
	old := s.mem
	s.garbage = append(s.garbage, func() {
		if err := old.Close(); err != nil {
			s.log.Error("cannot unmap memory", zap.Error(err))
		}
	})
	s.mem = next
}
