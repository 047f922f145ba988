package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestParted: a request that may soon stop others waits until those on its stream have ended,
// for partTime at most, and not at all where others may always come.
func TestParted(t *testing.T) {
	const ends = partTime / 4
	for name, tt := range map[string]struct {
		shared, alone bool
		ends          time.Duration // of the other request
		waits         time.Duration
	}{
		"the other ends":            {ends: ends, waits: ends},
		"the other stays":           {ends: time.Hour, waits: partTime},
		"there is no other":         {alone: true, ends: time.Hour},
		"the stream is always used": {shared: true, ends: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := New(Config{Shared: tt.shared})
				l := &link{agent: a, addr: &address{}, streams: map[*stream]struct{}{}, want: make(chan struct{}, 1)}
				s := &stream{link: l, cs: new(halfClosed), dials: map[int64]*request{}, requests: map[int64]*request{}}
				one, other := &request{stream: s, id: 1}, &request{stream: s, id: 2}
				s.requests[1] = one
				if !tt.alone {
					s.requests[2] = other
				}
				time.AfterFunc(tt.ends, func() { s.forget(other) })
				start := time.Now()
				one.outgrow(true)
				if took := time.Since(start); took != tt.waits {
					t.Errorf("it waited for %v, want %v", took, tt.waits)
				}
				if one.outgrow(true); time.Since(start) != tt.waits {
					t.Error("it waited twice")
				}
			})
		})
	}
}
