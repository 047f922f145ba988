package tap

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
	"millrace/dataplane/tap/taptest"
)

// TestBlind: a device that cannot be looked at, say for want of descriptors, is looked
// at again soon, and what was in the way is not said for ever.
func TestBlind(t *testing.T) {
	taptest.Need(t)
	p := open(t, Options{Name: "blind", Settings: quiet(t, nil)})
	up(t, p)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	no := sys.NewFD(pipe[0])
	swap := func(f sys.FD) (old sys.FD) {
		p.mu.Lock()
		defer p.mu.Unlock()
		old, p.dev.files[0] = p.dev.files[0], f
		return old
	}
	good := swap(no)
	p.wake()
	until(t, "an error", func() bool { return strings.Contains(p.State().Reason, "ask for the device's name") })
	swap(good)
	_ = no.Close()
	until(t, "no error", func() bool { st := p.State(); return st.Reason == "" && st.Link == LinkUp })
}
