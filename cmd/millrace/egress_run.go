package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"millrace/control"
	"millrace/dataplane/service"
	"millrace/dataplane/sys"
	"millrace/supervise"
)

// egressSpecs yields the processes of egress ports that there shall be, whenever
// control has said something new. It does not end before ctx does.
func (a *app) egressSpecs(ctx context.Context, f *runFlags, runDir string, log *zap.Logger) (<-chan []supervise.Spec, error) {
	dir := filepath.Join(runDir, control.EgressDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of egress ports: %w", err)
	}
	changed, err := sys.Watch(ctx, dir)
	if err != nil {
		return nil, err
	}
	out := make(chan []supervise.Spec)
	go func() {
		for open := true; open; _, open = <-changed {
			names, err := control.EgressPorts(runDir)
			if err != nil {
				log.Error("egress ports stay as they are", zap.Error(err))
				continue
			}
			specs := []supervise.Spec{}
			for _, name := range names {
				specs = append(specs, a.egressSpec(f, runDir, name))
			}
			select {
			case out <- specs:
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() == nil {
			log.Error("the directory of egress ports is gone: new ones are not started any more", zap.String("directory", dir))
		}
	}()
	return out, nil
}

// egressSpec is the process of one egress port.
func (a *app) egressSpec(f *runFlags, runDir, name string) supervise.Spec {
	s := supervise.Spec{
		Name: "egress " + name,
		Args: func(bool) []string {
			return []string{"egress", "port", name, "--run-dir", runDir, "--log-level", a.logLevel}
		},
		Grace: egressGrace(runDir, name),
		Sweep: func() error { return sweepEgress(runDir, name) },
		Find: func() (int, error) {
			return service.HolderOf(filepath.Join(runDir, control.EgressDir), name+".lock")
		},
		Await: func(context.Context, int) {},
	}
	if !f.keep {
		s.Orphan = syscall.SIGTERM
	}
	return s
}

// egressGrace is how long a port's process may drain, and a little.
func egressGrace(runDir, name string) time.Duration {
	drain := 30 * time.Second
	if e, err := control.ReadEgress(runDir, name); err == nil && e.Agent() {
		if o, _, problems := agentOptions(e.Options); len(problems) == 0 {
			drain = o.cfg.DrainTimeout
		}
	}
	return drain + 5*time.Second
}
