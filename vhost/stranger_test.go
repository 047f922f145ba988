package vhost

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// volume is a directory in which others may write, with the directory net1 in it; link leads to that, and is ours alone.
func volume(t *testing.T) (dir, link string) {
	dir, link = filepath.Join(t.TempDir(), "net1"), filepath.Join(t.TempDir(), "l")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	return dir, link
}

// swap puts a symbolic link to another directory in the place of dir, and returns how to put it back.
func swap(t *testing.T, dir, other string) (back func()) {
	do := func(errs ...error) {
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	do(os.Rename(dir, dir+".own"), os.Symlink(other, dir))
	return func() { do(os.Remove(dir), os.Rename(dir+".own", dir)) }
}

// TestNoFollowDirectory: who puts a symbolic link in the place of the socket's directory has the switch connect to nobody
// else's socket there, and is served as before when the directory is back.
func TestNoFollowDirectory(t *testing.T) {
	l := newLoop(t)
	dir, link := volume(t)
	others := filepath.Dir(socket(t))
	back := swap(t, dir, others)
	victim := listenAt(t, filepath.Join(others, "s"))
	p := l.open(t, Options{Path: filepath.Join(link, "s"), Role: Connect, NoFollow: true})
	eventually(t, "that the directory is a link", func() bool { return strings.Contains(p.State().Reason, "symbolic link in the place of its directory") })
	_ = victim.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if c, err := victim.AcceptUnix(); err == nil {
		_ = c.Close()
		t.Error("the switch has connected to the socket of another one")
	}
	back()
	listener := listenAt(t, filepath.Join(dir, "s"))
	front := newPeer(t, true)
	meet(t, p, front, listener)
	front.setUp(modern, 1)
	front.pump(10)
}

// TestNoFollowListen: the same of a socket that the switch makes, and removes.
func TestNoFollowListen(t *testing.T) {
	leaks(t)
	dir, link := volume(t)
	others := filepath.Dir(socket(t))
	o := Options{Path: filepath.Join(link, "s"), NoFollow: true}
	back := swap(t, dir, others)
	if p, err := Open(o); err == nil {
		_ = p.Close()
		t.Error("made a socket where the link leads")
	}
	if left, err := os.ReadDir(others); err != nil || len(left) != 0 {
		t.Errorf("made elsewhere: %v, %v", left, err)
	}
	back()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(filepath.Join(dir, "s")); err != nil || st.Mode() != fs.ModeSocket|DefaultMode {
		t.Errorf("socket has mode %v, %v", st.Mode(), err)
	}
	if err := os.Link(filepath.Join(dir, "s"), filepath.Join(others, "s")); err != nil {
		t.Fatal(err)
	}
	back = swap(t, dir, others)
	_ = p.Close()
	if _, err := os.Lstat(filepath.Join(others, "s")); err != nil {
		t.Errorf("removed where the link leads: %v", err)
	}
	back()
}

// TestGiven: of what others put in the place of a socket that was just made, nothing is given away but another socket.
func TestGiven(t *testing.T) {
	path, file := socket(t), filepath.Join(t.TempDir(), "shadow")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file, path)); err != nil {
		t.Fatal(err)
	}
	p := &Port{opts: Options{Path: path, Mode: 0o666}}
	if err := p.give(path); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("a symbolic link: %v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v", st.Mode(), err)
	}
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
