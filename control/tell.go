package control

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	libovsdb "github.com/ovn-kubernetes/libovsdb/ovsdb"
	"go.uber.org/zap"

	"millrace/control/bridge"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
	"millrace/dataplane/api"
)

// report writes into the rows what has come of them, where that is not what
// they say already.
func (l *loop) report(ctx context.Context) {
	w := &writing{client: l.db}
	b := l.book
	for _, v := range l.want.Interfaces {
		l.reportInterface(w, v)
	}
	for _, v := range l.want.BridgeRows {
		row := bridgeRow(v, l.cfg.Version)
		w.set(model.BridgeTable, v.UUID, row, bridgeColumns(b.bridges[v.UUID], row), func() { b.bridges[v.UUID] = row })
	}
	for _, uuid := range b.toldOtherwise(l.want.PortErrors) {
		old, row := b.ports[uuid], portRow(l.want.PortErrors[uuid])
		w.set(model.PortTable, uuid, row, portColumns(old, row), func() { b.ports[uuid] = row })
	}
	root := rootRow(b.rows.Root.NextCfg, OVSVersion, l.portTypes())
	root.SystemType, root.SystemVersion = firstOf(b.root.SystemType, text(l.system.kind)), firstOf(b.root.SystemVersion, text(l.system.version))
	w.set(model.OpenvSwitchTable, b.rootUUID, root, rootColumns(b.root, root), func() { b.root = root })
	l.transact(ctx, w)
}

// reportInterface adds what has changed for an Interface row.
func (l *loop) reportInterface(w *writing, v bridge.InterfaceView) {
	b, d, failed := l.book, l.plant.ports[v.Name], l.failed[v.Name]
	n := news{view: v, device: d, egress: l.egress.told[v.Name]}
	if d != nil {
		n.state = d.state
	}
	if failed != nil {
		n.failed = failed.text
	}
	if b.told[v.UUID] == n {
		return
	}
	old, row := b.interfaces[v.UUID], interfaceRow(v, d, failed)
	egressRow(row, v, n.egress)
	row.Statistics = old.Statistics
	columns := interfaceColumns(old, row)
	if len(columns) == 0 {
		b.told[v.UUID] = n
		return
	}
	w.set(model.InterfaceTable, v.UUID, row, columns, func() {
		b.interfaces[v.UUID], b.told[v.UUID] = row, n
		b.number(v.UUID, b.rows.Interfaces[v.UUID])
	})
}

// statistics writes the counters of all ports, in one transaction.
func (l *loop) statistics(ctx context.Context) {
	every := bridge.StatsDefault
	if l.want != nil {
		every = l.want.Stats
	}
	defer func() { l.stats.Reset(cmp.Or(l.cfg.statsEvery, every)) }() // from when they are written: they may be many
	if l.want == nil {
		return
	}
	l.flowStatistics(ctx)
	if l.session == nil || !l.owner || l.stale {
		return
	}
	one, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stats, err := l.session.client.GetStats(one, &api.GetStatsRequest{})
	if err != nil {
		return // its session ends, or it is asked again
	}
	by := make(map[string]*api.PortStats, len(stats.GetPorts()))
	for _, p := range stats.GetPorts() {
		by[p.GetName()] = p
	}
	w := &writing{client: l.db}
	for _, v := range l.want.Interfaces {
		p, old := by[v.Name], l.book.interfaces[v.UUID]
		if p == nil || !v.Wanted || old == nil {
			continue
		}
		row := *old
		row.Statistics = statistics(p)
		same := column{"statistics", maps.Equal(old.Statistics, row.Statistics)}
		w.set(model.InterfaceTable, v.UUID, &row, differing(same), func() { l.book.interfaces[v.UUID] = &row })
	}
	l.transact(ctx, w)
}

// opsMax is how many operations one transaction has. Who has more rows than that
// to tell gets them in several, cur_cfg with the last: one of 100 MB would be
// refused, and everybody's results with it.
const opsMax = 5000

// transact makes a writing, if it says anything.
func (l *loop) transact(ctx context.Context, w *writing) {
	err := w.err
	for err == nil && len(w.ops) > 0 && ctx.Err() == nil {
		n := min(len(w.ops), opsMax)
		if err = l.transactOne(ctx, w.ops[:n]); err == nil {
			l.status.Counters.Transactions++
			for _, done := range w.done[:n] {
				done()
			}
			w.ops, w.done = w.ops[n:], w.done[n:]
		}
	}
	// After a lost connection all rows come again, and with them a pass.
	if err != nil && !errors.Is(err, ovsdb.ErrLost) && !errors.Is(err, ovsdb.ErrNotConnected) && ctx.Err() == nil {
		l.log.Error("results not written to the database: tried again", zap.Error(err))
		l.retry.Reset(againMin)
	}
}

// transactOne makes one transaction, while the database's lock is ours.
func (l *loop) transactOne(ctx context.Context, ops []libovsdb.Operation) error {
	lock := databaseLock
	one, cancel := parting(ctx)
	defer cancel()
	return l.db.Transact(one, append(slices.Clone(ops), libovsdb.Operation{Op: libovsdb.OperationAssert, Lock: &lock})...)
}

// partingTimeout is how long control waits for an answer of the database once
// it has been told to end.
const partingTimeout = time.Second

// parting returns a context for a transaction. It outlives ctx for a moment: what
// was sent is made, and others see it before we have the answer, so an end
// in between must not have us take it for something that did not happen.
func parting(ctx context.Context) (context.Context, context.CancelFunc) {
	one, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(partingTimeout, cancel) })
	return one, func() { stop(); cancel() }
}
