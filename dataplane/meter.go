package dataplane

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/dataplane/sys"
	"millrace/flowtable"
)

// meters are the token buckets that any worker has used, by id.
type meters struct {
	mu sync.Mutex
	by map[flowtable.MeterID]*bucket
}

// A bucket is a token bucket that all workers share. It is kept as the time at
// which it will be full again (the virtual scheduling algorithm of ATM Forum
// TM 4.0), so that one compare-and-swap takes tokens.
type bucket struct {
	full atomic.Uint64 // in 64ths of a tick since base
	base uint64
	of   flowtable.Meter // that it was made for
}

// get returns the bucket of a meter. One that is changed has another, which is full.
func (m *meters) get(of flowtable.Meter) *bucket {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := of.ID
	b := m.by[id]
	if b == nil || b.of != of {
		if m.by == nil {
			m.by = map[flowtable.MeterID]*bucket{}
		}
		b = &bucket{base: sys.TSC() - 1<<36, of: of} // no worker's clock is so far behind
		m.by[id] = b
	}
	return b
}

// keep forgets the buckets of meters that are not in force.
func (m *meters) keep(ids []flowtable.MeterID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.by {
		if _, ok := slices.BinarySearch(ids, id); !ok {
			delete(m.by, id)
		}
	}
}

// keep does what is to be done now and then, without any worker's help.
func (e *engine) keep() {
	e.tables.Reclaim()
	e.meters.keep(e.tables.Meters())
	e.crossing.expire(uint32(time.Since(e.epoch) / time.Second))
}

// localMeters are the meters that a worker has used since the tables last
// changed, in a table of open addresses whose size is a power of two.
type localMeters struct {
	version uint64 // of the tables
	slots   []localMeter
	used    int
}

// A localMeter is a meter as it is in force, made ready.
type localMeter struct {
	id uint32
	*bucket
	packet uint64  // what a packet costs, in 64ths of a tick, if packets count
	bit    float64 // what a bit costs, if bits do
	burst  uint64  // how far ahead of now the bucket may be full
}

// conforms takes tokens for a frame of n bytes from a meter's bucket, and reports
// whether there were enough. A meter that is gone lets all pass.
func (w *worker) conforms(id, n uint32) bool {
	if w.trace != nil {
		return true
	}
	m := w.meter(id)
	if m == nil {
		return true
	}
	cost := m.packet + uint64(m.bit*float64(8*uint64(n)))
	now := (max(w.clock.last, m.base) - m.base) * meterUnit
	for {
		full := m.full.Load()
		at := max(full, now) + cost
		if at > now+m.burst {
			return false
		}
		if m.full.CompareAndSwap(full, at) {
			return true
		}
	}
}

// meterUnit is what buckets count in: 64ths of a tick, so that a frame of 60
// bytes at 400 Gbit/s still costs hundreds.
const meterUnit = 64

// meter returns a meter that is in force, or nil.
func (w *worker) meter(id uint32) *localMeter {
	l := &w.meters
	if v := w.engine.tables.Version(); v != l.version {
		l.version, l.used = v, 0
		clear(l.slots)
	}
	for i := range l.slots {
		m := &l.slots[(int(id*0x9e3779b9>>8)+i)&(len(l.slots)-1)]
		if m.id == id && m.bucket != nil {
			return m
		}
		if m.bucket == nil {
			break
		}
	}
	return w.loadMeter(id)
}

// loadMeter puts a meter into the worker's table.
func (w *worker) loadMeter(id uint32) *localMeter {
	m, ok := w.flow.walker.Meter(flowtable.MeterID(id))
	if !ok {
		return nil
	}
	l := &w.meters
	if 2*(l.used+1) > len(l.slots) {
		old := l.slots
		l.slots = make([]localMeter, max(8, 2*len(old)))
		for _, o := range old {
			if o.bucket != nil {
				*l.free(o.id) = o
			}
		}
	}
	l.used++
	at := l.free(id)
	*at = w.ready(m)
	return at
}

// free returns a free slot for a meter.
func (l *localMeters) free(id uint32) *localMeter {
	for i := int(id * 0x9e3779b9 >> 8); ; i++ {
		if m := &l.slots[i&(len(l.slots)-1)]; m.bucket == nil {
			return m
		}
	}
}

// ready makes a meter ready for use. A burst of nothing lets one frame of any length pass at a
// time.
func (w *worker) ready(m flowtable.Meter) localMeter {
	second := sys.TSCHz() * meterUnit
	r := localMeter{id: uint32(m.ID), bucket: w.engine.meters.get(m)}
	if m.Packets {
		r.packet = max(1, uint64(second/float64(m.Rate)))
		r.burst = atLeast(float64(max(m.Burst, 1))*second/float64(m.Rate), r.packet)
		return r
	}
	r.bit = second / float64(m.Rate) / 1000
	r.burst = atLeast(float64(m.Burst)*1000*r.bit, uint64(8*frameLong*r.bit))
	return r
}

// frameLong is a frame that any meter of bits lets pass when it is full.
const frameLong = 1518

// atLeast is v, or least if that is more.
func atLeast(v float64, least uint64) uint64 { return max(uint64(min(v, 1<<62)), least) }
