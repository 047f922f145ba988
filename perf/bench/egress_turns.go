package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/dataplane/sys"
)

// A target is a server on the node.
type target struct {
	net.Listener
	addr string // as clients name it
}

// listen has a target on the node serve each connection, and close it.
func (t *tunnel) listen(serve func(net.Conn)) (*target, error) {
	ns, err := os.Open("/run/netns/" + t.nodeNS())
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // nothing is lost
	var l net.Listener
	if err := sys.InNetwork(ns, func() (err error) { l, err = net.Listen("tcp4", ":0"); return err }); err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // nothing is lost
				serve(c)
			}()
		}
	}()
	return &target{l, net.JoinHostPort(t.nodeIP, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))}, nil
}

func echoes(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// kib is what is sent there and back.
const kib = 1024

// exchange has a KiB come back.
func exchange(c net.Conn, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

// probe is a new connection to an echo on which a KiB comes back.
func (t *tunnel) probe(ctx context.Context, most time.Duration) error {
	l, err := t.listen(echoes)
	if err != nil {
		return err
	}
	defer l.Close() //nolint:errcheck // nothing is lost
	return t.probeAt(ctx, l.addr, most)
}

func (t *tunnel) probeAt(ctx context.Context, addr string, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		c, err := t.dialer(ctx, addr)
		if err != nil {
			done <- err
			return
		}
		defer c.Close() //nolint:errcheck // nothing is lost
		_ = c.SetDeadline(time.Now().Add(most))
		done <- exchange(c, make([]byte, kib))
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// turnFlows moves bytes on some connections for a turn, up or down. Windows and
// pace have time to grow before.
func turnFlows(flows int, up bool) turnFunc {
	return func(ctx context.Context, s settings, c scenario, who side, _ int) (sample, error) {
		t := who.(*tunnel)
		length, warm := s.turn(), s.turn()/3
		if c.far {
			length, warm = 3*length, length
		}
		var moved atomic.Int64
		serve := func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 1)); sendAll(c) }
		if up {
			serve = func(c net.Conn) { takeAll(c, &moved) }
		}
		l, err := t.listen(serve)
		if err != nil {
			return sample{}, err
		}
		defer l.Close() //nolint:errcheck // nothing is lost
		conns, err := t.dialAll(ctx, l.addr, flows)
		defer closeConns(conns)
		if err != nil {
			return sample{}, err
		}
		for _, c := range conns {
			if up {
				go sendAll(c)
				continue
			}
			if _, err := c.Write([]byte("x")); err != nil {
				return sample{}, err
			}
			go takeAll(c, &moved)
		}
		return rate(t.pid(), warm, length, &moved)
	}
}

// rate is how fast bytes move, after a time, and what a process takes for them.
func rate(pid int, warm, length time.Duration, moved *atomic.Int64) (sample, error) {
	time.Sleep(warm)
	before, err := cpuTimeOf(pid)
	from, start := moved.Load(), time.Now()
	time.Sleep(length)
	gbit, took := 8*float64(moved.Load()-from)/1e9, time.Since(start).Seconds()
	after, err2 := cpuTimeOf(pid)
	return sample{Mpps: gbit / took, Gbps: gbit / took, Values: map[string]float64{keyAgentCPU: over(after.since(before).total(), gbit)}}, errors.Join(err, err2)
}

func sendAll(c net.Conn) {
	for b := make([]byte, 64<<10); ; {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func takeAll(c net.Conn, moved *atomic.Int64) {
	for b := make([]byte, 256<<10); ; {
		n, err := c.Read(b)
		moved.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// dialAll opens connections, one after the other.
func (t *tunnel) dialAll(ctx context.Context, addr string, n int) ([]net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var all []net.Conn
	for range n {
		c, err := t.dialer(ctx, addr)
		if err != nil {
			return all, err
		}
		all = append(all, c)
	}
	return all, nil
}

func closeConns(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// A stopwatch keeps how long things took.
type stopwatch struct {
	mu    sync.Mutex
	times []time.Duration
}

func (w *stopwatch) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.times = append(w.times, d)
}

// ms is the time that a share of all took less than, in milliseconds.
func (w *stopwatch) ms(share float64) float64 {
	if len(w.times) == 0 {
		return 0
	}
	slices.Sort(w.times)
	return w.times[int(share*float64(len(w.times)-1))].Seconds() * 1e3
}

// sample are thousands a second, and the times.
func (w *stopwatch) sample(length time.Duration) sample {
	return sample{Mpps: float64(len(w.times)) / length.Seconds() / 1e3, Values: map[string]float64{
		keyExchanges: float64(len(w.times)), keyP50: w.ms(0.5), keyP99: w.ms(0.99)}}
}

// exchanges has some goroutines make exchanges for a turn, and takes what they
// cost at either end of the tunnel. Before the turn there is a sixth of one.
func (t *tunnel) exchanges(s settings, goroutines int, once func(worker int) error) (sample, error) {
	if _, err := untilOver(goroutines, s.turn()/6, once); err != nil {
		return sample{}, err
	}
	var used [2][2]cpuTime // of the node's program and the other, before and after
	var errs []error
	take := func(when int) {
		for end, p := range []int{t.pid(), t.otherPID()} {
			var err error
			used[end][when], err = cpuTimeOf(p)
			errs = append(errs, err)
		}
	}
	take(0)
	w, err := untilOver(goroutines, s.turn(), once)
	take(1)
	a := w.sample(s.turn())
	for end, key := range []string{keyNodeCPU, keyOtherCPU} {
		a.Values[key] = over(used[end][1].since(used[end][0]).total()*1e6, float64(len(w.times)))
	}
	return a, errors.Join(append(errs, err)...)
}

// untilOver calls f again and again, on some goroutines, for a time.
func untilOver(goroutines int, length time.Duration, f func(worker int) error) (*stopwatch, error) {
	w, end := new(stopwatch), time.Now().Add(length)
	var all sync.WaitGroup
	errs := make([]error, goroutines)
	for i := range goroutines {
		all.Go(func() {
			for errs[i] == nil && time.Now().Before(end) {
				start := time.Now()
				if errs[i] = f(i); errs[i] == nil {
					w.add(time.Since(start))
				}
			}
		})
	}
	all.Wait()
	return w, errors.Join(errs...)
}

// turnExchanges has 16 connections send and wait.
func turnExchanges(ctx context.Context, s settings, _ scenario, who side, _ int) (sample, error) {
	t := who.(*tunnel)
	l, err := t.listen(echoes)
	if err != nil {
		return sample{}, err
	}
	defer l.Close() //nolint:errcheck // nothing is lost
	conns, err := t.dialAll(ctx, l.addr, 16)
	defer closeConns(conns)
	if err != nil {
		return sample{}, err
	}
	var bufs [16][kib]byte
	return t.exchanges(s, 16, func(i int) error { return exchange(conns[i], bufs[i][:]) })
}

// newConnTargets is how many targets new connections are spread over: an address
// has some 28,000 ports to dial one target from, each of which rests for a minute
// after its connection.
const newConnTargets = 32

// turnNewConnections has 64 clients open a connection each, use it once, and close it.
func turnNewConnections(ctx context.Context, s settings, _ scenario, who side, _ int) (sample, error) {
	t := who.(*tunnel)
	var addrs []string
	for range newConnTargets {
		l, err := t.listen(echoes)
		if err != nil {
			return sample{}, err
		}
		defer l.Close() //nolint:errcheck // nothing is lost
		addrs = append(addrs, l.addr)
	}
	return t.exchanges(s, 64, func(i int) error { return t.probeAt(ctx, addrs[i%newConnTargets], 10*time.Second) })
}

// Who stalls.
const (
	stallClient = iota
	stallTarget
)

// turnStall probes while nobody stalls, and while somebody does.
func turnStall(who int) turnFunc {
	return func(ctx context.Context, s settings, _ scenario, side side, _ int) (sample, error) {
		t := side.(*tunnel)
		l, err := t.listen(echoes)
		if err != nil {
			return sample{}, err
		}
		defer l.Close() //nolint:errcheck // nothing is lost
		calm, _ := t.probes(ctx, l.addr, s.turn()/2)
		stop, err := t.stall(ctx, who)
		if err != nil {
			return sample{}, err
		}
		w, failed := t.probes(ctx, l.addr, s.turn())
		stop()
		v := map[string]float64{keyAnswered: over(float64(len(w.times)), float64(len(w.times)+failed)), keyCalm: calm.ms(0.99)}
		if len(w.times) > 0 {
			v[keyP99] = w.ms(0.99)
		}
		return sample{Mpps: v[keyAnswered], Values: v}, nil
	}
}

// probeTime is how long a probe waits.
const probeTime = 3 * time.Second

// probes makes probes, one after the other, at most four of which fail.
func (t *tunnel) probes(ctx context.Context, addr string, length time.Duration) (w *stopwatch, failed int) {
	w = new(stopwatch)
	for end := time.Now().Add(length); time.Now().Before(end) && failed < 4; time.Sleep(10 * time.Millisecond) {
		start := time.Now()
		if err := t.probeAt(ctx, addr, probeTime); err != nil {
			failed++
			continue
		}
		w.add(time.Since(start))
	}
	return w, failed
}

// stall has a client, or a target, read nothing of what comes for it.
func (t *tunnel) stall(ctx context.Context, who int) (stop func(), err error) {
	never := make(chan struct{})
	serve := func(c net.Conn) { <-never }
	if who == stallClient {
		serve = func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 1)); sendAll(c) }
	}
	l, err := t.listen(serve)
	if err != nil {
		return nil, err
	}
	conns, err := t.dialAll(ctx, l.addr, 1)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if who == stallClient {
		_, err = conns[0].Write([]byte("x"))
	} else {
		go sendAll(conns[0])
	}
	time.Sleep(500 * time.Millisecond) // until what is between them is full
	return func() { close(never); closeConns(conns); _ = l.Close() }, err
}

const closeSize = 8 << 20

// turnClose counts what arrives of what a client writes before it closes.
func turnClose(ctx context.Context, _ settings, _ scenario, who side, _ int) (sample, error) {
	t := who.(*tunnel)
	var got atomic.Int64
	over := make(chan struct{})
	l, err := t.listen(func(c net.Conn) {
		defer close(over)
		for b := make([]byte, 64<<10); ; time.Sleep(time.Millisecond) {
			n, err := c.Read(b)
			if got.Add(int64(n)); err != nil {
				return
			}
		}
	})
	if err != nil {
		return sample{}, err
	}
	defer l.Close() //nolint:errcheck // nothing is lost
	conns, err := t.dialAll(ctx, l.addr, 1)
	if err != nil {
		return sample{}, err
	}
	for b, n := make([]byte, 32<<10), 0; n < closeSize; n += len(b) {
		if _, err := conns[0].Write(b); err != nil {
			break // what has arrived is counted
		}
	}
	closeConns(conns)
	select {
	case <-over:
	case <-time.After(20 * time.Second):
	}
	mib := float64(got.Load()) / (1 << 20)
	return sample{Mpps: mib, Values: map[string]float64{keyArrived: mib}}, nil
}

// How long the link is out, and how long it may take to recover.
const (
	outageTime  = 45 * time.Second
	recoverMost = 30 * time.Second
)

// turnOutage cuts the link, and says when requests are answered again.
func turnOutage(ctx context.Context, _ settings, _ scenario, who side, _ int) (sample, error) {
	t := who.(*tunnel)
	l, err := t.listen(echoes)
	if err != nil {
		return sample{}, err
	}
	defer l.Close() //nolint:errcheck // nothing is lost
	if err := t.setLink("down"); err != nil {
		return sample{}, err
	}
	for end := time.Now().Add(outageTime); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		_ = t.probeAt(ctx, l.addr, time.Second) // clients do not stop asking
	}
	if err := t.setLink("up"); err != nil {
		return sample{}, err
	}
	back := time.Now()
	for time.Since(back) < recoverMost && ctx.Err() == nil {
		if err = t.probeAt(ctx, l.addr, time.Second); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := min(time.Since(back), recoverMost).Seconds()
	fmt.Fprintf(os.Stderr, "%s: %.1f s\n", t.name, took)
	return sample{Mpps: took, Values: map[string]float64{keyUsable: took}}, ctx.Err()
}
