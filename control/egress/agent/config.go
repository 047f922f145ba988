package agent

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"millrace/control/egress/policy"
)

// A Dialer opens connections. *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// A Resolver looks names up. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// A Config says whom to serve, and how.
type Config struct {
	Name    string   // of the node: agent ids begin with it
	Servers []string // HOST:PORT; every address of every host is connected to
	Files   Files

	// Identifiers returns what servers are told of the targets behind each new
	// stream, a URL query such as ipv4=10.0.0.1&default-route=true. May be nil.
	Identifiers func() string

	Policy func() *policy.Policy // in force for the next request
	Host   Dialer                // to targets by the host's sockets
	Port   Dialer                // to targets behind the port; nil: there is none
	// PortName is what metrics and logs call Port; port if empty.
	PortName string
	// HostNames and PortNames resolve names; nil: no such name is resolved.
	HostNames, PortNames Resolver
	Static               map[string][]netip.Addr // names that nobody is asked for, in lower case

	MostServers bool // the greater number of servers counts: what they say, or what CountServers was told

	Links      int  // gRPC connections to each address; if 0 it is 2, and 8 to one that is far away
	Idle       int  // idle streams at each address, 8 if 0
	Shared     bool // requests share streams, as with stock agents
	MaxStreams int  // of each link; above it requests share them; 1,024 if 0
	// MaxRequests are open at the same time, dials included; more are refused; 4,096 if 0.
	MaxRequests int

	DialTimeout   time.Duration // to a target, with lookups; 5 s if 0
	StallTimeout  time.Duration // a target that takes nothing for so long is given up; 5 min if 0
	UnusedTimeout time.Duration // a client that never says anything, and hears nothing for so long, is taken for gone; 2 min if 0
	CloseTimeout  time.Duration // so long a target may take what is left after the client has closed; 30 s if 0
	DrainTimeout  time.Duration // so long Run waits for requests at the end; 30 s if 0

	Registry prometheus.Registerer // may be nil
	Log      *zap.Logger
	// LogRequests is at which level a request that ended well is logged. One that
	// did not is at info, if that is higher.
	LogRequests zapcore.Level

	adaptive      bool          // Links is our choice
	hurryRate     int64         // dials of a link in a second; 500
	shortTime     time.Duration // for which a request may be open and share its stream then; 100 ms
	hold          time.Duration // of what a target says first; 50 ms
	headerTimeout time.Duration // that a server may take to greet a stream; 5 s
}

// Files are what proves to servers who we are, and to us who they are. Each is
// read anew for each connection (the token: for each stream), so rotated files
// hold without a restart.
type Files struct {
	CA        string // certificates of authorities, PEM; empty: no TLS, for tests only
	Cert, Key string // ours, PEM; empty: none is shown
	Token     string // a service account's, or empty
	ALPN      []string
}

// Bounds that are not options.
const (
	readSize   = 64 << 10              // of one read from a target: a DATA packet
	softQueue  = 1 << 20               // bytes that wait for a target before its stream is read no further
	hardQueue  = 8 << 20               // the same on a shared stream, which must be read: the request is closed
	budgetAll  = 64 << 20              // bytes in all queues together
	hardWait   = 3 * time.Second       // that a target may take nothing then
	forgetMost = 16 << 20              // that a target may say after its client has left
	hold       = 50 * time.Millisecond // of what a target says first: decision 0098
	linger     = time.Second
	settled    = 300 * time.Millisecond // the same, once the server is known to have heeded DRAIN
)

func (c *Config) setDefaults() {
	orInt := func(p *int, n int) {
		if *p <= 0 {
			*p = n
		}
	}
	orTime := func(p *time.Duration, d time.Duration) {
		if *p <= 0 {
			*p = d
		}
	}
	c.adaptive = c.Links <= 0
	orInt(&c.Links, 2)
	orInt(&c.Idle, 8)
	orInt(&c.MaxStreams, 1024)
	orInt(&c.MaxRequests, requestsMost)
	if c.hurryRate == 0 {
		c.hurryRate = hurryRate
	}
	orTime(&c.shortTime, shortTime)
	orTime(&c.hold, hold)
	orTime(&c.headerTimeout, 5*time.Second)
	orTime(&c.DialTimeout, 5*time.Second)
	orTime(&c.StallTimeout, 5*time.Minute)
	orTime(&c.UnusedTimeout, 2*time.Minute)
	orTime(&c.CloseTimeout, 30*time.Second)
	orTime(&c.DrainTimeout, 30*time.Second)
	if c.PortName == "" {
		c.PortName = "port"
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
}
