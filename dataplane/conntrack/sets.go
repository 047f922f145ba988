package conntrack

// setLocks is how many locks the sets of a table share.
const setLocks = 64

// A setTable finds the sets of a small table: a few entries each, under locks,
// for what is asked seldom. When a set is full, its oldest entry gives way.
type setTable struct {
	n     int // sets, a power of two
	locks []lock
	seed  seed
	sweep lock   // held by who sweeps
	next  uint32 // set where the next sweep begins
}

// init makes room for about size entries in sets of each.
func (s *setTable) init(size, each int) {
	s.n = 1
	for s.n*each < size {
		s.n *= 2
	}
	s.seed = newSeed()
	s.locks = make([]lock, setLocks)
}

// locate returns the set for a hash, and its lock, which is taken.
func (s *setTable) locate(h uint64) (at uint64, l *lock) {
	at = h % uint64(s.n)
	l = &s.locks[at%setLocks]
	l.Lock()
	return at, l
}

// some calls do with n sets or fewer, each locked, where the last call stopped.
// If somebody else is at it, nothing is done.
func (s *setTable) some(n int, do func(at uint32)) {
	if !s.sweep.TryLock() {
		return
	}
	defer s.sweep.Unlock()
	for range min(n, s.n) {
		at := s.next % uint32(s.n)
		s.next = at + 1
		l := &s.locks[at%setLocks]
		l.Lock()
		do(at)
		l.Unlock()
	}
}
