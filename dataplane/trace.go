package dataplane

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"

	"millrace/dataplane/fdb"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// A tracer is a worker that does not run: a frame goes through what workers have,
// by their code, and what it would send stays with it. It has no flow cache, and
// ports come to it as they are needed.
type tracer struct {
	worker
	s     *Switch
	out   *Trace
	ports map[uint32]*workerPort
	known map[uint32]*port // all, by number
	heard map[station]uint32
}

// A station is an address in a forwarding database.
type station struct {
	number uint32
	key    fdb.Key
}

// learn notes where an address would be from now on.
func (t *tracer) learn(number uint32, address uint64, port uint32) {
	key := stationKey(address)
	if wb := t.bridgeNumbered(number); wb != nil && wb.table.WouldLearn(key, port) {
		t.heard[station{number, key}] = port
	}
}

// lookup is lookupFDB after what the trace has heard.
func (t *tracer) lookup(number uint32, address, now uint64) (uint32, flowtable.Guard, bool) {
	port, guard, ok := t.lookupFDB(number, address, now)
	if heard, yes := t.heard[station{number, stationKey(address)}]; yes {
		return heard, guard, true
	}
	return port, guard, ok
}

// newTracer makes a tracer, which stays with the switch.
func (s *Switch) newTracer() *tracer {
	t := &tracer{s: s}
	t.worker = worker{engine: s.engine, batch: packet.NewBatch(), trace: t}
	t.flow.ct = &connector{crossing: &s.engine.crossing, trace: true}
	t.flow.walker = s.engine.tables.NewWalker(flowtable.SideTables{Lookup: t.lookup, Learn: t.learn, Connect: t.flow.ct.connect, Reply: t.crossReply, Recall: t.flow.ct.recall, Stick: t.flow.ct.stick})
	t.flow.walker.Offline()
	return t
}

// Trace tells what becomes of a frame that comes in by port: what the switch would
// do with it now. Nothing is sent, learned or counted; meters let it pass.
func (s *Switch) Trace(port string, frame []byte) (*Trace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[port]
	switch {
	case s.closed:
		return nil, ErrIsClosing
	case p == nil:
		return nil, fmt.Errorf("trace: %w: %s", ErrNoPort, port)
	case len(frame) < packet.FrameMin:
		return &Trace{Early: packet.ReasonRxTooShort}, nil
	case len(frame) > packet.FrameMax:
		return &Trace{Early: packet.ReasonRxTooLong}, nil
	}
	if s.tracer == nil {
		s.tracer = s.newTracer()
	}
	return s.tracer.follow(p, slices.Clone(frame)), nil
}

// follow takes a frame through.
func (t *tracer) follow(p *port, frame []byte) *Trace {
	t.prepare()
	out := &Trace{}
	t.out = out
	b := t.batch
	b.Reset()
	head := frame[:min(len(frame), packet.HeadMax)]
	if tail := frame[len(head):]; len(tail) > 0 {
		b.Add(head, packet.Seg{Addr: packet.Addr(tail), Len: uintptr(len(tail))})
	} else {
		b.Add(head)
	}
	t.flow.walker.Quiet()
	if in := t.portOf(p.number); in.ends == nil || !in.ends.arriving || !t.arrived(in, 0) {
		t.again(in, transit{fdbSlot: -1})
	}
	t.flow.walker.Offline()
	t.out, t.ports, t.known = nil, nil, nil
	runtime.KeepAlive(frame) // the batch has its end by address only
	return out
}

// prepare takes note of the ports and bridges that there are.
func (t *tracer) prepare() {
	t.heard = map[station]uint32{}
	t.ports, t.known, t.fdbs = map[uint32]*workerPort{}, make(map[uint32]*port, len(t.s.ports)), nil
	for _, p := range t.s.ports {
		t.known[p.number] = p
	}
	for _, br := range t.s.bridges {
		t.bridgeOf(br)
	}
	t.now = t.s.now()
	t.passed, t.firstRun = 0, t.runs
}

// portOf returns the port of a number, or nil.
func (t *tracer) portOf(number uint32) *workerPort {
	if wp := t.ports[number]; wp != nil {
		return wp
	}
	p := t.known[number]
	if p == nil {
		return nil
	}
	wp := newWorkerPort(p)
	t.ports[number] = wp
	wp.bridge = t.bridgeOf(p.bridge)
	if p.dev != nil {
		wp.tx = p.dev.Tx()
	}
	if o := t.s.peerOf(p); o != nil {
		wp.peer = t.portOf(o.number)
	}
	return wp
}

// walk walks, tells of each step, and keeps what the first walk has composed.
func (t *tracer) walk(key *flowtable.Key, n uint32) *flowtable.Composed {
	comp, steps := t.flow.walker.Trace(key, n, uint64(t.now))
	if len(t.out.Steps) == 0 {
		t.out.Key, t.out.Composed = *key, *comp
		t.out.Key[flowtable.WordL4] &^= identBits
		c := &t.out.Composed
		c.Ops, c.Guards, c.Rules = slices.Clone(c.Ops), slices.Clone(c.Guards), slices.Clone(c.Rules)
	}
	t.out.Steps = append(t.out.Steps, steps.Steps...)
	return comp
}

// output notes what would go to a device, or why it would not.
func (t *tracer) output(o *workerPort, slot int, why packet.Reason) {
	frame := t.batch.AppendTo(nil, slot)
	if why == packet.ReasonNone {
		why = t.refuses(t.known[o.number], frame)
	}
	t.out.Outputs = append(t.out.Outputs, TraceOutput{Port: o.name, Frame: frame, Drop: why})
}

// refuses says why a port would not send a frame.
func (t *tracer) refuses(p *port, frame []byte) packet.Reason {
	if p.dev == nil {
		return packet.ReasonNone
	}
	room := p.spec.MTU + packet.FrameMin
	if binary.BigEndian.Uint16(frame[macsLen:]) == etherVLAN {
		room += tagLen
	}
	switch {
	case p.dev.State().Link != LinkUp:
		return packet.ReasonTxDown
	case p.spec.MTU != 0 && len(frame) > room:
		return packet.ReasonTxTooLong
	}
	return packet.ReasonNone
}

// drop notes that nothing came of the frame at a port: where it came in, or
// behind a patch port.
func (t *tracer) drop(x *transit) {
	if x.hops == 0 {
		t.out.Drop = x.why
		return
	}
	t.out.Outputs = append(t.out.Outputs, TraceOutput{Port: x.in.name, Frame: t.batch.AppendTo(nil, x.slot), Drop: x.why})
}

// short notes that a frame is too short for what it says of itself.
func (t *tracer) short(x *transit) {
	if x.hops == 0 {
		t.out.Key, _, _ = parse.InspectAt(x.in.level, t.batch.Head(x.slot), t.batch.Frames[x.slot].Len, x.in.number)
		t.out.Early = packet.ReasonRxTooShort
	}
}
