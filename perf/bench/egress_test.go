package main

import (
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestEgressMarkdown: rates have their ratio and their rival's name, the others
// their values.
func TestEgressMarkdown(t *testing.T) {
	var done []outcome
	for _, name := range []string{"egress-down", "egress-far-openvpn", "egress-close", "egress-stall-client"} {
		v := map[string]float64{keyArrived: 8, keyAnswered: 1, keyAgentCPU: 0.2}
		done = append(done, outcome{Case: findCases(name)[0], Tried: []tried{{"UDP", 1}}, Ours: []sample{{Mpps: 3, Values: v}}, Peer: []sample{{Mpps: 2}}})
	}
	text := markdown(egressGroup, done)
	for _, want := range []string{"| stock agent | Gbit/s | 3.00 | 2.00 | **1.50** | 1 |", "| OpenVPN | Gbit/s |", "OpenVPN with UDP: 1.00 Gbit/s", "| MiB that arrive | 8.00 | - |", "| share of probes answered | 1.000 | - |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "| egress-close | turn") || strings.Count(text, "| egress-close | 1 |") > 0 {
		t.Errorf("a case whose point is no rate has one:\n%s", text)
	}
}

// TestRatioPlot: cases whose point is a rate have a bar, whose length is the ratio.
func TestRatioPlot(t *testing.T) {
	var done []outcome
	for name, rate := range map[string]float64{"egress-down": 3, "egress-up": 6, "egress-close": 1} {
		done = append(done, outcome{Case: findCases(name)[0], Ours: []sample{{Mpps: rate}}, Peer: []sample{{Mpps: 2}}})
	}
	text := ratioPlot(done)
	for _, want := range []string{">egress-down<", ">egress-up<", `width="230.0"`, `width="115.0"`, ">3.0<", ">1.5<"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "egress-close") {
		t.Errorf("a case whose point is no rate has a bar:\n%s", text)
	}
}

// TestLimited: a case may have shorter turns, or fewer, than the command line says.
func TestLimited(t *testing.T) {
	s := settings{Pairs: 5, Seconds: 3}
	if got := s.limited(scenario{}); got != s {
		t.Errorf("%+v", got)
	}
	if got := s.limited(scenario{seconds: 2, once: true}); got.Seconds != 2 || got.Pairs != 1 {
		t.Errorf("%+v", got)
	}
	if got := s.limited(scenario{seconds: 4}); got.Seconds != 3 {
		t.Errorf("%+v", got)
	}
}

// TestStopwatch takes quantiles.
func TestStopwatch(t *testing.T) {
	var w stopwatch
	if w.ms(0.99) != 0 {
		t.Error("nothing took something")
	}
	for i := range 101 {
		w.add(time.Duration(100-i) * time.Millisecond)
	}
	if w.ms(0.5) != 50 || w.ms(0.99) != 99 || w.sample(time.Second).Mpps != 0.101 {
		t.Errorf("%v %v %+v", w.ms(0.5), w.ms(0.99), w.sample(time.Second))
	}
}

// TestFarLink: what comes through the far link is late, and some of it is lost.
func TestFarLink(t *testing.T) {
	near, in := net.Pipe()
	out, far := net.Pipe()
	l := new(farLink)
	l.carry(in, out, rand.New(rand.NewPCG(1, 2)))
	got, ended := make(chan time.Time, 4000), make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, farMTU); ; {
			if _, err := far.Read(b); err != nil {
				return
			}
			got <- time.Now()
		}
	}()
	start := time.Now()
	const sent = 4000
	for range sent {
		if _, err := near.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	_ = near.Close()
	l.over.Wait() // until all that is on the way has come
	_ = out.Close()
	<-ended
	if first := <-got; first.Sub(start) < farDelay {
		t.Errorf("the first packet took %v", first.Sub(start))
	}
	if lost := sent - 1 - len(got); lost < 5 || lost > 50 {
		t.Errorf("%d of %d packets are lost, want some 20", lost, sent)
	}
}

// TestNoStock: without the programs that nobody can require, the bench says which
// it wants.
func TestNoStock(t *testing.T) {
	if os.Getenv(stockServerEnv) != "" {
		t.Setenv(stockServerEnv, "")
	}
	_, err := startStockAgent(t.Context(), settings{}, scenario{}, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), stockServerEnv) || !strings.Contains(err.Error(), "go build") {
		t.Errorf("%v", err)
	}
}
