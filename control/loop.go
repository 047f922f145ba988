package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"millrace/control/bridge"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

// OVSVersion is the release of Open vSwitch whose schema and behaviour control
// follows, and what Open_vSwitch.ovs_version says.
const OVSVersion = "3.1.0"

// A Config says what control works with.
type Config struct {
	RunDir     string      // of the dataplane; must exist
	StateDir   string      // for what must outlive a boot; empty: RunDir
	Endpoints  []string    // of the database, such as unix:/run/openvswitch/db.sock
	TLS        *tls.Config // for ssl endpoints
	SocketDirs []string    // where absolute vhost-user paths may be; none: anywhere
	LocalPorts bool        // a bridge's own port is a network device, unless its row says otherwise
	Version    string      // release of the program

	// Agent says what is wrong with the options of an egress port's agent. Nil:
	// there are no egress ports.
	Agent func(options map[string]string) []error
	Log   *zap.Logger
	Ready func() // called once, when the run directory is ours; may be nil

	balanceEvery time.Duration // instead of a row's interval, in tests
	statsEvery   time.Duration // the same, of statistics
}

// offlineAfter is how long a start waits for the database before it takes what
// was wanted last.
const offlineAfter = 2 * time.Second

// tidyAfter is how long files wait for more to write.
const tidyAfter = 250 * time.Millisecond

// A loop is all that control knows. One goroutine owns it.
type loop struct {
	cfg     Config
	log     *zap.Logger
	policy  bridge.Policy
	db      *ovsdb.Client
	session *session // nil while there is no dataplane
	doubted bool     // a call of the session has failed: what the dataplane has is not known
	plant   *plant   // of the session
	flow    *flowing

	egress *egress

	book    *copybook
	seen    bool   // the database has been read
	owner   bool   // connected, and the lock is ours
	stale   bool   // the rows have changed since want was made
	system  system // what this host runs
	want    *bridge.State
	failed  map[string]*failure // by port
	offline bool                // want comes from a file

	misplaced *failure // workers are not where they are wanted; nil: they are

	said   map[string]bool // row errors that have been logged
	status Status
	files  *filer
	dirty  bool        // tidy is set
	saved  bool        // desired.json is want
	retry  *time.Timer // next pass without a cause
	tidy   *time.Timer // files are written
	stats  *time.Timer // statistics are written

	balance balancer
}

// Run holds the dataplane of a run directory to the database until ctx ends.
// The error wraps ErrInUse if somebody else does.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	dir, err := filepath.Abs(cfg.RunDir)
	if err != nil {
		return fmt.Errorf("run directory %q: %w", cfg.RunDir, err)
	}
	cfg.RunDir = dir
	if cfg.StateDir == "" {
		cfg.StateDir = dir
	}
	lock, err := takeLock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	db, err := ovsdb.New(ovsdb.Config{
		Endpoints: cfg.Endpoints, TLS: cfg.TLS, Schema: model.Schema(), Tables: tables(), Lock: databaseLock, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	flow, err := newFlowing(cfg)
	if err != nil {
		return err
	}
	if cfg.Ready != nil {
		cfg.Ready()
	}
	newLoop(cfg, db, flow).run(ctx)
	return nil
}

func newLoop(cfg Config, db *ovsdb.Client, flow *flowing) *loop {
	now := time.Now()
	l := &loop{
		balance: newBalancer(cfg.balanceEvery),
		cfg:     cfg, log: cfg.Log, db: db, flow: flow, egress: newEgress(cfg.RunDir, cfg.Log), book: newCopybook(), failed: map[string]*failure{}, said: map[string]bool{},
		policy: bridge.Policy{RunDir: cfg.RunDir, Dirs: cfg.SocketDirs, Follow: filepath.EvalSymlinks, Local: cfg.LocalPorts, Agent: cfg.Agent},
		files:  newFiler(cfg), dirty: true, system: readSystem("/etc/os-release", "/usr/lib/os-release"),
		status: Status{PID: os.Getpid(), Version: cfg.Version, Started: now, Database: Database{Since: now}},
		retry:  time.NewTimer(offlineAfter), tidy: time.NewTimer(0), stats: time.NewTimer(cmp.Or(cfg.statsEvery, bridge.StatsDefault)),
	}
	return l
}

// run passes whenever there is a cause, until ctx ends.
func (l *loop) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	begun := make(chan *session)
	db, endDB := context.WithCancel(context.WithoutCancel(ctx)) // an answer that is under way still comes
	var beside sync.WaitGroup
	beside.Go(func() { l.db.Run(db) })
	beside.Go(func() { l.flow.db.Run(db) })
	beside.Go(func() { sessions(ctx, l.cfg.RunDir, l.log, begun) })
	beside.Go(func() { l.egress.ask(ctx) })
	defer func() {
		cancel()
		endDB()
		beside.Wait()
		l.write()
		l.files.stop()
	}()
	for {
		var ready, done <-chan struct{}
		if l.session != nil {
			ready, done = l.session.ready, l.session.done
		}
		select {
		case <-ctx.Done():
			return
		case <-l.db.Ready():
			l.rows()
		case l.session = <-begun:
			l.begin()
		case <-done:
			l.end()
			continue
		case <-ready:
			l.hear()
		case l.egress.told = <-l.egress.news:
		case <-l.retry.C:
			l.retried()
		case <-l.stats.C:
			l.statistics(ctx)
			continue
		case <-l.balance.next.C:
			l.rebalance(ctx)
			continue
		case <-l.flow.db.Ready():
			l.flowRows()
			l.flowPass(ctx)
			continue
		case <-l.flow.again.C:
			l.flowPass(ctx)
			continue
		case <-l.flow.refused.C:
			l.flowRetry()
			l.flowPass(ctx)
			continue
		case <-l.tidy.C:
			l.write()
			continue
		}
		l.pass(ctx)
	}
}

// rows takes what the database has to tell.
func (l *loop) rows() {
	b := l.db.Take()
	if b.Reset {
		l.book = newCopybook()
		l.seen, l.offline = true, false
	}
	if b.Reset || len(b.Changes) > 0 {
		l.book.take(b.Changes)
		l.stale = true
	}
	l.owner = b.Owner && l.seen
	d := &l.status.Database
	if d.Connected != b.Connected {
		d.Connected, d.Since = b.Connected, time.Now()
	}
	if b.Connected && d.Owner != b.Owner && !b.Owner {
		l.log.Warn("another switch holds the database: nothing is changed until it lets go", zap.String("lock", databaseLock))
	}
	d.Owner, d.Endpoint, d.Error, d.Offline = b.Owner, l.db.Endpoint(), "", l.offline
	if err := l.db.Err(); err != nil {
		d.Error = err.Error()
	}
	l.soon()
}

// begin compares a new dataplane with what is wanted.
func (l *loop) begin() {
	l.plant = newPlant(l.session)
	if no := l.session.client.Info.GetNoDevices(); no != l.policy.NoDevices {
		l.policy.NoDevices, l.stale = no, true
	}
	clear(l.failed)
	l.misplaced = nil
	l.status.Dataplane = true
	l.status.Counters.Sessions++
	l.log.Info("dataplane connected", zap.Int("ports", len(l.plant.ports)), zap.Uint32("pid", l.session.client.Info.GetPid()))
	l.soon()
}

// retried does what has waited for a time.
func (l *loop) retried() {
	l.fallBack()
	l.forsake()
}

// forsake ends a session that a call has failed in, and that has not ended by itself.
func (l *loop) forsake() {
	if l.session != nil && l.doubted {
		_ = l.session.client.Close() // it is of no use any more
		l.end()
	}
}

// end waits for the next dataplane.
func (l *loop) end() {
	l.session, l.plant, l.doubted = nil, nil, false
	l.status.Dataplane = false
	l.log.Warn("dataplane lost: ports are set up again when it is back")
	l.soon()
}

// hear takes what the dataplane tells of its ports.
func (l *loop) hear() {
	for _, e := range l.session.take() {
		l.plant.heard(e)
	}
}

// fallBack takes what was wanted last if the database has never been read.
func (l *loop) fallBack() {
	if l.seen || l.want != nil {
		return
	}
	d, err := readDesired(l.cfg.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		l.log.Error("no database, and nothing to start from", zap.Error(err))
		return
	}
	l.want, l.offline, l.saved = d.state(), true, true
	l.status.Database.Offline = true
	l.log.Warn("no database: starting with what it said last", zap.Int("ports", len(d.Ports)), zap.NamedError("database", l.db.Err()))
	l.soon()
}

// pass brings the dataplane to what is wanted, and tells the database. After a call that has failed it
// is left to the next session, which asks what there is.
func (l *loop) pass(ctx context.Context) {
	began := time.Now()
	if !l.decide() || l.session == nil || l.doubted {
		return
	}
	l.status.Counters.Passes++
	l.egress.want(l.want.Egress)
	l.balance.follow(l.want.Balance)
	changes := bridge.Diff(l.plant.have(), l.want)
	if l.offline {
		changes = l.plant.additions(changes)
	}
	made, err := l.applyAround(ctx, changes)
	if err != nil {
		l.log.Warn("dataplane does not answer", zap.Error(err))
		// What it has told of a change that it died in, the next one may not remember: nothing is in force by that.
		l.doubted = true
		l.retry.Reset(againMin)
		return
	}
	applied := time.Now()
	l.again()
	if l.owner && l.book.rows.Root != nil {
		l.report(ctx)
	}
	if made == 0 {
		return
	}
	l.saved = l.offline
	l.status.Counters.Last = summary(changes, applied.Sub(began))
	l.status.Counters.LastSeconds = time.Since(began).Seconds()
	l.log.Info("configuration applied", zap.String("changes", l.status.Counters.Last), zap.Duration("told", time.Since(applied)))
	l.soon()
}

// applyAround makes changes, and brings the flow table to where it shall be when
// ports are there and before bridges are left to it.
func (l *loop) applyAround(ctx context.Context, changes []bridge.Change) (made int, err error) {
	var late []bridge.Change
	early := changes[:0:0]
	for _, c := range changes {
		if c.Kind == bridge.SetBridge && c.Bridge.RunsFlows() {
			late = append(late, c)
		} else {
			early = append(early, c)
		}
	}
	if made, err = l.apply(ctx, early); err != nil {
		return made, err
	}
	l.flowPass(ctx)
	more, err := l.apply(ctx, late)
	return made + more, err
}

// decide makes want from the rows if they say something new, and reports
// whether there is a want that may be applied.
func (l *loop) decide() bool {
	if l.offline {
		return true
	}
	if !l.owner && l.want == nil || l.book.rows.Root == nil {
		return false // not asked, or not initialised: what there is stays
	}
	if l.stale && l.owner {
		l.want, l.stale, l.saved = bridge.From(l.book.rows, l.policy), false, false
		l.complain()
		if l.misplaced != nil && !slices.Equal(l.misplaced.cpus, l.want.CPUs) {
			l.misplaced = nil
		}
		for name, f := range l.failed {
			if p, ok := l.want.Ports[name]; !ok || !p.Equal(f.want) {
				delete(l.failed, name)
			}
		}
		l.soon()
	}
	return l.want != nil
}

// again sets the timer for what the dataplane has refused.
func (l *loop) again() {
	var next time.Time
	for _, f := range l.failed {
		if next.IsZero() || f.again.Before(next) {
			next = f.again
		}
	}
	if f := l.misplaced; f != nil && (next.IsZero() || f.again.Before(next)) {
		next = f.again
	}
	if !next.IsZero() {
		l.retry.Reset(time.Until(next))
	}
}
