package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gopkg.in/yaml.v3"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/service/switchtest"
)

// addByAPI adds a port to a dataplane that has no database, and waits until it
// forwards if it is a patch port whose peer is there.
func addByAPI(t *testing.T, dir string, spec *api.PortSpec) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := api.Dial(ctx, dir, api.Patience(restartPatience))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.AddPort(ctx, &api.AddPortRequest{Spec: spec}); err != nil {
		t.Fatal(err)
	}
	if peer, err := c.ListPorts(ctx, &api.ListPortsRequest{Name: spec.GetPeer()}); spec.GetPeer() != "" && err == nil && len(peer.GetPorts()) == 1 {
		if _, err := waitUp(ctx, c, spec.GetName(), testTimeout); err != nil {
			t.Fatal(err)
		}
	}
}

// vsctl runs ovs-vsctl on the database of a run directory; it must succeed in
// silence.
func vsctl(t *testing.T, dir, args string) string {
	t.Helper()
	return vsctlWords(t, dir, strings.Fields(args)...)
}

// vsctlWords is vsctl with arguments that may have blanks in them.
func vsctlWords(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("ovs-vsctl"); err != nil {
		t.Skip("needs ovs-vsctl")
	}
	var out, errs bytes.Buffer
	cmd := exec.Command("ovs-vsctl", append([]string{"--db=unix:" + filepath.Join(dir, embeddedDB), "--timeout=10"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Fatalf("ovs-vsctl %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	return strings.TrimSpace(out.String())
}

// described is what a switch has, in words.
func described(sw *switchtest.Switch) string {
	var list []string
	for _, p := range sw.Ports() {
		s := fmt.Sprintf("%s/%s %s", p.Bridge, p.Name, p.Type)
		for _, x := range []struct {
			name string
			n    int
		}{{"tag", int(p.Tag)}, {"mtu", p.MTU}, {"macs", p.MACLimit}} {
			if x.n != 0 && !(x.name == "mtu" && x.n == 1500) {
				s += fmt.Sprintf(" %s=%d", x.name, x.n)
			}
		}
		if len(p.Trunks) > 0 {
			s += fmt.Sprint(" trunks=", p.Trunks)
		}
		if p.Wire != "" {
			s += " wire=" + p.Wire
		}
		list = append(list, s)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// TestRows: what our commands write ovs-vsctl reads, and the other way round,
// and each is in force when the command returns.
func TestRows(t *testing.T) {
	sw, dir := serveRows(t)
	const own = true // a command of ours, not of ovs-vsctl
	for _, tt := range []struct {
		ours  bool
		args  string
		out   string
		ports string
	}{
		{own, "port add br0 a --type dpdkvhostuser --tag 5", "", "br0/a dpdkvhostuser tag=5"},
		{!own, "list-br", "br0", "br0/a dpdkvhostuser tag=5"},
		{!own, "get bridge br0 datapath_type", "netdev", "br0/a dpdkvhostuser tag=5"},
		{!own, "list-ports br0", "a", "br0/a dpdkvhostuser tag=5"},
		{!own, "get port a tag", "5", "br0/a dpdkvhostuser tag=5"},
		{!own, "get interface a ofport", "1", "br0/a dpdkvhostuser tag=5"},
		{!own, "get interface br0 type", "internal", "br0/a dpdkvhostuser tag=5"},
		{!own, "set interface a external_ids:iface-id=x options:n_rxq=2", "", "br0/a dpdkvhostuser tag=5"},
		{own, "port set a --clear tag,queues --mtu 9000 --trunks 7,5-6 --mac-limit 9", "", "br0/a dpdkvhostuser mtu=9000 macs=9 trunks=[5 6 7]"},
		{!own, "get interface a external_ids options mtu_request", "{iface-id=x}\n{}\n9000", "br0/a dpdkvhostuser mtu=9000 macs=9 trunks=[5 6 7]"},
		{!own, "get port a tag trunks other_config", "[]\n[5, 6, 7]\n{millrace-mac-limit=\"9\"}", "br0/a dpdkvhostuser mtu=9000 macs=9 trunks=[5 6 7]"},
		{own, "port set a --clear trunks,mac-limit,mtu", "", "br0/a dpdkvhostuser"},
		{!own, "add-port br0 b -- set interface b type=dpdkvhostuser ofport_request=9", "", "br0/a dpdkvhostuser, br0/b dpdkvhostuser"},
		{own, "port wire a b --both", "", "br0/a dpdkvhostuser wire=b, br0/b dpdkvhostuser wire=a"},
		{!own, "get port a other_config:millrace-wire", "b", "br0/a dpdkvhostuser wire=b, br0/b dpdkvhostuser wire=a"},
		{own, "port unwire b", "", "br0/a dpdkvhostuser wire=b, br0/b dpdkvhostuser"},
		{own, "port add br0 b --type dpdkvhostuser --may-exist --tag 8 --ofport 3", "", "br0/a dpdkvhostuser wire=b, br0/b dpdkvhostuser tag=8"},
		{!own, "get interface b ofport", "3", "br0/a dpdkvhostuser wire=b, br0/b dpdkvhostuser tag=8"},
		{own, "port del b nope --if-exists", "", "br0/a dpdkvhostuser"},
		{!own, "get port a other_config", "{}", "br0/a dpdkvhostuser"},
		{!own, "get interface a error", "[]", "br0/a dpdkvhostuser"},
		{own, "port del a", "", ""},
		{!own, "list-ports br0", "", ""},
		{own, "bridge set br0 --mac-aging-time 2m --mac-table-size 100 --flood-vlans 3,1", "", ""},
		{!own, "get bridge br0 other_config flood_vlans", "{mac-aging-time=\"120\", mac-table-size=\"100\"}\n[1, 3]", ""},
		{own, "bridge add br0 --may-exist --flood-vlans=", "", ""},
		{!own, "get bridge br0 flood_vlans", "[]", ""},
		{!own, "add-br br1", "", ""},
		{own, "bridge del br0 br1", "", ""},
		{!own, "get Open_vSwitch . bridges", "[]", ""},
	} {
		run := func() string { return must(t, dir, strings.Fields(tt.args)...) }
		if !tt.ours {
			run = func() string { return vsctl(t, dir, tt.args) }
		}
		if got := run(); got != tt.out {
			t.Errorf("%s prints %q, want %q", tt.args, got, tt.out)
		}
		if got := described(sw); got != tt.ports {
			t.Fatalf("after %s the switch has\n%s\nwant\n%s", tt.args, got, tt.ports)
		}
	}
	if cur := vsctl(t, dir, "get Open_vSwitch . cur_cfg"); cur != vsctl(t, dir, "get Open_vSwitch . next_cfg") {
		t.Errorf("cur_cfg is %s", cur)
	}
	if out := must(t, dir, "port", "add", "br2", "j", "--type", "dpdkvhostuser", "--json"); !strings.Contains(out, `"ofport": 1`) || !strings.Contains(out, `"link": "waiting"`) {
		t.Errorf("port add --json prints %s", out)
	}
}

// TestConcurrentRows: nobody's ports are lost when many commands write at once,
// ours and those of ovs-vsctl.
func TestConcurrentRows(t *testing.T) {
	sw, dir := serveRows(t)
	vsctl(t, dir, "init")
	const each = 8
	var wg sync.WaitGroup
	for i := range each {
		wg.Go(func() {
			r := run(t, "--run-dir", dir, "port", "add", "br0", fmt.Sprint("m", i), "--type", "dpdkvhostuser", "--timeout", "20s")
			if r.code != 0 {
				t.Errorf("millrace: exit code %d: %s", r.code, r.err)
			}
		})
		wg.Go(func() {
			args := []string{"--db=unix:" + filepath.Join(dir, embeddedDB), "--timeout=20", "--may-exist", "add-br", "br0", "--", "add-port", "br0", fmt.Sprint("v", i), "--", "set", "interface", fmt.Sprint("v", i), "type=dpdkvhostuser"}
			if out, err := exec.Command("ovs-vsctl", args...).CombinedOutput(); err != nil {
				t.Errorf("ovs-vsctl: %v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if got := len(sw.Ports()); got != 2*each {
		t.Errorf("%d ports, want %d: %s", got, 2*each, described(sw))
	}
}

// TestSameName: of two that add one port at a time, one gets a clear error.
func TestSameName(t *testing.T) {
	_, dir := serveRows(t)
	results := make([]result, 6)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = run(t, "--run-dir", dir, "port", "add", "br0", "x", "--type", "dpdkvhostuser") })
	}
	wg.Wait()
	good := 0
	for _, r := range results {
		if r.code == 0 {
			good++
		} else if r.code != 1 || !strings.Contains(r.err, "port x exists on bridge br0") {
			t.Errorf("exit code %d: %s", r.code, r.err)
		}
	}
	if good != 1 {
		t.Errorf("%d succeeded, want 1", good)
	}
}

// TestWithoutControl: rows are written all the same, and the command says that
// nothing follows them.
func TestWithoutControl(t *testing.T) {
	_, dir := serveFake(t)
	serveDatabase(t, dir)
	r := run(t, "--run-dir", dir, "bridge", "add", "br0", "--timeout", "50ms")
	if r.code != 1 || !strings.Contains(r.err, "not in force after 50ms (cur_cfg is 0, not 1): `millrace status`") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	if out := must(t, dir, "bridge", "add", "br1", "--no-wait") + must(t, dir, "bridge", "list"); !strings.Contains(out, "br0 ") || !strings.Contains(out, "br1 ") {
		t.Errorf("bridges:\n%s", out)
	}
	must(t, dir, "port", "add", "br1", "x", "--type", "dpdkvhostuser", "--no-wait")
	addByAPI(t, dir, &api.PortSpec{Bridge: "br7", Name: "alone", Type: "dpdkvhostuser"})
	out := must(t, dir, "show")
	for _, want := range []string{"link: not in the dataplane", "Bridge br7 (in the dataplane, not in the database)", "database is at change 3, control at 0"} {
		if !strings.Contains(out, want) {
			t.Errorf("show does not say %q:\n%s", want, out)
		}
	}
	st := run(t, "--run-dir", dir, "status")
	if st.code != 1 || !strings.Contains(st.out, "control: not running") || !strings.Contains(st.out, "what helps: start `millrace run`") || !strings.Contains(st.err, "1 problem\n") {
		t.Errorf("status: exit code %d\n%s%s", st.code, st.out, st.err)
	}
}

// TestShowHalf: what can be reached is shown.
func TestShowHalf(t *testing.T) {
	_, dir := serveFake(t)
	addByAPI(t, dir, &api.PortSpec{Bridge: "br0", Name: "p", Type: "dpdkvhostuser"})
	if out := must(t, dir, "show"); !strings.Contains(out, "database: no database (looked") || !strings.Contains(out, "Port p\n") {
		t.Errorf("without a database:\n%s", out)
	}
	var v struct {
		Info     any
		Database any
		Ports    []any
		Errors   []string
	}
	if err := json.Unmarshal([]byte(must(t, dir, "show", "--json")), &v); err != nil || v.Info == nil || v.Database != nil || len(v.Ports) != 1 || len(v.Errors) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	other := t.TempDir()
	serveDatabase(t, other)
	if out := must(t, other, "show"); !strings.Contains(out, "dataplane: no switch running") || !strings.Contains(out, "is empty") {
		t.Errorf("without a dataplane:\n%s", out)
	}
	must(t, other, "port", "add", "br0", "q", "--type", "dpdkvhostuser", "--tag", "3", "--no-wait")
	if out := must(t, other, "show"); !strings.Contains(out, "Port q\n            tag: 3\n            Interface q\n                type: dpdkvhostuser\n") {
		t.Errorf("without a dataplane:\n%s", out)
	}
}

// TestStatus: all is well, then things die.
func TestStatus(t *testing.T) {
	sw, dir := serveFake(t)
	serveDatabase(t, dir)
	runControl(t, dir, "unix:"+filepath.Join(dir, embeddedDB))
	must(t, dir, "port", "add", "br0", "up", "--type", "dpdkvhostuser")
	must(t, dir, "port", "add", "br0", "down", "--type", "dpdkvhostuser")
	sw.SetState("up", dataplane.DeviceState{Link: dataplane.LinkUp})
	setCounters(sw)
	var r result
	await(t, "all is well", func() bool { // control.json follows in a moment
		r = run(t, "--run-dir", dir, "status")
		return r.code == 0
	})
	for _, want := range []string{"all is well", "control ", "dataplane ", "embedded", "2 ports: 1 up, 1 waiting for a peer, 0 broken; 0 rows with an error", "CPU "} {
		if !strings.Contains(r.out, want) {
			t.Errorf("status does not say %q:\n%s", want, r.out)
		}
	}
	checkJSON(t, must(t, dir, "status", "--json"))
	run(t, "--run-dir", dir, "port", "add", "br0", "bad", "--type", "gre")
	sw.SetState("up", dataplane.DeviceState{Link: dataplane.LinkBroken, Reason: "nonsense"})
	await(t, "two problems", func() bool {
		r = run(t, "--run-dir", dir, "status")
		return r.code == 1 && strings.Contains(r.out, "bad row: Interface bad: type: not supported yet") && strings.Contains(r.out, "port up: broken: nonsense") && strings.Contains(r.err, "2 problems")
	})
	if r := run(t, livenessProbe(t, dir)...); r.code != 0 {
		t.Errorf("Kubernetes would restart the switch for that: exit code %d: %s", r.code, r.err)
	}
	if r := run(t, livenessProbe(t, t.TempDir())...); r.code == 0 {
		t.Error("Kubernetes would take a switch that does not run for alive")
	}
}

// livenessProbe is the command line by which Kubernetes judges whether a switch has to be
// restarted, without the program.
func livenessProbe(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/base/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						LivenessProbe struct{ Exec struct{ Command []string } } `yaml:"livenessProbe"`
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	args := set.Spec.Template.Spec.Containers[0].LivenessProbe.Exec.Command
	if len(args) == 0 || !slices.Contains(args, "/run/millrace") {
		t.Fatalf("liveness probe: %v", args)
	}
	args[slices.Index(args, "/run/millrace")] = dir
	return args[1:]
}

// TestStatusOfTheDead: files that outlived their processes deceive nobody.
func TestStatusOfTheDead(t *testing.T) {
	_, dir := serveFake(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	pid := dead.Process.Pid
	for name, text := range map[string]string{
		"run.json":     `{"pid":%d,"children":[{"name":"control","pid":%d,"state":"running"}]}`,
		"control.json": `{"pid":%d,"database":{"connected":true,"endpoint":"unix:/nowhere"}}`,
	} {
		n := strings.Count(text, "%d")
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, text, []any{pid, pid}[:n]...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := run(t, "--run-dir", dir, "status")
	if r.code != 1 || !strings.Contains(r.out, fmt.Sprintf("supervisor: process %d is dead", pid)) || !strings.Contains(r.out, "database: no database") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if err := os.Remove(filepath.Join(dir, "run.json")); err != nil {
		t.Fatal(err)
	}
	r = run(t, "--run-dir", dir, "status")
	if r.code != 1 || !strings.Contains(r.out, fmt.Sprintf("control: process %d is dead, though control.json tells of it", pid)) {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
}

// TestAlive: a process is who it says, or it is not there.
func TestAlive(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	await(t, "it runs", func() bool { return alive(pid, "60") })
	if alive(pid, "control") || alive(0, "60") || !alive(os.Getpid(), "control") {
		t.Error("somebody else is taken for control")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "it is dead, though nobody has asked how", func() bool { return !alive(pid, "60") })
	_ = cmd.Wait() // killed
}

// TestDatabaseCommands: what they tell, and that stock tools open what db
// export writes.
func TestDatabaseCommands(t *testing.T) {
	_, dir := serveRows(t)
	must(t, dir, "port", "add", "br0", "p", "--type", "dpdkvhostuser", "--tag", "4")
	for _, want := range []string{"database:      Open_vSwitch, schema 8.3.1", "path:          " + filepath.Join(dir, "conf.db"), "Interface            2"} {
		if out := must(t, dir, "db", "info"); !strings.Contains(out, want) {
			t.Errorf("db info does not say %q:\n%s", want, out)
		}
	}
	// Control, once for each database, and who asks: that the commands before have gone is
	// noticed in a moment.
	await(t, "three clients", func() bool { return strings.Contains(must(t, dir, "db", "info"), "clients:       3") })
	if out := must(t, dir, "db", "info", "--name", "Millrace"); !strings.Contains(out, "Millrace, schema 1.0.0") || !strings.Contains(out, "flows.db") {
		t.Errorf("db info of flows says\n%s", out)
	}
	checkJSON(t, must(t, dir, "db", "info", "--json"))
	if out := must(t, dir, "db", "path"); out != filepath.Join(dir, "conf.db")+"\n" {
		t.Errorf("path %q", out)
	}
	if out := must(t, dir, "db", "compact"); !strings.Contains(out, "conf.db: ") || !strings.Contains(must(t, dir, "db", "info"), "1 since the start") {
		t.Errorf("compact prints %s", out)
	}
	if r := run(t, "--run-dir", dir, "db", "export", filepath.Join(dir, "conf.db")); r.code != 1 || !strings.Contains(r.err, "is the database itself") {
		t.Errorf("export over itself: exit code %d: %s", r.code, r.err)
	}
	file := filepath.Join(t.TempDir(), "copy.db")
	must(t, dir, "db", "export", file)
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, tool := range []string{"ovsdb-tool", "ovsdb-server"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	if out, err := exec.Command("ovsdb-tool", "query", file, `["Open_vSwitch",{"op":"select","table":"Port","where":[["name","==","p"]],"columns":["tag"]}]`).CombinedOutput(); err != nil || !strings.Contains(string(out), `[{"rows":[{"tag":4}]}]`) {
		t.Errorf("ovsdb-tool: %v: %s", err, out)
	}
	other := t.TempDir()
	serveStock(t, other, file)
	if got := vsctl(t, other, "--no-wait get port p tag"); got != "4" {
		t.Errorf("a stock server has tag %s", got)
	}
	if out := must(t, other, "db", "info"); !strings.Contains(out, "not the embedded one") || !strings.Contains(out, "Interface            2") {
		t.Errorf("db info of a stock server:\n%s", out)
	}
	if r := run(t, "--run-dir", other, "db", "compact"); r.code != 1 || !strings.Contains(r.err, "ovs-appctl -t ovsdb-server ovsdb-server/compact") {
		t.Errorf("compact of a stock server: exit code %d: %s", r.code, r.err)
	}
	again := must(t, other, "db", "export")
	if !strings.HasPrefix(again, "OVSDB JSON ") {
		t.Errorf("export of a stock server: %.40q", again)
	}
}

// serveStock runs ovsdb-server on a file, where commands look for a database.
func serveStock(t *testing.T, dir, file string) {
	t.Helper()
	socket := filepath.Join(dir, embeddedDB)
	cmd := exec.Command("ovsdb-server", "--remote=punix:"+socket, "--unixctl="+filepath.Join(dir, "ctl"), "--no-chdir", "-vconsole:off", "-vsyslog:off", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	await(t, "ovsdb-server listens", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestStockRows: the commands work with a stock server as they do with ours.
func TestStockRows(t *testing.T) {
	for _, tool := range []string{"ovsdb-tool", "ovsdb-server"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	sw, dir := serveFake(t)
	file := filepath.Join(dir, "stock.db")
	if out, err := exec.Command("ovsdb-tool", "create", file, "/usr/share/openvswitch/vswitch.ovsschema").CombinedOutput(); err != nil {
		t.Skipf("needs the stock schema: %s", out)
	}
	serveStock(t, dir, file)
	runControl(t, dir, "unix:"+filepath.Join(dir, embeddedDB))
	must(t, dir, "port", "add", "br0", "a", "--type", "dpdkvhostuser", "--trunks", "5")
	must(t, dir, "port", "set", "a", "--clear", "trunks", "--tag", "5")
	must(t, dir, "port", "add", "br0", "b", "--type", "dpdkvhostuser")
	must(t, dir, "port", "wire", "a", "b")
	if got := described(sw); got != "br0/a dpdkvhostuser tag=5 wire=b, br0/b dpdkvhostuser" {
		t.Errorf("the switch has %s", got)
	}
	if r := run(t, "--run-dir", dir, "port", "add", "br0", "c", "--type", "gre"); r.code != 1 || !strings.Contains(r.err, "not supported yet") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	must(t, dir, "port", "del", "a", "b", "c")
	must(t, dir, "bridge", "del", "br0")
	if got := described(sw); got != "" {
		t.Errorf("the switch has %s", got)
	}
}

// TestWhere: who says where the database is, in order.
func TestWhere(t *testing.T) {
	dir := t.TempDir()
	f := &dbFlags{}
	check := func(want string) {
		t.Helper()
		if got, from := f.where(dir); strings.Join(got, " ") != want || from == "" {
			t.Errorf("database at %v by %s, want %s", got, from, want)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check("unix:" + filepath.Join(dir, "db.sock"))
	write("control.json", `{"database":{"endpoint":"unix:/c"}}`)
	check("unix:/c")
	write("run.json", `{"db":["unix:/a","tcp:b:1"]}`)
	check("unix:/a tcp:b:1")
	write("run.json", `{`)
	check("unix:/c")
	f.db = []string{"unix:/d"}
	check("unix:/d")
}
