package dataplane

import (
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// A workerPort is a port as one worker has it: what it needs to decide, the
// list of what goes there next, and the worker's own share of the counters.
type workerPort struct {
	name   string
	number uint32
	plain  bool    // what is output to it goes to its device and nowhere else
	dev    Device  // nil for a patch port or a tunnel
	tx     TxQueue // nil for a patch port or a tunnel
	vlan   vlanPolicy

	ingress, egress *limiter // nil: any number of frames

	bridge *workerBridge
	peer   *workerPort // the other end of a patch port; nil while it is missing

	level  parse.Level     // how much of its frames is read
	direct direct          // what becomes of all its frames, if that is one thing
	plan   *flowcache.Plan // of its keys in the cache; nil: none yet
	exact  flowtable.Key   // bits of the key on which any program of the plan depends
	doubt  uint32          // that retraces are of use
	steps  []uint32        // lengths of frames at which programs differ, in order

	list   []packet.Ref // what goes out next: own, or identity
	n      int
	own    []packet.Ref
	lost   packet.Reason
	signal bool   // is in the worker's signals
	gone   bool   // the port is being taken from the worker
	last   uint64 // program run that put the last of own there; see worker.put
	lastRx int    // and the received frame of which it is a version

	isTunnel bool
	out      *outlet // how frames leave by a tunnel; nil: not now
	named    bool    // frames name the tunnel's ends: outs, not out
	outs     *outlets
	ends     *ending // tunnels that end at the port's device; nil: none
	outer    outer   // what the underlay does with all frames of the tunnel

	namesRemote, namesLocal bool

	counters

	taker  OffloadTaker // tx, if it is one
	merges bool         // segments of TCP are merged for the peer, if it takes super-frames
	extra  uint64       // of n: segments beyond the first of their frame, less those that were merged
}

// Sizes of lists of what goes to a port. They grow as they need.
const (
	listMin = packet.BatchMax
	listMax = packet.SlotsMax
)

// newWorkerPort is p for a worker that does not know it yet.
func newWorkerPort(p *port) *workerPort {
	wp := &workerPort{name: p.spec.Name, number: p.number, dev: p.dev, vlan: newVLANPolicy(p.spec), ingress: p.ingress, egress: p.egress, own: make([]packet.Ref, listMin),
		merges: p.spec.Options[OptionGRO] == "true"}
	wp.list = wp.own
	wp.retunnel(p)
	if p.readFully() {
		wp.level = parse.Full
	}
	return wp
}

// counters are one worker's share of a port's account; see PortStats.
type counters struct {
	rxFrames, rxBytes uint64
	txFrames, txBytes uint64
	outputs, copies   uint64
	offered           uint64
	rxDrops, txDrops  Drops
	finished          Finished
}

// addTo adds the counters to s.
func (c *counters) addTo(s *PortStats) {
	s.RxFrames += c.rxFrames
	s.RxBytes += c.rxBytes
	s.TxFrames += c.txFrames
	s.TxBytes += c.txBytes
	s.Outputs += c.outputs
	s.Copies += c.copies
	s.Offered += c.offered
	s.Finished.add(&c.finished)
	for i := range s.RxDrops {
		s.RxDrops[i] += c.rxDrops[i]
		s.TxDrops[i] += c.txDrops[i]
	}
}

// refs is what goes out next.
func (p *workerPort) refs() []packet.Ref { return p.list[:p.n] }

// grow makes room in the port's list, and reports whether there may be more.
func (p *workerPort) grow() bool {
	if len(p.own) >= listMax {
		return false
	}
	p.own = append(p.own, make([]packet.Ref, len(p.own))...)
	p.list = p.own
	return true
}

// identity is the list of all frames of a batch, in order: what a wire sends.
type identity [packet.BatchMax]packet.Ref

func newIdentity() *identity {
	var l identity
	for i := range l {
		l[i].Frame = uint16(i)
	}
	return &l
}

// countEarly counts what the receive queue dropped.
func (w *worker) countEarly(p *workerPort) {
	b := w.batch
	p.rxFrames += uint64(b.NEarly)
	w.stats.Frames += uint64(b.NEarly)
	for i := range b.Early {
		p.rxDrops[i] += uint64(b.Early[i])
		b.Early[i] = 0
	}
	b.NEarly = 0
}
