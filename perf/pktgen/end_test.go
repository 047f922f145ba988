package pktgen

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"millrace/dataplane/netnstest"
)

// TestParseEnd tells ends from paths.
func TestParseEnd(t *testing.T) {
	for s, want := range map[string]End{
		"afxdp:eth0": {EndAFXDP, "eth0", ""}, "packet:eth1@pod": {EndPacket, "eth1", "pod"}, "tap:t0@/proc/1/ns/net": {EndTAP, "t0", "/proc/1/ns/net"},
	} {
		if e, ok := ParseEnd(s); e != want || !ok || e.String() != s {
			t.Errorf("%s: %+v, %v", s, e, ok)
		}
	}
	for _, s := range []string{"/run/p0", "p0", "veth:a", "./afxdp:x"} {
		if e, ok := ParseEnd(s); ok {
			t.Errorf("%s is the end %+v", s, e)
		}
	}
}

// TestEndsRefused: what ends cannot do is an error before anything is opened.
func TestEndsRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"queues":       func(c *Config) { c.Ports[0].Queues = 2 },
		"path":         func(c *Config) { c.Ports[0].Path, c.Ports[1].Path = "/p", "/q" },
		"kind":         func(c *Config) { c.Ports[0].End.Kind = "veth" },
		"device":       func(c *Config) { c.Ports[1].End.Device = "" },
		"one only":     func(c *Config) { c.Ports[1].End = End{} },
		"two CPUs":     func(c *Config) { c.CPUs = []int{0, 1} },
		"long frames":  func(c *Config) { c.Sizes = []Share{{4000, 1}} },
		"tag by packt": func(c *Config) { c.Ports[1] = Port{End: End{Kind: EndPacket, Device: "x"}, VLAN: 5} },
	} {
		c := Config{Ports: []Port{{End: End{Kind: EndAFXDP, Device: "x"}}, {End: End{Kind: EndAFXDP, Device: "y"}}}}
		change(&c)
		if _, err := Run(t.Context(), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cable is a veth of which both ends are up, and silent but for us.
func cable(t *testing.T, a, b string) {
	t.Helper()
	netnstest.IP(t, "link add %s type veth peer name %s", a, b)
	for _, d := range []string{a, b} {
		if out, err := exec.Command("sysctl", "-qw", "net.ipv6.conf."+d+".disable_ipv6=1").CombinedOutput(); err != nil {
			t.Logf("%v: %s", err, out)
		}
		netnstest.IP(t, "link set %s up", d)
	}
	netnstest.Running(t, a, b)
}

// TestEnds sends both ways between ends of all kinds, over a cable and through a TAP
// device, and finds each frame whole and in order.
func TestEnds(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t)
	cable(t, "ca", "cb")
	for _, ends := range [][2]string{{"afxdp:ca", "afxdp:cb"}, {"packet:ca", "packet:cb"}, {"afxdp:ca", "packet:cb"}, {"tap:t0", "packet:t0"}, {"tap:t1", "afxdp:t1"}} {
		t.Run(ends[0]+" "+ends[1], func(t *testing.T) {
			c := Config{Direction: Bidi, Sizes: []Share{{60, 3}, {130, 2}, {1514, 1}}, Flows: 7, Count: 3000, Rate: 20_000, Yield: true}
			for _, s := range ends {
				e, _ := ParseEnd(s)
				c.Ports = append(c.Ports, Port{End: e})
			}
			r, err := Run(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if tot := r.Total; !tot.Clean() || tot.Received != 6000 || r.SwitchLosses != 0 {
				t.Errorf("%+v", tot)
			}
		})
	}
}

// TestEndLost takes a device down and up, and away and back, under traffic: the
// generator goes on, and counts what it has lost.
func TestEndLost(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t)
	cable(t, "la", "lb")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := NewWatch(2)
	c := Config{Rate: 2000, Duration: time.Hour, Yield: true, Watch: w, Ports: []Port{{End: End{Kind: EndAFXDP, Device: "la"}}, {End: End{Kind: EndAFXDP, Device: "lb"}}}}
	var r *Result
	ended := make(chan error, 1)
	go func() {
		var err error
		r, err = Run(ctx, c)
		ended <- err
	}()
	flows := func() {
		t.Helper()
		from := w.Frames(1)
		netnstest.Wait(t, func() string {
			if w.Frames(1) == from {
				return "nothing comes"
			}
			return ""
		})
	}
	stands := func() {
		t.Helper()
		netnstest.Wait(t, func() string {
			from := w.Frames(1)
			if time.Sleep(100 * time.Millisecond); w.Frames(1) != from {
				return "frames come of a device that is not there"
			}
			return ""
		})
	}
	flows()
	netnstest.IP(t, "link set la down")
	stands()
	netnstest.IP(t, "link set la up")
	flows()
	netnstest.IP(t, "link del la")
	stands()
	cable(t, "la", "lb")
	flows()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if r.SwitchLosses == 0 || r.Total.Corrupted != 0 || r.Total.Duplicated != 0 || r.Total.Received == 0 {
		t.Errorf("lost %d times: %+v", r.SwitchLosses, r.Total)
	}
}
