package vhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPeerUser: a port that is for one user serves nobody else, whoever makes the
// socket, says so, and serves that user when it comes.
func TestPeerUser(t *testing.T) {
	us, other := uint32(os.Geteuid()), uint32(os.Geteuid()+1)
	for _, role := range []Role{Listen, Connect} {
		for _, peer := range []uint32{us, other} {
			l := newLoop(t)
			path := socket(t)
			o := Options{Path: path, Role: role, Peer: &peer}
			if role == Connect {
				listener := listenAt(t, path)
				p := l.open(t, o)
				if peer == us {
					front := newPeer(t, true)
					meet(t, p, front, listener)
					front.setUp(modern, 1)
					front.pump(10)
					continue
				}
				eventually(t, "the stranger in the state", func() bool { return strings.Contains(p.State().Reason, errStranger.Error()) })
				continue
			}
			p := l.open(t, o)
			front := newPeer(t, true)
			front.dial(path)
			if peer == us {
				front.setUp(modern, 1)
				front.pump(10)
				continue
			}
			eventually(t, "the stranger counted", func() bool {
				st := p.State()
				return st.Refused == 1 && st.Connects == 0 && strings.Contains(st.Reason, errStranger.Error())
			})
		}
	}
}

// TestNoFollow: where others may write to the directory, a symbolic link leads the
// switch to no socket but a real one does.
func TestNoFollow(t *testing.T) {
	l := newLoop(t)
	real, path := socket(t), socket(t)
	listener := listenAt(t, real)
	if err := os.Symlink(real, path); err != nil {
		t.Fatal(err)
	}
	p := l.open(t, Options{Path: path, Role: Connect, NoFollow: true})
	eventually(t, "that the link is no socket", func() bool { return strings.Contains(p.State().Reason, "no stream socket") })
	if err := os.Rename(real, path); err != nil {
		t.Fatal(err)
	}
	front := newPeer(t, true)
	meet(t, p, front, listener)
	front.setUp(modern, 1)
	front.pump(10)
}

// TestOwner: a socket that the switch makes belongs to whom it is for.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := filepath.Join(t.TempDir(), "s")
	p, err := Open(Options{Path: path, Owner: &Owner{1000, 2000}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Uid != 1000 || st.Gid != 2000 || st.Mode&0o777 != uint32(DefaultMode) {
		t.Errorf("user %d, group %d, mode %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
}
