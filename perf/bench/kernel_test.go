package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/perf/pktgen"
	"millrace/waittest"
)

// TestReadIperf reads what iperf3 prints, and takes its errors for errors.
func TestReadIperf(t *testing.T) {
	a, err := readIperf([]byte(`{"end":{"sum_sent":{"retransmits":7},"sum_received":{"bits_per_second":2.5e9}}}`))
	if err != nil || a.Mpps != 2.5 || a.Values[keyRetransmits] != 7 {
		t.Errorf("%+v, %v", a, err)
	}
	for _, bad := range []string{"", "{", `{"error":"unable to connect"}`} {
		if _, err := readIperf([]byte(bad)); err == nil || bad != "" && bad != "{" && !errors.Is(err, errNotReady) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestKernelMarkdown: each case has its rival's name and its unit.
func TestKernelMarkdown(t *testing.T) {
	var done []outcome
	for _, name := range []string{"afxdp-c", "tap-4-linux", "qemu-sleep"} {
		done = append(done, outcome{Case: findCases(name)[0], Date: "2026-01-02", Ours: []sample{{Mpps: 3}}, Peer: []sample{{Mpps: 2}}})
	}
	text := markdown(kernelGroup, done)
	for _, want := range []string{"| forwarder in C | Mpps | 3.00 | 2.00 | **1.50** | 1 |", "| Linux bridge | Gbit/s |", "| OVS-DPDK | Gbit/s |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestInGeneve reads what the generator sends in outer headers, of both sides.
func TestInGeneve(t *testing.T) {
	inner, err := pktgen.Frame(farMAC(1), farMAC(0), 60)
	if err != nil {
		t.Fatal(err)
	}
	for _, letter := range []string{"a", "b"} {
		local, remote := ends(letter)
		p := gopacket.NewPacket(inGeneve(letter, inner), layers.LayerTypeEthernet, gopacket.Default)
		g, _ := p.Layer(layers.LayerTypeGeneve).(*layers.Geneve)
		ip, _ := p.NetworkLayer().(*layers.IPv4)
		if p.ErrorLayer() != nil || g == nil || ip == nil || g.VNI != tunnelKey || !bytes.Equal(g.Payload, inner) || !ip.SrcIP.Equal(remote) || !ip.DstIP.Equal(local) {
			t.Errorf("%v", p)
		}
	}
}

// TestCPUTime: nobody has used nothing, and we have used something.
func TestCPUTime(t *testing.T) {
	if used, err := cpuTimeOf(0); err != nil || used.total() != 0 {
		t.Errorf("nobody: %+v, %v", used, err)
	}
	used := cpuTime{}
	for end := time.Now().Add(waittest.Most); used.total() <= 0 && time.Now().Before(end); {
		var err error
		if used, err = cpuTimeOf(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if used.total() <= 0 {
		t.Errorf("we have worked, and used %+v", used)
	}
}
