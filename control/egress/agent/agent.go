package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// An Agent serves the servers of one control plane.
type Agent struct {
	cfg     Config
	budget  *budget
	metrics *metrics
	lastID  atomic.Int64 // connect ids; begins anywhere, so that two processes seldom meet

	dials, requests bound        // under way; dialled or open
	places          atomic.Int64 // addresses of servers that there are links to, or will be
	failures        lineLimit    // of the log

	work   sync.WaitGroup  // streams, requests: all that Run waits for
	ending <-chan struct{} // closed when Run is to end

	mu      sync.Mutex
	links   map[*link]struct{}
	live    map[*request]struct{}
	recent  ring
	totals  Totals
	carried map[trafficKey]traffic // by requests that have ended
	said    int                    // servers that there are, as they say
	leased  int                    // the same as CountServers was told; 0: it was not
	count   int                    // the same as it is believed
	trouble string                 // the last error of a link, "" after a success
}

// New returns an agent that does nothing before Run.
func New(cfg Config) *Agent {
	cfg.setDefaults()
	a := &Agent{cfg: cfg, budget: newBudget(budgetAll), links: map[*link]struct{}{}, live: map[*request]struct{}{}, carried: map[trafficKey]traffic{}}
	a.dials.most, a.dials.each = dialsMost, dialsEach
	a.requests.most, a.requests.each = int64(cfg.MaxRequests), int64(cfg.MaxRequests)
	a.metrics = newMetrics(cfg.Registry, a)
	a.lastID.Store(rand.Int64N(1 << 62))
	return a
}

func (a *Agent) nextID() int64 { return a.lastID.Add(1) }

// Run serves until ctx ends; then it drains: it takes no new requests, and waits
// for those that are open, for DrainTimeout at most.
func (a *Agent) Run(ctx context.Context) {
	a.ending = ctx.Done()
	var all sync.WaitGroup
	for _, s := range a.cfg.Servers {
		all.Go(func() { a.followServer(ctx, s) })
	}
	all.Wait()
	a.cutAll()
	a.work.Wait()
}

// cutAll ends what is left when no server is connected any more: targets that
// still take what clients have left them.
func (a *Agent) cutAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for r := range a.live {
		r.cut()
	}
}

// An address is one place where a server listens.
type address struct {
	host     string // as configured: the name in its certificate
	text     string // host and address, for people
	addrPort netip.AddrPort
	far      atomic.Bool // it is known to be far away
	links    atomic.Int64

	knocking sync.Mutex // held by who knocks

	mu   sync.Mutex
	lost []lostConn // the last lostMost
}

// lookAgain is how often a server's name is looked up.
const lookAgain = 10 * time.Second

// followServer keeps links to all addresses of one server's name. One that is gone is left when
// another one is connected, and what is open there goes on.
func (a *Agent) followServer(ctx context.Context, server string) {
	var all sync.WaitGroup
	defer all.Wait()
	stops := map[netip.AddrPort]context.CancelFunc{}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for wait := newBackoff(); ; {
		found, err := a.resolve(ctx, server)
		if err != nil {
			a.failed(noLink, server, err)
		} else {
			wait = newBackoff()
			a.match(ctx, server, found, stops, &all)
		}
		pause := lookAgain
		if err != nil {
			pause = min(wait.next(), lookAgain)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// match starts what is new in found, and ends what is no longer there, if something of what is
// there is connected: until then it is all that there is.
func (a *Agent) match(ctx context.Context, server string, found []netip.AddrPort, stops map[netip.AddrPort]context.CancelFunc, all *sync.WaitGroup) {
	host, _, _ := net.SplitHostPort(server)
	now := map[netip.AddrPort]bool{}
	for _, f := range found {
		now[f] = true
		if stops[f] != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		stops[f] = stop
		a.places.Add(1)
		ad := &address{host: host, text: describe(server, f), addrPort: f}
		for rank := range a.cfg.Links {
			all.Go(func() { a.keep(own, ad, rank) })
		}
		if a.cfg.adaptive {
			all.Go(func() { a.widen(own, ad) })
		}
		all.Go(func() { a.hunt(own, ad) })
	}
	linked := a.linked(now)
	for f, stop := range stops {
		if !now[f] && linked {
			stop()
			delete(stops, f)
			a.places.Add(-1)
		}
	}
}

// linked reports whether one of some addresses has a link that takes requests.
func (a *Agent) linked(some map[netip.AddrPort]bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.links {
		if some[l.addr.addrPort] && !l.isClosing() {
			return true
		}
	}
	return false
}

func describe(server string, at netip.AddrPort) string {
	if server == at.String() {
		return server
	}
	return server + " (" + at.Addr().String() + ")"
}

// resolve returns the addresses of HOST:PORT.
func (a *Agent) resolve(ctx context.Context, server string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(n))}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var found []netip.AddrPort
	for _, ip := range ips {
		found = append(found, netip.AddrPortFrom(ip.Unmap(), uint16(n)))
	}
	return found, nil
}

// keep holds one link to an address.
func (a *Agent) keep(ctx context.Context, ad *address, rank int) {
	wait := newBackoff()
	for ctx.Err() == nil {
		start := time.Now()
		err := a.runLink(ctx, ad, rank, false)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > lookAgain {
			wait = newBackoff()
		}
		a.failed(noLink, ad.text, err)
		sleep(ctx, wait.next())
	}
}

// Links to a server that is far away: each is a TCP connection, which loses the
// same share of its pace with every lost segment, and takes as many round trips
// to have it back.
const (
	farLinks = 8
	farAway  = 5 * time.Millisecond
)

// widen keeps more links to an address, once it is known to be far away.
func (a *Agent) widen(ctx context.Context, ad *address) {
	for pause := time.Second / 20; sleep(ctx, pause); pause = min(pause*3/2, lookAgain) {
		if rtt, ok := a.distance(ad); ok && rtt >= farAway {
			break
		}
	}
	if ctx.Err() != nil {
		return
	}
	a.foundFar(ad)
	var all sync.WaitGroup
	for rank := a.cfg.Links; rank < farLinks; rank++ {
		all.Go(func() { a.keep(ctx, ad, rank) })
	}
	all.Wait()
}

// foundFar has links that there are, and will be, go by what suits a long way.
func (a *Agent) foundFar(ad *address) {
	ad.far.Store(true)
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.links {
		if c := l.tcp.Load(); l.addr == ad && c != nil {
			c.goFar()
		}
	}
}

// distance is the shortest round trip of an address's links.
func (a *Agent) distance(ad *address) (least time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.links {
		if i, known := l.info(); l.addr == ad && known && (!ok || i.rtt < least) {
			least, ok = i.rtt, true
		}
	}
	return least, ok
}

// Pauses between attempts to find a server that has no link.
const (
	huntFirst = time.Second
	huntMost  = 10 * time.Second
)

// hunt connects again and again while there are more servers than we have links
// to: behind one address may be a load balancer, and the next connection may
// lead to another.
func (a *Agent) hunt(ctx context.Context, ad *address) {
	pause := huntFirst
	for sleep(ctx, pause+rand.N(pause/10)) {
		if !a.missesServers() {
			pause = huntFirst
			continue
		}
		if err := a.runLink(ctx, ad, 0, true); err != nil {
			pause = min(pause*3/2, huntMost)
		} else {
			pause = huntFirst
		}
	}
}

// mostServers is for how many servers there are links, whatever one of them says.
const mostServers = 128

// missesServers reports whether there are servers without a link, though another has one. If none
// has, keep is about to make some.
func (a *Agent) missesServers() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	servers := len(a.serversLocked())
	return servers > 0 && servers < min(a.count, mostServers)
}

// serversLocked are the servers that have links which take requests. Those that are left, and stay
// for what is open, do not count.
func (a *Agent) serversLocked() map[string]int {
	servers := map[string]int{}
	for l := range a.links {
		if !l.isClosing() {
			servers[l.server]++
		}
	}
	return servers
}

// adopt counts a link in. A spare one, of which nobody knew where it would lead,
// is refused if its server has links.
func (a *Agent) adopt(l *link, spare bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if spare && a.serversLocked()[l.server] > 0 {
		return false
	}
	a.links[l] = struct{}{}
	a.trouble = ""
	return true
}

func (a *Agent) abandon(l *link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, counted := a.links[l]; counted {
		a.metrics.lost.Add(l.resent.Load())
	}
	delete(a.links, l)
}

// counted notes how many servers there are, as one of them says.
func (a *Agent) counted(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = n
	a.countLocked()
}

// CountServers tells an agent how many servers there are. What they say
// themselves does not count any more, or only if it is more and Config.MostServers
// is set.
func (a *Agent) CountServers(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leased = n
	a.countLocked()
}

func (a *Agent) countLocked() {
	switch {
	case a.leased == 0:
		a.count = a.said
	case a.cfg.MostServers:
		a.count = max(a.leased, a.said)
	default:
		a.count = a.leased
	}
}

const noLink = "no connection to a server; trying again"

// recovered notes that what there was no more of can be had again.
func (a *Agent) recovered() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trouble = ""
}

// failed notes why there is no link, or not all of one.
func (a *Agent) failed(what, where string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	a.metrics.linkFailed() // before anybody can see the trouble
	a.mu.Lock()
	a.trouble = where + ": " + err.Error()
	a.mu.Unlock()
	a.cfg.Log.Warn(what, zap.String("server", where), zap.Error(err))
}

// A backoff is the pauses between attempts: 50 ms at first, half as much again
// each time and more, 1 s at most, half of that by chance, so that the agents of
// many nodes do not come all at once. A link that comes back is found within 3 s.
type backoff struct{ most time.Duration }

func newBackoff() *backoff { return &backoff{50 * time.Millisecond} }

func (b *backoff) next() time.Duration {
	d := b.most/2 + rand.N(b.most/2)
	b.most = min(b.most*8/5, time.Second)
	return d
}

// sleep reports whether d has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
