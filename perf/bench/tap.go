package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"millrace/perf/pktgen"
)

// Keys of values of cases with TCP.
const (
	keyBusyCores   = "cores"
	keyRetransmits = "retransmits"
)

// tapCases are TCP between two network namespaces. What is measured is Gbit/s of
// payload; iperf3 may use all CPUs. Congestion control is Linux's default, cubic,
// whatever the machine's is: BBR paces each stream, on both sides alike, to less
// than either can carry.
func tapCases() []scenario {
	var cases []scenario
	for _, streams := range []int{1, 4} {
		many := map[int]string{1: "one stream", 4: "four streams"}[streams]
		c := scenario{
			About: "TCP between two namespaces on TAP ports of a learning bridge, " + many,
			Name:  fmt.Sprint("tap-", streams), Bridge: true, poll: "adaptive", unit: "Gbit/s", ceiling: noCeiling,
			plug: &plug{prepare: namespaces, ours: tapOurs, ovs: func(string, int) []string { return []string{"type=tap"} }, after: tapAfter},
			turn: turnIperf(streams),
			metrics: []metric{
				{Key: keyBusyCores, Title: "processors that the switch has used", Format: "%.2f"},
				{Key: keyRetransmits, Title: "segments sent again", Format: "%.0f"},
			},
		}
		tso, wire := c, c
		tso.Name, tso.About = c.Name+"-tso", c.About+", OVS with userspace-tso-enable"
		tso.config = map[string]string{"userspace-tso-enable": "true"}
		wire.Name, wire.About = c.Name+"-linux", c.About+", against Linux's bridge with veths"
		wire.rival, wire.peer = startLinux, "Linux bridge"
		cases = append(cases, c, tso, wire)
	}
	return cases
}

// namespaces makes one for each port.
func namespaces() (restore func(), err error) {
	restore = func() {
		for _, p := range sidePorts() {
			_ = ip("netns del " + farEndOf(p)) // some may not be there
		}
	}
	restore()
	for _, p := range sidePorts() {
		if err := ip("netns add " + farEndOf(p)); err != nil {
			restore()
			return nil, err
		}
	}
	return restore, nil
}

// address is that of the namespace of port i.
func address(i int) string { return "10.88.0." + strconv.Itoa(i+1) }

func tapOurs(port string, i int) []string {
	return []string{"--type", "tap", "--netns", farEndOf(port), "--ip", address(i) + "/24"}
}

// tapAfter moves a device that OVS has made to its namespace.
func tapAfter(port string, i int) error {
	dev, ns := deviceOf(port), farEndOf(port)
	return ip(fmt.Sprintf("link set %s netns %s", dev, ns), fmt.Sprintf("-n %s addr add %s/24 dev %s", ns, address(i), dev), fmt.Sprintf("-n %s link set %s up", ns, dev))
}

// turnIperf sends TCP from the namespace of port 0 to that of port 1.
func turnIperf(streams int) turnFunc {
	return func(ctx context.Context, s settings, _ scenario, who side, _ int) (sample, error) {
		ports := who.ports()
		from := []string{"ip", "netns", "exec", farEndOf(ports[0].Name)}
		to := []string{"ip", "netns", "exec", farEndOf(ports[1].Name)}
		server := exec.CommandContext(ctx, "ip", append(to[1:], "iperf3", "-s", "-1")...)
		if err := server.Start(); err != nil {
			return sample{}, err
		}
		defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
		before, err := cpuTimeOf(who.pid())
		if err != nil {
			return sample{}, err
		}
		start := time.Now()
		out, err := untilServed(ctx, append(from, iperfClient(s, address(1), streams, "-C", "cubic")...))
		if err != nil {
			return sample{}, fmt.Errorf("iperf3: %w: %s%s", err, out, who.explain(ctx))
		}
		took := time.Since(start).Seconds()
		after, err := cpuTimeOf(who.pid())
		if err != nil {
			return sample{}, err
		}
		a, err := readIperf(out)
		if err == nil && who.pid() != 0 {
			a.Values[keyBusyCores] = after.since(before).total() / took
		}
		return a, err
	}
}

// iperfClient is the command of the end that sends.
func iperfClient(s settings, to string, streams int, more ...string) []string {
	return append([]string{"iperf3", "-c", to, "-P", strconv.Itoa(streams), "-t", strconv.Itoa(max(1, int(s.Seconds))), "-O", "1", "-J"}, more...)
}

// untilServed runs a client again until its server listens: iperf3 -J may say so in
// its output only.
func untilServed(ctx context.Context, command []string) (out []byte, err error) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, err = exec.CommandContext(ctx, command[0], command[1:]...).Output()
		if err == nil && !bytes.Contains(out, []byte("Connection refused")) || time.Now().After(deadline) {
			return out, err
		}
	}
}

// readIperf reads the result of iperf3 -J.
func readIperf(out []byte) (sample, error) {
	var r struct {
		Error string
		End   struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			Sent struct{ Retransmits float64 } `json:"sum_sent"`
		}
	}
	if err := json.Unmarshal(out, &r); err != nil || r.Error != "" {
		return sample{}, errors.Join(err, fmt.Errorf("iperf3: %s: %w", r.Error, errNotReady))
	}
	g := r.End.Received.BitsPerSecond / 1e9
	return sample{Mpps: g, Gbps: g, Values: map[string]float64{keyRetransmits: r.End.Sent.Retransmits}}, nil
}

// linux is Linux's own bridge, with veths.
type linux struct{ none }

const linuxBridge = "mrbr"

func startLinux(context.Context, settings, scenario, string) (side, error) {
	if err := ip("link add "+linuxBridge+" type bridge", "link set "+linuxBridge+" up"); err != nil {
		return nil, err
	}
	for i, p := range portsOf("b") {
		dev, ns := deviceOf(p.Name), farEndOf(p.Name)
		err := ip(fmt.Sprintf("link add %s type veth peer name eth0 netns %s", dev, ns), fmt.Sprintf("link set %s master %s up", dev, linuxBridge),
			fmt.Sprintf("-n %s addr add %s/24 dev eth0", ns, address(i)), fmt.Sprintf("-n %s link set eth0 up", ns))
		if err != nil {
			linux{}.close()
			return nil, err
		}
	}
	return linux{}, nil
}

func (linux) ports() []pktgen.Port { return portsOf("b") }
func (linux) pid() int             { return 0 } // nobody: the senders' processes forward
func (linux) pause() error         { return nil }
func (linux) resume() error        { return nil }
func (linux) about() string        { return "Linux bridge, veth with all offloads" }
func (linux) close()               { _ = ip("link del " + linuxBridge) }
