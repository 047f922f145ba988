package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"millrace/dataplane/service"
)

// An app is one run of the program.
type app struct {
	version   string
	in        io.Reader
	out, err  io.Writer
	newSwitch func(switchOptions) (closingSwitch, error)
	types     []string // port types that newSwitch can open

	runDir   string
	json     bool
	logLevel string

	egressPort string // whose agent is asked
}

// A closingSwitch is a switch that ends with us.
type closingSwitch interface {
	service.Switch
	Close() error
}

// root is the command tree.
func (a *app) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "millrace",
		Short: "Userspace fast-path switch for edge nodes",
		Long: `Millrace is a userspace switch: ports for DPDK pods and virtual machines
(vhost-user), network devices (AF_XDP), the kernel (TAP) and other hosts (Geneve,
VXLAN); between them bridges that learn, or do what flows say, with connection
tracking; and a counted, named reason for every frame that it does not deliver.

` + "`millrace run`" + ` starts a switch and keeps it alive. Other commands find it by its
run directory, and show or change it; ` + "`ovs-vsctl`" + ` may change it, too.

Exit codes are 0 (done), 1 (error), 2 (usage) and 3 (no switch is running);
` + "`millrace run --help`" + ` has them all.`,
		Example: `  millrace run --run-dir /run/millrace &
  millrace port add br0 vm1 --type dpdkvhostuser
  millrace port add br0 vm2 --type dpdkvhostuser
  millrace show
  millrace drops`,
		SilenceErrors: true, SilenceUsage: true,
		Args: noSubcommand, RunE: helpOnly,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.checkRunDir(cmd) },
	}
	cmd.SetIn(a.in)
	cmd.SetOut(a.out)
	cmd.SetErr(a.err)
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{c.CommandPath(), err} })
	f := cmd.PersistentFlags()
	f.StringVar(&a.runDir, "run-dir", defaultRunDir(os.Getenv, os.Geteuid()), "directory of the switch's sockets (env MILLRACE_RUN_DIR)")
	f.BoolVar(&a.json, "json", false, "print JSON; what the dataplane says has the field names of dataplane/api/*.proto")
	f.StringVar(&a.logLevel, "log-level", "info", "what to log on standard error: debug, info, warn, error")
	group(cmd, "Run a switch:", a.runCmd(), a.dataplaneCmd(), a.controlCmd(), a.egressServerCmd(), a.devicePluginCmd())
	group(cmd, "Change and list what it has:", a.bridgeCmd(), a.portCmd(), a.macCmd(), a.flowCmd(), a.ctCmd(), a.workerCmd(), a.egressCmd(), a.agentCmd(), a.dbCmd())
	group(cmd, "Look at it:", a.statusCmd(), a.doctorCmd(), a.showCmd(), a.topCmd(), a.statsCmd(), a.dropsCmd(), a.memCmd())
	cmd.AddCommand(a.pktgenCmd(), a.demoCmd(), a.versionCmd())
	makeStrict(cmd)
	return cmd
}

// makeStrict has the commands that cobra adds refuse names that there are not. By
// themselves they show help for something else, with exit code 0.
func makeStrict(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Args, c.RunE = noSubcommand, helpOnly
		case "help":
			c.Args = topic
		}
	}
}

// topic wants the words of a command.
func topic(cmd *cobra.Command, args []string) error {
	of, rest, err := cmd.Root().Find(args)
	if err != nil {
		return err
	}
	return noSubcommand(of, rest)
}

// group adds commands that help shows together.
func group(cmd *cobra.Command, title string, commands ...*cobra.Command) {
	cmd.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, c := range commands {
		c.GroupID = title
	}
	cmd.AddCommand(commands...)
}

// systemRunDir is the run directory of the machine's own switch.
const systemRunDir = "/run/millrace"

// defaultRunDir is the run directory where nothing else is said.
func defaultRunDir(getenv func(string) string, euid int) string {
	if d := getenv("MILLRACE_RUN_DIR"); d != "" {
		return d
	}
	if euid == 0 {
		return systemRunDir
	}
	return filepath.Join(cmp.Or(getenv("XDG_RUNTIME_DIR"), tmpDirOf(euid)), "millrace")
}

// tmpDirOf is where the run directory of a user is who has no XDG_RUNTIME_DIR.
func tmpDirOf(euid int) string { return fmt.Sprintf("/tmp/millrace-%d", euid) }

// checkRunDir refuses a run directory that can only be a mistake, and one below
// /tmp that somebody else has made for us: what listens there is not ours.
func (a *app) checkRunDir(cmd *cobra.Command) error {
	if a.runDir == "" {
		return usage(cmd, "--run-dir: it is empty")
	}
	ours := tmpDirOf(os.Geteuid())
	if filepath.Dir(a.runDir) != ours {
		return nil
	}
	return checkPrivate(ours)
}

// checkPrivate refuses a directory in which others can put things.
func checkPrivate(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s is no directory of ours alone: set XDG_RUNTIME_DIR, or name a --run-dir", dir)
	}
	return nil
}

// noSubcommand refuses arguments of a command that only has commands below it.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	for i, s := range cmd.SuggestionsFor(args[0]) {
		msg += map[bool]string{true: ": did you mean ", false: " or "}[i == 0] + s
	}
	return &usageError{cmd.CommandPath(), fmt.Errorf("%s", msg)}
}

// helpOnly is what a command does that only has commands below it.
func helpOnly(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// exactly wants as many arguments as there are names.
func exactly(names ...string) cobra.PositionalArgs {
	return between(len(names), len(names), names...)
}

// between wants at least lo and at most hi arguments.
func between(lo, hi int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < lo:
			return &usageError{cmd.CommandPath(), fmt.Errorf("%s: %s is missing", cmd.CommandPath(), names[len(args)])}
		case len(args) > hi:
			return &usageError{cmd.CommandPath(), fmt.Errorf("%s: %q is one argument too many", cmd.CommandPath(), args[hi])}
		}
		return nil
	}
}

// usage is the error of a flag or argument that cmd cannot make sense of.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd.CommandPath(), fmt.Errorf(format, args...)}
}

// serviceLogger is logger for a process that stays: that who reads its log, or
// the terminal, goes away is no reason for it to end.
func (a *app) serviceLogger(cmd *cobra.Command, name string) (*zap.Logger, error) {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	showName()
	return a.logger(cmd, name)
}

// logger logs to standard error, for people.
func (a *app) logger(cmd *cobra.Command, name string) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(a.logLevel)
	if err != nil {
		return nil, usage(cmd, "--log-level: %w", err)
	}
	return a.loggerAt(level, name), nil
}

// loggerAt is logger with a level that may change.
func (a *app) loggerAt(level zapcore.LevelEnabler, name string) *zap.Logger {
	c := zap.NewDevelopmentEncoderConfig()
	c.EncodeLevel = zapcore.LowercaseLevelEncoder
	c.CallerKey = ""
	enc := zapcore.NewConsoleEncoder(c)
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(a.err)), level)).Named(name)
}
