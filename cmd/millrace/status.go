package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/control"
	"millrace/control/ovsdb/server"
	"millrace/dataplane/api"
	"millrace/supervise"
)

// statusInterval is what rates and loads are measured over.
const statusInterval = 250 * time.Millisecond

func (a *app) statusCmd() *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show on one screen whether all is well, and what helps if not",
		Long: `Shows the processes, the database, the ports and the workers of a switch, and every
problem with what helps. Ports whose peer has not come are no problem.

Exit codes:

  0  all is well
  1  there are problems
  3  nothing runs in the run directory`,
		Example: `  millrace status
  millrace status --json | jq -r '.problems[].what'
  until millrace status; do sleep 1; done`,
		Args: exactly(),
	}
	db.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		h, err := a.examine(ctx, &db)
		if err != nil {
			return err
		}
		if a.json {
			err = a.printJSON(h.json())
		} else {
			h.print(a.out)
		}
		if err == nil && len(h.problems) > 0 {
			err = errors.New(plural(len(h.problems), "problem"))
		}
		return err
	}
	return cmd
}

// A problem is what is not as it should be.
type problem struct {
	what, remedy string // remedy may be empty: what says it
}

// A processView is what is known of a process.
type processView struct {
	name     string
	pid      int
	state    string    // running, or why not
	since    time.Time // when state became what it is; zero: not known
	restarts int
}

// health is all that status tells.
type health struct {
	runDir    string
	processes []processView
	running   bool // any of them
	problems  []problem

	supervised bool
	db         databaseView
	info       *api.GetInfoResponse // nil: no dataplane
	health     *api.HealthResponse
	ports      portCounts
	flows      *control.Flows // nil: control does not run
	load       period         // over which the workers were watched
}

// A databaseView is what is known of the database.
type databaseView struct {
	endpoint               string
	reached                bool // by us
	told                   bool // control runs and tells of it
	connected, owner       bool // control is connected, and holds the lock
	offline                bool // control works on what was wanted last
	since                  time.Time
	embedded               bool
	size                   int64 // bytes; 0: not known
	next, current, badRows int
}

// portCounts count ports by how they are.
type portCounts struct {
	all, up, waiting, broken int
	failed                   int // rows with an error
}

func (h *health) problem(remedy, format string, args ...any) {
	h.problems = append(h.problems, problem{fmt.Sprintf(format, args...), remedy})
}

// examine looks at everything. The error is that nothing runs.
func (a *app) examine(ctx context.Context, f *dbFlags) (*health, error) {
	h := &health{runDir: a.runDir}
	children := h.supervisor(a.runDir)
	live := h.dataplane(ctx, a.runDir, children)
	h.control(a.runDir, children)
	if !h.running {
		return nil, fmt.Errorf("%w (nor control, nor a supervisor)", live)
	}
	h.database(ctx, a, f)
	return h, nil
}

// process notes a process that a file tells of, and whether it is there.
func (h *health) process(name, command string, pid int, since time.Time, restarts int, state string) bool {
	p := processView{name: name, pid: pid, state: state, since: since, restarts: restarts}
	there := alive(pid, command)
	switch {
	case there:
		h.running = true
	case pid != 0:
		p.state, p.since = "dead", time.Time{}
	}
	h.processes = append(h.processes, p)
	return there
}

// supervisor looks at what run.json tells. It returns the names of the
// processes that it tells of.
func (h *health) supervisor(runDir string) map[string]bool {
	told := map[string]bool{}
	s, err := supervise.ReadStatus(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return told
	}
	if err != nil {
		h.problem("start `millrace run` again", "supervisor: %v", err)
		return told
	}
	h.supervised = h.process("supervisor", "run", s.PID, s.Started, 0, supervise.Running)
	if !h.supervised {
		h.problem("start `millrace run` again", "supervisor: process %d is dead, though %s tells of it: nothing that dies is restarted", s.PID, supervise.StatusName)
	}
	h.db.embedded = s.Embedded
	commands := map[string]string{"database": "db", "dataplane": "dataplane", "control": "control"}
	for _, c := range s.Children {
		told[c.Name] = true
		command := commands[c.Name]
		if strings.HasPrefix(c.Name, "egress ") {
			command = "egress"
		}
		there := h.process(c.Name, command, c.PID, c.Since, c.Restarts, c.State)
		switch {
		case c.State == supervise.Waiting && h.supervised:
			h.problem("the supervisor starts it again; its log says why it ended", "%s: ended: %s", c.Name, c.LastExit)
		case !there && h.supervised && c.State != supervise.Waiting:
			h.problem("the supervisor starts it again within seconds; if not, start `millrace run` again", "%s: process %d is dead", c.Name, c.PID)
		case c.State == supervise.Starting && time.Since(c.Since) > startPatience:
			h.problem("its log says what it waits for", "%s: not ready after %s", c.Name, span(time.Since(c.Since)))
		}
	}
	return told
}

// startPatience is how long a process may take to be ready.
const startPatience = 10 * time.Second

// dataplane asks the dataplane. The error says why it does not answer.
func (h *health) dataplane(ctx context.Context, runDir string, told map[string]bool) error {
	c, err := api.Dial(ctx, runDir, api.Patience(restartPatience))
	if err == nil {
		defer c.Close()
		h.running, h.info = true, c.Info
		h.health, err = c.Health(ctx, &api.HealthRequest{})
		if err == nil {
			err = h.watch(ctx, c)
		}
	}
	if errors.Is(err, api.ErrDenied) { // which says what helps
		h.problem("", "dataplane: %v", err)
		return err
	}
	if err != nil {
		h.problem("`millrace run` restarts it; its log says why it ended", "dataplane: %v", err)
		return err
	}
	if !told["dataplane"] {
		h.processes = append(h.processes, processView{name: "dataplane", pid: int(c.Info.GetPid()), state: supervise.Running, since: c.Info.GetStarted().AsTime()})
	}
	if !h.health.GetServing() {
		h.problem("its log says more; `millrace stats` shows the workers", "dataplane: %s", h.health.GetReason())
	}
	for _, u := range c.Info.GetUnrestored() {
		h.problem("control or you can add it again", "not restored: %s: %s", u.GetWhat(), u.GetError())
	}
	return nil
}

// watch watches ports and workers for a moment.
func (h *health) watch(ctx context.Context, c *api.Client) error {
	ports, err := c.ListPorts(ctx, &api.ListPortsRequest{})
	if err != nil {
		return err
	}
	for _, p := range ports.GetPorts() {
		h.ports.all++
		switch p.GetState().GetLink() {
		case api.Link_LINK_UP:
			h.ports.up++
		case api.Link_LINK_BROKEN:
			h.ports.broken++
			h.problem("the peer has to reset or reconnect", "port %s: broken: %s", p.GetSpec().GetName(), p.GetState().GetReason())
		default:
			h.ports.waiting++
		}
	}
	return every(ctx, c, statusInterval, 1, func(p period) error { h.load = p; return nil })
}

// control looks at what control.json tells.
func (h *health) control(runDir string, told map[string]bool) {
	s, err := control.ReadStatus(runDir)
	if err != nil {
		if !told["control"] {
			h.problem("start `millrace run`, or `millrace control` beside the dataplane", "control: not running: rows of the database have no effect")
		}
		return
	}
	if told["control"] {
		h.running = h.running || alive(s.PID, "control")
	} else {
		h.process("control", "control", s.PID, s.Started, 0, supervise.Running)
	}
	d := s.Database
	h.db.endpoint, h.db.since = d.Endpoint, d.Since
	if !alive(s.PID, "control") {
		if !told["control"] {
			h.problem("start `millrace run`, or `millrace control` beside the dataplane", "control: process %d is dead, though control.json tells of it: the configuration stays as it is", s.PID)
		}
		return
	}
	h.db.told = true
	h.flows = &s.Flows
	if n := s.Flows.Refused; n > 0 {
		h.problem("`millrace flow list` shows them with what is wrong", "%s refused", plural(n, "flow"))
	}
	h.db.connected, h.db.owner, h.db.offline, h.db.badRows = d.Connected, d.Owner, d.Offline, len(s.BadRows)
	for _, p := range s.Problems {
		if h.info != nil || !strings.HasPrefix(p, "no dataplane") { // that is said already
			h.problem("", "control: %s", p)
		}
	}
	for _, row := range s.BadRows {
		h.problem("correct the row with `millrace port set`, `bridge set` or ovs-vsctl, or delete it", "bad row: %s", row)
	}
}

// database looks at the database itself.
func (h *health) database(ctx context.Context, a *app, f *dbFlags) {
	d, err := a.dialDB(ctx, f)
	if err != nil {
		if !h.db.told { // control says how it is, and its way may be another
			h.problem("", "database: %v", err)
		}
		return
	}
	defer d.Close()
	h.db.endpoint, h.db.reached = d.Endpoint(), true
	if st, err := d.private(ctx, server.MethodStats, ""); err == nil {
		h.db.size, h.db.embedded = st.FileSize, true
	}
	v, err := d.read(ctx)
	if err != nil {
		h.problem("look at the log of the database server", "database: %v", err)
		return
	}
	if v.Root != nil {
		h.db.next, h.db.current = v.Root.NextCfg, v.Root.CurCfg
	}
	for _, b := range v.bridges() {
		for _, p := range v.portsOf(b) {
			for _, i := range v.interfacesOf(p) {
				if i.Error != nil {
					h.ports.failed++
				}
			}
		}
	}
}
