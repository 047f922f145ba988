package pods

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
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

// TestHostileVolume: a pod that puts a link to another pod's directory in the place of its own, which is in its volume, gets no connection to
// that one's application, and no socket made or removed there; afterwards it leaves as little as any other.
func TestHostileVolume(t *testing.T) {
	n := newNode(t)
	cover(t, "/var/lib")
	victim := n.newPod()
	slot := n.network("1.0.0", attach.VhostUser, fields{"deviceID": "br0-1", "socket": fields{"user": 12345, "group": 12345}}) // nobody comes for it
	victim.mustAdd(slot)
	theirs := filepath.Join(n.run, agent.SlotsDir, "br0-1", agent.SocketName)
	app, err := net.ListenUnix("unix", &net.UnixAddr{Name: theirs, Net: "unix"})
	check(t, err)
	app.SetUnlinkOnClose(false)
	before, err := os.Lstat(theirs)
	check(t, err)
	pods := []*pod{victim}
	for _, mode := range []string{"client", "server"} {
		list, p := n.network("1.0.0", attach.VhostUser, fields{"mode": mode, "socket": fields{"volume": "sockets"}}), n.newPod()
		pods = append(pods, p)
		check(t, os.MkdirAll(p.volume(), 0o777))
		p.mustAdd(list)
		own := filepath.Join(p.volume(), p.IfName)
		check(t, errors.Join(os.Rename(own, own+"-own"), os.Symlink(filepath.Dir(theirs), own)))
		says := func() string { return n.cli("port", "show", p.key().Port()) }
		if mode == "server" {
			check(t, app.Close()) // a socket that nobody answers on is one to remove
			n.kill("dataplane")   // which makes all sockets anew
			says = n.log.String   // there is no port
		}
		eventually(t, "it is said what is in the way", func() bool {
			text := says()
			return strings.Contains(text, "in the place of its directory") || strings.Contains(text, "vhost.sock: not a directory")
		})
		check(t, p.del(list))
		if now, err := os.Lstat(theirs); err != nil || !os.SameFile(before, now) {
			t.Errorf("mode %s: the other pod's socket: %v", mode, err)
		}
		check(t, os.RemoveAll(own+"-own"))
	}
	check(t, victim.del(slot))
	n.nothingLeft(pods...)
}
