package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"millrace/control"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/packet"
	"millrace/dataplane/service"
	"millrace/dataplane/service/switchtest"
)

// mainEnv makes the test binary the program itself, for tests that need a
// process: the supervisor starts /proc/self/exe.
const mainEnv = "MILLRACE_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// testTimeout ends a test that waits for what does not come.
const testTimeout = time.Minute

// A result is what a command line did.
type result struct {
	code     int
	out, err string
}

// run runs a command line in this process.
func run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	a := &app{version: "9.9.9", in: strings.NewReader(""), out: &out, err: &errs, newSwitch: newSwitch, types: portTypes()}
	code := a.main(ctx, args)
	return result{code, out.String(), errs.String()}
}

// serveFake serves a switch in name only.
func serveFake(t *testing.T) (sw *switchtest.Switch, dir string) {
	t.Helper()
	dir = t.TempDir()
	d, err := service.OpenDataplane(dir)
	if err != nil {
		t.Fatal(err)
	}
	sw = &switchtest.Switch{}
	if err := sw.SetWorkers([]int{1}); err != nil {
		t.Fatal(err)
	}
	srv := service.New(service.Config{Dir: d, Switch: sw, Version: "9.9.9", CPUs: []int{1}, Poll: dataplane.PollAdaptive, Types: portTypes(), Log: zap.NewNop()})
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- srv.Serve(ctx, false, func() error { close(ready); return nil })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(testTimeout):
		t.Fatal("not ready in time")
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		d.Close()
	})
	return sw, dir
}

// serveRows serves a switch in name only, with a database and control.
func serveRows(t *testing.T) (sw *switchtest.Switch, dir string) {
	t.Helper()
	sw, dir = serveFake(t)
	serveDatabase(t, dir)
	runControl(t, dir, "unix:"+filepath.Join(dir, embeddedDB))
	return sw, dir
}

// openVSwitch is the database of bridges and ports of a run directory.
func openVSwitch(dir string) server.Database {
	return server.Database{Path: filepath.Join(dir, databaseFile), Schema: schema.OpenVSwitch}
}

// serveDatabase serves both databases at the place where commands look for them.
func serveDatabase(t *testing.T, dir string) {
	t.Helper()
	serveDatabases(t, dir, openVSwitch(dir), server.Database{Path: filepath.Join(dir, flowsFile), Schema: schema.Millrace})
}

func serveDatabases(t *testing.T, dir string, dbs ...server.Database) {
	t.Helper()
	srv, err := server.Open(server.Config{
		Databases: dbs,
		Listen:    []string{"punix:" + filepath.Join(dir, embeddedDB)},
	})
	if err != nil {
		t.Fatal(err)
	}
	inBackground(t, func(ctx context.Context) error { return errors.Join(srv.Serve(ctx), srv.Close()) })
}

// runControl runs control until the test ends.
func runControl(t *testing.T, dir string, endpoints ...string) {
	t.Helper()
	ready := make(chan struct{})
	inBackground(t, func(ctx context.Context) error {
		return control.Run(ctx, control.Config{RunDir: dir, Endpoints: endpoints, Version: "9.9.9", Log: zap.NewNop(), Ready: func() { close(ready) }})
	})
	select {
	case <-ready:
	case <-time.After(testTimeout):
		t.Fatal("control is not ready in time")
	}
}

// inBackground runs f until the test ends. It must end then, without error.
func inBackground(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// must runs a command line that must work, and returns what it prints.
func must(t *testing.T, dir string, args ...string) string {
	t.Helper()
	r := run(t, append([]string{"--run-dir", dir}, args...)...)
	if r.code != 0 || r.err != "" {
		t.Fatalf("millrace %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// fill gives a switch two bridges, four ports and some traffic.
func fill(t *testing.T, sw *switchtest.Switch, dir string) {
	t.Helper()
	must(t, dir, "port", "add", "br0", "vm1", "--type", "dpdkvhostuser", "--tag", "10")
	must(t, dir, "port", "add", "br0", "vm2", "--type", "dpdkvhostuserclient", "--path", "/run/vm2.sock", "--vlan-mode", "native-untagged", "--tag", "1", "--trunks", "20-22,30", "--mtu", "1500", "--queues", "4", "--mac-limit", "16")
	must(t, dir, "port", "add", "br0", "to-br1", "--type", "patch", "--peer", "to-br0")
	must(t, dir, "port", "add", "br1", "to-br0", "--type", "patch", "--peer", "to-br1")
	must(t, dir, "port", "wire", "vm2", "vm1")
	must(t, dir, "mac", "add", "br0", "02:00:00:00:00:01", "vm1", "--vlan", "10")
	sw.SetState("vm1", dataplane.DeviceState{Link: dataplane.LinkUp, Reason: "forwarding", Queues: 2, Features: []string{"VERSION_1", "MRG_RXBUF"}, Regions: 3, Connects: 7, Peer: "pid 44 uid 0"})
	ctx := t.Context()
	if err := sw.AddMAC(ctx, dataplane.MACEntry{Bridge: "br0", VLAN: 10, MAC: [6]byte{2, 0, 0, 0, 0, 9}, Port: "vm2", Age: 63 * time.Second, Hits: 1234567}); err != nil {
		t.Fatal(err)
	}
	setCounters(sw)
}

// setCounters counts: 1000 frames from vm1, of which 10 copied, 9 dropped; 5
// of the 990 outputs to vm2 found no room.
func setCounters(sw *switchtest.Switch) {
	vm1 := dataplane.PortStats{Name: "vm1", Number: 1, RxFrames: 1000, RxBytes: 60000, Copies: 10, Outputs: 1001}
	vm1.RxDrops[packet.ReasonVLANIngress], vm1.RxDrops[packet.ReasonSourceMAC] = 7, 2
	vm2 := dataplane.PortStats{Name: "vm2", Number: 2, Offered: 1001, TxFrames: 996, TxBytes: 59760}
	vm2.TxDrops[packet.ReasonTxFull] = 5
	w := dataplane.WorkerStats{CPU: 1, Turns: 5000, Busy: 100_000, Idle: 200_000, Asleep: 700_000, Sleeps: 3, Frames: 1000, Batches: 40, Queues: 3, GapMax: 900_000, GapMinute: 700_000, Walks: 30}
	w.Gaps[0], w.Gaps[3], w.Gaps[10] = 4990, 9, 1
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sw.Counters = dataplane.Snapshot{At: started.Add(2 * time.Second), Started: started, TSCHz: 1e9, Ports: []dataplane.PortStats{vm1, vm2}, Workers: []dataplane.WorkerStats{w}}
}

// TestGolden compares what commands print with testdata/*.txt, which
// UPDATE_GOLDEN=1 writes anew.
func TestGolden(t *testing.T) {
	sw, dir := serveRows(t)
	fill(t, sw, dir)
	for _, args := range []string{
		"show", "bridge list", "port list", "port list --bridge br1", "port show vm1", "port show vm2", "mac table", "mac table br1", "flow dump", "flow dump br0",
		"stats", "stats vm2", "drops", "drops --reasons",
		"show --json", "bridge list --json", "port list --json", "port show vm1 --json", "mac table --json", "flow dump --json", "stats --json", "drops --json", "drops --reasons --json",
	} {
		t.Run(args, func(t *testing.T) {
			golden(t, args, steady(must(t, dir, strings.Fields(args)...), dir))
		})
	}
}

// golden compares what a command printed with its file in testdata.
func golden(t *testing.T, args, got string) {
	t.Helper()
	file := filepath.Join("testdata", strings.NewReplacer(" ", "_", "--", "", "'", "", "/", "_").Replace(args)+".txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if strings.HasSuffix(args, "--json") {
		checkJSON(t, got)
	}
}

// steady replaces what is different each time.
func steady(s, dir string) string {
	s = strings.ReplaceAll(s, dir, "RUN-DIR")
	for _, r := range [][2]string{
		{`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, "UUID"}, {`process \d+, up [^,]+`, "process PID, up TIME"}, {`"pid": \d+`, `"pid": 1`}, {`"started": "[^"]*\.[^"]*"`, `"started": "NOW"`}, {`added: +.*`, "added: NOW"},
		{`(?s)"flows": \{.*?\}`, `"flows": null`}, // what control says in its file comes a moment later
	} {
		s = regexp.MustCompile(r[0]).ReplaceAllString(s, r[1])
	}
	return s
}

// checkJSON: one document, whose names are in snake_case.
func checkJSON(t *testing.T, s string) {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Errorf("no JSON: %v", err)
	}
	for _, name := range regexp.MustCompile(`"([^"]+)":`).FindAllStringSubmatch(s, -1) {
		if !regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString(name[1]) {
			t.Errorf("field %q is not in snake_case", name[1])
		}
	}
}

// TestExitCodes: what scripts see of each kind of failure, and what people read.
func TestExitCodes(t *testing.T) {
	sw, dir := serveRows(t)
	fill(t, sw, dir)
	for _, tt := range []struct {
		name, args string
		code       int
		says       string
	}{
		{"nothing", "", 0, ""},
		{"unknown command", "prot", 2, `unknown command "prot" for "millrace": did you mean port`},
		{"unknown subcommand", "port ad", 2, `unknown command "ad" for "millrace port": did you mean add`},
		{"help for an unknown command", "help prot", 2, `unknown command "prot" for "millrace": did you mean port`},
		{"help for an unknown subcommand", "help port ad", 2, `unknown command "ad" for "millrace port": did you mean add`},
		{"help", "help port add", 0, ""},
		{"completion for an unknown shell", "completion bsh", 2, `unknown command "bsh" for "millrace completion": did you mean bash`},
		{"unknown flag", "show --bogus", 2, "unknown flag: --bogus\nTry `millrace show --help`"},
		{"missing argument", "port add br0 --type patch", 2, "NAME is missing"},
		{"extra argument", "show all", 2, `"all" is one argument too many`},
		{"no type", "port add br0 x", 2, "--type: say which type"},
		{"client without path", "port add br0 x --type dpdkvhostuserclient", 2, "--path: vhost-server-path is missing: it names the socket to connect to"},
		{"bad name", "port add br0 a/b --type dpdkvhostuser", 2, "NAME: name \"a/b\" has a slash"},
		{"bad tag", "port add br0 x --type dpdkvhostuser --tag 4095", 2, "--tag: 4095 is not a VLAN"},
		{"tag 0", "port add br0 x --type dpdkvhostuser --tag 0", 2, "--tag: 0 is no VLAN"},
		{"negative tag", "port add br0 x --type dpdkvhostuser --tag -1", 2, "tag"},
		{"bad trunks", "port add br0 x --type dpdkvhostuser --trunks 5-3", 2, `--trunks: "5-3" is neither a VLAN nor a range`},
		{"bad mode", "port add br0 x --type dpdkvhostuser --vlan-mode q", 2, "--vlan-mode"},
		{"bad mac limit", "port add br0 x --type dpdkvhostuser --mac-limit 99999999", 2, "--mac-limit: "},
		{"unknown type", "port add br0 x --type nonsense", 2, "--type: unknown type \"nonsense\": choose one of"},
		{"patch without peer", "port add br0 x --type patch", 2, "--peer: peer is missing"},
		{"bad port number", "port add br0 x --type dpdkvhostuser --ofport 70000", 2, "--ofport: 70000 is not in 1..65279"},
		{"bad MTU", "port add br0 x --type dpdkvhostuser --mtu 5", 2, "--mtu: 5 is not in 68..9710"},
		{"bad number of queues", "port add br0 x --type dpdkvhostuser --queues 65", 2, "--queues: n_rxq=\"65\" is not a number"},
		{"bad address of a port", "port add br0 x --type dpdkvhostuser --mac 01:00:00:00:00:01", 2, "--mac: "},
		{"there already", "port add br0 vm1 --type dpdkvhostuser", 1, "port vm1 exists on bridge br0: with --may-exist"},
		{"there already on another bridge", "port add br1 vm1 --type dpdkvhostuser --may-exist", 1, "port vm1 exists on bridge br0: delete it there"},
		{"name of a bridge", "port add br0 br1 --type dpdkvhostuser", 1, "it is the name of a bridge"},
		{"kind that comes later", "port add br0 gnv --type gre", 1, "port gnv: type: not supported yet: type gre (its row stays and control tries again; `millrace port del gnv` deletes it)"},
		{"set with a bad value", "port set vm1 --mtu 5", 2, "--mtu: 5 is not in"},
		{"set of what there is not", "port set nope --mtu 1500", 1, "no such port: nope"},
		{"set and clear", "port set vm1 --tag 5 --clear tag", 2, "--clear: tag contradicts --tag"},
		{"clear of what is no setting", "port set vm1 --clear type", 2, "--clear: \"type\" is none of"},
		{"set of a bridge's own port", "port set br0 --mtu 1500", 1, "is the bridge's own"},
		{"del of a bridge's own port", "port del br0", 1, "`millrace bridge del br0`"},
		{"wire to what there is not", "port wire vm1 nope", 1, "no such port: nope"},
		{"wire to a patch port", "port wire vm1 to-br1", 1, "patch ports cannot be wired"},
		{"bridge there already", "bridge add br0", 1, "bridge br0 exists: with --may-exist"},
		{"bridge with a port's name", "bridge add vm1", 1, "there is a port of that name on bridge br0"},
		{"bridge with a bad name", "bridge add a/b", 2, "NAME: name \"a/b\" has a slash"},
		{"bad aging time", "bridge set br0 --mac-aging-time 5", 2, "--mac-aging-time: \"5\" is not between"},
		{"bad VLANs", "bridge set br0 --flood-vlans 4095", 2, "--flood-vlans: 4095 is not a VLAN"},
		{"no such bridge to set", "bridge set br9 --mac-aging-time 1m", 1, "no such bridge: br9"},
		{"no such bridge to delete", "bridge del br9", 1, "no such bridge: br9"},
		{"no such bridge, and that is fine", "bridge del br9 --if-exists", 0, ""},
		{"bad endpoint", "bridge list --db nonsense", 2, "--db: bad database endpoint \"nonsense\""},
		{"no database there", "bridge list --db unix:/nowhere/sock", 3, "no database (looked where --db says): connect to unix:/nowhere/sock"},
		{"no certificate", "bridge list --db ssl:127.0.0.1:1", 2, "no key, certificate and CA certificate are given"},
		{"no such port", "port del nope", 1, "no such port"},
		{"no such port, and that is fine", "port del nope --if-exists", 0, ""},
		{"no such port to show", "port show nope", 1, "no such port: nope: `millrace show` lists bridges and ports"},
		{"no such port to count", "stats nope", 1, "no such port: nope"},
		{"no such bridge", "mac table br9", 1, "addresses of bridge br9: no such bridge: `millrace show` lists bridges and ports"},
		{"export into no directory", "db export /nowhere/copy.db", 1, "write /nowhere/copy.db: "},
		{"no agent", "agent list", 3, "no switch running: looked at " + filepath.Join(dir, "cni.sock") + "; start it with `millrace run --run-dir " + dir + "`"},
		{"bad address", "mac add br0 xyz vm1", 2, `MAC: "xyz" is not an Ethernet address`},
		{"not up in time", "port add br0 late --type dpdkvhostuser --wait=50ms", 1, "port late does not forward after 50ms: it is waiting: no peer"},
		{"not up at once", "port add br0 later --type dpdkvhostuser --wait=1us", 1, "port later does not forward after 1us: it is waiting: no peer"},
		{"interval", "stats --interval 1us", 2, "--interval"},
		{"count without interval", "stats --count 2", 2, "--count"},
		{"poll mode", "run --poll lazy", 2, "--poll"},
		{"too much memory", "run --cache-memory 2000000", 2, "--cache-memory: 2000000 is not in 0..1048576"},
		{"CPU list", "dataplane --cpus 5-4", 2, "--cpus"},
		{"CPU that there is not", "dataplane --cpus 1023", 2, "--cpus: CPU 1023 is not one that this process may use"},
		{"no slots", "device-plugin --bridge br0 --slots 0", 2, "--slots: 0 is not in 1.."},
		{"log level", "dataplane --log-level loud", 2, "--log-level"},
		{"second dataplane", "dataplane", 4, "run directory is in use: process"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, append([]string{"--run-dir", dir}, strings.Fields(tt.args)...)...)
			if r.code != tt.code || !strings.Contains(r.err, tt.says) {
				t.Errorf("exit code %d, want %d; it said\n%swant\n%s", r.code, tt.code, r.err, tt.says)
			}
		})
	}
}

// TestNoPermission: whoever may not ask is not told that nothing runs.
func TestNoPermission(t *testing.T) {
	denied := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}
	for _, err := range []error{&noDatabaseError{"--db", denied}, fmt.Errorf("%w: %w", api.ErrNotRunning, denied)} {
		if code := exitCode(err); code != exitError {
			t.Errorf("exit code %d for %v", code, err)
		}
	}
}

// TestUnknownFate: a change during which the database went may have been made.
func TestUnknownFate(t *testing.T) {
	if err := unknownFate(fmt.Errorf("%w: EOF", ovsdb.ErrLost)); !errors.Is(err, ovsdb.ErrLost) || !strings.Contains(err.Error(), "`millrace status`") {
		t.Errorf("lost: %v", err)
	}
	if err := unknownFate(os.ErrExist); err != os.ErrExist {
		t.Errorf("another: %v", err)
	}
}

// TestNotRunning: every command that needs a switch says where it looked.
func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	for _, args := range []string{"show", "port list", "mac table", "flow dump", "stats", "stats --interval 1s", "drops", "top"} {
		r := run(t, append([]string{"--run-dir", dir}, strings.Fields(args)...)...)
		if r.code != exitNotRunning || !strings.Contains(r.err, "looked at "+filepath.Join(dir, api.SocketName)) {
			t.Errorf("millrace %s: exit code %d: %s", args, r.code, r.err)
		}
	}
	for _, args := range []string{"bridge list", "bridge add b", "port add b x --type dpdkvhostuser", "port del x", "port set x", "port wire a b", "port unwire a", "db info", "db compact", "db export", "db path", "bridge set b", "bridge del b"} {
		r := run(t, append([]string{"--run-dir", dir}, strings.Fields(args)...)...)
		if r.code != exitNotRunning || !strings.Contains(r.err, "connect to unix:"+filepath.Join(dir, embeddedDB)) || !strings.Contains(r.err, "start a switch with `millrace run`, or name the database with --db") {
			t.Errorf("millrace %s: exit code %d: %s", args, r.code, r.err)
		}
	}
	if r := run(t, "--run-dir", dir, "status"); r.code != exitNotRunning {
		t.Errorf("millrace status: exit code %d: %s", r.code, r.err)
	}
}

// TestChange: commands that change something do so.
func TestChange(t *testing.T) {
	sw, dir := serveRows(t)
	fill(t, sw, dir)
	must(t, dir, "port", "wire", "vm1", "vm2", "--both")
	for _, want := range [][2]string{{"vm1", "vm2"}, {"vm2", "vm1"}} {
		if p, err := sw.Port(want[0]); err != nil || p.Wire != want[1] {
			t.Errorf("%s is wired to %q, %v; want %s", want[0], p.Wire, err, want[1])
		}
	}
	must(t, dir, "port", "unwire", "vm1", "vm2")
	if p, _ := sw.Port("vm1"); p.Wire != "" {
		t.Errorf("vm1 is still wired")
	}
	must(t, dir, "mac", "flush")
	if macs, _ := sw.MACs(""); len(macs) != 1 || !macs[0].Static {
		t.Errorf("addresses after a flush: %v, want the static one", macs)
	}
	must(t, dir, "mac", "del", "br0", "02:00:00:00:00:01", "--vlan", "10")
	if macs, _ := sw.MACs(""); len(macs) != 0 {
		t.Errorf("addresses after a deletion: %v", macs)
	}
	must(t, dir, "port", "del", "vm1", "vm2", "to-br0", "to-br1")
	if ports := sw.Ports(); len(ports) != 0 {
		t.Errorf("ports after their deletion: %v", ports)
	}
}

// TestWait returns when the port is up.
func TestWait(t *testing.T) {
	sw, dir := serveRows(t)
	go func() {
		for t.Context().Err() == nil && len(sw.Ports()) == 0 {
			time.Sleep(time.Millisecond)
		}
		if len(sw.Ports()) > 0 {
			sw.SetState("vm1", dataplane.DeviceState{Link: dataplane.LinkSetup})
			sw.SetState("vm1", dataplane.DeviceState{Link: dataplane.LinkUp})
		}
	}()
	if out := must(t, dir, "port", "add", "br0", "vm1", "--type", "dpdkvhostuser", "--wait", "--json"); !strings.Contains(out, `"link": "up"`) {
		t.Errorf("it printed %s", out)
	}
}

// TestRates: intervals show differences, and top ranks by them.
func TestRates(t *testing.T) {
	sw, dir := serveRows(t)
	fill(t, sw, dir)
	if out := must(t, dir, "top", "--interval", "10ms", "--count", "2"); strings.Count(out, "RX FRAMES/S") != 2 || !strings.Contains(out, "no drops") {
		t.Errorf("top printed\n%s", out)
	}
	out := must(t, dir, "stats", "--interval", "10ms", "--count", "1", "--json")
	checkJSON(t, out)
	if !strings.Contains(out, `"rx_frames_per_second": 0`) {
		t.Errorf("stats printed\n%s", out)
	}
	before := &api.GetStatsResponse{Ports: []*api.PortStats{{Name: "a", Number: 1, RxFrames: 100}, {Name: "b", Number: 2, TxDrops: []*api.Drop{{Reason: "r", Frames: 5}}}}}
	now := &api.GetStatsResponse{Ports: []*api.PortStats{{Name: "a", Number: 1, RxFrames: 300}, {Name: "b", Number: 2, TxDrops: []*api.Drop{{Reason: "r", Frames: 1005}}}}}
	before.At, now.At = at(0), at(2*time.Second)
	text := screen(&api.GetInfoResponse{}, period{before, now})
	if a, b := strings.Index(text, "\na "), strings.Index(text, "\nb "); a < 0 || b < 0 || b > a || !strings.Contains(text, "b              out        r            500") {
		t.Errorf("screen:\n%s", text)
	}
}
