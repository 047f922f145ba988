package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"millrace/dataplane/api"
)

// adoptPatience is how long a dataplane that was found may take to answer
// before somebody should know.
const adoptPatience = 5 * time.Second

// An adoption looks at a dataplane that an earlier run has left.
type adoption struct {
	dir     string
	want    switchOptions // as the flags say
	version string        // of this program
	log     *zap.Logger
}

// await returns when the dataplane answers, or ctx ends, and says in what it is
// not as the flags ask.
func (a *adoption) await(ctx context.Context, pid int) {
	began := time.Now()
	for said := false; ctx.Err() == nil; {
		one, cancel := context.WithTimeout(ctx, time.Second)
		c, err := api.Dial(one, a.dir)
		cancel()
		if err == nil {
			a.compare(c.Info)
			_ = c.Close() // it was asked all that we want
			return
		}
		if !said && time.Since(began) > adoptPatience {
			said = true
			a.log.Error("the dataplane that was found does not answer: if that stays so, end it, and a new one is started",
				zap.Error(err), zap.String("remedy", fmt.Sprintf("kill -9 %d", pid)))
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// compare warns of what only a new dataplane could have otherwise.
func (a *adoption) compare(info *api.GetInfoResponse) {
	remedy := zap.String("remedy", fmt.Sprintf("kill %d: a new one is started at once, with the same ports", info.GetPid()))
	var cpus []int
	for _, c := range info.GetWorkersStart() { // not where pmd-cpu-mask has moved them since
		cpus = append(cpus, int(c))
	}
	if slices.Sort(cpus); !slices.Equal(cpus, slices.Sorted(slices.Values(a.want.CPUs))) {
		a.log.Warn("the dataplane that was found has other CPUs", zap.Ints("has", cpus), zap.Ints("asked", a.want.CPUs), remedy)
	}
	if poll := word(info.GetPollMode()); poll != string(a.want.Poll) {
		a.log.Warn("the dataplane that was found polls otherwise", zap.String("has", poll), zap.String("asked", string(a.want.Poll)), remedy)
	}
	if info.GetVersion() != a.version {
		a.log.Warn("the dataplane that was found is of another release", zap.String("has", info.GetVersion()), zap.String("ours", a.version), remedy)
	}
}
