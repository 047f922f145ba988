package main

import (
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/control"
)

// controlFlags are the flags of control.
type controlFlags struct {
	db         []string
	stateDir   string
	socketDirs []string
	local      string
	tls        tlsFlags
	readyFD    int
}

// add adds the flags that control and run have.
func (f *controlFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.stateDir, "state-dir", "", "directory for what must outlive a boot (default RUN-DIR)")
	fs.StringArrayVar(&f.socketDirs, "socket-dir", nil, "directory below which absolute vhost-user paths must be; again for more (default anywhere)")
	fs.StringVar(&f.local, "local-ports", localAuto, "whether a bridge's own port is a network device of its name: on, off, or auto: on for the machine's own switch, which has the default run directory or the machine's Open vSwitch database")
	f.tls.add(cmd)
}

// Values of --local-ports.
const (
	localAuto = "auto"
	localOn   = "on"
	localOff  = "off"
)

// localPorts reports what --local-ports comes to. Names of devices are the
// machine's, so of several switches only one has them without being asked.
func (f *controlFlags) localPorts(cmd *cobra.Command, runDir string) (bool, error) {
	switch f.local {
	case localOn, localOff:
		return f.local == localOn, nil
	case localAuto:
		machines := func(e string) bool {
			return slices.Contains([]string{"unix:/run/openvswitch/db.sock", "unix:/var/run/openvswitch/db.sock"}, e)
		}
		return filepath.Clean(runDir) == systemRunDir || slices.ContainsFunc(f.db, machines), nil
	}
	return false, usage(cmd, "--local-ports: %q is none of on, off, auto", f.local)
}

// args are the flags again, for the child.
func (f *controlFlags) args() []string {
	var args []string
	for _, e := range f.db {
		args = append(args, "--db", e)
	}
	args = append(args, "--state-dir", f.stateDir)
	for _, d := range f.socketDirs {
		args = append(args, "--socket-dir", d)
	}
	args = append(args, "--local-ports", f.local)
	return append(args, f.tls.args()...)
}

// embeddedDB is the socket of the embedded database in the run directory.
const embeddedDB = "db.sock"

func (a *app) controlCmd() *cobra.Command {
	var f controlFlags
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Hold the dataplane to what the databases say",
		Long: `Reads Bridge, Port and Interface rows, makes the dataplane of the run directory
have what they ask for, and writes into them what came of it: ovs-vsctl works. If the
server has the Millrace database, too, bridges that run flows have its rows. It runs
until it gets SIGTERM or SIGINT. ` + "`millrace run`" + ` starts it and restarts it when
it dies; start it yourself beside ` + "`millrace dataplane`" + ` when another supervisor does
that.

The dataplane forwards on while control is away, and control changes nothing
that is right when it comes back. While no database is reached, the
configuration stays as it is; at a start without one, it is that of the last
run.

It also serves the CNI plugin, which has it make ports for pods (` + "`millrace agent`" + `).

  RUN-DIR/cni.sock          for the CNI plugin, for root and the owner
  RUN-DIR/control.lock      held by the one control process of the directory
  RUN-DIR/control.json      how it is, in JSON: problems with what helps
  STATE-DIR/desired.json    what was wanted last`,
		Example: `  millrace control
  millrace control --db unix:/run/openvswitch/db.sock
  millrace control --db ssl:db1:6640 --db ssl:db2:6640 --private-key k.pem --certificate c.pem --ca-cert ca.pem`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.control(cmd, &f) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.db, "db", nil, "database: unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT; again for others that have the same (default unix:RUN-DIR/"+embeddedDB+")")
	f.add(cmd)
	fs.IntVar(&f.readyFD, "ready-fd", 0, "descriptor to write the line ready to, instead of standard output")
	return cmd
}

// control holds the dataplane to the database until it is told to end.
func (a *app) control(cmd *cobra.Command, f *controlFlags) error {
	log, err := a.serviceLogger(cmd, "control")
	if err != nil {
		return err
	}
	if err := f.tls.enough(cmd, "--db", f.db); err != nil {
		return err
	}
	secure, err := f.tls.client()
	if err != nil {
		return err
	}
	local, err := f.localPorts(cmd, a.runDir)
	if err != nil {
		return err
	}
	if len(f.db) == 0 {
		f.db = []string{"unix:" + a.runDir + "/" + embeddedDB}
	}
	log.Info("control starts", zap.String("version", a.version), zap.String("run_dir", a.runDir), zap.Strings("db", f.db))
	defer log.Info("control ends")
	spareCollector()
	standAside(cmd.Context(), a.runDir, log)
	pods := a.startAgent(cmd.Context(), f.db, secure, log)
	defer pods.wait()
	return control.Run(cmd.Context(), control.Config{
		RunDir: a.runDir, StateDir: f.stateDir, Endpoints: f.db, TLS: secure, SocketDirs: f.socketDirs, LocalPorts: local, Version: a.version, Log: log,
		Agent: checkAgentOptions,
		Ready: func() {
			pods.start()
			if err := a.ready(f.readyFD); err != nil {
				log.Warn("nobody was told that control is ready", zap.Error(err))
			}
		},
	})
}
