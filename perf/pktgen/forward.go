package pktgen

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// A forwarder is the least switch there is, for the generator's own ceiling and
// for tests: it copies frames from each port to those that its stream goes to,
// with no look at them.
type forwarder struct {
	queues []fwdQueue
	batch  *packet.Batch
	list   []packet.Ref
	stop   atomic.Bool
	wg     sync.WaitGroup
	err    error

	// mangle, if set, changes what is sent, for tests of the generator.
	mangle func(b *packet.Batch, list []packet.Ref) []packet.Ref
}

// fwdQueue is one transmit queue of a port and the receive queues it leads to.
type fwdQueue struct {
	from *virtq.Device
	to   []*virtq.Device
}

// localFeatures are those between the generator and its own forwarder.
const localFeatures = message.FVersion1 | message.NetFMrgRxbuf

// newForwarder makes devices for ports that are not connected. to says for each
// port which others it leads to.
func newForwarder(ports []*frontend.Port, to [][]int) (*forwarder, error) {
	f := &forwarder{batch: packet.NewBatch(), list: make([]packet.Ref, packet.BatchMax)}
	devices := make([][]*virtq.Device, len(ports))
	for i, p := range ports {
		if err := p.Local(localFeatures); err != nil {
			return nil, err
		}
		for _, pair := range p.Pairs() {
			for _, r := range []*frontend.Ring{pair.RxRing, pair.TxRing} {
				d, err := virtq.NewDevice(virtq.Config{Layout: r.Layout, Mem: p.Memory().Map(), Mergeable: true})
				if err != nil {
					return nil, fmt.Errorf("ring %d of port %d: %w", r.Index, i, err)
				}
				d.Start()
				devices[i] = append(devices[i], d)
			}
		}
	}
	for i := range ports {
		for q := 0; q < len(devices[i]); q += 2 {
			fq := fwdQueue{from: devices[i][q+1]}
			for _, k := range to[i] {
				fq.to = append(fq.to, devices[k][q%len(devices[k])])
			}
			f.queues = append(f.queues, fq)
		}
	}
	return f, nil
}

// start forwards in a goroutine of its own, on cpu unless that is -1.
func (f *forwarder) start(cpu int) {
	f.wg.Go(func() {
		runtime.LockOSThread() // and never unlock: the thread's affinity dies with it
		if cpu >= 0 {
			if f.err = sys.Pin(cpu); f.err != nil {
				return
			}
		}
		for !f.stop.Load() && f.err == nil {
			for i := range f.queues {
				if f.err = f.turn(&f.queues[i]); f.err != nil {
					break
				}
			}
		}
	})
}

// close ends forwarding.
func (f *forwarder) close() error {
	f.stop.Store(true)
	f.wg.Wait()
	return f.err
}

// turn forwards one batch.
func (f *forwarder) turn(q *fwdQueue) error {
	b := f.batch
	b.Reset()
	if err := q.from.Dequeue(b); err != nil || b.N == 0 && b.NEarly == 0 {
		return err
	}
	list := f.list[:b.N]
	for i := range list {
		list[i] = packet.Ref{Frame: uint16(i)}
	}
	if f.mangle != nil {
		list = f.mangle(b, list)
	}
	for _, to := range q.to {
		if err := to.Enqueue(b, list); err != nil {
			return err
		}
	}
	q.from.Complete()
	for _, to := range q.to {
		to.Commit(b)
	}
	b.NEarly = 0
	return nil
}
