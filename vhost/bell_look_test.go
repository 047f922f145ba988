package vhost

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBell: a writer that makes no progress while there is room in the eventfd
// has lost its CPU, and is no fault of the peer's, however long it lasts. One
// that a full eventfd holds up is.
func TestBell(t *testing.T) {
	leaks(t)
	p, front := idle(t, Options{}, modern, 1)
	g := &p.guard
	var b *bell
	g.mu.Lock()
	for b = range g.bells {
		break
	}
	g.mu.Unlock()
	b.began.Add(1) // and is not heard of again
	for range 5 {
		if got := g.look(); got != bellsBusy {
			t.Fatalf("look: %d, want %d", got, bellsBusy)
		}
	}
	front.sync()
	if st := p.State(); st.Breaks != 0 {
		t.Fatalf("state %+v", st)
	}
	g.mu.Lock() // the guard looks, too, and would drain it
	drainNow(b.fd.Int())
	_, err := unix.Write(b.fd.Int(), binary.NativeEndian.AppendUint64(nil, 1<<64-2))
	room := writable(b.fd.Int())
	g.mu.Unlock()
	if err != nil || room {
		t.Fatalf("the eventfd has room: %t, %v", room, err)
	}
	eventually(t, "cut off", func() bool { return g.look() == bellsStuck || p.State().Breaks > 0 })
	eventually(t, "broken", func() bool { st := p.State(); return st.Breaks == 1 && strings.Contains(st.Reason, b.name) })
	b.ended.Add(1)
}
