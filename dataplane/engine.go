package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/sys"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// An engine is what workers and control share of the flow table.
type engine struct {
	epoch       time.Time // second 0 of workers' time
	tables      *flowtable.Tables
	cells       *bank
	secrets     *flowcache.Secrets
	cache       *flowcache.CacheOptions // nil: by cacheMemory
	cacheMemory uint64                  // see Options.CacheMemory
	rulesMax    int
	gone        *flowtable.Counters // what workers have counted that have ended
	meters      meters
	crossing    crossing // connections
	wants       wants    // ends of tunnels that frames have named
}

// newEngine makes the tables. epoch is second 0 of workers' time. If one cannot be made, those that
// were are given back.
func newEngine(o *Options, epoch time.Time) (*engine, error) {
	e := &engine{epoch: epoch, cache: o.Cache, cacheMemory: o.CacheMemory, rulesMax: o.RulesMax}
	var err error
	ct := connectionOptions(o.Connections)
	if e.cells, err = newBank(conntrack.CellsNeeded(ct)); err != nil {
		return nil, err
	}
	err = e.crossing.open(ct, e.cells)
	if err == nil {
		e.secrets, err = flowcache.NewSecrets()
	}
	if err == nil {
		e.tables, err = flowtable.New(flowtable.Options{
			Reserve: o.RuleMemory, RulesMax: o.RulesMax, Cells: e.cells, PathsMax: pathsMax, CellsPerPath: cellsPerPath,
		})
	}
	if err == nil {
		e.gone, err = flowtable.NewCounters(e.rulesMax)
	}
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// close frees the tables. No worker is left.
func (e *engine) close() error {
	var errs []error
	if e.tables != nil {
		errs = append(errs, e.tables.Close())
	}
	if e.gone != nil {
		errs = append(errs, e.gone.Close())
	}
	return errors.Join(append(errs, e.crossing.close(), e.cells.Close())...)
}

// cacheOptions are the sizes of the cache of one of n workers.
func (e *engine) cacheOptions(n int) flowcache.CacheOptions {
	var o flowcache.CacheOptions
	switch {
	case e.cache != nil:
		o = *e.cache
	case e.cacheMemory != 0:
		o = flowcache.CacheOptionsWithin(e.cacheMemory, n)
	default:
		o = flowcache.DefaultCacheOptions(sys.Memory(), n)
	}
	o.Secrets = e.secrets
	o.Masks = cmp.Or(o.Masks, flowcache.MasksMax)
	o.Idle = cmp.Or(o.Idle, idleSeconds)
	return o
}

// idleSeconds is after how many seconds without a hit a cached flow goes.
const idleSeconds = 10

// A flow is a worker's own part of the engine.
type flow struct {
	walker   *flowtable.Walker
	cache    *flowcache.Cache
	supplier *supplier           // of the cache
	counters *flowtable.Counters // of rules, as far as programs have told
	ct       *connector
}

// newFlow makes the part of one of n workers.
func (e *engine) newFlow(side flowtable.SideTables, n int) (f flow, err error) {
	if f.counters, err = flowtable.NewCounters(e.rulesMax); err != nil {
		return flow{}, fmt.Errorf("make counters of rules: %w", err)
	}
	if f.cache, err = flowcache.NewCache(e.cacheOptions(n), e.cells.Cells, f.told); err != nil {
		return flow{}, errors.Join(fmt.Errorf("make a flow cache: %w", err), f.counters.Close())
	}
	f.supplier = newSupplier(f.cache)
	f.ct = e.crossing.connector()
	f.cache.TellConnections(f.ct.told, f.ct.worker.TouchAhead)
	f.cache.SetPatcher(patcher{})
	side.Connect, side.Recall, side.Stick = f.ct.connect, f.ct.recall, f.ct.stick
	f.walker = e.tables.NewWalker(side)
	return f, nil
}

// told counts for rules what a program has counted.
func (f *flow) told(_ uint64, rules []uint32, packets, bytes uint64) {
	for _, h := range rules {
		f.counters.Add(h, packets, bytes)
	}
}

// close gives the worker's part back. What it has counted goes to e.
func (f *flow) close(e *engine) error { // the worker has ended its decisions
	for at, more := 0, true; more; more = at != 0 {
		at = f.cache.Tell(at, tellPart)
	}
	f.counters.AddTo(e.gone)
	f.ct.retire()
	f.walker.Close()
	f.supplier.close()
	return errors.Join(f.cache.Close(), f.counters.Close())
}
