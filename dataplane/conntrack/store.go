package conntrack

import "sync"

// pieceSize is how many bytes of a frame one piece of the store holds.
const pieceSize = 2048

// A piece is a part of a frame that waits. Piece 0 is none.
type piece struct {
	more uint32 // next piece of the frame, or of the free list
	next uint32 // first piece of the next frame
	size uint32 // bytes of the frame, in its first piece
	_    uint32
	meta uint64
	data [pieceSize]byte
}

// A heldList is a list of frames in the order in which they came.
type heldList struct{ first, last uint32 }

// A store keeps frames in memory of a fixed size.
type store struct {
	mu     sync.Mutex
	pieces []piece
	free   uint32
	fresh  uint32 // lowest piece never used
}

// init makes a store of about size bytes.
func (s *store) init(m *memory, size int) (err error) {
	s.pieces, err = array[piece](m, size/pieceSize+1)
	s.fresh = 1
	return err
}

// take returns a free piece, or 0.
func (s *store) take() uint32 {
	if i := s.free; i != 0 {
		s.free = s.pieces[i].more
		return i
	}
	if int(s.fresh) == len(s.pieces) {
		return 0
	}
	s.fresh++
	return s.fresh - 1
}

// add copies a frame to the end of a list. It reports whether there was room.
func (s *store) add(l *heldList, frame []byte, meta uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, at := uint32(0), (*uint32)(nil)
	for rest := frame; first == 0 || len(rest) > 0; {
		i := s.take()
		if i == 0 {
			s.giveBack(first)
			return false
		}
		p := &s.pieces[i]
		p.more, p.next = 0, 0
		rest = rest[copy(p.data[:], rest):]
		if at == nil {
			first, p.size, p.meta = i, uint32(len(frame)), meta
		} else {
			*at = i
		}
		at = &p.more
	}
	s.append(l, heldList{first, first})
	return true
}

// append puts a list behind another.
func (s *store) append(l *heldList, more heldList) {
	if l.first == 0 {
		*l = more
		return
	}
	s.pieces[l.last].next = more.first
	l.last = more.last
}

// join is append for lists that are not empty.
func (s *store) join(l *heldList, more heldList) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(l, more)
}

// next takes the first frame of a list, and appends it to dst.
func (s *store) next(l *heldList, dst []byte) (frame []byte, meta uint64, ok bool) {
	if l.first == 0 {
		return dst, 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := &s.pieces[l.first]
	meta = first.meta
	left := int(first.size)
	for i := l.first; i != 0; i = s.pieces[i].more {
		n := min(left, pieceSize)
		dst = append(dst, s.pieces[i].data[:n]...)
		left -= n
	}
	next := first.next
	s.giveBack(l.first)
	if l.first = next; next == 0 {
		l.last = 0
	}
	return dst, meta, true
}

// drop frees all frames of a list.
func (s *store) drop(l heldList) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := l.first; i != 0; {
		next := s.pieces[i].next
		s.giveBack(i)
		i = next
	}
}

// giveBack frees the pieces of the frame whose first is i.
func (s *store) giveBack(i uint32) {
	for i != 0 {
		more := s.pieces[i].more
		s.pieces[i].more = s.free
		s.free, i = i, more
	}
}
