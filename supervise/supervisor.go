// Package supervise keeps the processes of a switch alive: the embedded database, the
// dataplane and control, and those of egress ports, which come and go.
//
//	spec.go        what processes there are to be
//	supervisor.go  the goroutine that starts, restarts and ends them
//	process.go     one process: started here, or found and adopted
//	pace.go        how long after its end one is started again
//	status.go      run.json, for whoever wants to know
package supervise

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Times of a supervisor.
const (
	// yieldTime is how long what a killed supervisor has left may take to end.
	yieldTime = 2 * time.Second
	// yieldEvery is how often its place is tried.
	yieldEvery = 50 * time.Millisecond
	// firstGrace is how long the last child may take to end before the others
	// are asked to, and endGrace is how long all of them may take.
	firstGrace = 300 * time.Millisecond
	endGrace   = 1500 * time.Millisecond
)

// A supervisor keeps processes alive. One goroutine, on one thread, owns it.
type supervisor struct {
	cfg      Config
	began    time.Time
	children []*child // those of Config.Specs, and behind them others
	more     []Spec   // what others there shall be
	events   chan event
	over     chan struct{} // closed when nobody takes events any more
	told     bool          // that all are ready
	status   Status
}

// A child is one of the processes.
type child struct {
	Spec
	at       int     // index in Config.Specs; -1: it is of Config.More
	proc     process // nil while there is none
	life     int     // number of proc
	born     time.Time
	cancel   context.CancelFunc // ends Await
	wasReady bool
	unwanted bool // it is to end for good
	pace     pace
	told     Child
}

// An event is something that has happened to a child.
type event struct {
	child *child
	life  int // of which process
	kind  eventKind
	exit  *ExitError // of hasEnded
}

type eventKind int

const (
	isReady eventKind = iota
	hasEnded
	isDue  // for its next start
	isLate // to end, though unwanted
)

// Run keeps processes alive until ctx ends, and ends them then. It returns
// early if one cannot start: that is an *ExitError. A process that was adopted
// is then left as it was found.
func Run(ctx context.Context, cfg Config) error {
	// Children get their signal when the thread ends that started them, so
	// that must be one that does not end before us.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := &supervisor{cfg: cfg, began: time.Now(), events: make(chan event), over: make(chan struct{}), status: cfg.Status}
	defer close(s.over)
	s.status.PID, s.status.Started = os.Getpid(), s.began
	for i, spec := range cfg.Specs {
		s.children = append(s.children, &child{Spec: spec, at: i, told: Child{Name: spec.Name, State: Waiting, Since: s.began}})
	}
	for _, c := range s.children {
		if err := s.begin(c); err != nil {
			return errors.Join(err, s.end(true))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return s.end(false)
		case s.more = <-s.cfg.More:
			s.follow()
		case e := <-s.events:
			if err := s.handle(e); err != nil {
				return errors.Join(err, s.end(true))
			}
		}
	}
}

// handle takes an event.
func (s *supervisor) handle(e event) error {
	c := e.child
	if e.life != c.life {
		return nil // of a process that is gone
	}
	switch e.kind {
	case isReady:
		s.ready(c)
	case hasEnded:
		return s.ended(c, e.exit)
	case isDue:
		return s.begin(c)
	case isLate:
		s.cfg.Log.Warn("does not end, so it is killed", zap.String("process", c.Name), zap.Int("pid", c.proc.pid()))
		s.signal(c.proc, c.Name, syscall.SIGKILL)
	}
	return nil
}

// extra reports whether the child is of Config.More.
func (c *child) extra() bool { return c.at < 0 }

// follow starts those of more that there are not, and ends those that are none of
// more. One that is wanted again while it ends is started when it has.
func (s *supervisor) follow() {
	for _, c := range slices.Clone(s.children) {
		if c.extra() && !c.unwanted && !slices.ContainsFunc(s.more, func(m Spec) bool { return m.Name == c.Name }) {
			s.retire(c)
		}
	}
	for _, m := range s.more {
		if i := slices.IndexFunc(s.children, func(c *child) bool { return c.Name == m.Name }); i >= 0 {
			s.children[i].Grace = m.Grace // what it drains for may have changed while it runs
			continue
		}
		c := &child{Spec: m, at: -1, told: Child{Name: m.Name, State: Waiting, Since: time.Now()}}
		s.children = append(s.children, c)
		_ = s.begin(c) // it is tried again
	}
}

// retire has a child end for good.
func (s *supervisor) retire(c *child) {
	c.unwanted = true
	if c.proc == nil {
		c.life++ // it is due no more
		s.remove(c)
		return
	}
	s.signal(c.proc, c.Name, syscall.SIGTERM)
	life := c.life
	time.AfterFunc(c.Grace, func() { s.send(event{c, life, isLate, nil}) })
}

// remove forgets a child that has ended, and makes place for the next of its name.
func (s *supervisor) remove(c *child) {
	c.life++
	s.children = slices.DeleteFunc(s.children, func(o *child) bool { return o == c })
	if c.Sweep != nil {
		if err := c.Sweep(); err != nil {
			s.cfg.Log.Warn("something is left of a process", zap.String("process", c.Name), zap.Error(err))
		}
	}
	s.write()
	s.follow()
}

// begin is start for a child that need not be able to: if it once was, it is
// tried again.
func (s *supervisor) begin(c *child) error {
	err := s.start(c)
	if err == nil || !c.wasReady && !c.extra() {
		return err
	}
	return s.ended(c, &ExitError{c.Name, -1, err.Error()})
}

// start begins the next life of a child: with a process that is there, or a
// new one.
func (s *supervisor) start(c *child) error {
	c.life++
	c.born = time.Now()
	if c.Find != nil {
		found, err := s.find(c)
		if err != nil || found {
			return err
		}
	}
	p, err := spawn(&c.Spec, &s.cfg, !c.wasReady)
	if err != nil {
		return err
	}
	c.proc = p
	life, ended := c.life, make(chan struct{})
	go func() {
		exit := p.wait()
		close(ended)
		s.send(event{c, life, hasEnded, exit})
	}()
	go func() {
		select {
		case <-p.ready:
			s.send(event{c, life, isReady, nil})
		case <-ended:
		}
	}()
	s.tell(c, Starting)
	return nil
}

// find adopts the process that does a child's work already, or ends it, and
// reports whether there is one now.
func (s *supervisor) find(c *child) (bool, error) {
	p, err := adopt(c.Name, c.Find)
	if err != nil || p == nil {
		return false, err
	}
	if c.Replace && !c.wasReady {
		s.cfg.Log.Info("ending what an earlier run has left", zap.String("process", c.Name), zap.Int("pid", p.pid()))
		s.replace(p)
		return false, nil
	}
	s.cfg.Log.Info("adopted what an earlier run has left", zap.String("process", c.Name), zap.Int("pid", p.pid()))
	ctx, cancel := context.WithCancel(context.Background())
	c.proc, c.cancel = p, cancel
	life := c.life
	go func() {
		exit := p.wait()
		cancel()
		s.send(event{c, life, hasEnded, exit})
	}()
	go func() {
		if c.Await(ctx, p.pid()); ctx.Err() == nil {
			s.send(event{c, life, isReady, nil})
		}
	}()
	c.told.Adopted = true
	s.tell(c, Starting)
	return true, nil
}

// replace ends a process, and returns when it has ended.
func (s *supervisor) replace(p *adopted) {
	s.signal(p, p.name, syscall.SIGTERM)
	t := time.AfterFunc(endGrace, func() { s.signal(p, p.name, syscall.SIGKILL) })
	defer t.Stop()
	s.cfg.Log.Info("ended", zap.Error(p.wait()))
}

// send gives the owner an event, if it still takes any.
func (s *supervisor) send(e event) {
	select {
	case s.events <- e:
	case <-s.over:
	}
}

// ready notes that a child is.
func (s *supervisor) ready(c *child) {
	c.wasReady = true
	s.tell(c, Running)
	if !s.told && !slices.ContainsFunc(s.children, func(c *child) bool { return !c.wasReady && !c.extra() }) {
		s.told = true
		s.cfg.Ready()
	}
}

// ended plans the next life of a child, or returns an error if another could
// not go better.
func (s *supervisor) ended(c *child, exit *ExitError) error {
	lived := time.Since(c.born)
	c.proc = nil
	c.told.LastExit, c.told.Adopted = exit.Status, false
	if c.unwanted {
		s.remove(c)
		return nil
	}
	// What a killed supervisor has left dies, or is adopted, in a moment.
	yields := exit.Code == s.cfg.InUse && time.Since(s.began) < yieldTime
	spare := c.Spare && !c.Hopeless(exit.Code)
	if !c.wasReady && !exit.signalled() && !yields && !spare && !c.extra() {
		return cannotStart(exit)
	}
	wait := yieldEvery
	if !yields {
		wait = c.pace.died(lived)
	}
	say := s.cfg.Log.Warn
	if exit.Code == 0 && c.extra() {
		say = s.cfg.Log.Info // it wants another life, with other settings
	}
	say("process will be restarted", zap.Error(exit), zap.Duration("lived", lived), zap.Duration("in", wait))
	c.told.Restarts++
	if wait == 0 {
		return s.begin(c)
	}
	s.tell(c, Waiting)
	life := c.life
	time.AfterFunc(wait, func() { s.send(event{c, life, isDue, nil}) })
	return nil
}

// tell notes the state of a child in run.json.
func (s *supervisor) tell(c *child, state string) {
	c.told.State, c.told.Since, c.told.PID = state, time.Now(), 0
	if c.proc != nil {
		c.told.PID = c.proc.pid()
	}
	s.write()
}

// write brings run.json up to date.
func (s *supervisor) write() {
	s.status.Children = nil
	for _, c := range s.children {
		s.status.Children = append(s.status.Children, c.told)
	}
	s.status.Written = time.Now()
	if err := s.status.write(s.cfg.RunDir); err != nil {
		s.cfg.Log.Error("supervisor cannot tell of itself", zap.Error(err))
	}
}

// end ends all processes, by asking and by force if that does not help, and
// removes what they leave. After a failure, what was adopted is left alone:
// it works, and we cannot do better.
func (s *supervisor) end(failed bool) error {
	var alive []*child
	for _, c := range s.children {
		if c.cancel != nil {
			c.cancel()
		}
		switch _, found := c.proc.(*adopted); {
		case failed && found:
			s.cfg.Log.Warn("left running", zap.String("process", c.Name), zap.Int("pid", c.proc.pid()))
			c.Sweep = nil
		case c.proc != nil:
			alive = append(alive, c)
		case failed && !c.wasReady:
			c.Sweep = nil // whose work it would be is not known
		}
	}
	began := time.Now()
	s.ask(slices.DeleteFunc(slices.Clone(alive), func(c *child) bool { return c.at != len(s.cfg.Specs)-1 }), firstGrace)
	for _, c := range s.ask(alive, endGrace-time.Since(began)) {
		s.cfg.Log.Warn("does not end, so it is killed", zap.String("process", c.Name), zap.Int("pid", c.proc.pid()))
		s.signal(c.proc, c.Name, syscall.SIGKILL)
	}
	s.await(alive, time.Minute) // what is killed ends when the kernel lets it
	var errs []error
	for _, c := range s.children {
		if c.Sweep != nil {
			errs = append(errs, c.Sweep())
		}
	}
	return errors.Join(append(errs, forget(s.cfg.RunDir))...)
}

// ask asks those of children that live to end, and returns who does not in time.
func (s *supervisor) ask(children []*child, limit time.Duration) []*child {
	for _, c := range children {
		if c.proc != nil {
			s.signal(c.proc, c.Name, syscall.SIGTERM)
		}
	}
	return s.await(children, limit)
}

func (s *supervisor) signal(p process, name string, sig syscall.Signal) {
	if err := p.signal(sig); err != nil {
		s.cfg.Log.Warn("process not signalled", zap.String("process", name), zap.Int("pid", p.pid()), zap.Stringer("signal", sig), zap.Error(err))
	}
}

// await waits until children have ended, for a limited time, and returns those
// that have not.
func (s *supervisor) await(children []*child, limit time.Duration) []*child {
	late := time.After(limit)
	for {
		left := slices.DeleteFunc(slices.Clone(children), func(c *child) bool { return c.proc == nil })
		if len(left) == 0 {
			return nil
		}
		select {
		case e := <-s.events:
			if e.kind == hasEnded && e.life == e.child.life {
				e.child.proc = nil
			}
		case <-late:
			return left
		}
	}
}
