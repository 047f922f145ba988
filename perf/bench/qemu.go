package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"millrace/perf/peers"
	"millrace/perf/pktgen"
)

// qemuCases are TCP between two guests on vhost-user ports, in super-frames. The
// figure is Gbit/s of payload. OVS's poll-mode thread polls always, as it does by
// default, or sleeps for up to 500 us (pmd-maxsleep, experimental in 3.1), which leaves
// more of the CPU to guests and has them wait.
func qemuCases() []scenario {
	var cases []scenario
	for _, v := range []struct{ name, about, sleep string }{{"qemu-poll", "", "0"}, {"qemu-sleep", ", OVS with pmd-maxsleep=500", "500"}} {
		q := &guests{all: map[string][]*peers.QEMUGuest{}}
		cases = append(cases, scenario{
			Name: v.name, About: "TCP between two QEMU guests, vhost-user with TSO, learning bridge" + v.about, Bridge: true, poll: "adaptive", unit: "Gbit/s",
			config: map[string]string{"userspace-tso-enable": "true", "pmd-maxsleep": v.sleep}, ceiling: noCeiling, turn: q.turn, done: q.close,
			metrics: []metric{
				{Key: keyBusyCores, Title: "processors that the switch has used", Format: "%.2f"},
				{Key: keyRetransmits, Title: "segments sent again", Format: "%.0f"},
			},
		})
	}
	return cases
}

// guests are the guests of both sides. They boot when their side has its first
// turn, and those of the side that waits are stopped.
type guests struct {
	all map[string][]*peers.QEMUGuest // by the name of the side's first port
}

func (q *guests) turn(ctx context.Context, s settings, _ scenario, who side, _ int) (sample, error) {
	ports := who.ports()
	mine, err := q.boot(ctx, ports)
	if err == nil {
		err = q.only(ports[0].Name)
	}
	if err != nil {
		return sample{}, err
	}
	before, err := cpuTimeOf(who.pid())
	if err != nil {
		return sample{}, err
	}
	if _, err := mine[1].Run(ctx, "iperf3 -s -1 -D; sleep 1"); err != nil {
		return sample{}, err
	}
	out, err := mine[0].Run(ctx, strings.Join(iperfClient(s, address(1), 1), " "))
	if err != nil {
		return sample{}, fmt.Errorf("%w %s", err, who.explain(ctx))
	}
	after, err := cpuTimeOf(who.pid())
	if err != nil {
		return sample{}, err
	}
	a, err := readIperf([]byte(out))
	if err == nil {
		a.Values[keyBusyCores] = after.since(before).total() / (s.Seconds + 2) // the pause, and what is omitted
	}
	return a, err
}

// boot returns the two guests of a side, and boots them if there are none.
func (q *guests) boot(ctx context.Context, ports []pktgen.Port) ([]*peers.QEMUGuest, error) {
	name := ports[0].Name
	if q.all[name] != nil {
		return q.all[name], nil
	}
	for i, p := range ports {
		g, err := peers.StartQEMU(ctx, peers.GuestConfig{
			MemoryMiB: 384, Programs: []string{"iperf3"},
			NICs: []peers.GuestNIC{{Path: p.Path, Server: true, MAC: farMAC(i).String(), Device: "rx_queue_size=1024,tx_queue_size=1024"}},
		})
		if err != nil {
			return nil, err
		}
		q.all[name] = append(q.all[name], g)
		if _, err := g.Run(ctx, fmt.Sprintf("ip addr add %s/24 dev eth0; ip link set eth0 up", address(i))); err != nil {
			return nil, err
		}
	}
	return q.all[name], nil
}

// only lets the guests of one side run and stops the others.
func (q *guests) only(name string) error {
	var errs []error
	for side, gs := range q.all {
		signal := syscall.SIGSTOP
		if side == name {
			signal = syscall.SIGCONT
		}
		for _, g := range gs {
			errs = append(errs, syscall.Kill(g.PID(), signal))
		}
	}
	return errors.Join(errs...)
}

func (q *guests) close() {
	for _, gs := range q.all {
		for _, g := range gs {
			_ = syscall.Kill(g.PID(), syscall.SIGCONT)
			g.Close()
		}
	}
	clear(q.all)
}
