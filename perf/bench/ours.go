package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millrace/perf/pktgen"
)

// ours is millrace, run as users run it.
type ours struct {
	s       settings
	c       scenario
	dir     string
	cmd     *exec.Cmd
	runDir  string
	gen     []pktgen.Port
	process int // that is the dataplane
	memory  footprint
	version string
	before  workerCount
}

// workerCount is what `millrace stats` tells of the worker.
type workerCount struct {
	Busy    uint64 `json:"busy_ticks"`
	Idle    uint64 `json:"idle_ticks"`
	Frames  uint64 `json:"frames"`
	Batches uint64 `json:"batches"`
	Walks   uint64 `json:"walks"`
}

func startOurs(ctx context.Context, s settings, c scenario, dir string) (side, error) {
	o := &ours{s: s, c: c, dir: dir, runDir: filepath.Join(dir, "run"), gen: sockets(dir, "a", c.generatorPorts())}
	if err := o.start(); err != nil {
		return nil, err
	}
	if err := o.configure(ctx, c); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// start runs the switch and returns when it says that it is ready.
func (o *ours) start() error {
	o.cmd = exec.Command(o.s.Binary, "run", "--run-dir", o.runDir, "--cpus", strconv.Itoa(o.s.swCPU), "--poll", o.polls(), "--keep-dataplane=false", "--log-level", "error")
	o.cmd.Stderr = os.Stderr
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := o.cmd.Start(); err != nil {
		return fmt.Errorf("start %s (make build): %w", o.s.Binary, err)
	}
	line := make([]byte, 16)
	if n, err := out.Read(line); err != nil || strings.TrimSpace(string(line[:n])) != "ready" {
		o.close()
		return fmt.Errorf("start %s: it did not say ready: %q: %w", o.s.Binary, line[:n], cmp.Or(err, errNotReady))
	}
	return nil
}

func (o *ours) configure(ctx context.Context, c scenario) error {
	for i, g := range c.bridgePorts(o.gen) {
		how := []string{"--type", "dpdkvhostuserclient", "--path", g.Path}
		if c.plug != nil {
			how = c.plug.ours(g.Name, i)
		}
		if _, err := o.tool(ctx, append([]string{"port", "add", "br0", o.port(i)}, how...)...); err != nil {
			return err
		}
	}
	if err := o.decide(ctx, c); err != nil {
		return err
	}
	out, err := o.tool(ctx, "version")
	if err != nil {
		return err
	}
	o.version = strings.TrimSpace(out)
	return o.findDataplane()
}

// decide says where frames go.
func (o *ours) decide(ctx context.Context, c scenario) error {
	switch {
	case c.underlay != nil:
		return c.underlay.ours(ctx, o)
	case c.rules != nil:
		if _, err := o.tool(ctx, "bridge", "set", "br0", "--pipeline", "flows"); err != nil {
			return err
		}
		return o.replace(ctx, c.rules())
	case c.Bridge:
		return nil
	}
	for i := range 2 {
		if _, err := o.tool(ctx, "port", "wire", o.port(i), o.port(1-i)); err != nil {
			return err
		}
	}
	return nil
}

// port is what port i is called.
func (o *ours) port(i int) string {
	if o.c.plug != nil {
		return deviceOf(o.gen[i].Name)
	}
	return portName(i)
}

// polls is how the worker polls.
func (o *ours) polls() string { return cmp.Or(o.c.poll, "busy") }

// findDataplane reads who holds the dataplane's lock.
func (o *ours) findDataplane() error {
	b, err := os.ReadFile(filepath.Join(o.runDir, "dataplane.lock"))
	if err == nil {
		o.process, err = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if err != nil {
		return fmt.Errorf("find the dataplane of millrace run: %w", err)
	}
	return nil
}

func (o *ours) tool(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, o.s.Binary, append([]string{"--run-dir", o.runDir}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("millrace %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (o *ours) count(ctx context.Context) (workerCount, error) {
	out, err := o.tool(ctx, "stats", "--json")
	if err != nil {
		return workerCount{}, err
	}
	var st struct {
		Workers []workerCount `json:"workers"`
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Workers) != 1 {
		return workerCount{}, fmt.Errorf("millrace stats: %d workers: %w", len(st.Workers), cmp.Or(err, errNotReady))
	}
	return st.Workers[0], nil
}

func (o *ours) mark(ctx context.Context) (err error) {
	o.before, err = o.count(ctx)
	return err
}

func (o *ours) usage(ctx context.Context) (usage, error) {
	now, err := o.count(ctx)
	if err != nil || now.Frames == o.before.Frames {
		return usage{}, err
	}
	busy, idle, frames := float64(now.Busy-o.before.Busy), float64(now.Idle-o.before.Idle), float64(now.Frames-o.before.Frames)
	return usage{
		Cycles: busy / frames, Packets: frames, Busy: busy / (busy + idle),
		Batch: over(frames, float64(now.Batches-o.before.Batches)), Walks: float64(now.Walks-o.before.Walks) / frames,
	}, nil
}

func (o *ours) ports() []pktgen.Port { return o.gen }
func (o *ours) pause() error         { return syscall.Kill(o.process, syscall.SIGSTOP) }
func (o *ours) resume() error        { return syscall.Kill(o.process, syscall.SIGCONT) }
func (o *ours) about() string        { return o.version + ", --poll " + o.polls() + ", one worker" }

func (o *ours) close() {
	_ = o.resume()
	_ = o.cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { _ = o.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		_ = syscall.Kill(-o.cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
}
