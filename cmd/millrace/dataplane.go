package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/service"
	"millrace/dataplane/sys"
	"millrace/dataplane/tap"
)

// dataplaneFlags are the flags of dataplane. Of what bridges learn, rows say more where
// control runs.
type dataplaneFlags struct {
	switchFlags
	macAge   time.Duration
	macTable int
	readyFD  int
}

func (a *app) dataplaneCmd() *cobra.Command {
	var f dataplaneFlags
	cmd := &cobra.Command{
		Use:   "dataplane",
		Short: "Forward frames: the process of a switch that has ports and workers",
		Long: `Holds ports, workers and tables, and offers them on RUN-DIR/dataplane.sock. It
runs until it gets SIGTERM or SIGINT. ` + "`millrace run`" + ` starts it and restarts it
when it dies; start it yourself when another supervisor does that.

It prints one line, "ready", when ports can be added. What clients configure is
remembered in RUN-DIR/ports.json and restored at the next start, so that
vhost-user peers reconnect by themselves.`,
		Example: `  millrace dataplane --run-dir /run/millrace --cpus 2-3 --poll busy`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.dataplane(cmd, &f)
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&f.macAge, "mac-age", dataplane.DefaultMACAge, "how long bridges remember an address that is silent, where control says nothing")
	cmd.Flags().IntVar(&f.macTable, "mac-table", dataplane.DefaultMACTable, "addresses that each bridge can learn, where control says nothing")
	cmd.Flags().IntVar(&f.readyFD, "ready-fd", 0, "descriptor to write the line ready to, instead of standard output")
	return cmd
}

// options checks the flags.
func (f *dataplaneFlags) options(cmd *cobra.Command) (switchOptions, error) {
	o, err := f.switchFlags.options(cmd)
	switch {
	case err != nil:
	case f.macAge < time.Second:
		err = usage(cmd, "--mac-age: %v is less than a second", f.macAge)
	case f.macTable < 1 || f.macTable > 1<<20:
		err = usage(cmd, "--mac-table: %d is not in 1..%d", f.macTable, 1<<20)
	}
	o.MACAge, o.MACTable = f.macAge, f.macTable
	return o, err
}

// dataplane forwards until it is told to end.
func (a *app) dataplane(cmd *cobra.Command, f *dataplaneFlags) (err error) {
	log, err := a.serviceLogger(cmd, "dataplane")
	if err != nil {
		return err
	}
	o, err := f.options(cmd)
	if err != nil {
		return err
	}
	dir, err := service.OpenDataplane(a.runDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	settle()
	o.Log, o.Tune = log, func(cpus, threads []int) error { return makeRoom(o.Allowed, cpus, threads) }
	sw, err := a.newSwitch(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sw.Close()) }()
	srv := service.New(service.Config{Dir: dir, Switch: sw, Version: a.version, CPUs: o.CPUs, Poll: o.Poll, Types: a.types, NoHost: tap.Impediment(), Log: log})
	log.Info("dataplane starts", zap.String("version", a.version), zap.String("run_dir", dir.Path()), zap.Ints("cpus", o.CPUs), zap.String("poll", string(o.Poll)))
	defer log.Info("dataplane ends")
	return srv.Serve(cmd.Context(), f.fresh, func() error {
		releaseStart()
		return a.ready(f.readyFD)
	})
}

// heapLimit is where Go's collector begins to work hard, in bytes. The heap is
// a few MB: tables and rings are outside it.
const heapLimit = 128 << 20

// gcPercent has the collector run when the heap has grown by a third, or has 1.3 MB:
// garbage is memory that the node does not have. Each run stops the workers twice, and
// only who changes or lists something makes garbage.
const gcPercent = 33

// settle keeps the heap small.
func settle() {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(heapLimit)
}

// makeRoom gives Go's runtime a P of its own beside those of workers on cpus,
// and keeps all threads but theirs off these CPUs, if there are more that we are
// allowed. If there are none, threads and workers share.
func makeRoom(allowed, cpus, threads []int) error {
	runtime.GOMAXPROCS(len(cpus) + 1)
	others := slices.DeleteFunc(slices.Clone(allowed), func(c int) bool { return slices.Contains(cpus, c) })
	if len(others) == 0 {
		others = allowed
	}
	return sys.Place(others, threads...)
}

// showName has the process list show our name although a supervisor has started
// us by way of /proc/self/exe.
func showName() {
	_ = os.WriteFile("/proc/self/comm", []byte("millrace"), 0) // it is for the eye
}

// ready says that ports can be added.
func (a *app) ready(fd int) error {
	if fd <= 0 {
		_, err := fmt.Fprintln(a.out, "ready")
		return err
	}
	f := os.NewFile(uintptr(fd), "ready-fd")
	if f == nil {
		return fmt.Errorf("--ready-fd %d: not a descriptor", fd)
	}
	_, err := f.WriteString("ready\n")
	return errors.Join(err, f.Close())
}
