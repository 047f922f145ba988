package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"millrace/perf/pktgen"
	"millrace/perf/ruleset"
)

// A side is one of the two switches. Its ports connect to the generator, which
// listens: the convention for DPDK guests, and OVS's recommended kind of port.
type side interface {
	// ports are the generator's ends.
	ports() []pktgen.Port
	// pause stops all of the switch's threads; resume lets them go on.
	pause() error
	resume() error
	// reset forgets what the caches have of earlier turns.
	reset(context.Context) error
	// mark begins a count; usage returns what was used since then.
	mark(context.Context) error
	usage(context.Context) (usage, error)
	// masks is how many masks the cache of wildcards has now.
	masks(context.Context) (int, error)
	// tune applies a way to configure the switch, and settle what of it is for
	// when all flows were shown.
	tune(context.Context, tuning) error
	settle(context.Context, tuning) error

	// changers change single rules of ruleset.Gate, each by a way of its own.
	changers(context.Context) ([]changer, error)
	// replace makes rules the only ones, in one transaction, by the switch's
	// own tool.
	replace(context.Context, ruleset.Set) error
	// prepare makes the switch ready to launch with rules: it is down and has
	// them in its database, or is up and empty if it keeps none. launch returns
	// when it says that it is there. inForce is how many rules are.
	prepare(context.Context, ruleset.Set) error
	launch(context.Context) error
	inForce(context.Context) (int, error)

	// connections is how many connections there are, and forget removes them.
	connections(context.Context) (connectionCount, error)
	forget(context.Context) error
	footprint() *footprint
	// pid is the process that forwards.
	pid() int

	about() string
	// explain says in words what the switch has dropped.
	explain(context.Context) string
	close()
}

// A usage is what a switch has done since its mark.
type usage struct {
	Cycles  float64 // TSC cycles per packet, of turns that carried packets
	Busy    float64 // share of its time in such turns
	Packets float64
	Batch   float64 // packets taken from a ring at once; 0 if the switch does not tell
	Walks   float64 // share of packets that had to be looked up in the rules
}

// A changer changes rules of ruleset.Gate over a connection that is open
// already.
type changer interface {
	// name says how.
	name() string
	// gate has the first rule lead to the one or to the other port, and
	// returns when the switch has confirmed it.
	gate(ctx context.Context, alt bool) error
	// idle does the same to a rule that no packet needs.
	idle(ctx context.Context, rule int, alt bool) error
	close()
}

// portName is what rules call port i.
func portName(i int) string { return fmt.Sprint("p", i) }

// sockets are the paths of a side's ports.
func sockets(dir, name string, n int) []pktgen.Port {
	var ps []pktgen.Port
	for i := range n {
		ps = append(ps, pktgen.Port{Name: fmt.Sprint(name, i), Path: filepath.Join(dir, fmt.Sprint(name, i, ".sock")), Listen: true})
	}
	return ps
}

// errNotReady is the error of a switch that has not said what it should.
var errNotReady = errors.New("unexpected answer")
