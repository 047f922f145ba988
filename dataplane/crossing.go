package dataplane

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/sys"
	"millrace/flowtable"
)

// A crossing is the connections of a switch, which all workers share.
type crossing struct {
	table *conntrack.Table
	first flowtable.Cell // guard cells of the table: its cell 0
	base  uint64         // ticks at its time 0
	swept atomic.Uint32  // second in which a worker last looked for what is over

	users   sync.WaitGroup // who uses the table and is no worker
	closing atomic.Bool    // no more of them: those that are there come to an end; written with mu held

	mu        sync.Mutex // guards what follows
	used      []bool     // numbers of workers that are taken
	forgotten []uint32   // numbers of bridges of which something may still be there
}

// connectionOptions are the sizes of the table of connections, for so many or,
// with 0, for as many as the machine's memory suggests.
func connectionOptions(connections int) conntrack.Options {
	o := conntrack.DefaultOptions(sys.Memory())
	o.Capacity = cmp.Or(connections, min(o.Capacity, connectionsMost))
	o.Affinity, o.Held = min(o.Affinity, affinityMost), min(o.Held, heldMost)
	return o
}

// open makes the table, with guard cells from the end of the bank.
func (x *crossing) open(o conntrack.Options, b *bank) (err error) {
	x.first, x.base = cellsMax, sys.TSC()
	o.Cells = b.Words(x.first, conntrack.CellsNeeded(o))
	if x.table, err = conntrack.New(o); err != nil {
		return fmt.Errorf("make the table of connections: %w", err)
	}
	return nil
}

// close gives the table's memory back, when nobody uses it any more. No worker is left.
func (x *crossing) close() error {
	x.mu.Lock()
	x.closing.Store(true)
	x.mu.Unlock()
	x.users.Wait()
	if x.table == nil {
		return nil
	}
	return x.table.Close()
}

// enter has the table stay until x.users.Done is called, by somebody who is no worker and does not hold the
// switch's mutex. It reports false if there is none any more.
func (x *crossing) enter() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closing.Load() {
		return false
	}
	x.users.Add(1)
	return true
}

// nanos is a time in ticks as the table has it: in nanoseconds, never 0.
func (x *crossing) nanos(ticks uint64) uint64 {
	if ticks < x.base {
		return 1e9 // a worker's clock is a little behind
	}
	return 1e9 + uint64(float64(ticks-x.base)*(1e9/sys.TSCHz()))
}

// connector returns a worker's way into the table. It is given back by retire.
func (x *crossing) connector() *connector {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for n < len(x.used) && x.used[n] {
		n++
	}
	if n == len(x.used) {
		x.used = append(x.used, false)
	}
	x.used[n] = true
	c := &connector{crossing: x, number: n, worker: x.table.Worker(n)}
	c.worker.Quiet()
	return c
}

// forget has a goroutine remove the connections of a bridge's zones, what the zones were told, and the
// clients that are remembered: a million connections take a second, in which changes of other bridges do not
// wait. No packet comes to them any more. Until it has ended, no bridge is given the number.
func (x *crossing) forget(bridge uint32) {
	if !x.enter() {
		return
	}
	x.mu.Lock()
	x.forgotten = append(x.forgotten, bridge)
	x.mu.Unlock()
	go func() {
		defer x.users.Done()
		x.empty(bridge)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.forgotten = slices.DeleteFunc(x.forgotten, func(n uint32) bool { return n == bridge })
	}()
}

// empty is forget's goroutine.
func (x *crossing) empty(bridge uint32) {
	for i := range uint32(flowtable.ZonesOfBridge) {
		if z := bridge*flowtable.ZonesOfBridge + i; z < conntrack.Zones {
			x.table.Reset(uint16(z), x.closing.Load)
		}
	}
	x.table.DropAffinity(func(c conntrack.Client, _ conntrack.Backend) bool { return c.Datapath == bridge })
}

// notForgotten are the numbers of bridges of which something may still be there.
func (x *crossing) notForgotten() []uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.forgotten)
}

// connectionBytes is what a connection takes in all, rounded up; see package conntrack.
const connectionBytes = 244

// expireBudget is how many connections are looked at in one go.
const expireBudget = 4096

// expire removes connections whose time is over, if no worker has looked for them
// of late: all may be asleep.
func (x *crossing) expire(second uint32) {
	if second-x.swept.Load() < 2 {
		return
	}
	now := x.nanos(sys.TSC())
	x.table.ExpireFragments(now)
	for n := 0; n < x.table.Touched()+expireBudget; n += expireBudget {
		x.table.Expire(now, expireBudget)
	}
}
