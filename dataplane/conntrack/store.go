package conntrack

import (
	"sync"
	"sync/atomic"
)

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

// owners is among how many the store is divided, by the low bits of meta.
const owners = 256

// A store keeps frames in memory of a fixed size. An owner may have as many pieces as
// are free then: one alone gets a half, two a third each, and there is always room
// for one who comes later.
type store struct {
	mu     sync.Mutex
	pieces []piece
	free   uint32
	fresh  uint32 // lowest piece never used
	spare  int    // free ones, with those never used
	used   [owners]int
	lost   heldList    // frames that nobody waits for any more, until Worker.Lost
	losses atomic.Bool // there are some
}

// init makes a store of about size bytes.
func (s *store) init(m *memory, size int) (err error) {
	s.pieces, err = array[piece](m, size/pieceSize+1)
	s.fresh, s.spare = 1, len(s.pieces)-1
	return err
}

// take returns a free piece. There is one.
func (s *store) take() uint32 {
	if i := s.free; i != 0 {
		s.free = s.pieces[i].more
		return i
	}
	s.fresh++
	return s.fresh - 1
}

// piecesOf returns how many pieces a frame of n bytes takes.
func piecesOf(n int) int { return max((n+pieceSize-1)/pieceSize, 1) }

// add copies a frame to the end of a list. It reports whether there was room.
func (s *store) add(l *heldList, frame []byte, meta uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	used, need := &s.used[meta%owners], piecesOf(len(frame))
	if *used+need > s.spare {
		return false
	}
	*used += need
	s.spare -= need
	first, at := uint32(0), (*uint32)(nil)
	for rest := frame; first == 0 || len(rest) > 0; {
		i := s.take()
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

// lose gives up the frames of a list, which is not empty.
func (s *store) lose(l heldList) {
	s.join(&s.lost, l)
	s.losses.Store(true)
}

// nextLost frees the first frame that was lost.
func (s *store) nextLost() (size int, meta uint64, ok bool) {
	if !s.losses.Load() {
		return 0, 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.lost.first
	if i == 0 {
		s.losses.Store(false)
		return 0, 0, false
	}
	p := &s.pieces[i]
	if s.lost.first = p.next; p.next == 0 {
		s.lost.last = 0
	}
	size, meta = int(p.size), p.meta
	s.giveBack(i)
	return size, meta, true
}

// giveBack frees the pieces of the frame whose first is i.
func (s *store) giveBack(i uint32) {
	n := piecesOf(int(s.pieces[i].size))
	s.used[s.pieces[i].meta%owners] -= n
	s.spare += n
	for i != 0 {
		more := s.pieces[i].more
		s.pieces[i].more = s.free
		s.free, i = i, more
	}
}
