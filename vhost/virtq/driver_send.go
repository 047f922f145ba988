package virtq

// A Sender is the driver's end of a transmit ring (virtio 5.1.6.2) at the least
// cost there is: each descriptor has a buffer for good, sending a batch is one
// store, reclaiming it is one load and a look at the used elements.
type Sender struct {
	fixed
	lens    []uint32 // by buffer: bytes in its descriptor
	inOrder bool     // see AssumeInOrder
}

// AssumeInOrder makes the sender believe that the device uses buffers in order,
// as virtio's F_IN_ORDER has it, and look at one used element of each run
// only: the cache lines of the others stay with the device. A device that turns
// out to do otherwise is broken then.
func (s *Sender) AssumeInOrder() { s.inOrder = !s.odd }

// sample looks at the last of n used elements.
func (s *Sender) sample(n uint32) {
	last := s.done + uint16(n-1)
	if head, _ := s.element(last); head != s.buffer(last) {
		s.fail(misused("used element %d names buffer %d and not %d: buffers are not used in order, which was assumed", last, head, s.buffer(last)))
	}
}

// NewSender takes the driver's end of a transmit ring and clears the header of
// each buffer. No device may be using the ring.
func NewSender(cfg DriverConfig, bufs Buffers) (*Sender, error) {
	f, err := newFixed(cfg, bufs, bufs.Header, 0)
	if err != nil {
		return nil, err
	}
	s := &Sender{fixed: f, lens: make([]uint32, cfg.Size)}
	for i := range s.lens {
		s.lens[i] = bufs.Header
		clear(view(bufs.Addr+uintptr(i)*uintptr(bufs.Stride), bufs.Header))
	}
	return s, nil
}

// Room returns how many frames can be sent now. It looks for buffers that came
// back if there are fewer than want: ask for many at once, and the cache line
// of used.idx moves seldom.
func (s *Sender) Room(want int) int {
	if s.bad != nil {
		return 0
	}
	free := s.mask + 1 - uint32(s.next-s.done)
	if free >= uint32(want) {
		return int(free)
	}
	if n := s.completed(); n > 0 {
		if s.inOrder {
			s.sample(n)
		} else {
			s.take(s.done, n)
		}
		s.done += uint16(n)
		free += n
	}
	if s.bad != nil {
		return 0
	}
	return int(free)
}

// Buffer is the number of the buffer that frame i from now goes in, i less than
// Room. Numbers are less than the ring's size, and come in order unless the
// device does otherwise.
func (s *Sender) Buffer(i int) int { return int(s.buffer(s.next + uint16(i))) }

// Frame lends the room for a frame in buffer number b. It belongs to the device
// from Send on until Buffer names it again.
func (s *Sender) Frame(b int) []byte {
	return view(s.bufs.Addr+uintptr(b)*uintptr(s.bufs.Stride)+uintptr(s.bufs.Header), s.bufs.Stride-s.bufs.Header)
}

// Header lends the virtio-net header of the frame in buffer number b. It is
// empty, and stays as it is written: who writes to it once does so each time.
func (s *Sender) Header(b int) []byte {
	return view(s.bufs.Addr+uintptr(b)*uintptr(s.bufs.Stride), s.bufs.Header)
}

// SetLen says that the frame in buffer number b has n bytes.
func (s *Sender) SetLen(b, n int) {
	if size := s.bufs.Header + uint32(n); s.lens[b] != size {
		s.lens[b] = size
		storeDesc(s.desc, uint32(b), desc{addr: s.bufs.GPA + uint64(b)*uint64(s.bufs.Stride), len: size})
	}
}

// Len is the number of bytes of the frame in buffer number b.
func (s *Sender) Len(b int) int { return int(s.lens[b] - s.bufs.Header) }

// Send gives the next n buffers to the device, n at most Room.
func (s *Sender) Send(n int) { s.give(uint32(n)) }
