package leases

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// A Config says whom to ask, and for what.
type Config struct {
	Kubeconfig string // file
	Namespace  string // kube-system if empty
	Selector   string // k8s-app=konnectivity-server if empty
	Count      func(servers int)
	Registry   prometheus.Registerer // may be nil
	Log        *zap.Logger
}

// A lease is what matters of a Lease object (coordination.k8s.io/v1).
type lease struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		RenewTime   *time.Time `json:"renewTime"`
		AcquireTime *time.Time `json:"acquireTime"`
		Seconds     *int32     `json:"leaseDurationSeconds"`
	} `json:"spec"`
}

// valid reports whether the lease's holder has renewed it in time.
func (l *lease) valid(now time.Time) bool {
	renewed := l.Spec.RenewTime
	if renewed == nil {
		renewed = l.Spec.AcquireTime
	}
	if renewed == nil || l.Spec.Seconds == nil {
		return false
	}
	return renewed.Add(time.Duration(*l.Spec.Seconds) * time.Second).After(now)
}

// A counter knows all leases.
type counter struct {
	cfg Config

	mu     sync.Mutex
	leases map[string]lease // by name; nil: none was ever listed
	told   int
}

// Follow calls cfg.Count whenever the number of valid leases changes, until ctx
// ends. While the API cannot be asked, what is known counts, as long as it is
// valid. As in stock agents there is always one server: without it there would
// be nobody to keep leases.
func Follow(ctx context.Context, cfg Config) {
	if cfg.Namespace == "" {
		cfg.Namespace = "kube-system"
	}
	if cfg.Selector == "" {
		cfg.Selector = "k8s-app=konnectivity-server"
	}
	c := &counter{cfg: cfg}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { c.expire(ctx) })
	m := newMetrics(cfg.Registry)
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		k, err := open(cfg, m)
		if err == nil {
			var progress bool
			if progress, err = k.follow(ctx, c); progress {
				pause = firstPause
			}
			k.close()
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			cfg.Log.Warn("cannot watch the leases of proxy-servers; trying again", zap.Duration("in", pause), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// Pauses between attempts to ask the API.
const (
	firstPause = time.Second
	mostPause  = 30 * time.Second
)

// expire counts again as leases run out.
func (c *counter) expire(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.tell()
		}
	}
}

// replace takes a list for all there is.
func (c *counter) replace(list []lease) {
	c.mu.Lock()
	c.leases = map[string]lease{}
	for _, l := range list {
		c.leases[l.Metadata.Name] = l
	}
	c.mu.Unlock()
	c.tell()
}

// change takes one event.
func (c *counter) change(kind string, l lease) {
	c.mu.Lock()
	if kind == "DELETED" {
		delete(c.leases, l.Metadata.Name)
	} else {
		c.leases[l.Metadata.Name] = l
	}
	c.mu.Unlock()
	c.tell()
}

// tell counts, and says so if it is news.
func (c *counter) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leases == nil {
		return
	}
	n, now := 0, time.Now()
	for _, l := range c.leases {
		if l.valid(now) {
			n++
		}
	}
	if n = max(1, n); n != c.told {
		c.told = n
		c.cfg.Count(n)
	}
}
