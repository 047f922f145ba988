package pktgen

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/google/gopacket/pcapgo"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
)

// A generator is one run: ports, streams and, if there is no switch to connect
// to, a forwarder.
type generator struct {
	cfg    Config
	ports  []*frontend.Port
	fwd    *forwarder
	engine *engine
	replay [][]byte
	lost   atomic.Uint64 // times that a switch was lost
	ending context.CancelFunc
	ended  []chan error // of the ports' Run
	ends   []*courier
}

// Run makes the traffic that cfg asks for and judges it. It connects to the
// switch first, for as long as ctx allows. When ctx is done while frames are
// sent, it stops sending and returns what there is.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	r, err := run(ctx, cfg, nil)
	if err != nil || cfg.CeilingFor == 0 || ctx.Err() != nil {
		return r, err
	}
	cfg.Count, cfg.Rate, cfg.Duration, cfg.Warmup, cfg.Progress = 0, 0, cfg.CeilingFor, 100*time.Millisecond, nil
	top, err := Ceiling(ctx, cfg)
	if err != nil {
		return r, fmt.Errorf("measure ceiling: %w", err)
	}
	r.CeilingMpps = top.Total.RxMpps
	return r, nil
}

// Ceiling is Run through a forwarder in this process instead of a switch: what
// the generator itself can do with these settings. The forwarder has a thread
// of its own, on Config.PeerCPU, and changes no tags.
func Ceiling(ctx context.Context, cfg Config) (*Result, error) {
	cfg = cfg.withDefaults()
	for i := range cfg.Ports {
		cfg.Ports[i].Path, cfg.Ports[i].Listen, cfg.Ports[i].End = "", false, End{}
		cfg.Ports[i].VLAN = cfg.Ports[0].VLAN
	}
	return run(ctx, cfg, nil)
}

// run is Run with a way to damage frames on their way through the forwarder.
func run(ctx context.Context, cfg Config, tune func(*forwarder)) (*Result, error) {
	g := &generator{cfg: cfg.withDefaults()}
	if err := g.cfg.check(); err != nil {
		return nil, err
	}
	res, err := g.run(ctx, tune)
	if err != nil {
		err = fmt.Errorf("pktgen: %w", err)
	}
	return res, errors.Join(err, g.close())
}

func (g *generator) run(ctx context.Context, tune func(*forwarder)) (*Result, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	if err := g.connect(ctx, tune); err != nil {
		return nil, err
	}
	if err := g.announce(); err != nil {
		return nil, err
	}
	if err := g.build(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { g.engine.stop.Store(true) })
	defer stop()
	warm := phase{limit: notEnding, time: g.cfg.Warmup, settle: 20 * time.Millisecond}
	if err := g.engine.run(&warm); err != nil {
		return nil, err
	}
	measured := phase{limit: g.cfg.Count, time: g.cfg.Duration, settle: g.cfg.Settle}
	if measured.limit == 0 {
		measured.limit = notEnding
	}
	if measured.time == 0 {
		measured.time = 24 * time.Hour
	}
	done := make(chan struct{})
	go g.progress(time.Now(), done)
	err := g.engine.run(&measured)
	done <- struct{}{}
	return g.result(&measured), err
}

// open makes the ports' memory and sockets.
func (g *generator) open() error {
	if g.cfg.Pcap != "" {
		frames, err := readPcap(g.cfg.Pcap)
		if err != nil {
			return err
		}
		g.replay = frames
	}
	most := g.longest()
	for _, p := range g.cfg.Ports {
		port, err := frontend.Open(frontend.Config{
			Path: p.Path, Listen: p.Listen, Queues: p.Queues, RingSize: g.cfg.RingSize, Huge: g.cfg.Huge,
			TxFrame: most + 2, RxBuffer: most + 4, // a marked frame; a frame that a switch has tagged
			Changed: func(err error) {
				if err != nil {
					g.lost.Add(1)
				}
			},
		})
		if err != nil {
			return err
		}
		g.ports = append(g.ports, port)
	}
	return nil
}

// longest is the length of the longest frame that is sent.
func (g *generator) longest() (most int) {
	for _, f := range g.replay {
		most = max(most, len(f))
	}
	for _, s := range g.cfg.Sizes {
		most = max(most, s.Size)
	}
	grows := 0 // by wrapping, which the switch may do, too, to what comes
	for i := range g.cfg.Ports {
		if wrap := g.cfg.traffic(i).Wrap; wrap != nil {
			grows = max(grows, len(wrap(make([]byte, packet.FrameMin)))-packet.FrameMin)
		}
	}
	return most + grows
}

// readPcap returns all frames of a file that a port can carry.
func readPcap(path string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	defer file.Close()
	r, err := pcapgo.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w (pcap format wanted, not pcapng)", path, err)
	}
	var frames [][]byte
	for {
		b, info, err := r.ReadPacketData()
		switch {
		case errors.Is(err, io.EOF) && len(frames) > 0:
			return frames, nil
		case err != nil:
			return nil, fmt.Errorf("replay %s: frame %d: %w", path, len(frames)+1, err)
		case len(b) < info.Length || len(b) < packet.FrameMin || len(b) > packet.FrameMax:
			return nil, fmt.Errorf("replay %s: frame %d: %w: %d bytes captured of %d, want a whole frame of %d to %d",
				path, len(frames)+1, ErrConfig, len(b), info.Length, packet.FrameMin, packet.FrameMax)
		}
		frames = append(frames, b)
	}
}

// dests says which ports each port sends to.
func (g *generator) dests() [][]int {
	to := make([][]int, len(g.cfg.Ports))
	for i := range to {
		switch {
		case g.cfg.Ports[i].Silent:
		case g.cfg.Direction == Broadcast && i == 0:
			for k := 1; k < len(to); k++ {
				to[i] = append(to[i], k)
			}
		case g.cfg.Direction == Bidi, g.cfg.Direction == Uni && i%2 == 0:
			to[i] = []int{i ^ 1}
		}
	}
	return to
}

// connect waits for the switch, or starts the forwarder.
func (g *generator) connect(ctx context.Context, tune func(*forwarder)) error {
	cpus, err := sys.AllowedCPUs()
	if err != nil {
		return err
	}
	if len(g.cfg.CPUs) == 0 {
		g.cfg.CPUs = cpus[len(cpus)-1:]
	}
	// A thread of ours never lets go of its P; the rest of the program needs
	// one too.
	if busy := len(g.cfg.CPUs) + 2; runtime.GOMAXPROCS(0) < busy {
		runtime.GOMAXPROCS(busy)
	}
	if !g.cfg.Ports[0].outside() {
		return g.startForwarder(cpus, tune)
	}
	running, cancel := context.WithCancel(context.Background())
	g.ending = cancel
	failed := make(chan error, len(g.ports))
	if err := g.openEnds(); err != nil {
		return err
	}
	for i, p := range g.ports {
		if g.cfg.Ports[i].Path == "" {
			continue
		}
		ended := make(chan error, 1)
		g.ended = append(g.ended, ended)
		go func() {
			err := p.Run(running)
			if err != nil {
				failed <- err
			}
			ended <- err
		}()
	}
	if c := g.cfg.Connect; c > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, c, fmt.Errorf("no switch at the sockets within %v", c))
		defer cancel()
		ctx = limited
	}
	waiting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case err := <-failed:
			stop(err)
		case <-waiting.Done():
		}
	}()
	for i, p := range g.ports {
		if g.cfg.Ports[i].Path == "" {
			continue
		}
		if err := p.Wait(waiting); err != nil {
			return errors.Join(context.Cause(waiting), err)
		}
	}
	return nil
}

// openEnds opens the ends in the kernel.
func (g *generator) openEnds() error {
	for i, p := range g.ports {
		e := g.cfg.Ports[i].End
		if e.Kind == "" {
			continue
		}
		c, err := newCourier(p, e, g.longest()+tagGrowth, &g.lost)
		if c != nil {
			g.ends = append(g.ends, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// turnEnds turns all ends once.
func turnEnds(ends []*courier) error {
	for _, c := range ends {
		if err := c.turn(); err != nil {
			return fmt.Errorf("%s: %w", c.end, err)
		}
	}
	return nil
}

func (g *generator) startForwarder(cpus []int, tune func(*forwarder)) error {
	to := g.dests()
	if g.cfg.Direction == Uni {
		for i := range to {
			to[i] = []int{i ^ 1}
		}
	}
	f, err := newForwarder(g.ports, to)
	if err != nil {
		return err
	}
	g.fwd = f
	if tune != nil {
		tune(f)
	}
	cpu := g.cfg.PeerCPU
	if cpu == 0 {
		cpu = cpus[0]
	}
	f.start(cpu)
	return nil
}

// announce tells the switch where each port's address is.
func (g *generator) announce() error {
	for i, p := range g.ports {
		pair := p.Pairs()[0]
		b := pair.Tx.Buffer(0)
		f := announce(g.cfg.Ports[i].MAC, g.cfg.Ports[i].VLAN)
		copy(pair.Tx.Frame(b), f)
		pair.Tx.SetLen(b, len(f))
		pair.Tx.Send(1)
		if pair.Tx.ShouldKick() {
			_ = sys.Signal(pair.TxRing.Kick) // the eventfd is ours and open
		}
		for deadline := time.Now().Add(2 * time.Second); pair.Tx.Room(int(g.cfg.RingSize)) < int(g.cfg.RingSize); {
			if time.Now().After(deadline) {
				return errors.Join(fmt.Errorf("port %s: its first frame is not taken (is the port part of a bridge, and its worker running?)", g.cfg.Ports[i].Name), pair.Tx.Err())
			}
			if err := turnEnds(g.ends); err != nil {
				return err
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
	return nil
}

// build makes streams and sinks.
func (g *generator) build() error {
	hz := sys.TSCHz()
	g.engine = &engine{hz: hz, cpus: g.cfg.CPUs, yield: g.cfg.Yield, ends: g.ends}
	macs := map[[6]byte]bool{}
	for _, p := range g.cfg.Ports {
		macs[[6]byte(p.MAC)] = true
	}
	seed := maphash.MakeSeed()
	for i, p := range g.ports {
		s := &sink{
			port: i, verify: g.cfg.Mode == Verify, macs: macs, seed: seed,
			every: g.cfg.LatencyEvery, nsTick: float64(uint64(1)<<timeShift) / hz * 1e9, hist: newHistogram(),
			watch: g.cfg.Watch,
		}
		if g.cfg.LatencyEvery > 0 {
			s.odd = s.timeOdd
		}
		for _, pair := range p.Pairs() {
			s.queues = append(s.queues, rxQueue{pair.Rx, pair.RxRing.Kick})
		}
		if g.replay != nil {
			s.pcap = map[uint64]bool{}
			for _, f := range g.replay {
				s.pcap[maphash.Bytes(seed, f)] = true
			}
		}
		g.engine.sinks = append(g.engine.sinks, s)
	}
	for i, to := range g.dests() {
		if len(to) == 0 {
			continue
		}
		if err := g.buildStream(i, to, hz); err != nil {
			return err
		}
	}
	return nil
}

// buildStream makes the stream that port from sends.
func (g *generator) buildStream(from int, to []int, hz float64) error {
	c := &g.cfg
	traffic := c.traffic(from)
	st := &stream{id: len(g.engine.streams), from: from, to: to, specs: c.Sizes, seqs: make([]uint32, traffic.Flows)}
	g.engine.streams = append(g.engine.streams, st)
	spec := frameSpec{
		src: c.Ports[from].MAC, dst: c.Ports[to[0]].MAC, vlan: c.Ports[from].VLAN, stream: st.id,
		traffic: traffic, given: pack(traffic.Headers),
	}
	if c.Direction == Broadcast {
		spec.dst = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	}
	sent, err := templates(spec, c.Sizes, 0)
	if err != nil {
		return err
	}
	pairs := g.ports[from].Pairs()
	pairs = pairs[:min(len(pairs), traffic.Flows)]
	for q, pair := range pairs {
		l := &lane{
			stream: st, tx: pair.Tx, kick: pair.TxRing.Kick, batch: c.Batch, spare: c.Spare, templates: sent, replay: g.replay,
			verify: c.Mode == Verify, look: traffic.look(), pace: newPace(traffic.Rate/float64(len(pairs)), hz),
		}
		if c.Mode == Fast {
			pair.Tx.AssumeInOrder()
		}
		if c.Mode == Fast && g.replay == nil {
			l.every, l.marks = uint64(c.LatencyEvery), make([]mark, 0, c.RingSize)
		}
		l.flows = schedule(traffic, q, len(pairs))
		l.prepare(int(c.RingSize))
		st.lanes = append(st.lanes, l)
	}
	for _, k := range to {
		back := 0 // bytes that a frame grows by on its way
		if c.Ports[from].VLAN != 0 {
			back -= 4
		}
		if spec.vlan = c.Ports[k].VLAN; spec.vlan != 0 {
			back += 4
		}
		ts, err := templates(spec, c.Sizes, back)
		if err != nil {
			return err
		}
		g.engine.sinks[k].expect[st.id] = newExpected(ts, traffic.Flows, c.Mode == Verify)
	}
	return nil
}

func templates(spec frameSpec, sizes []Share, more int) ([]template, error) {
	var ts []template
	for _, s := range sizes {
		t, err := newTemplate(spec, s.Size+more)
		if err != nil {
			return nil, err
		}
		ts = append(ts, t)
	}
	return ts, nil
}

// progress tells of each second from start until done.
func (g *generator) progress(start time.Time, done chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, lastAt := Progress{}, start
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			if g.cfg.Progress == nil {
				continue
			}
			at := time.Now() // the tick may be old
			p := Progress{Elapsed: at.Sub(start), Sent: g.engine.sent.Load(), Received: g.engine.came.Load()}
			span := at.Sub(lastAt).Seconds()
			p.TxPPS, p.RxPPS = float64(p.Sent-last.Sent)/span, float64(p.Received-last.Received)/span
			last, lastAt = p, at
			g.cfg.Progress(p)
		}
	}
}

// close gives everything back.
func (g *generator) close() error {
	var errs []error
	if g.fwd != nil {
		errs = append(errs, g.fwd.close())
	}
	if g.ending != nil {
		g.ending()
		for _, ended := range g.ended {
			errs = append(errs, <-ended)
		}
	}
	for _, c := range g.ends {
		errs = append(errs, c.close())
	}
	for _, p := range g.ports {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
