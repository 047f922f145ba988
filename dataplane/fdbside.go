package dataplane

import "millrace/flowtable"

// lookupFDB is flowtable.SideTables.Lookup. An address as walks have it has the
// VLAN above it (bits 48..59).
func (w *worker) lookupFDB(number uint32, address, _ uint64) (port uint32, guard flowtable.Guard, ok bool) {
	key := stationKey(address)
	cell := w.engine.cells.fdbCell(number, key)
	guard = flowtable.Guard{Cell: cell, Want: w.engine.cells.Load(cell)}
	wb := w.bridgeNumbered(number)
	if wb == nil {
		return 0, guard, false
	}
	port, _, ok = wb.table.Lookup(key)
	return port, guard, ok
}

// learnFDB is flowtable.SideTables.Learn.
func (w *worker) learnFDB(number uint32, address uint64, port uint32) {
	if wb := w.bridgeNumbered(number); wb != nil {
		w.learn(wb, port, stationKey(address))
	}
}
