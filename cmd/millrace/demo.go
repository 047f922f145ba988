package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"millrace/perf/pktgen"
)

func (a *app) demoCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the switch at work: two ports, real traffic both ways",
		Long: `Starts a switch of its own in a temporary directory, adds two vhost-user ports to
a bridge, sends traffic both ways through them, and shows rates, losses, the
forwarding table and the drop table. It needs no root, no hugepages and no other
program, takes less than half a minute, and leaves nothing behind.

The exit code is 1 if a frame was lost, duplicated, reordered or corrupted, or if
the switch's account does not balance.`,
		Example: `  millrace demo`,
		Args:    exactly(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context()) },
	}
}

// A demo is a switch of its own.
type demo struct {
	*app
	dir string
	sw  *exec.Cmd
}

// demo runs the demonstration, and cleans up after it.
func (a *app) demo(ctx context.Context) error {
	// The switch ends with the thread that started it (PR_SET_PDEATHSIG), and
	// threads of the generator come and go.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, err := os.MkdirTemp("", "millrace-demo-")
	if err != nil {
		return err
	}
	d := &demo{app: a, dir: dir}
	defer os.RemoveAll(dir)
	defer d.stop()
	if err := d.start(ctx); err != nil {
		return fmt.Errorf("start a switch: %w", err)
	}
	return d.show(ctx)
}

// start runs `millrace run` and waits until it is ready.
func (d *demo) start(ctx context.Context) error {
	d.say("Starting a switch: millrace run --run-dir %s", d.dir)
	d.sw = exec.Command("/proc/self/exe", "run", "--run-dir", d.dir, "--keep-dataplane=false", "--log-level", "warn")
	d.sw.Args[0] = "millrace"
	d.sw.Stderr = d.err
	d.sw.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := d.sw.StdoutPipe()
	if err != nil {
		return err
	}
	if err := d.sw.Start(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(out).ReadString('\n')
		if strings.TrimSpace(line) != "ready" {
			err = errors.Join(errors.New("it ended before it was ready"), err)
		}
		ready <- err
	}()
	select {
	case err := <-ready:
		return err
	case <-time.After(10 * time.Second):
		return errors.New("it was not ready in 10 s")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the switch.
func (d *demo) stop() {
	if d.sw == nil || d.sw.Process == nil {
		return
	}
	_ = d.sw.Process.Signal(syscall.SIGTERM)
	t := time.AfterFunc(5*time.Second, func() { _ = d.sw.Process.Kill() })
	defer t.Stop()
	_ = d.sw.Wait()
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "\n"+format+"\n", args...) }

// Rates and lengths of the demonstration's traffic.
const (
	demoCheckedRate = 200_000 // frames a second and direction: well below any machine's limit
	demoChecked     = 4 * time.Second
	demoFlood       = 4 * time.Second
)

// show is the demonstration.
func (d *demo) show(ctx context.Context) error {
	for _, p := range []string{"p0", "p1"} {
		// These are rows of the switch's own database, which control makes ports of.
		if err := d.cli(ctx, "port", "add", "br0", p, "--type", "dpdkvhostuser"); err != nil {
			return err
		}
	}
	f := pktgenFlags{queues: 1}
	cpus, forwarder, err := f.generatorCPUs()
	if err != nil {
		return err
	}
	ports, err := f.ports([]string{filepath.Join(d.dir, "p0"), filepath.Join(d.dir, "p1")})
	if err != nil {
		return err
	}
	c := pktgen.Config{Ports: ports, Direction: pktgen.Bidi, CPUs: cpus, PeerCPU: forwarder, Connect: 5 * time.Second}
	c.Progress = d.progress(ctx)
	d.say("Both ways between the two ports, %d frames a second each, 60 to 1514 bytes, every one checked:", demoCheckedRate)
	c.Mode, c.Sizes, c.Rate, c.Duration, c.Flows = pktgen.Verify, pktgen.IMIX(), demoCheckedRate, demoChecked, 100
	checked, err := pktgen.Run(ctx, c)
	if err != nil {
		return err
	}
	fmt.Fprint(d.out, "\n", checked)
	d.say("As fast as it goes, 60 bytes, both ways:")
	c.Mode, c.Sizes, c.Rate, c.Duration, c.Warmup = pktgen.Fast, []pktgen.Share{{Size: 60, Weight: 1}}, 0, demoFlood, demoFlood/8
	c.CeilingFor = ceilingTime
	flood, err := pktgen.Run(ctx, c)
	if err != nil {
		return err
	}
	fmt.Fprint(d.out, "\n", flood)
	for _, args := range [][]string{{"flow", "dump"}, {"drops"}, {"stats"}} {
		if err := d.cli(ctx, args...); err != nil {
			return err
		}
	}
	return d.judge(checked)
}

// progress shows the generator's progress, and once, while there is traffic, the
// ports.
func (d *demo) progress(ctx context.Context) func(pktgen.Progress) {
	shown := false
	return func(p pktgen.Progress) {
		d.showProgress(p)
		if !shown && p.Elapsed > time.Second {
			shown = true
			if err := d.cli(ctx, "show"); err != nil {
				fmt.Fprintln(d.err, err)
			}
			fmt.Fprintln(d.out)
		}
	}
}

// cli runs a command as a user would, and shows it.
func (d *demo) cli(ctx context.Context, args ...string) error {
	d.say("$ millrace %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"--run-dir", d.dir}, args...)...)
	cmd.Stdout, cmd.Stderr = d.out, d.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("millrace %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// judge says how it went.
func (d *demo) judge(r *pktgen.Result) error {
	t := r.Total
	if !t.Clean() || t.Sent == 0 {
		return fmt.Errorf("of %d frames that were checked %d were lost, %d duplicated, %d reordered, %d corrupted", t.Sent, t.Lost, t.Duplicated, t.Reordered, t.Corrupted)
	}
	d.say("All %s checked frames arrived, each once, in order and unchanged: loss 0.", count(t.Sent))
	return nil
}
