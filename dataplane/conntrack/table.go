package conntrack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// Options are the sizes and rules of a table. DefaultOptions fills them.
type Options struct {
	Capacity  int    // connections; memory is touched as they come
	Fragments int    // fragmented datagrams that are tracked at a time
	Held      int    // bytes for fragments that wait for their first
	Affinity  int    // clients whose backend is remembered
	ZoneLimit uint32 // connections of a zone that has no limit of its own; 0: no limit

	Strict  bool // TCP begins with SYN; otherwise connections may be picked up in the middle
	Windows bool // TCP's windows are checked; every TCP packet then takes the long way

	// Cells is the memory of guard cells: at least CellsNeeded(o) words, which
	// only the table changes. Nil: the table maps its own.
	Cells []uint32
}

// connectionBytes is what a connection takes in all: record, two slots of an
// index that is half full, cell, deadline, and a place in the stock's list.
const connectionBytes = 192 + 32 + 4 + 4 + 4

// DefaultOptions returns the sizes for a machine with so many bytes of memory: at
// most a sixteenth of it for connections. 24 GiB: 4 Mi connections, 2 GiB: 512 Ki.
func DefaultOptions(machine uint64) Options {
	o := Options{Capacity: 4 << 20, Fragments: 16 << 10, Held: 4 << 20, Affinity: 64 << 10}
	for uint64(o.Capacity)*connectionBytes > machine/16 && o.Capacity > 16<<10 {
		o.Capacity /= 2
	}
	return o
}

// CapacityMax is the most connections that a table can have.
const CapacityMax = 1 << 27

// absenceCells is how many cells stand for connections that are not there.
const absenceCells = 1 << 14

// affinityCells is how many cells stand for remembered backends.
const affinityCells = 1 << 10

// CellsNeeded returns how many guard cells a table has.
func CellsNeeded(o Options) int { return o.Capacity + 1 + absenceCells + affinityCells }

// ErrOptions says that a table of these sizes cannot be made.
var ErrOptions = errors.New("size of conntrack table out of range")

// A Table holds the connections of a dataplane. Methods of Table may be called
// from any goroutine; workers have a Worker each.
type Table struct {
	options   Options
	index     index
	records   []record
	deadlines []atomic.Uint32 // tick at which a record's time is over, 0 if it is free
	cells     []uint32        // of records, of absence, of affinity
	policies  [256]atomic.Pointer[[Timeouts]uint32]
	zones     []zone
	zoneLocks []lock
	zoneLimit atomic.Uint32 // of zones that have none of their own; 0: none
	fragments fragments
	affinity  affinities
	memory    memory

	stock   stock
	sweep   atomic.Uint32 // next record that a sweeper takes
	sweeper sweeper       // the visitor's
	control sync.Mutex    // held by the visitor
	visitor reader        // who is inside without being a worker

	counts  counts // of whoever is no worker
	mu      sync.Mutex
	workers []*Worker // by number; guarded by mu
}

// New makes an empty table.
func New(o Options) (*Table, error) {
	if o.Capacity < 16 || o.Capacity > CapacityMax || o.Fragments < 0 || o.Held < 0 || o.Affinity < 0 {
		return nil, fmt.Errorf("make conntrack table for %d connections, %d fragmented datagrams, %d bytes of fragments, %d affinities: %w",
			o.Capacity, o.Fragments, o.Held, o.Affinity, ErrOptions)
	}
	if o.Cells != nil && len(o.Cells) < CellsNeeded(o) {
		return nil, fmt.Errorf("make conntrack table for %d connections: %d guard cells, want %d: %w", o.Capacity, len(o.Cells), CellsNeeded(o), ErrOptions)
	}
	t := &Table{options: o}
	t.zoneLimit.Store(o.ZoneLimit)
	if err := t.mapAll(); err != nil {
		return nil, errors.Join(fmt.Errorf("make conntrack table for %d connections: %w", o.Capacity, err), t.memory.close())
	}
	t.stock.fresh, t.stock.limit = 1, uint32(o.Capacity)+1
	t.stock.left.Store(int64(o.Capacity))
	t.stock.epoch.Store(1)
	t.visitor.epoch.Store(offline)
	t.stock.readers = []*reader{&t.visitor}
	return t, t.SetPolicy(0, DefaultPolicy())
}

// mapAll maps the arrays.
func (t *Table) mapAll() (err error) {
	o, m := &t.options, &t.memory
	buckets := 2 * shardSize
	for buckets*bucketSlots < 4*o.Capacity {
		buckets *= 2
	}
	x := &t.index
	x.mask, x.shard = uint64(buckets-1), uint64(min(shards, buckets/shardSize)-1)
	x.seed = newSeed()
	x.locks = make([]lock, x.shard+1)
	t.zoneLocks = make([]lock, zoneLocks)
	if x.buckets, err = array[bucket](m, buckets); err != nil {
		return err
	}
	if t.records, err = array[record](m, o.Capacity+1); err != nil {
		return err
	}
	if t.deadlines, err = array[atomic.Uint32](m, o.Capacity+1); err != nil {
		return err
	}
	if t.stock.list, err = array[uint32](m, o.Capacity+1); err != nil {
		return err
	}
	if t.zones, err = array[zone](m, Zones); err != nil {
		return err
	}
	if t.cells = o.Cells; t.cells == nil {
		if t.cells, err = array[uint32](m, CellsNeeded(*o)); err != nil {
			return err
		}
	}
	if err = t.fragments.init(m, o.Fragments, o.Held); err != nil {
		return err
	}
	return t.affinity.init(m, o.Affinity)
}

// Close gives the memory back. Nobody may use the table any more.
func (t *Table) Close() error {
	if err := t.memory.close(); err != nil {
		return fmt.Errorf("close conntrack table: %w", err)
	}
	return nil
}

// absence returns the cell that stands for no connection having a key of hash h.
func (t *Table) absence(h uint64) uint32 {
	return uint32(t.options.Capacity) + 1 + uint32(h>>24)%absenceCells
}

// A Worker is one worker's way into a table. One goroutine uses it at a time.
type Worker struct {
	reader
	t      *Table
	free   []uint32 // records that it has taken from the stock
	random *rand.PCG
	sweeper
	ready  heldList // fragments whose first has come
	sight  sight
	counts counts
}

// Worker returns the handle of worker i, and makes it at the first call. It is
// offline until its first Quiet.
func (t *Table) Worker(i int) *Worker {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.workers) <= i {
		t.workers = append(t.workers, nil)
	}
	if t.workers[i] == nil {
		w := &Worker{t: t, free: make([]uint32, 0, workerStock), random: rand.NewPCG(rand.Uint64(), rand.Uint64())}
		w.epoch.Store(offline)
		t.workers[i] = w
		t.stock.mu.Lock()
		t.stock.readers = append(t.stock.readers, &w.reader)
		t.stock.mu.Unlock()
	}
	return t.workers[i]
}

// Retire says that the worker has ended. What it has counted stays; Worker with its
// number returns it again.
func (w *Worker) Retire() {
	if w.ready.first != 0 {
		w.t.fragments.store.lose(w.ready)
		w.ready = heldList{}
	}
	w.t.giveBack(w.free)
	w.free = w.free[:0]
	w.Offline()
}
