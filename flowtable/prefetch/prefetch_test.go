package prefetch

import (
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"
)

// TestLines checks that asking for lines does no harm, and where it asks.
func TestLines(t *testing.T) {
	lines := make([]byte, 1<<16)
	base := reflect.ValueOf(&lines[0]).Pointer()
	var at [Max]uint64
	for i := range at {
		at[i] = rand.Uint64()
		lines[at[i]&1023<<6] = byte(i)
	}
	for n := range Max + 1 {
		Lines(base, &at, n, 1023, 6)
		want := byte(0)
		for _, h := range at[:n] {
			want += lines[h&1023<<6]
		}
		if got := touchLines(base, &at, n, 1023, 6); got != want {
			t.Errorf("%d lines: got %d, want %d", n, got, want)
		}
	}
	runtime.KeepAlive(lines)
}
