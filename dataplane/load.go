package dataplane

import (
	"cmp"
	"slices"
	"time"

	"millrace/dataplane/sys"
)

// What receive queues cost. A worker notes for each of its queues the ticks from one
// batch to the next, which is one look at the time for each batch. The housekeeper
// keeps what the notes said at moments of the last minute; so what a queue has cost
// over a span is a difference.
//
// The ticks of a queue are weights only: signals, upkeep and looks at empty queues are no
// queue's own, and are shared out among the worker's queues by them. The sum of the loads
// of a worker's queues is therefore its own load.

const (
	loadEvery = 5 * time.Second // between two samples
	loadKept  = 13              // samples: a minute

	// LoadSpan is the longest span over which loads are known.
	LoadSpan = (loadKept - 1) * loadEvery
	// LoadLeast is the shortest over which queues are dealt by them.
	LoadLeast = time.Second
)

// A QueueLoad is what a receive queue cost its worker in a span.
type QueueLoad struct {
	Port   string
	Queue  int
	Load   float64 // part of the time of one worker: 0 to 1
	Frames uint64
	Cycles float64 // ticks for each frame; 0: there was none
	number uint32  // of the port
}

// A WorkerLoad is how busy a worker was in a span, and with what.
type WorkerLoad struct {
	CPU    int
	Load   float64     // part of its time in turns that carried frames
	Queues []QueueLoad // those that it polls, by port and queue
}

// Loads are the loads of all workers, in the order of Switch.Workers.
type Loads struct {
	Span    time.Duration
	Workers []WorkerLoad
}

// An rxPlace names a receive queue.
type rxPlace struct {
	port  uint32 // its number
	queue int
}

// A queueMeter is what a receive queue has cost since the port was added.
type queueMeter struct{ ticks, frames uint64 }

// A loadSample is what meters showed at a moment.
type loadSample struct {
	at     uint64 // ticks
	busy   []uint64
	queues map[rxPlace]queueMeter // that have carried anything
}

// A loadLog is the samples of the last LoadSpan, oldest first. Switch.mu guards it.
type loadLog struct {
	samples []loadSample
	next    time.Time // when the next one is due
}

// note adds a sample.
func (l *loadLog) note(s loadSample) {
	if len(l.samples) == loadKept {
		l.samples = append(l.samples[:0], l.samples[1:]...)
	}
	l.samples = append(l.samples, s)
}

// forget begins anew with s: queues or workers are others now.
func (l *loadLog) forget(s loadSample) { l.samples = append(l.samples[:0], s) }

// begun reports whether there is a sample.
func (l *loadLog) begun() bool { return len(l.samples) > 0 }

// before returns the youngest sample that is as old as a span, or else the oldest.
func (l *loadLog) before(now uint64, span time.Duration) loadSample {
	ticks := uint64(span.Seconds() * sys.TSCHz())
	for _, s := range slices.Backward(l.samples) {
		if now-s.at >= ticks {
			return s
		}
	}
	return l.samples[0]
}

// sampleLoads notes what meters show, if it is time.
func (s *Switch) sampleLoads() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); !s.closed && s.loads.begun() && !now.Before(s.loads.next) {
		s.loads.next = now.Add(loadEvery)
		s.loads.note(s.readMeters())
	}
}

// restartLoads begins to measure anew: workers or their queues are others now.
func (s *Switch) restartLoads() {
	if s.loads.begun() {
		s.loads.forget(s.readMeters())
	}
}

// readMeters asks the workers. The caller holds mu.
func (s *Switch) readMeters() loadSample {
	sample := loadSample{busy: make([]uint64, len(s.workers)), queues: map[rxPlace]queueMeter{}}
	for i, w := range s.workers {
		w.do(func() {
			sample.busy[i] = w.stats.Busy
			for _, q := range w.rx {
				if q.meter.ticks != 0 {
					sample.queues[rxPlace{q.number, q.index}] = q.meter
				}
			}
		})
	}
	sample.at = sys.TSC()
	return sample
}

// Loads returns what workers and receive queues cost over the last span, or as much
// of it as is known: since workers or queues were dealt last, and no more than LoadSpan. A span of 0
// is LoadSpan.
func (s *Switch) Loads(span time.Duration) Loads {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.measure(span)
}

// measure is Loads for who holds mu.
func (s *Switch) measure(span time.Duration) Loads {
	now := s.readMeters()
	was := s.loads.before(now.at, cmp.Or(span, LoadSpan))
	ticks := max(float64(now.at-was.at), 1)
	l := Loads{Span: time.Duration(ticks / sys.TSCHz() * float64(time.Second)), Workers: make([]WorkerLoad, len(s.workers))}
	sum := make([]float64, len(s.workers)) // of the weights
	for i, w := range s.workers {
		l.Workers[i].CPU = w.cpu
		l.Workers[i].Load = min(float64(now.busy[i]-was.busy[i])/ticks, 1)
	}
	for _, p := range s.byNumber() {
		for queue, i := range p.dealt {
			at := rxPlace{p.number, queue}
			m, old := now.queues[at], was.queues[at]
			q := QueueLoad{Port: p.spec.Name, Queue: queue, number: p.number, Load: float64(m.ticks - old.ticks), Frames: m.frames - old.frames}
			sum[i] += q.Load
			l.Workers[i].Queues = append(l.Workers[i].Queues, q)
		}
	}
	for i := range l.Workers {
		l.Workers[i].share(sum[i], ticks)
	}
	return l
}

// share turns weights, of that sum, into parts of the worker's load.
func (w *WorkerLoad) share(sum, ticks float64) {
	w.sort()
	for i := range w.Queues {
		q := &w.Queues[i]
		if sum > 0 {
			q.Load *= w.Load / sum
		}
		if q.Frames > 0 {
			q.Cycles = q.Load * ticks / float64(q.Frames)
		}
	}
}

// sort brings the queues into the order of ports and queues.
func (w *WorkerLoad) sort() {
	slices.SortFunc(w.Queues, func(a, b QueueLoad) int { return cmp.Or(cmp.Compare(a.Port, b.Port), a.Queue-b.Queue) })
}
