package agent

import (
	"testing"
	"time"

	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

	"millrace/control/egress/konntest"
)

// TestHurry: short requests that come in a hurry leave streams as they are, and one that
// stays open has its own.
func TestHurry(t *testing.T) {
	short, s := &konntest.Server{ID: "s1"}, &konntest.Server{ID: "s2"}
	patient := start(t, func(c *Config) { c.hurryRate, c.shortTime = -1, time.Hour }, short) // a request is short however slow the machine is
	r := start(t, func(c *Config) { c.hurryRate = -1 }, s)
	patient.awaitHurry(t)
	r.awaitHurry(t)
	target := listen(t, echo)
	const dials = 200
	for range dials {
		if err := probe(t, ways[1], short, target); err != nil {
			t.Fatal(err)
		}
	}
	if n := short.Packets(konn.PacketType_DRAIN); n > dials/4 {
		t.Errorf("%d of %d short requests had a stream ended", n, dials)
	}
	before := s.Packets(konn.PacketType_DRAIN)
	c, err := s.DialHTTP(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "a request that stays has a stream of its own", func() bool { return s.Packets(konn.PacketType_DRAIN) > before })
}

// awaitHurry waits until all links have noted that dials come in a hurry.
func (r *rig) awaitHurry(t *testing.T) {
	t.Helper()
	eventually(t, "a hurry is noted", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for l := range r.links {
			if !l.hurry.Load() {
				return false
			}
		}
		return len(r.links) == r.cfg.Links
	})
}
