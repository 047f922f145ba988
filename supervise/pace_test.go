package supervise

import (
	"testing"
	"time"
)

// TestPace: a single death does not wait, a loop of deaths waits longer each
// time, and a settled life ends the loop.
func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		lives []time.Duration
		want  []time.Duration
	}{
		{"settled lives", []time.Duration{time.Hour, time.Second, 3 * time.Second}, []time.Duration{0, 0, 0}},
		{"young deaths", []time.Duration{0, 0, 0, 0, 0, 0, 0, 0, 0},
			[]time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms, 5000 * ms}},
		{"one young death", []time.Duration{time.Hour, 50 * ms, 2 * time.Second, 50 * ms}, []time.Duration{0, 100 * ms, 0, 100 * ms}},
		{"longer lives after longer waits", []time.Duration{0, 1900 * ms, 3900 * ms, 8 * time.Second}, []time.Duration{100 * ms, 200 * ms, 400 * ms, 0}},
		{"10 s are always enough", []time.Duration{0, 0, 0, 0, 0, 0, 0, 10 * time.Second}, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p pace
			for i, lived := range tt.lives {
				if got := p.died(lived); got != tt.want[i] {
					t.Errorf("death %d, after %v: waits %v, want %v", i, lived, got, tt.want[i])
				}
			}
		})
	}
}
