package main

import (
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
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

// TestFarLink: what comes through the far link is late, and some of it is lost: what chance
// says, and no more while who takes it is not late. Time is that of the test: it stands
// still while somebody works, so a machine that is busy delays nothing.
func TestFarLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sent = 4000
		got := overFarLink(t, sent, 0)
		for _, took := range got {
			if took != farDelay {
				t.Fatalf("a packet took %v, want %v", took, farDelay)
			}
		}
		lost, chance := 0, rand.New(rand.NewPCG(1, 2))
		for range sent {
			if chance.Float64() < farLoss {
				lost++
			}
		}
		if lost < 5 || sent-len(got) != lost {
			t.Errorf("%d of %d packets are lost, want %d", sent-len(got), sent, lost)
		}
	})
}

// TestFarLinkLate: of packets that somebody takes later than they are due some are lost, as
// a router with a short queue loses them.
func TestFarLinkLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sent = 400
		got := overFarLink(t, sent, time.Millisecond)
		if len(got) < int(farLate/time.Millisecond) || len(got) > int(2*farLate/time.Millisecond) {
			t.Errorf("%d of %d packets came to who takes one in a millisecond, want some %d", len(got), sent, farLate/time.Millisecond)
		}
		for _, took := range got {
			if took < farDelay || took > farDelay+farLate+time.Millisecond {
				t.Fatalf("a packet took %v", took)
			}
		}
	})
}

// overFarLink sends packets all at once, and returns how long each took that came. Whoever
// takes them rests after each.
func overFarLink(t *testing.T, sent int, rest time.Duration) (took []time.Duration) {
	near, in := net.Pipe()
	out, far := net.Pipe()
	l := new(farLink)
	l.carry(in, out, rand.New(rand.NewPCG(1, 2)))
	start, ended := time.Now(), make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, farMTU); ; time.Sleep(rest) {
			if _, err := far.Read(b); err != nil {
				return
			}
			took = append(took, time.Since(start))
		}
	}()
	for range sent {
		if _, err := near.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	_ = near.Close()
	l.over.Wait() // until all that is on the way has come
	_ = out.Close()
	<-ended
	return took
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
