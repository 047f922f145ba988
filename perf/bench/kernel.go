package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"millrace/perf/pktgen"
	"millrace/perf/ruleset"
)

// A plug is how ports to the kernel are made. Each side has devices of its own,
// named for its ports: a0 and a1 are ours, b0 and b1 the rival's.
type plug struct {
	// prepare makes what the devices need, for both sides, and returns the
	// function that takes it away.
	prepare func() (restore func(), err error)
	// ours are the arguments of `millrace port add` for a port, and ovs the
	// columns of its Interface row.
	ours, ovs func(port string, i int) []string
	// after is called when OVS has a port; may be nil.
	after func(port string, i int) error
}

// deviceOf is the device of a port, and farEndOf what is behind it: the other end of
// a veth, or a network namespace.
func deviceOf(port string) string { return "mr" + port }
func farEndOf(port string) string { return "mrg" + port }

// sidePorts are the names of both sides' ports.
func sidePorts() []string { return []string{"a0", "a1", "b0", "b1"} }

// mainCPU is the CPU of OVS's threads that do not poll. They look after ports to
// the kernel other than AF_XDP: there it is the switch's.
func (c scenario) mainCPU(s settings) int {
	if c.ovsPolls() {
		return s.genCPU
	}
	return s.swCPU
}

// ovsPolls reports whether OVS's poll-mode thread has the ports.
func (c scenario) ovsPolls() bool { return c.plug == nil || c.plug.after == nil }

// plugIn adds a port to the kernel.
func (v *ovs) plugIn(ctx context.Context, p *plug, port string, i int) error {
	dev := deviceOf(port)
	columns := append(p.ovs(port, i), "ofport_request="+strconv.Itoa(i+1))
	if _, err := v.o.Vsctl(ctx, append([]string{"add-port", "br0", dev, "--", "set", "Interface", dev}, columns...)...); err != nil {
		return err
	}
	problem, err := v.o.Vsctl(ctx, "get", "Interface", dev, "error")
	if problem = strings.TrimSpace(problem); err == nil && problem != "[]" && problem != `""` {
		err = fmt.Errorf("port %s: %s: %w", dev, problem, errNotReady)
	}
	if err != nil || p.after == nil {
		return err
	}
	return p.after(port, i)
}

// ip runs ip(8), once for each line.
func ip(lines ...string) error {
	for _, l := range lines {
		if out, err := exec.Command("ip", strings.Fields(l)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", l, err, out)
		}
	}
	return nil
}

// A cpuTime is processor time of a process, in seconds.
type cpuTime struct{ user, system float64 }

// cpuTimeOf reads what a process has used (proc_pid_stat(5)): nothing, if there is none.
func cpuTimeOf(pid int) (cpuTime, error) {
	if pid == 0 {
		return cpuTime{}, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return cpuTime{}, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	const user, system, hz = 11, 12, 100
	if len(fields) <= system {
		return cpuTime{}, fmt.Errorf("times of process %d: %w", pid, errNotReady)
	}
	u, err1 := strconv.ParseFloat(fields[user], 64)
	k, err2 := strconv.ParseFloat(fields[system], 64)
	return cpuTime{u / hz, k / hz}, errors.Join(err1, err2)
}

func (t cpuTime) since(before cpuTime) cpuTime {
	return cpuTime{t.user - before.user, t.system - before.system}
}

// total is the time of both kinds.
func (t cpuTime) total() float64 { return t.user + t.system }

// none is the part of a side that a rival without rules and connections lacks.
type none struct{}

var errNone = errors.New("this side has no such thing")

func (none) ports() []pktgen.Port                                 { return nil }
func (none) reset(context.Context) error                          { return nil }
func (none) mark(context.Context) error                           { return nil }
func (none) usage(context.Context) (usage, error)                 { return usage{}, nil }
func (none) masks(context.Context) (int, error)                   { return 0, nil }
func (none) tune(context.Context, tuning) error                   { return errNone }
func (none) settle(context.Context, tuning) error                 { return errNone }
func (none) changers(context.Context) ([]changer, error)          { return nil, errNone }
func (none) replace(context.Context, ruleset.Set) error           { return errNone }
func (none) prepare(context.Context, ruleset.Set) error           { return errNone }
func (none) launch(context.Context) error                         { return errNone }
func (none) inForce(context.Context) (int, error)                 { return 0, errNone }
func (none) connections(context.Context) (connectionCount, error) { return connectionCount{}, errNone }
func (none) forget(context.Context) error                         { return errNone }
func (none) footprint() *footprint                                { return nil }
func (none) explain(context.Context) string                       { return "" }

// portsOf are a side's ports by its letter.
func portsOf(letter string) []pktgen.Port { return sockets("", letter, 2) }

// noCeiling is for cases whose generator is measured by a rival.
func noCeiling(context.Context, settings, scenario) (float64, error) { return 0, nil }

// kernelCases are those of ports to the kernel, and of guests with a kernel.
func kernelCases() []scenario {
	cases := slices.Concat(afxdpCases(), tapCases(), qemuCases(), geneveCases())
	for i := range cases {
		cases[i].Group, cases[i].Flows = kernelGroup, 1
		if cases[i].Sizes == nil {
			cases[i].Sizes = small()
		}
	}
	return cases
}

// compileC compiles a C program of this directory.
func compileC(dir, source string, libraries ...string) (program string, err error) {
	program = filepath.Join(dir, "c-program")
	args := []string{"-O3", "-march=native", "-o", program, source}
	for _, l := range libraries {
		args = append(args, "-l"+l)
	}
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc %s (apt-get install gcc libxdp-dev): %w: %s", strings.Join(args, " "), err, out)
	}
	return program, nil
}
