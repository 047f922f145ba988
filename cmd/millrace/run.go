package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/server"
	"millrace/dataplane/service"
	"millrace/supervise"
)

// runFlags are the flags of run.
type runFlags struct {
	sw       switchFlags
	control  controlFlags
	dbListen []string
	keep     bool
}

// runHelp is the help of run.
const runHelp = `Starts the processes of a switch on the run directory, and starts each again when
it dies:

  millrace db serve           the embedded database; not with --db
  millrace dataplane          ports and workers
  millrace control            holds the dataplane to what the database says
  millrace egress port NAME   the other end of each port of type egress

A process that dies is started again at once; one that dies again and again,
after 100 ms at first and 5 s at most. What they log goes to standard error.

The line "ready" on standard output says that the switch can be configured, by
` + "`millrace port add`" + ` or ` + "`ovs-vsctl --db unix:RUN-DIR/db.sock`" + `. It is printed once;
nothing else is printed there.

SIGTERM and SIGINT end all of it within two seconds, and remove all sockets. If
run is killed, control and the embedded database end with it; the dataplane
forwards on, egress ports serve on, and the next ` + "`millrace run`" + ` takes them over as
they are (below systemd, that wants KillMode=process). With --fresh it begins with
a new one.

Ports are what the database says. What the dataplane had last is only for the
moment until control has compared: --fresh has it begin without.

Everything is kept below the run directory:

  db.sock          the embedded databases, for root and the owner
  conf.db          file of Open_vSwitch: bridges, ports; in --state-dir, if given
  flows.db         file of Millrace: flows; there, too
  desired.json     what the database said last, for a start without it; there, too
  dataplane.sock   the API, for root and the owner
  ports.json       what the dataplane had last
  NAME             socket of the listening vhost-user port NAME
  run.json         how the processes are, in JSON
  control.json     how control is, in JSON
  egress/          what egress ports are, their locks and sockets

A process that gives up before it was ever ready is not started again: run ends
with its exit code. Only the database is tried on and on, say if its file is
damaged: the switch works without, as the database last said.

Exit codes, of this and all other commands:

  0  done, or ended by a signal as asked
  1  error
  2  usage: the command line, or a value in it, makes no sense
  3  no switch is running in the run directory
  4  another switch has the run directory, or its database
  5  warnings, and nothing worse (millrace doctor)`

func (a *app) runCmd() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Start a switch and keep it alive",
		Long:  runHelp,
		Example: `  millrace run
  millrace run --run-dir /run/millrace --state-dir /var/lib/millrace --cpus 2-3 --poll busy
  millrace run --db unix:/run/openvswitch/db.sock
  millrace run --run-dir "$XDG_RUNTIME_DIR/lab" --fresh`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd, &f) },
	}
	fl := cmd.Flags()
	f.sw.add(cmd)
	f.control.add(cmd)
	fl.StringArrayVar(&f.control.db, "db", nil, "database: unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT; again for others that have the same (default: the embedded one)")
	fl.StringArrayVar(&f.dbListen, "db-listen", nil, "have the embedded database listen here as well: punix:PATH, ptcp:PORT[:ADDRESS] or pssl:PORT[:ADDRESS]; again for more")
	fl.BoolVar(&f.keep, "keep-dataplane", true, "let the dataplane forward on if the supervisor is killed")
	return cmd
}

// run supervises a switch until it is told to end.
func (a *app) run(cmd *cobra.Command, f *runFlags) (err error) {
	nohup := signal.Ignored(syscall.SIGHUP)
	log, err := a.serviceLogger(cmd, "run")
	if err != nil {
		return err
	}
	ctx, stop := hangUp(cmd.Context(), nohup)
	defer stop()
	o, err := f.check(cmd)
	if err != nil {
		return err
	}
	dir, err := openRunDir(a.runDir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if f.control.stateDir == "" {
		f.control.stateDir = dir.Path()
	}
	if f.control.stateDir, err = filepath.Abs(f.control.stateDir); err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	if err := os.MkdirAll(f.control.stateDir, 0o755); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	embedded := len(f.control.db) == 0
	if embedded {
		f.control.db = []string{"unix:" + filepath.Join(dir.Path(), embeddedDB)}
	}
	var specs []supervise.Spec
	if embedded {
		specs = append(specs, a.databaseSpec(f, dir.Path()))
	}
	more, err := a.egressSpecs(ctx, f, dir.Path(), log)
	if err != nil {
		return err
	}
	return supervise.Run(ctx, supervise.Config{
		RunDir: dir.Path(),
		Status: supervise.Status{Version: a.version, DB: f.control.db, Embedded: embedded, StateDir: f.control.stateDir},
		Specs:  append(specs, a.dataplaneSpec(f, o, dir, log), a.controlSpec(f, dir.Path())),
		InUse:  exitInUse, More: more,
		Ready: func() {
			releaseStart() // there is little to do from now on
			fmt.Fprintln(a.out, "ready")
		},
		Err: a.err, Log: log,
	})
}

// hangUp returns a context that ends when the terminal goes away too, unless we
// were started so as not to mind (nohup(1)). Children do not mind: they are
// ended in good order.
func hangUp(ctx context.Context, nohup bool) (context.Context, context.CancelFunc) {
	if nohup {
		return ctx, func() {}
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// check checks the flags, also those that are for the children: who typed them
// wants to know at once.
func (f *runFlags) check(cmd *cobra.Command) (switchOptions, error) {
	o, err := f.sw.options(cmd)
	if err != nil {
		return o, err
	}
	if err := f.control.tls.enough(cmd, "--db", f.control.db); err != nil {
		return o, err
	}
	if err := f.control.tls.enough(cmd, "--db-listen", f.dbListen); err != nil {
		return o, err
	}
	for _, e := range f.control.db {
		if _, err := ovsdb.ParseEndpoint(e); err != nil {
			return o, usage(cmd, "--db: %w", err)
		}
	}
	for _, e := range f.dbListen {
		if err := server.CheckListen(e); err != nil {
			return o, usage(cmd, "--db-listen: %w", err)
		}
	}
	if len(f.control.db) > 0 && len(f.dbListen) > 0 {
		return o, usage(cmd, "--db-listen: there is no embedded database with --db")
	}
	if _, err := f.control.localPorts(cmd, ""); err != nil {
		return o, err
	}
	_, err = f.control.tls.client()
	return o, err
}

// handOver is how long a run directory that is held may take to become free: a
// supervisor that was killed is not gone at once.
const handOver = 2 * time.Second

// openRunDir takes the run directory for a supervisor.
func openRunDir(path string, log *zap.Logger) (*service.Dir, error) {
	for end := time.Now().Add(handOver); ; time.Sleep(20 * time.Millisecond) {
		dir, err := service.OpenDir(path, service.RunLock)
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%w: run as the user whose directory it is, or choose another --run-dir", err)
		}
		if err == nil || !errors.Is(err, service.ErrInUse) || time.Now().After(end) {
			return dir, err
		}
		log.Debug("waiting for the run directory", zap.Error(err))
	}
}

// databaseSpec is the embedded database.
func (a *app) databaseSpec(f *runFlags, dir string) supervise.Spec {
	args := []string{"db", "serve", "--run-dir", dir, "--state-dir", f.control.stateDir, "--log-level", a.logLevel}
	for _, l := range f.dbListen {
		args = append(args, "--listen", l)
	}
	args = append(args, f.control.tls.args()...)
	return supervise.Spec{
		Name: "database", Args: func(bool) []string { return args }, Orphan: syscall.SIGKILL,
		Spare: true, Hopeless: func(code int) bool { return code == exitUsage || code == exitInUse },
		Sweep: func() error {
			if err := os.Remove(filepath.Join(dir, embeddedDB)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove socket: %w", err)
			}
			return nil
		},
	}
}

// dataplaneSpec is the dataplane.
func (a *app) dataplaneSpec(f *runFlags, o switchOptions, dir *service.Dir, log *zap.Logger) supervise.Spec {
	s := supervise.Spec{
		Name: "dataplane",
		Args: func(first bool) []string {
			args := append([]string{"dataplane", "--run-dir", dir.Path()}, f.sw.args(f.sw.fresh && first)...)
			return append(args, "--log-level", a.logLevel)
		},
		Sweep: dir.Sweep, Replace: f.sw.fresh,
		Find:  func() (int, error) { return service.DataplaneOf(dir.Path()) },
		Await: (&adoption{dir: dir.Path(), want: o, version: a.version, log: log}).await,
	}
	if !f.keep {
		s.Orphan = syscall.SIGTERM
	}
	return s
}

// controlSpec is control.
func (a *app) controlSpec(f *runFlags, dir string) supervise.Spec {
	args := append([]string{"control", "--run-dir", dir}, f.control.args()...)
	args = append(args, "--log-level", a.logLevel)
	return supervise.Spec{Name: "control", Args: func(bool) []string { return args }, Orphan: syscall.SIGKILL}
}
