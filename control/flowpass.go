package control

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"millrace/control/bridge"
	"millrace/control/flows"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/dataplane/api"
	"millrace/flowtable"
)

// flowing is what control knows of flows.
type flowing struct {
	db   *ovsdb.Client
	book *flowbook

	seen      bool // the database has been read
	connected bool
	owner     bool // connected, and the lock is ours

	session *session // whose flow table has been compared; nil: none
	bridges []*api.FlowBridge
	plant   int           // plant.version that bridges are of
	want    *bridge.State // that the book's bridges are of
	without string        // why the dataplane takes no flows; empty: it does
	cursor  uint64        // of counters

	again   *time.Timer // next pass without a cause
	refused *time.Timer // what was refused is tried again
	waiting bool        // refused is set
}

// refusedAgain is how long control waits before it tries what the dataplane has
// refused once more.
const refusedAgain = 30 * time.Second

// manyChanges is from how many changes on the log tells of a transaction.
const manyChanges = 1000

func newFlowing(cfg Config) (*flowing, error) {
	db, err := ovsdb.New(ovsdb.Config{
		Endpoints: cfg.Endpoints, TLS: cfg.TLS, Schema: flowmodel.Schema(), Tables: flowTables(), Lock: flowsLock, Optional: true, Log: cfg.Log.Named("flows"),
	})
	return &flowing{
		db: db, book: &flowbook{Book: flows.NewBook()},
		again: stopped(), refused: stopped(),
	}, err
}

// stopped is a timer that is not set.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// flowRows takes what the Millrace database has to tell.
func (l *loop) flowRows() {
	f := l.flow
	b := f.db.Take()
	f.seen = f.seen || b.Reset
	f.book.take(b.Changes, b.Reset)
	f.connected, f.owner = b.Connected, b.Owner
	l.soon()
}

// flowHeld reports whether flows stay as they are: nobody knows them yet, or
// another control is to bring them into force.
func (l *loop) flowHeld() bool {
	f, d := l.flow, l.status.Database
	return !f.seen || f.connected && !f.owner || d.Connected && !d.Owner
}

// flowPass brings the dataplane's flow table to what the rows say, and tells the
// database. A pass over rows that say nothing new does nothing.
func (l *loop) flowPass(ctx context.Context) {
	if l.session == nil || l.want == nil || l.flowHeld() {
		return
	}
	began := time.Now()
	n, err := l.program(ctx)
	if err != nil {
		l.flow.session = nil // what it has is not known
		if !over(err) && ctx.Err() == nil {
			l.log.Warn("flow table not changed: tried again", zap.Error(err))
		}
		l.flow.again.Reset(againMin)
		return
	}
	if n > 0 {
		l.status.Flows.LastSeconds = time.Since(began).Seconds()
		l.status.Flows.Changes += uint64(n)
		level := zap.DebugLevel // a thousand transactions a second are none of the log's business
		if n >= manyChanges {
			level = zap.InfoLevel
		}
		l.log.Log(level, "flow table changed", zap.Int("changes", n), zap.Duration("took", time.Since(began)))
		l.soon()
	}
	l.flowTell(ctx)
}

// program makes the changes of the flow table, and returns how many.
func (l *loop) program(ctx context.Context) (int, error) {
	f := l.flow
	if err := l.flowBridges(ctx); err != nil || f.without != "" {
		return 0, err
	}
	f.book.Compile()
	if f.session != l.session {
		if err := l.flowBegin(ctx); err != nil {
			return 0, err
		}
	}
	changes := f.book.Changes()
	if len(changes) > 0 {
		refused, err := l.session.send(ctx, changes)
		if err != nil {
			return 0, err
		}
		f.book.Done(changes, refused)
		l.flowRefused(refused)
	}
	f.book.Settle()
	return len(changes), nil
}

// flowRefused logs what the dataplane has refused, and sees that it is tried again.
func (l *loop) flowRefused(refused map[int]string) {
	f := l.flow
	if len(refused) == 0 {
		return
	}
	l.status.Flows.Failures += uint64(len(refused))
	for _, why := range refused {
		l.log.Warn("the dataplane refuses flows: their rows say why", zap.Int("changes", len(refused)), zap.String("one", why))
		break
	}
	if !f.waiting {
		f.waiting = true
		f.refused.Reset(refusedAgain)
	}
}

// flowRetry has what was refused tried again.
func (l *loop) flowRetry() {
	l.flow.waiting = false
	l.flow.book.Retry()
}

// flowBridges tells the book which bridges run flows, where that has changed.
func (l *loop) flowBridges(ctx context.Context) error {
	f := l.flow
	if f.session == l.session && f.plant == l.plant.version && f.want == l.want {
		return nil
	}
	if f.session != l.session || f.plant != l.plant.version {
		bridges, err := l.session.flowBridges(ctx)
		var e *api.Error
		switch {
		case errors.As(err, &e) && e.Code == codes.Unimplemented:
			l.flowWithout("the dataplane is of a release without flows: end it, and a newer one starts")
			return nil
		case over(err):
			return err
		case err != nil:
			l.flowWithout(err.Error())
			return nil
		}
		f.without, f.bridges, f.plant = "", bridges, l.plant.version
	}
	now := map[string]*flows.Bridge{}
	for _, b := range f.bridges {
		if l.want.Bridges[b.GetName()].RunsFlows() {
			now[b.GetName()] = &flows.Bridge{FDB: b.GetFdb(), Flood: b.GetFlood(), Ports: map[string]uint32{}}
		}
	}
	for name, d := range l.plant.ports {
		if b := now[d.want.Bridge]; b != nil {
			b.Ports[name] = d.number
		}
	}
	f.book.SetBridges(now)
	f.want = l.want
	return nil
}

// flowWithout notes that the dataplane takes no flows, and why.
func (l *loop) flowWithout(why string) {
	if l.flow.without != why {
		l.flow.without = why
		l.log.Warn("no flows in the dataplane", zap.String("why", why))
		l.soon()
	}
}

// flowBegin compares the book with what a new dataplane has.
func (l *loop) flowBegin(ctx context.Context) error {
	f := l.flow
	have, err := l.session.flowHave(ctx)
	if err != nil {
		return err
	}
	f.book.Begin(have)
	f.cursor = 0
	if err := l.flowCount(ctx); err != nil {
		return err
	}
	f.session = l.session
	l.log.Info("flow table compared", zap.Int("rules", len(have.Rules)), zap.Int("rows", f.book.Tally().Rows))
	return nil
}

// flowCount takes the counters of rules that have counted.
func (l *loop) flowCount(ctx context.Context) (err error) {
	l.flow.cursor, err = l.session.flowCounters(ctx, l.flow.cursor, func(id flowtable.RuleID, packets, bytes uint64) {
		l.flow.book.Count(id, packets, bytes)
	})
	return err
}

// flowStatistics takes counters, and tells the database of them.
func (l *loop) flowStatistics(ctx context.Context) {
	f := l.flow
	if l.session == nil || f.session != l.session || !f.owner || l.flowHeld() {
		return
	}
	if l.flowCount(ctx) == nil { // otherwise its session ends, or it is asked again
		l.flowTell(ctx)
	}
}
