package dataplane

import "testing"

// TestSpin: waits that are too long to poll through make spins short, down to the
// least, and short waits make them long again, up to the most.
func TestSpin(t *testing.T) {
	s := newSpin()
	if s.now != s.most || s.least == 0 || s.least >= s.most {
		t.Fatalf("at first: %+v", s)
	}
	for _, c := range []struct{ waited, want uint64 }{{s.most, s.most}, {s.most + 1, s.least}, {s.short + 1, s.least}, {s.short, s.most}, {1 << 60, s.least}, {0, s.most}} {
		for range 64 {
			s.slept(c.waited)
			if s.now < s.least || s.now > s.most {
				t.Fatalf("out of bounds: %+v", s)
			}
		}
		if s.now != c.want {
			t.Errorf("after waits of %d: %+v, want %d", c.waited, s, c.want)
		}
	}
}
