package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/service/switchtest"
	"millrace/waittest"
)

// testTimeout ends a test that waits for what does not come.
const testTimeout = 2 * waittest.Most

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// serve serves sw from dir until the test ends or stop is called.
func serve(t *testing.T, dir string, sw Switch, fresh bool) (s *Server, stop func()) {
	t.Helper()
	t.Cleanup(func() {
		if err := sw.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	})
	d, err := OpenDataplane(dir)
	if err != nil {
		t.Fatal(err)
	}
	s = New(Config{
		Dir: d, Switch: sw, Version: "1.2.3", CPUs: []int{2, 3}, Poll: dataplane.PollBusy, Log: zap.NewNop(),
		Types: []string{dataplane.TypeVhostServer, dataplane.TypeVhostClient, dataplane.TypePatch},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.Serve(ctx, fresh, func() error { close(ready); return nil })
	}()
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	case <-time.After(testTimeout):
		t.Fatal("not ready in time")
	}
	return s, stop
}

// dial connects to the server of dir.
func dial(t *testing.T, dir string) *api.Client {
	t.Helper()
	c, err := api.Dial(testContext(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// start serves a new fake switch, and connects to it.
func start(t *testing.T) (*switchtest.Switch, *api.Client, string) {
	sw, dir := &switchtest.Switch{}, t.TempDir()
	if err := sw.SetWorkers([]int{2, 3}); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, sw, false)
	return sw, dial(t, dir), dir
}

func addPort(t *testing.T, c *api.Client, bridge, name string) *api.Port {
	t.Helper()
	r, err := c.AddPort(testContext(t), &api.AddPortRequest{Spec: &api.PortSpec{Bridge: bridge, Name: name, Type: "dpdkvhostuser"}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetPort()
}

// TestAddPortChecks: what a client gets wrong is refused here, with the name
// of the field, and reaches no switch.
func TestAddPortChecks(t *testing.T) {
	sw, c, dir := start(t)
	for _, tt := range []struct {
		name, field string
		change      func(*api.PortSpec)
	}{
		{"no bridge", "spec.bridge", func(p *api.PortSpec) { p.Bridge = "" }},
		{"no name", "spec.name", func(p *api.PortSpec) { p.Name = "" }},
		{"slash", "spec.name", func(p *api.PortSpec) { p.Name = "../x" }},
		{"dots", "spec.name", func(p *api.PortSpec) { p.Name = ".." }},
		{"NUL", "spec.name", func(p *api.PortSpec) { p.Name = "a\x00b" }},
		{"newline", "spec.bridge", func(p *api.PortSpec) { p.Bridge = "a\nb" }},
		{"too long", "spec.bridge", func(p *api.PortSpec) { p.Bridge = strings.Repeat("x", 256) }},
		{"socket path too long", "spec.path", func(p *api.PortSpec) { p.Name = strings.Repeat("x", 200) }},
		{"name of the API's socket", "spec.path", func(p *api.PortSpec) { p.Name = "dataplane.sock" }},
		{"name of the state's next version", "spec.path", func(p *api.PortSpec) { p.Name = "ports.json.new" }},
		{"path of the lock", "spec.path", func(p *api.PortSpec) { p.Path = dir + "/./dataplane.lock" }},
		{"path out of the directory", "spec.path", func(p *api.PortSpec) { p.Path = "../x" }},
		{"path is the directory", "spec.path", func(p *api.PortSpec) { p.Path = dir }},
		{"path with newline", "spec.path", func(p *api.PortSpec) { p.Path = "/a\nb" }},
		{"no type", "spec.type", func(p *api.PortSpec) { p.Type = "" }},
		{"unknown type", "spec.type", func(p *api.PortSpec) { p.Type = "dpdk" }},
		{"client without path", "spec.path", func(p *api.PortSpec) { p.Type = "dpdkvhostuserclient" }},
		{"patch without peer", "spec.peer", func(p *api.PortSpec) { p.Type = "patch" }},
		{"patch to itself", "spec.peer", func(p *api.PortSpec) { p.Type, p.Peer = "patch", "p1" }},
		{"patch with socket", "spec.path", func(p *api.PortSpec) { p.Type, p.Peer, p.Path = "patch", "p2", "/x" }},
		{"vhost with peer", "spec.peer", func(p *api.PortSpec) { p.Peer = "p2" }},
		{"tag", "spec.tag", func(p *api.PortSpec) { p.Tag = 4095 }},
		{"trunk", "spec.trunks", func(p *api.PortSpec) { p.Trunks = []uint32{1, 65537} }},
		{"trunks of access", "spec.trunks", func(p *api.PortSpec) { p.Tag, p.Trunks = 1, []uint32{2} }},
		{"native without tag", "spec.tag", func(p *api.PortSpec) { p.VlanMode = api.VlanMode_VLAN_MODE_NATIVE_TAGGED }},
		{"unknown mode", "spec.vlan_mode", func(p *api.PortSpec) { p.VlanMode = 99 }},
		{"MTU small", "spec.mtu", func(p *api.PortSpec) { p.Mtu = 67 }},
		{"MTU large", "spec.mtu", func(p *api.PortSpec) { p.Mtu = 9711 }},
		{"queues", "spec.queues", func(p *api.PortSpec) { p.Queues = 65 }},
		{"MAC limit", "spec.mac_limit", func(p *api.PortSpec) { p.MacLimit = 1 << 31 }},
		{"rate without burst", "spec.ingress.burst", func(p *api.PortSpec) { p.Ingress = &api.Limit{Bytes: 1} }},
		{"frames without burst", "spec.egress.frame_burst", func(p *api.PortSpec) { p.Egress = &api.Limit{Frames: 1} }},
		{"rate", "spec.egress.bytes", func(p *api.PortSpec) { p.Egress = &api.Limit{Bytes: 1 << 41, Burst: 1} }},
		{"source", "spec.sources.mac", func(p *api.PortSpec) { p.Sources = []*api.Source{{Mac: "01:00:00:00:00:00"}} }},
		{"address of a source", "spec.sources.addresses", func(p *api.PortSpec) {
			p.Sources = []*api.Source{{Mac: "02:00:00:00:00:01", Addresses: []string{"10.0.0.1"}}}
		}},
		{"sources", "spec.sources", func(p *api.PortSpec) { p.Sources = make([]*api.Source, sourcesMax+1) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := &api.PortSpec{Bridge: "br0", Name: "p1", Type: "dpdkvhostuser"}
			tt.change(spec)
			_, err := c.AddPort(testContext(t), &api.AddPortRequest{Spec: spec})
			var e *api.Error
			if !errors.As(err, &e) || !errors.Is(err, api.ErrInvalid) || e.Code != codes.InvalidArgument || e.Field != tt.field {
				t.Fatalf("got %#v (%v), want an invalid %s", err, err, tt.field)
			}
			if !strings.HasPrefix(e.Text, tt.field+": ") {
				t.Errorf("%q does not begin with the field", e.Text)
			}
		})
	}
	if n := len(sw.Ports()); n != 0 {
		t.Errorf("%d ports were added", n)
	}
}

// TestAddPortDefaults fills in what the client leaves open.
func TestAddPortDefaults(t *testing.T) {
	_, c, dir := start(t)
	for _, tt := range []struct {
		name string
		spec *api.PortSpec
		path string
	}{
		{"listening", &api.PortSpec{Bridge: "br0", Name: "a", Type: "dpdkvhostuser"}, dir + "/a"},
		{"relative", &api.PortSpec{Bridge: "br0", Name: "b", Type: "dpdkvhostuserclient", Path: "x/../b.sock"}, dir + "/b.sock"},
		{"absolute", &api.PortSpec{Bridge: "br0", Name: "c", Type: "dpdkvhostuserclient", Path: "/var//run/c"}, "/var/run/c"},
		{"patch", &api.PortSpec{Bridge: "br0", Name: "d", Type: "patch", Peer: "e"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := c.AddPort(testContext(t), &api.AddPortRequest{Spec: tt.spec})
			if err != nil {
				t.Fatal(err)
			}
			if got := r.GetPort().GetSpec().GetPath(); got != tt.path {
				t.Errorf("path %q, want %q", got, tt.path)
			}
		})
	}
}

// TestErrors: kinds of errors arrive as they left.
func TestErrors(t *testing.T) {
	sw, c, _ := start(t)
	addPort(t, c, "br0", "p1")
	sw.Refuse = func(p dataplane.PortSpec) error {
		switch p.Name {
		case "closing":
			return dataplane.ErrIsClosing
		case "bad":
			return fmt.Errorf("open: %w: no", dataplane.ErrBadSpec)
		case "panic":
			panic("oh")
		}
		return errors.New("something else")
	}
	ctx := testContext(t)
	add := func(name string, tag uint32) error {
		_, err := c.AddPort(ctx, &api.AddPortRequest{Spec: &api.PortSpec{Bridge: "br0", Name: name, Type: "dpdkvhostuser", Tag: tag}})
		return err
	}
	second := func(_ any, err error) error { return err }
	for _, tt := range []struct {
		name string
		err  error
		kind error
		code codes.Code
	}{
		{"same again", add("p1", 0), nil, codes.OK},
		{"other settings", add("p1", 7), api.ErrExists, codes.AlreadyExists},
		{"closing", add("closing", 0), api.ErrClosing, codes.Unavailable},
		{"bad for the switch", add("bad", 0), api.ErrInvalid, codes.InvalidArgument},
		{"panic", add("panic", 0), nil, codes.Internal},
		{"other", add("other", 0), nil, codes.Internal},
		{"no port", second(c.DelPort(ctx, &api.DelPortRequest{Name: "x"})), api.ErrNoPort, codes.NotFound},
		{"no port to list", second(c.ListPorts(ctx, &api.ListPortsRequest{Name: "x"})), api.ErrNoPort, codes.NotFound},
		{"no bridge", second(c.ListPorts(ctx, &api.ListPortsRequest{Bridge: "x"})), api.ErrNoBridge, codes.NotFound},
		{"no bridge, streaming", second(c.Entries(ctx, "x")), api.ErrNoBridge, codes.NotFound},
		{"no wire", second(c.DelWire(ctx, &api.DelWireRequest{In: "p1"})), api.ErrNoEntry, codes.NotFound},
		{"wire to itself", second(c.SetWire(ctx, &api.SetWireRequest{In: "p1", Out: "p1"})), api.ErrInvalid, codes.InvalidArgument},
		{"no entry", second(c.DelEntry(ctx, &api.DelEntryRequest{Bridge: "br0", Mac: "02:00:00:00:00:01"})), api.ErrNoEntry, codes.NotFound},
		{"entry of no port", second(c.AddEntry(ctx, &api.AddEntryRequest{Entry: &api.Entry{Bridge: "br0", Mac: "02:00:00:00:00:01", Port: "x"}})), api.ErrNoPort, codes.NotFound},
		{"group address", second(c.AddEntry(ctx, &api.AddEntryRequest{Entry: &api.Entry{Bridge: "br0", Mac: "03:00:00:00:00:01", Port: "p1"}})), api.ErrInvalid, codes.InvalidArgument},
		{"long address", second(c.DelEntry(ctx, &api.DelEntryRequest{Bridge: "br0", Mac: "02:00:00:00:00:01:02:03"})), api.ErrInvalid, codes.InvalidArgument},
		{"flush of no port", second(c.FlushEntries(ctx, &api.FlushEntriesRequest{Port: "x"})), api.ErrNoPort, codes.NotFound},
		{"flush of no bridge", second(c.FlushEntries(ctx, &api.FlushEntriesRequest{Bridge: "x"})), api.ErrNoBridge, codes.NotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := status.Code(tt.err); got != tt.code {
				t.Errorf("code %v (%v), want %v", got, tt.err, tt.code)
			}
			if tt.kind != nil && !errors.Is(tt.err, tt.kind) {
				t.Errorf("%v is not %v", tt.err, tt.kind)
			}
			if tt.err != nil && strings.Contains(tt.err.Error(), "rpc error") {
				t.Errorf("%v is not for people", tt.err)
			}
		})
	}
}

// rawConn connects without the client's version check.
func rawConn(t *testing.T, dir string) *grpc.ClientConn {
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, api.SocketName), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestVersion refuses clients of another major version, and says so.
func TestVersion(t *testing.T) {
	_, _, dir := start(t)
	conn := rawConn(t, dir)
	for _, tt := range []struct {
		version string
		want    codes.Code
	}{{"1.0", codes.OK}, {"1.99", codes.OK}, {"1", codes.OK}, {"2.0", codes.FailedPrecondition}, {"0.9", codes.FailedPrecondition}, {"", codes.FailedPrecondition}, {"one", codes.FailedPrecondition}} {
		ctx := metadata.AppendToOutgoingContext(testContext(t), api.VersionKey, tt.version)
		_, err := api.NewDataplaneClient(conn).GetInfo(ctx, &api.GetInfoRequest{})
		if status.Code(err) != tt.want || (err != nil) != errors.Is(api.FromStatus(err), api.ErrVersion) {
			t.Errorf("version %q: %v, want %v", tt.version, err, tt.want)
		}
		s, err := api.NewDataplaneClient(conn).ListEntries(ctx, &api.ListEntriesRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != tt.want {
			t.Errorf("version %q of a stream: %v, want %v", tt.version, err, tt.want)
		}
	}
	if _, err := api.NewDataplaneClient(conn).GetInfo(testContext(t), &api.GetInfoRequest{}); err != nil {
		t.Errorf("without a version: %v", err)
	}
	err := conn.Invoke(testContext(t), "/millrace.dataplane.v2.Dataplane/GetInfo", &api.GetInfoRequest{}, &api.GetInfoResponse{})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "version "+api.Version()+" of the API") {
		t.Errorf("next major version: %v", err)
	}
}

// TestHealth answers both services alike, and a stuck worker is seen.
func TestHealth(t *testing.T) {
	sw, c, dir := start(t)
	addPort(t, c, "br0", "p1")
	addPort(t, c, "br0", "p2")
	sw.SetState("p2", dataplane.DeviceState{Link: dataplane.LinkUp})
	standard := grpc_health_v1.NewHealthClient(rawConn(t, dir))
	h, err := c.Health(testContext(t), &api.HealthRequest{})
	if err != nil || !h.GetServing() || h.GetPorts() != 2 || h.GetPortsUp() != 1 {
		t.Fatalf("got %v, %v; want serving, 1 of 2 ports up", h, err)
	}
	r, err := standard.Check(testContext(t), &grpc_health_v1.HealthCheckRequest{Service: "millrace.dataplane.v1.Dataplane"})
	if err != nil || r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("got %v, %v; want serving", r, err)
	}
	if _, err = standard.Check(testContext(t), &grpc_health_v1.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Fatalf("health of an unknown service: %v", err)
	}
	w, err := standard.Watch(testContext(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = w.Recv(); err != nil || r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("watch: got %v, %v; want serving", r, err)
	}
	free := sw.Stick()
	defer free()
	h, err = c.Health(testContext(t), &api.HealthRequest{})
	if err != nil || h.GetServing() || h.GetReason() == "" {
		t.Fatalf("got %v, %v; want not serving, with a reason", h, err)
	}
}

// TestWatch tells of ports that there are, of changes, and of its own end.
func TestWatch(t *testing.T) {
	sw, c, _ := start(t)
	addPort(t, c, "br0", "p1")
	w, err := c.WatchPorts(testContext(t), &api.WatchPortsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := func(kind api.EventKind, name string, link api.Link) {
		t.Helper()
		e, err := w.Recv()
		if err != nil || e.GetKind() != kind || e.GetPort().GetSpec().GetName() != name || e.GetPort().GetState().GetLink() != link {
			t.Fatalf("got %v, %v; want %v of %s, %v", e, err, kind, name, link)
		}
	}
	want(api.EventKind_EVENT_KIND_ADDED, "p1", api.Link_LINK_WAITING)
	addPort(t, c, "br0", "p2")
	want(api.EventKind_EVENT_KIND_ADDED, "p2", api.Link_LINK_WAITING)
	sw.SetState("p2", dataplane.DeviceState{Link: dataplane.LinkBroken, Reason: "ring of nonsense"})
	want(api.EventKind_EVENT_KIND_CHANGED, "p2", api.Link_LINK_BROKEN)
	if _, err := c.DelPort(testContext(t), &api.DelPortRequest{Name: "p1"}); err != nil {
		t.Fatal(err)
	}
	want(api.EventKind_EVENT_KIND_REMOVED, "p1", api.Link_LINK_WAITING)
	sw.LoseWatchers()
	if _, err := w.Recv(); !errors.Is(err, api.ErrSlow) {
		t.Fatalf("got %v, want %v", err, api.ErrSlow)
	}
}

// TestEntries streams more entries than fit into one message, and the hits of
// a wire since it was made.
func TestEntries(t *testing.T) {
	const n = 3*entriesPerMessage + 1
	sw, c, _ := start(t)
	addPort(t, c, "br0", "p1")
	addPort(t, c, "br1", "p2")
	for i := range n {
		e := dataplane.MACEntry{Bridge: "br0", Port: "p1", VLAN: 5, MAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, Hits: uint64(i), Age: 1500 * time.Millisecond}
		if err := sw.AddMAC(testContext(t), e); err != nil {
			t.Fatal(err)
		}
	}
	sw.Counters.Ports = []dataplane.PortStats{{Name: "p1", RxFrames: 100}}
	if _, err := c.SetWire(testContext(t), &api.SetWireRequest{In: "p1", Out: "p2"}); err != nil {
		t.Fatal(err)
	}
	sw.Counters.Ports = []dataplane.PortStats{{Name: "p1", RxFrames: 142}}
	r, err := c.Entries(testContext(t), "br0")
	if err != nil || len(r.GetEntries()) != n {
		t.Fatalf("got %d entries, %v; want %d", len(r.GetEntries()), err, n)
	}
	if e := r.GetEntries()[n-1]; e.GetMac() != "02:00:00:00:06:00" || e.GetHits() != n-1 || e.GetVlan() != 5 || e.GetAgeSeconds() != 1.5 {
		t.Errorf("last entry is %v", e)
	}
	if w := r.GetWires(); len(w) != 1 || w[0].GetIn() != "p1" || w[0].GetOut() != "p2" || w[0].GetHits() != 42 {
		t.Errorf("wires are %v, want p1 to p2 with 42 hits", w)
	}
	if r, err = c.Entries(testContext(t), "br1"); err != nil || len(r.GetEntries())+len(r.GetWires()) != 0 {
		t.Errorf("entries of the other bridge: %v, %v", r, err)
	}
	if _, err := c.FlushEntries(testContext(t), &api.FlushEntriesRequest{Port: "p1"}); err != nil {
		t.Fatal(err)
	}
	if r, err = c.Entries(testContext(t), ""); err != nil || len(r.GetEntries()) != 0 {
		t.Errorf("%d entries after a flush, %v", len(r.GetEntries()), err)
	}
}

// TestInfo says what runs.
func TestInfo(t *testing.T) {
	_, c, dir := start(t)
	i := c.Info
	if i.GetVersion() != "1.2.3" || i.GetApiMajor() != api.Major || i.GetPid() != uint32(os.Getpid()) || i.GetRunDir() != dir ||
		!slices.Equal(i.GetWorkers(), []uint32{2, 3}) || i.GetPollMode() != api.PollMode_POLL_MODE_BUSY {
		t.Errorf("got %v", i)
	}
}

// TestRefusedPeerIsLogged: who is neither root nor the owner gets no byte in.
func TestRefusedPeerIsLogged(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	a, b := socketPair(t)
	defer b.Close()
	owner := ownerOnly{uid: os.Geteuid(), log: zap.New(core)}
	if _, info, err := owner.ServerHandshake(a); err != nil || info.(Peer).UID != os.Geteuid() || info.(Peer).PID != os.Getpid() {
		t.Fatalf("we are refused: %v, %v", info, err)
	}
	if os.Geteuid() == 0 {
		return // root is never refused; TestStranger has the other case
	}
	owner.uid++
	if _, _, err := owner.ServerHandshake(a); err == nil || logs.Len() != 1 {
		t.Fatalf("a stranger came in: %v, %d lines logged", err, logs.Len())
	}
}

// TestManyPorts: each of many ports is added or refused for itself, and what
// was made is there after a restart.
func TestManyPorts(t *testing.T) {
	_, c, dir := start(t)
	ctx := testContext(t)
	spec := func(name string) *api.PortSpec {
		return &api.PortSpec{Bridge: "br0", Name: name, Type: "dpdkvhostuser"}
	}
	r, err := c.AddPorts(ctx, &api.AddPortsRequest{Specs: []*api.PortSpec{spec("a"), spec("x/y"), nil, spec("b"), spec("a")}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.GetResults() {
		got = append(got, p.GetPort().GetSpec().GetName()+p.GetError())
	}
	if want := `a; spec.name: name "x/y" has a slash, a control character or no valid UTF-8; spec.bridge: a name is needed; b; a`; strings.Join(got, "; ") != want {
		t.Errorf("got %s", strings.Join(got, "; "))
	}
	if _, err := c.DelPorts(ctx, &api.DelPortsRequest{Names: []string{"none", "a"}}); err != nil {
		t.Error(err)
	}
	if st, err := (&Dir{path: dir}).readState(); err != nil || len(st.Ports) != 1 || st.Ports[0].GetName() != "b" {
		t.Errorf("remembered: %+v, %v", st, err)
	}
	_, err = c.AddPorts(ctx, &api.AddPortsRequest{Specs: make([]*api.PortSpec, portsMax+1)})
	_, err2 := c.DelPorts(ctx, &api.DelPortsRequest{Names: make([]string, portsMax+1)})
	if !errors.Is(err, api.ErrInvalid) || !errors.Is(err2, api.ErrInvalid) {
		t.Errorf("too many: %v, %v", err, err2)
	}
}

// TestSetChecks: what a client gets wrong about a bridge is refused, with the
// name of the field.
func TestSetChecks(t *testing.T) {
	_, c, _ := start(t)
	addPort(t, c, "br0", "p1")
	for _, tt := range []struct {
		req   *api.SetBridgeRequest
		kind  error
		field string
	}{
		{&api.SetBridgeRequest{Name: "br0"}, nil, ""},
		{&api.SetBridgeRequest{Name: "br1"}, api.ErrNoBridge, ""},
		{&api.SetBridgeRequest{Name: ""}, api.ErrInvalid, "name"},
		{&api.SetBridgeRequest{Name: "br0", MacAgeSeconds: 0.5}, api.ErrInvalid, "mac_age_seconds"},
		{&api.SetBridgeRequest{Name: "br0", MacAgeSeconds: math.NaN()}, api.ErrInvalid, "mac_age_seconds"},
		{&api.SetBridgeRequest{Name: "br0", MacsMax: 1 << 21}, api.ErrInvalid, "macs_max"},
		{&api.SetBridgeRequest{Name: "br0", FloodVlans: []uint32{4095}}, api.ErrInvalid, "flood_vlans"},
	} {
		_, err := c.SetBridge(testContext(t), tt.req)
		var e *api.Error
		if !errors.Is(err, tt.kind) || errors.As(err, &e) && e.Field != tt.field {
			t.Errorf("%v: %v", tt.req, err)
		}
	}
}
