package dataplane

import (
	"fmt"
	"slices"
	"time"

	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// Parts of a listing of cached programs that the worker makes in one go: some tens
// of microseconds each.
const (
	entriesPart  = 4096 // buckets looked at
	slabsPart    = 256  // pieces of the programs' memory looked at
	programsPart = 128  // programs copied
)

// windowMax is how many programs are listed at a time. The entries of all are
// looked through for each window, so that a listing takes little memory.
const windowMax = 8192

// Cached tells visit of the programs that workers have cached and that frames of a
// port lead to, or of all if port is empty, each with up to entriesMax of its
// entries, until visit returns false. What comes and goes meanwhile may be missed,
// and entries that move be counted twice. visit may not call the switch.
func (s *Switch) Cached(port string, entriesMax int, visit func(*CachedProgram) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := uint32(0)
	if port != "" {
		p := s.ports[port]
		if p == nil {
			return fmt.Errorf("cached programs of port %s: %w", port, ErrNoPort)
		}
		number = p.number
	}
	if s.closed {
		return ErrIsClosing
	}
	for _, w := range s.workers {
		w.do(w.tellDecisions)
		for from, more := uint32(0), true; more; more = from != 0 {
			l := listing{w: w, port: number, most: entriesMax}
			from = l.window(from)
			l.gather()
			if !l.tell(visit) {
				return nil
			}
		}
	}
	return nil
}

// A listing is of some of one worker's programs.
type listing struct {
	w        *worker
	port     uint32   // 0: all
	most     int      // entries told for each
	programs []uint32 // in order
	entries  []cachedEntries
}

// cachedEntries are those of one program.
type cachedEntries struct {
	first []CachedEntry
	n     int
}

// window finds the next programs, and returns where to go on: 0 at the end.
func (l *listing) window(from uint32) (on uint32) {
	c := l.w.flow.cache
	for len(l.programs) < windowMax {
		l.w.do(func() {
			for range programsPart {
				program, next := c.NextProgram(from, slabsPart)
				if program != 0 {
					l.programs = append(l.programs, program)
				}
				if from = next; program == 0 || from == 0 {
					return
				}
			}
		})
		if from == 0 {
			break
		}
	}
	l.entries = make([]cachedEntries, len(l.programs))
	return from
}

// gather looks at all entries.
func (l *listing) gather() {
	var part []flowcache.EntryView
	for at, more := uint64(0), len(l.programs) > 0; more; more = at != 0 {
		part = part[:0]
		l.w.do(func() {
			at = l.w.flow.cache.Entries(at, entriesPart, func(e *flowcache.EntryView) {
				if l.port == 0 || uint32(e.Key[flowtable.WordIn]>>32) == l.port {
					part = append(part, *e)
				}
			})
		})
		for i := range part {
			l.add(&part[i])
		}
	}
}

// add notes an entry, if its program is of the window.
func (l *listing) add(e *flowcache.EntryView) {
	i, found := slices.BinarySearch(l.programs, e.Program)
	if !found {
		return
	}
	c := &l.entries[i]
	c.n++
	if len(c.first) < l.most {
		c.first = append(c.first, CachedEntry{Mask: e.Mask, Key: e.Key, Exact: e.Exact, Idle: time.Duration(e.Idle) * time.Second})
	}
}

// tell tells visit of the programs that have entries.
func (l *listing) tell(visit func(*CachedProgram) bool) bool {
	for from := 0; from < len(l.programs); from += programsPart {
		to := min(from+programsPart, len(l.programs))
		out := make([]CachedProgram, 0, programsPart)
		l.w.do(func() {
			for i := from; i < to; i++ {
				if l.entries[i].n > 0 && l.w.flow.cache.InUse(l.programs[i]) {
					out = append(out, l.copy(i))
				}
			}
		})
		for i := range out {
			if !visit(&out[i]) {
				return false
			}
		}
	}
	return true
}

// copy copies program i of the window. It runs on the worker.
func (l *listing) copy(i int) CachedProgram {
	c, program := l.w.flow.cache, l.programs[i]
	h := c.Program(program)
	p := CachedProgram{
		CPU: l.w.cpu, Packets: h.Packets, Bytes: h.Bytes, Ops: slices.Clone(c.Ops(program)), Drop: dropArg(h),
		Entries: l.entries[i].first, NEntries: l.entries[i].n, Rules: slices.Clone(c.Rules(program)),
	}
	for _, g := range c.Guards(nil, program) {
		p.Stale = p.Stale || l.w.engine.cells.Load(g.Cell) != g.Want
	}
	return p
}
