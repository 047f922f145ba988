package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millrace/dataplane/sys"
	"millrace/perf/pktgen"
	"millrace/perf/xdpgen"
)

// Keys of values of cases with ports to the kernel.
const (
	keyUser   = "user_ns"
	keySystem = "system_ns"
)

// afxdpCases are AF_XDP ports on the host's ends of two veths, whose other ends
// send and count by XDP.
func afxdpCases() []scenario {
	c := scenario{
		plug: &plug{
			prepare: vethPairs,
			ours:    func(string, int) []string { return []string{"--type", "afxdp"} },
			ovs:     func(string, int) []string { return []string{"type=afxdp", "options:n_rxq=1"} },
		},
		turn: turnFlood, ceiling: ceilingFlood,
		metrics: []metric{
			{Key: keyUser, Title: "the switch's time in its own code, ns for a frame", Format: "%.0f"},
			{Key: keySystem, Title: "the switch's time in the kernel, ns for a frame", Format: "%.0f"},
			{Key: keyOffered, Title: "frames offered, Mpps", Format: "%.2f"},
		},
	}
	ovs, runs, least := c, c, c
	ovs.Name, ovs.About = "afxdp", "AF_XDP on two veths, 60 bytes, one worker, best mode of each (native, copy)"
	byRuns := *c.plug
	byRuns.ours = func(string, int) []string { return []string{"--type", "afxdp", "--option", "xdp-send=runs"} }
	runs.Name, runs.About, runs.plug = "afxdp-runs", "the same with xdp-send=runs: the switch sends by runs of its XDP program", &byRuns
	least.Name, least.About = "afxdp-c", "the same against a minimal forwarder in C (one memory, frames move by descriptor)"
	least.rival, least.peer = startLeast, "forwarder in C"
	return []scenario{ovs, runs, least}
}

const keyOffered = "offered_mpps"

// vethPairs makes the devices of both sides.
func vethPairs() (restore func(), err error) {
	restore = func() {
		for _, p := range sidePorts() {
			_ = ip("link del " + deviceOf(p)) // some may not be there
		}
	}
	restore()
	for i, p := range sidePorts() {
		dev, far := deviceOf(p), farEndOf(p)
		if err = ip(fmt.Sprintf("link add %s type veth peer name %s address %s", dev, far, farMAC(i%2))); err != nil {
			break
		}
		for _, d := range []string{dev, far} { // no frames but the generator's
			err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/"+d+"/disable_ipv6", []byte("1"), 0o644))
		}
		if err = errors.Join(err, ip("link set "+dev+" up", "link set "+far+" up")); err != nil {
			break
		}
	}
	if err != nil {
		restore()
		return nil, err
	}
	return restore, nil
}

// farMAC is the address of the far end of port i.
func farMAC(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)} }

// A flooding is a generator that runs.
type flooding struct {
	from  *xdpgen.Sender
	to    *xdpgen.Sink
	ended chan error
}

// startFlooding sends from one device, on a CPU, and counts at another.
func startFlooding(from, to string, cpu int) (*flooding, error) {
	a, err1 := net.InterfaceByName(from)
	b, err2 := net.InterfaceByName(to)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	frame, err := pktgen.Frame(farMAC(0), farMAC(1), 60)
	if err != nil {
		return nil, err
	}
	f := &flooding{ended: make(chan error, 1)}
	if f.to, err = xdpgen.NewSink(b.Index); err != nil {
		return nil, err
	}
	if f.from, err = xdpgen.NewSender(a.Index, frame); err != nil {
		return nil, errors.Join(err, f.to.Close())
	}
	go func() {
		f.ended <- sys.OnThread(func() error { return errors.Join(sys.Pin(cpu), f.from.Run()) })
	}()
	return f, nil
}

func (f *flooding) close() error {
	return errors.Join(f.from.End(), <-f.ended, f.from.Close(), f.to.Close())
}

// rates are frames a second that were sent and that came, over some time.
func (f *flooding) rates(ctx context.Context, d time.Duration) (sent, came float64, err error) {
	s0, err1 := f.from.Sent()
	c0, err2 := f.to.Count()
	start := time.Now()
	select {
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(d):
	}
	s1, err3 := f.from.Sent()
	c1, err4 := f.to.Count()
	took := time.Since(start).Seconds()
	return float64(s1-s0) / took, float64(c1-c0) / took, errors.Join(err1, err2, err3, err4)
}

// turnFlood sends as many frames as go into the device of port 0, and counts what
// comes behind that of port 1.
func turnFlood(ctx context.Context, s settings, _ scenario, who side, _ int) (a sample, err error) {
	ports := who.ports()
	f, err := startFlooding(farEndOf(ports[0].Name), farEndOf(ports[1].Name), s.genCPU)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if _, _, err = f.rates(ctx, max(s.turn()/6, 200*time.Millisecond)); err != nil {
		return a, err
	}
	if err = who.mark(ctx); err != nil {
		return a, err
	}
	before, err := cpuTimeOf(who.pid())
	if err != nil {
		return a, err
	}
	sent, came, err := f.rates(ctx, s.turn())
	if err != nil {
		return a, err
	}
	after, err1 := cpuTimeOf(who.pid())
	u, err2 := who.usage(ctx)
	if came == 0 {
		return a, errors.Join(err1, err2, fmt.Errorf("no frame came: %s", who.explain(ctx)))
	}
	used, frames := after.since(before), came*s.Seconds
	return sample{Mpps: came / 1e6, Gbps: came * 60 * 8 / 1e9, Cycles: u.Cycles, Values: map[string]float64{
		keyUser: used.user / frames * 1e9, keySystem: used.system / frames * 1e9, keyOffered: sent / 1e6,
	}}, errors.Join(err1, err2)
}

// ceilingFlood is how many frames a device gets when its XDP program drops them.
func ceilingFlood(ctx context.Context, s settings, _ scenario) (mpps float64, err error) {
	f, err := startFlooding(farEndOf("a0"), deviceOf("a0"), s.genCPU)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if _, _, err = f.rates(ctx, 200*time.Millisecond); err != nil {
		return 0, err
	}
	_, came, err := f.rates(ctx, time.Second)
	return came / 1e6, err
}

//go:embed c/l2fwd.c
var leastSource []byte

// least is the minimal forwarder in C.
type least struct {
	none
	cmd *exec.Cmd
}

func startLeast(_ context.Context, s settings, _ scenario, dir string) (side, error) {
	source := filepath.Join(dir, "l2fwd.c")
	if err := os.WriteFile(source, leastSource, 0o644); err != nil {
		return nil, err
	}
	program, err := compileC(dir, source, "xdp", "bpf")
	if err != nil {
		return nil, err
	}
	l := &least{cmd: exec.Command(program, deviceOf("b0"), deviceOf("b1"), strconv.Itoa(s.swCPU))}
	var complaint strings.Builder
	l.cmd.Stderr = &complaint
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		l.close()
		return nil, fmt.Errorf("forwarder in C: %w: %s", errors.Join(errNotReady, err), complaint.String())
	}
	return l, nil
}

func (l *least) ports() []pktgen.Port { return portsOf("b") }
func (l *least) pid() int             { return l.cmd.Process.Pid }
func (l *least) pause() error         { return l.cmd.Process.Signal(syscall.SIGSTOP) }
func (l *least) resume() error        { return l.cmd.Process.Signal(syscall.SIGCONT) }
func (l *least) about() string        { return "forwarder in C (perf/bench/c/l2fwd.c), libxdp, -O3" }

func (l *least) close() {
	_ = l.resume()
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	_ = l.cmd.Wait()
}
