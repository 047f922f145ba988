package agent

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"millrace/control/egress/policy"
)

// A Status is an agent's account of itself.
type Status struct {
	Ready        bool         `json:"ready"` // a server answered in the last 10 s, can send requests, and knows which connections are dead
	ServersUp    int          `json:"servers_up"`
	ServersKnown int          `json:"servers_known"` // as servers or leases say
	Requests     int          `json:"requests"`      // dialling or open
	Trouble      string       `json:"trouble,omitempty"`
	Totals       Totals       `json:"totals"`
	Links        []LinkStatus `json:"links"`
}

// Totals are counts since the agent's start.
type Totals struct {
	Requests uint64 `json:"requests"` // that have ended
	Denied   uint64 `json:"denied"`
	Failed   uint64 `json:"failed"`  // in another way
	Refused  uint64 `json:"refused"` // before that: there were too many at once
}

// count counts a request that has ended.
func (t *Totals) count(res result) {
	t.Requests++
	switch res {
	case resultOK, resultCanceled:
	case resultDenied:
		t.Denied++
	default:
		t.Failed++
	}
}

// A LinkStatus tells of one connection to a server.
type LinkStatus struct {
	Address  string        `json:"address"`
	Server   string        `json:"server_id"`
	Since    time.Time     `json:"since"`
	LastSeen time.Duration `json:"last_seen_ns"` // since the peer acknowledged anything
	RTT      time.Duration `json:"rtt_ns"`       // the shortest round trip
	Resent   uint64        `json:"retransmits"`  // segments sent again
	Streams  int           `json:"streams"`
	Idle     int           `json:"idle_streams"`
	NoDrain  bool          `json:"takes_no_drain,omitempty"` // requests share streams
}

// Status tells how the agent is. It may be called at any time.
func (a *Agent) Status() Status {
	a.mu.Lock()
	s := Status{ServersUp: len(a.serversLocked()), ServersKnown: a.count, Requests: len(a.live), Trouble: a.trouble, Totals: a.totals, Links: []LinkStatus{}}
	links := make([]*link, 0, len(a.links))
	for l := range a.links {
		links = append(links, l)
	}
	a.mu.Unlock()
	for _, l := range links {
		ls := l.status()
		s.Ready = s.Ready || ls.LastSeen < roundTripMost && ls.Streams > 0 && !l.isClosing() && !l.addr.hasLost()
		s.Links = append(s.Links, ls)
	}
	slices.SortFunc(s.Links, func(a, b LinkStatus) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), a.Since.Compare(b.Since))
	})
	return s
}

func (l *link) status() LinkStatus {
	s := LinkStatus{Address: l.addr.text, Since: l.since, NoDrain: l.noDrain.Load(), LastSeen: time.Since(l.since)}
	if i, ok := l.info(); ok {
		s.LastSeen, s.RTT, s.Resent = i.seen, i.rtt, i.retransmits
	}
	s.Server = l.server
	for _, st := range l.list() {
		s.Streams++
		st.mu.Lock()
		if st.drained.IsZero() {
			s.Idle++
		}
		st.mu.Unlock()
	}
	return s
}

// A Request tells of one request, open or ended.
type Request struct {
	Started  time.Time     `json:"started"`
	Server   string        `json:"server_id"`
	Agent    string        `json:"agent_id"`
	Dial     int64         `json:"dial_id"`
	Connect  int64         `json:"connect_id,omitempty"`
	Protocol string        `json:"protocol"`
	Target   string        `json:"target"` // as asked for
	Address  string        `json:"address,omitempty"`
	Local    string        `json:"local,omitempty"` // joins with flow counters and traces
	Class    string        `json:"class"`
	Port     string        `json:"port,omitempty"` // by what it was dialled
	Resolve  time.Duration `json:"resolve_ns"`
	Dialled  time.Duration `json:"connect_ns"`
	First    time.Duration `json:"first_byte_ns,omitempty"`
	Duration time.Duration `json:"duration_ns"`
	ToTarget int64         `json:"bytes_to_target"`
	ToClient int64         `json:"bytes_to_client"`
	StallC   time.Duration `json:"client_stalled_ns,omitempty"`
	StallT   time.Duration `json:"target_stalled_ns,omitempty"`
	Resent   uint64        `json:"retransmits,omitempty"` // segments to the target
	State    string        `json:"state"`                 // dialling, open, closing, or a result
	ClosedBy string        `json:"closed_by,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// most is how much of what a peer sent is shown.
const most = 120

// shown is the part of a text that is kept to be shown. The rest is not kept with it.
func shown(text string) string {
	if len(text) <= most {
		return text
	}
	return strings.Clone(text[:most])
}

// tell returns what is known of a request at this moment.
func (r *request) tell() Request {
	state := r.state.Load()
	q := Request{Started: r.started, Server: r.stream.server, Agent: r.stream.id, Dial: r.random,
		Protocol: shown(r.protocol), Target: shown(r.target),
		Duration: time.Since(r.started), State: [...]string{"dialling", "open", "closing"}[state]}
	if state != dialing {
		r.tellVisit(&q)
	}
	return q
}

// tellVisit adds what is known when the target was reached, or was not.
func (r *request) tellVisit(q *Request) {
	q.Connect, q.Class, q.Port = r.id, string(r.visit.Class), r.visit.Port
	now := time.Since(r.started)
	q.Resolve, q.Dialled, q.First = r.visit.Resolve, r.visit.Connect, time.Duration(r.first.Load())
	q.ToTarget, q.ToClient = r.toward.Load(), r.back.Load()
	q.StallC, q.StallT = r.stalled[clientSide].at(now), r.stalled[targetSide].at(now)
	if r.visit.Addr.IsValid() {
		q.Address = r.visit.Addr.String()
	}
	if r.conn != nil {
		q.Local = r.conn.LocalAddr().String()
		q.Resent = r.resent()
	}
}

func (a *Agent) began(r *request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live[r] = struct{}{}
}

func (a *Agent) ended(r *request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.live, r)
}

// refused counts a dial for which there were too many at once.
func (a *Agent) refused() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.totals.Refused++
}

// finished takes the account of a request, once.
func (a *Agent) finished(r *request, res result, by string, err error) {
	reason := ""
	if d, ok := errors.AsType[*policy.DeniedError](err); ok {
		reason = string(d.Reason)
	}
	a.metrics.ended(r, res, reason)
	if res.dialled() {
		a.account(r)
	}
	q := r.tell()
	if q.State == "dialling" {
		r.tellVisit(&q)
	}
	q.State, q.ClosedBy = string(res), by
	if err != nil {
		q.Error = err.Error()
	}
	a.mu.Lock()
	a.recent.add(q)
	a.totals.count(res)
	a.mu.Unlock()
	level := a.cfg.LogRequests
	if res != resultOK { // a broken connection, too
		level = max(level, zap.InfoLevel)
	}
	e := a.cfg.Log.Check(level, "request")
	if e == nil || res != resultOK && !a.mayLog(level) {
		return
	}
	e.Write(zap.Any("request", q), zap.String("denied", reason))
}

// failuresMost is how many requests that failed have a line of the log in a second: a
// server may ask for what is denied without end.
const failuresMost = 1000

// mayLog reports whether one more line about a request that failed may be written. Once
// there were too many, one line says how many have none.
func (a *Agent) mayLog(level zapcore.Level) bool {
	ok, left := a.failures.next(time.Now())
	if left > 0 {
		a.cfg.Log.Log(level, "requests failed that have no line here: too many at once", zap.Int("requests", left))
	}
	return ok
}

// A lineLimit counts lines of a log, of which there are failuresMost in a second.
type lineLimit struct {
	mu    sync.Mutex
	since time.Time // when this second began
	n     int       // in it
}

// next reports whether one more line may be written, and how many were not in the second
// that has ended, if one has.
func (l *lineLimit) next(now time.Time) (ok bool, left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Second {
		left = max(0, l.n-failuresMost)
		l.since, l.n = now, 0
	}
	l.n++
	return l.n <= failuresMost, left
}

// Requests returns those that are open, the oldest first, and then up to 256
// that have ended, the latest first.
func (a *Agent) Requests() (open, ended []Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	open = make([]Request, 0, len(a.live)) // none is an empty list for scripts, too
	for r := range a.live {
		open = append(open, r.tell())
	}
	slices.SortFunc(open, func(a, b Request) int { return a.Started.Compare(b.Started) })
	return open, a.recent.latest()
}

// retransmits is how many segments were sent to servers again.
func (a *Agent) retransmits() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.metrics.lost.Load()
	for l := range a.links {
		n += l.resent.Load()
	}
	return n
}

// A ring holds the last requests that ended.
type ring struct {
	at   int
	kept []Request
}

const ringSize = 256

func (r *ring) add(q Request) {
	if len(r.kept) < ringSize {
		r.kept = append(r.kept, q)
		return
	}
	r.kept[r.at] = q
	r.at = (r.at + 1) % ringSize
}

func (r *ring) latest() []Request {
	list := make([]Request, 0, len(r.kept))
	for i := range r.kept {
		list = append(list, r.kept[(r.at+len(r.kept)-1-i)%len(r.kept)])
	}
	return list
}
