// Package service offers a switch as the gRPC service of dataplane/api, on a
// Unix socket in a run directory.
//
// # The run directory
//
//	dataplane.sock   the API; mode 0600; peers must be root or our own user
//	dataplane.lock   held by the one dataplane of the directory; has its pid
//	ports.json       what was configured, for the next start
//	NAME             socket of the listening port NAME
//
// # The way of a call
//
//	handshake     who is it (peercred.go)
//	guard         version, errors, panics (guard.go)
//	handler       ports.go, entries.go, stats.go; flows.go and its like for the flow table,
//	              connections.go and zones.go for connections
//	check         all input, once (check.go)
//	Switch        does it
//	state         remembers it (state.go)
//
// Changes are made one at a time, in the order in which they are remembered.
// What a restarted dataplane restores is therefore what its clients were told.
package service

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
	"millrace/flowtable"
)

// A Switch is what the service offers: *dataplane.Switch, or a fake in tests.
type Switch interface {
	AddPorts(specs []dataplane.PortSpec) []dataplane.Added
	SetPort(ctx context.Context, spec dataplane.PortSpec) (dataplane.PortInfo, error)
	DelPorts(names []string) []error
	Closed(ctx context.Context, names ...string) error
	SetWorkers(cpus []int) error
	Workers() []int
	Loads(span time.Duration) dataplane.Loads
	Rebalance(ctx context.Context, r dataplane.RebalanceRequest) (*dataplane.Rebalanced, error)
	Port(name string) (dataplane.PortInfo, error)
	Ports() []dataplane.PortInfo
	Bridges() []dataplane.BridgeInfo
	SetBridge(name string, b dataplane.BridgeSettings) error
	Watch(ctx context.Context) <-chan dataplane.Event
	Snapshot() dataplane.Snapshot
	MACs(bridge string) ([]dataplane.MACEntry, error)
	AddMAC(ctx context.Context, e dataplane.MACEntry) error
	DelMAC(ctx context.Context, e dataplane.MACEntry) error
	FlushMACs(bridge, port string) error
	Wire(in, out string) error
	Unwire(in string) error

	Tables() *flowtable.Tables
	FlowBridges() []dataplane.FlowBridge
	OwnRule(flowtable.Brief) bool
	OwnID(flowtable.RuleID) bool
	OwnSet(flowtable.SetID) bool
	OwnDatapaths() map[uint64]string
	RuleCounts(handles []uint32) []dataplane.RuleCount
	Cached(port string, entriesMax int, visit func(*dataplane.CachedProgram) bool) error
	Trace(port string, frame []byte) (*dataplane.Trace, error)
	Memory() []dataplane.MemoryUse

	SelectConnections(f *conntrack.Filter) iter.Seq[conntrack.Connection]
	ConnectionsOf(refs []conntrack.Ref) []conntrack.Connection
	FlushSelected(f *conntrack.Filter) int
	ConnectionStats() conntrack.Stats
	ConnectionZone(zone uint16) conntrack.ZoneInfo
	ConnectionZones() []conntrack.ZoneInfo
	ConnectionDefault() uint32
	SetConnectionDefault(limit uint32)
	SetConnectionLimit(zone uint16, limit uint32)
}

// A Config says what a Server offers.
type Config struct {
	Dir     *Dir // locked
	Switch  Switch
	Version string             // release of the program
	CPUs    []int              // of the workers, unless clients say otherwise
	Poll    dataplane.PollMode // of the workers
	Types   []string           // port types that the switch can open
	NoHost  string             // why tap and internal ports cannot have their device, in words; empty: they can
	Log     *zap.Logger
}

// A Server offers one switch. It does not close it.
type Server struct {
	api.UnimplementedDataplaneServer
	Config
	started time.Time
	grpc    *grpc.Server
	flows   *flows

	mu         sync.Mutex // held during a change
	state      state
	unrestored []*api.Unrestored
	wiredAt    map[string]uint64 // rx frames of each wired port when it was wired
	health     probe
}

// New returns a server that does not serve yet.
func New(c Config) *Server {
	s := &Server{Config: c, started: time.Now(), wiredAt: map[string]uint64{}}
	s.health.snapshot = c.Switch.Snapshot
	s.grpc = grpc.NewServer(
		grpc.Creds(ownerOnly{uid: os.Geteuid(), log: c.Log}),
		grpc.UnaryInterceptor(s.guardUnary), grpc.StreamInterceptor(s.guardStream),
		grpc.UnknownServiceHandler(s.unknown), grpc.ForceServerCodecV2(newCodec()),
	)
	s.flows = newFlows(s)
	api.RegisterDataplaneServer(s.grpc, s)
	api.RegisterFlowsServer(s.grpc, s.flows)
	api.RegisterConnectionsServer(s.grpc, &connections{Server: s})
	grpc_health_v1.RegisterHealthServer(s.grpc, standardHealth{s: s})
	return s
}

// Serve restores what the directory remembers unless fresh, listens, calls
// ready, and serves until ctx ends. Then it lets calls finish for a moment and
// removes the socket.
func (s *Server) Serve(ctx context.Context, fresh bool, ready func() error) error {
	if err := s.restore(ctx, fresh); err != nil {
		return err
	}
	l, err := s.Dir.listen()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.grpc.Serve(l) }()
	if err := ready(); err != nil {
		s.grpc.Stop()
		return errors.Join(fmt.Errorf("report that the dataplane is ready: %w", err), s.Dir.unlink())
	}
	select {
	case err = <-ended:
		s.grpc.Stop() // calls end, too
	case <-ctx.Done():
		s.stop()
	}
	return errors.Join(err, s.flows.close(), s.Dir.unlink())
}

// grace is how long calls may take to finish when the server stops. Watchers
// never finish.
const grace = 200 * time.Millisecond

func (s *Server) stop() {
	t := time.AfterFunc(grace, s.grpc.Stop)
	defer t.Stop()
	s.grpc.GracefulStop()
}
