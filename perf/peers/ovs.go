package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An OVSConfig says how Open vSwitch starts. Its zero value has one poll-mode
// thread on core 0 and 512 MiB.
type OVSConfig struct {
	PMDCPUs   []int // one poll-mode thread on each; empty is core 0
	MainCPU   int   // for the threads that do not poll
	MemoryMiB int   // of hugepages, for all frames; 0 is 512

	// Tuned applies what OVS's guide offers for speed (see Tuning); what this
	// build does not know is noted and left out.
	Tuned bool
	// PerfMetrics turns on pmd-perf-metrics, which cost some cycles per packet.
	PerfMetrics bool
	// OtherConfig are more keys of Open_vSwitch.other_config; they win over Tuned.
	OtherConfig map[string]string
	// DPDKExtra are more arguments of DPDK's EAL.
	DPDKExtra []string
}

// OVSDPDK is a running Open vSwitch with the userspace datapath, its database
// included. It is for one goroutine at a time.
type OVSDPDK struct {
	dir     string
	db      *process
	vswitch *process
	release func() // the hugepages
	notes   []string
}

// StartOVSDPDK starts the database and the switch, and waits until DPDK is up.
// It needs root: OVS makes a TAP device for each bridge.
func StartOVSDPDK(ctx context.Context, cfg OVSConfig) (*OVSDPDK, error) {
	if err := Missing("ovs-dpdk"); err != nil {
		return nil, err
	}
	// Some more than the frames' pages, so that rounding does not eat them.
	release, err := Hugepages(orDefault(cfg.MemoryMiB, 512)/2 + 16)
	if err != nil {
		return nil, err
	}
	o := &OVSDPDK{release: release}
	// Short, because a socket's path has at most 107 bytes.
	if o.dir, err = os.MkdirTemp("", "mr-ovs-"); err != nil {
		release()
		return nil, err
	}
	if err := o.start(ctx, cfg); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// start is the order in which things come up.
func (o *OVSDPDK) start(ctx context.Context, cfg OVSConfig) error {
	if err := o.startDB(ctx); err != nil {
		return err
	}
	set := []string{"--no-wait", "set", "Open_vSwitch", "."}
	for _, key := range sortedKeys(cfg.otherConfig()) {
		set = append(set, fmt.Sprintf("other_config:%s=%q", key, cfg.otherConfig()[key]))
	}
	if _, err := o.Vsctl(ctx, set...); err != nil {
		return err
	}
	if err := o.startSwitch(ctx); err != nil {
		return err
	}
	if cfg.Tuned {
		o.tune(ctx)
	}
	return nil
}

// otherConfig returns the keys that cfg stands for (ovs-vswitchd.conf.db(5)).
func (c OVSConfig) otherConfig() map[string]string {
	memory := strconv.Itoa(orDefault(c.MemoryMiB, 512))
	pmds := c.PMDCPUs
	if len(pmds) == 0 {
		pmds = []int{0}
	}
	config := map[string]string{
		"dpdk-init":         "true",
		"dpdk-extra":        strings.Join(append([]string{"--in-memory", "--no-pci", "--no-telemetry"}, c.DPDKExtra...), " "),
		"dpdk-lcore-mask":   cpuMask(c.MainCPU),
		"dpdk-socket-mem":   memory,
		"dpdk-socket-limit": memory,
		"pmd-cpu-mask":      cpuMask(pmds...),
		"pmd-perf-metrics":  strconv.FormatBool(c.PerfMetrics),
	}
	if c.Tuned {
		for _, t := range Tuning() {
			if t.Key != "" {
				config[t.Key] = t.Value
			}
		}
	}
	for k, v := range c.OtherConfig {
		config[k] = v
	}
	return config
}

// cpuMask returns cpus as OVS writes a set of them.
func cpuMask(cpus ...int) string {
	mask := uint64(0)
	for _, c := range cpus {
		mask |= 1 << c
	}
	return fmt.Sprintf("0x%x", mask)
}

// sortedKeys returns m's keys in order.
func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// startDB makes an empty database and serves it.
func (o *OVSDPDK) startDB(ctx context.Context) (err error) {
	if _, err := o.tool(ctx, "ovsdb-tool", "create", o.path("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"); err != nil {
		return err
	}
	o.db, err = o.daemon("ovsdb-server", o.path("conf.db"), "--remote=punix:"+o.path("db.sock"), "--unixctl="+o.path("ovsdb.ctl"))
	if err != nil {
		return err
	}
	if err := o.waitFile(ctx, o.db, "db.sock"); err != nil {
		return err
	}
	_, err = o.Vsctl(ctx, "--no-wait", "init")
	return err
}

// startSwitch starts ovs-vswitchd and waits until DPDK has said that it runs.
func (o *OVSDPDK) startSwitch(ctx context.Context) (err error) {
	o.vswitch, err = o.daemon("ovs-vswitchd-dpdk", "unix:"+o.path("db.sock"), "--unixctl="+o.path("vswitchd.ctl"))
	if err != nil {
		return err
	}
	return o.poll(ctx, o.vswitch, "wait for DPDK", func() bool {
		up, err := o.Vsctl(ctx, "get", "Open_vSwitch", ".", "dpdk_initialized")
		return err == nil && strings.TrimSpace(up) == "true" && exists(o.path("vswitchd.ctl"))
	})
}

// daemon starts one of the two servers; they log to our pipe.
func (o *OVSDPDK) daemon(name string, args ...string) (*process, error) {
	program, err := find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, append(args, "--no-chdir", "-vconsole:info", "-vsyslog:off")...)
	cmd.Env, cmd.Dir = o.environment(), o.dir
	return startPiped(cmd)
}

// environment keeps the programs away from the machine's own Open vSwitch.
func (o *OVSDPDK) environment() []string {
	env := os.Environ()
	for _, name := range []string{"OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"} {
		env = append(env, name+"="+o.dir)
	}
	return env
}

// path returns where name is in o's directory.
func (o *OVSDPDK) path(name string) string { return filepath.Join(o.dir, name) }

// exists reports whether there is a file called name.
func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// waitFile waits until p has made the file called name.
func (o *OVSDPDK) waitFile(ctx context.Context, p *process, name string) error {
	return o.poll(ctx, p, "wait for "+name, func() bool { return exists(o.path(name)) })
}

// poll asks done until it holds, and fails when ctx or p ends before.
func (o *OVSDPDK) poll(ctx context.Context, p *process, doing string, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return p.explain(doing, ctx.Err())
		case <-p.done:
			return p.explain(doing, errEnded)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// tool runs one of OVS's commands and returns what it printed.
func (o *OVSDPDK) tool(ctx context.Context, name string, args ...string) (string, error) {
	program, err := find(name)
	if err != nil {
		return "", err
	}
	var complaint strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stderr = o.environment(), &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", &ToolError{name, args, err, strings.TrimSpace(complaint.String())}
	}
	return string(out), nil
}

// A ToolError is one of OVS's commands that did not do what it was told.
type ToolError struct {
	Name      string
	Args      []string
	Err       error  // how it ended
	Complaint string // what it said
}

// Error shows all of it.
func (e *ToolError) Error() string {
	return fmt.Sprintf("%s %s: %v: %s", e.Name, strings.Join(e.Args, " "), e.Err, e.Complaint)
}

// Unwrap returns how the command ended.
func (e *ToolError) Unwrap() error { return e.Err }

// Vsctl runs ovs-vsctl. Without --no-wait it returns when the switch has done
// what it says.
func (o *OVSDPDK) Vsctl(ctx context.Context, args ...string) (string, error) {
	return o.tool(ctx, "ovs-vsctl", append([]string{"--db=unix:" + o.path("db.sock")}, args...)...)
}

// Ofctl runs ovs-ofctl.
func (o *OVSDPDK) Ofctl(ctx context.Context, args ...string) (string, error) {
	return o.tool(ctx, "ovs-ofctl", args...)
}

// Appctl runs ovs-appctl against the switch.
func (o *OVSDPDK) Appctl(ctx context.Context, args ...string) (string, error) {
	return o.tool(ctx, "ovs-appctl", append([]string{"--target=" + o.path("vswitchd.ctl")}, args...)...)
}

// PID returns the process id of ovs-vswitchd.
func (o *OVSDPDK) PID() int { return o.vswitch.PID() }

// Log returns all that ovs-vswitchd logged.
func (o *OVSDPDK) Log() string { return o.vswitch.out.all() }

// Notes says which tunings did not apply, and why.
func (o *OVSDPDK) Notes() []string { return o.notes }

// Version returns the versions of OVS and of its DPDK.
func (o *OVSDPDK) Version(ctx context.Context) (string, error) {
	ovs, err := o.Appctl(ctx, "version")
	if err != nil {
		return "", err
	}
	dpdk, err := o.Vsctl(ctx, "get", "Open_vSwitch", ".", "dpdk_version")
	return strings.TrimSpace(ovs) + ", " + strings.Trim(dpdk, "\"\n"), err
}

// AddBridge makes a bridge on the userspace datapath. Its only flow is NORMAL.
func (o *OVSDPDK) AddBridge(ctx context.Context, name string) error {
	_, err := o.Vsctl(ctx, "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev")
	return err
}

// A VhostPort is a vhost-user port of OVS.
type VhostPort struct {
	Bridge, Name string

	// Client makes it a dpdkvhostuserclient: OVS connects to Path, where the
	// guest listens, and tries again while nobody does. Otherwise OVS listens
	// (dpdkvhostuser), in its own directory: see AddVhost.
	Client   bool
	Path     string            // for Client only
	RxQueues int               // 0: as many as the guest has
	Columns  map[string]string // more of the Interface row, such as mtu_request
}

// AddVhost adds a port and returns the path of its socket.
func (o *OVSDPDK) AddVhost(ctx context.Context, p VhostPort) (socket string, err error) {
	args := []string{"add-port", p.Bridge, p.Name, "--", "set", "Interface", p.Name}
	if p.Client {
		socket = p.Path
		args = append(args, "type=dpdkvhostuserclient", "options:vhost-server-path="+p.Path)
	} else {
		socket = o.path(p.Name)
		args = append(args, "type=dpdkvhostuser")
	}
	if p.RxQueues > 0 {
		args = append(args, fmt.Sprintf("options:n_rxq=%d", p.RxQueues))
	}
	for _, c := range sortedKeys(p.Columns) {
		args = append(args, c+"="+p.Columns[c])
	}
	if _, err := o.Vsctl(ctx, args...); err != nil {
		return "", err
	}
	problem, err := o.Vsctl(ctx, "get", "Interface", p.Name, "error")
	if problem = strings.TrimSpace(problem); err == nil && problem != "[]" && problem != `""` {
		err = fmt.Errorf("ovs port %s: %s", p.Name, problem)
	}
	return socket, err
}

// DelPort removes a port.
func (o *OVSDPDK) DelPort(ctx context.Context, bridge, name string) error {
	_, err := o.Vsctl(ctx, "del-port", bridge, name)
	return err
}

// WaitLink waits until a port has a guest, or has none.
func (o *OVSDPDK) WaitLink(ctx context.Context, name string, up bool) error {
	want := map[bool]string{true: "up", false: "down"}[up]
	return o.poll(ctx, o.vswitch, "wait for "+name+" to be "+want, func() bool {
		state, err := o.Vsctl(ctx, "get", "Interface", name, "link_state")
		return err == nil && strings.TrimSpace(state) == want
	})
}

// AddFlow adds a flow in the language of ovs-ofctl(8).
func (o *OVSDPDK) AddFlow(ctx context.Context, bridge, flow string) error {
	_, err := o.Ofctl(ctx, "add-flow", bridge, flow)
	return err
}

// DelFlows removes all flows of a bridge, NORMAL too.
func (o *OVSDPDK) DelFlows(ctx context.Context, bridge string) error {
	_, err := o.Ofctl(ctx, "del-flows", bridge)
	return err
}

// PMDStatsClear sets the poll-mode threads' counters to zero.
func (o *OVSDPDK) PMDStatsClear(ctx context.Context) error {
	_, err := o.Appctl(ctx, "dpif-netdev/pmd-stats-clear")
	return err
}

// PMDStats returns the counters of each poll-mode thread.
func (o *OVSDPDK) PMDStats(ctx context.Context) ([]PMDStats, error) {
	out, err := o.Appctl(ctx, "dpif-netdev/pmd-stats-show")
	if err != nil {
		return nil, err
	}
	return parsePMDStats(out), nil
}

// Kill ends the switch at once, as a crash would, and takes all away.
func (o *OVSDPDK) Kill() {
	for _, p := range []*process{o.vswitch, o.db} {
		if p != nil {
			p.kill()
		}
	}
	o.cleanUp()
}

// Close stops the switch, then the database, and takes all away.
func (o *OVSDPDK) Close() {
	if o.vswitch != nil {
		o.vswitch.finish(o.exit, 10*time.Second)
	}
	if o.db != nil {
		o.db.stop(5 * time.Second)
	}
	o.cleanUp()
}

// exit asks the switch to end. The devices of its bridges persist unless it is told to take them away.
func (o *OVSDPDK) exit() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := o.Appctl(ctx, "exit", "--cleanup"); err != nil { // it does not listen yet, or any more
		_ = syscall.Kill(-o.vswitch.PID(), syscall.SIGTERM)
	}
}

// cleanUp gives back what is not the processes'.
func (o *OVSDPDK) cleanUp() {
	o.release()
	o.release = func() {}
	os.RemoveAll(o.dir)
}

// A Tune is one thing that OVS's guide offers for speed: a key of
// other_config, or a command of ovs-appctl.
type Tune struct {
	Key, Value string
	Appctl     []string
}

// Tuning returns what OVSConfig.Tuned applies, from the OVS documentation:
// topics/dpdk/pmd.rst (signature match cache), topics/dpdk/bridge.rst
// (datapath interface, miniflow extraction, tuple lookup and actions by AVX512).
func Tuning() []Tune {
	return []Tune{
		{Key: "smc-enable", Value: "true"},
		{Key: "userspace-tso-enable", Value: "false"},
		{Appctl: []string{"dpif-netdev/dpif-impl-set", "dpif_avx512"}},
		{Appctl: []string{"dpif-netdev/miniflow-parser-set", "study"}},
		{Appctl: []string{"dpif-netdev/subtable-lookup-prio-set", "avx512_gather", "5"}},
		{Appctl: []string{"odp-execute/action-impl-set", "avx512"}},
	}
}

// tune runs the commands of Tuning. The switch answers an implementation that
// it was built without with an error or a sentence; both become notes.
func (o *OVSDPDK) tune(ctx context.Context) {
	for _, t := range Tuning() {
		if t.Appctl == nil {
			continue
		}
		answer, err := o.Appctl(ctx, t.Appctl...)
		var refused *ToolError
		switch {
		case errors.As(err, &refused):
			answer = refused.Complaint
		case err != nil:
			answer = err.Error()
		case !strings.Contains(answer, "not available"):
			continue
		}
		answer, _, _ = strings.Cut(answer, "\n")
		o.notes = append(o.notes, strings.Join(t.Appctl, " ")+": "+answer)
	}
}
