package pods

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/control/cni/agent"
	"millrace/control/cni/attach"
)

// putInPlace puts a directory in the place of the socket of a slot, as its pod may.
func (n *node) putInPlace(slot string) (dir string) {
	n.t.Helper()
	dir = filepath.Join(n.run, agent.SlotsDir, slot, agent.SocketName)
	if err := os.Remove(dir); !errors.Is(err, os.ErrNotExist) {
		check(n.t, err)
	}
	check(n.t, os.MkdirAll(filepath.Join(dir, "x"), 0o777))
	return dir
}

// TestHostileSlot: a pod that has put directories in the place of what is ours leaves as little as any other.
func TestHostileSlot(t *testing.T) {
	n := newNode(t)
	for _, mode := range []string{"client", "server"} {
		list, p := n.network("1.0.0", attach.VhostUser, fields{"mode": mode, "deviceID": "br0-1"}), n.newPod()
		p.mustAdd(list)
		n.putInPlace("br0-1")
		check(t, p.del(list))
		n.nothingLeft(p)
	}
}

// TestStuck: what cannot be removed of one pod keeps nobody from removing what others have left, and goes when it can.
func TestStuck(t *testing.T) {
	n := newNode(t)
	stuck, other := n.newPod(), n.newPod()
	slot, plain := n.network("1.0.0", attach.VhostUser, fields{"deviceID": "br0-1"}), n.network("1.0.0", attach.TAP, nil)
	stuck.mustAdd(slot)
	other.mustAdd(plain)
	busy := n.putInPlace("br0-1")
	check(t, unix.Mount(busy, busy, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(busy, unix.MNT_DETACH) })
	check(t, stuck.del(slot)) // with a note
	other.vanish()
	for range 2 { // by itself it takes a minute
		if _, err := n.call(&attach.Request{Method: attach.Reconcile}); err == nil {
			t.Error("nobody is told that something is stuck")
		}
	}
	if left := n.attachments(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
	check(t, unix.Unmount(busy, unix.MNT_DETACH))
	eventually(t, "the note is carried out", func() bool {
		_, err := os.Lstat(busy)
		return errors.Is(err, os.ErrNotExist) && !attach.Noted(n.run, stuck.key())
	})
	check(t, other.del(plain))
	n.nothingLeft(stuck, other)
}
