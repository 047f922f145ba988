package main

import (
	"context"
	"runtime"
	"slices"
	"time"

	"go.uber.org/zap"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
)

// How a process that does not forward stands aside for workers, which poll.
const (
	asideNice    = 5               // yields where it shares a CPU
	asideThreads = 4               // runs on so many CPUs at once at most
	asideEvery   = 2 * time.Second // looks so often whether workers have moved
	asideFirst   = 200 * time.Millisecond
)

// standAside keeps all threads of this process off the CPUs of the workers of
// the run directory's dataplane, if there are others, also when workers move,
// until ctx ends. Loading a large database would cost workers turns otherwise.
// While there is no dataplane, the process stays where it is.
func standAside(ctx context.Context, runDir string, log *zap.Logger) {
	allowed, err := sys.AllowedCPUs()
	if err != nil {
		log.Warn("cannot stand aside for workers", zap.Error(err))
		return
	}
	if err := sys.Yield(asideNice); err != nil {
		log.Warn("cannot yield to workers", zap.Error(err))
	}
	a := aside{allowed: allowed, log: log}
	next := a.look(ctx, runDir) // before anything else is begun
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(next):
				next = a.look(ctx, runDir)
			}
		}
	}()
}

// An aside is a process that keeps off the workers' CPUs.
type aside struct {
	allowed []int // CPUs that this process was started with
	workers []int // those that it keeps off
	log     *zap.Logger
}

// look finds out where the workers are, and makes way. It returns when to look
// again.
func (a *aside) look(ctx context.Context, runDir string) time.Duration {
	one, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := api.Dial(one, runDir)
	if err != nil {
		if a.workers == nil {
			return asideFirst
		}
		return asideEvery
	}
	defer c.Close()
	var cpus []int
	for _, n := range c.Info.GetWorkers() {
		cpus = append(cpus, int(n))
	}
	if !slices.Equal(cpus, a.workers) {
		if err := a.avoid(cpus); err != nil {
			a.log.Warn("cannot stand aside for workers", zap.Ints("workers", cpus), zap.Error(err))
			return asideEvery
		}
		a.workers = cpus
	}
	return asideEvery
}

// avoid keeps the process off CPUs. If it may use no others, it shares.
func (a *aside) avoid(cpus []int) error {
	others := slices.DeleteFunc(slices.Clone(a.allowed), func(c int) bool { return slices.Contains(cpus, c) })
	if len(others) == 0 {
		others = a.allowed
	}
	runtime.GOMAXPROCS(min(len(others), asideThreads))
	a.log.Info("process stands aside for workers", zap.Ints("workers", cpus), zap.Ints("cpus", others))
	return sys.Place(others)
}
