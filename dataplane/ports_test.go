package dataplane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A slowDevice ends when its peer likes.
type slowDevice struct {
	fakeDevice
	may chan struct{}
}

func (d *slowDevice) Close() error { <-d.may; return nil }

// TestSlowClose: while a device does not end, others come and go, and nobody
// gets its name or its path.
func TestSlowClose(t *testing.T) {
	r := newRig(t)
	may := make(chan struct{})
	r.s.opts.Openers["slow"] = func(PortSpec, Env) (Device, error) { return &slowDevice{may: may}, nil }
	r.port("p", PortSpec{Type: "slow", Path: "/x"})
	if errs := r.s.DelPorts([]string{"p", "q"}); errs[0] != nil || !errors.Is(errs[1], ErrNoPort) {
		t.Fatal(errs)
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := r.s.Closed(soon, "p", "q"); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "delete port p: ") {
		t.Errorf("closed: %v", err)
	}
	for _, tt := range []struct {
		name, path string
		want       error
	}{{"p", "/y", ErrBusy}, {"p", "/x", ErrBusy}, {"o", "/x", ErrBusy}, {"o", "/y", nil}, {"n", "", nil}} {
		_, err := r.s.AddPort(t.Context(), PortSpec{Bridge: "br0", Name: tt.name, Type: TypeVhostServer, Path: tt.path})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s at %s: %v, want %v", tt.name, tt.path, err, tt.want)
		}
	}
	if err := r.s.DelPort(t.Context(), "o"); err != nil {
		t.Error(err)
	}
	if _, err := r.s.Port("p"); !errors.Is(err, ErrNoPort) {
		t.Errorf("p is there: %v", err)
	}
	close(may)
	if err := r.s.Closed(t.Context(), "p"); err != nil {
		t.Error(err)
	}
	r.port("p", PortSpec{Path: "/x"})
}

// TestPatchPeerIsTold: a patch port says that its other end has come, and that it has gone.
func TestPatchPeerIsTold(t *testing.T) {
	r := newRig(t)
	add := func(name, peer, bridge string) {
		r.s.AddPorts([]PortSpec{{Name: name, Peer: peer, Bridge: bridge, Type: TypePatch}})
	}
	add("x", "y", "br0")
	events := r.s.Watch(t.Context())
	told := func(want Link) {
		t.Helper()
		for end := time.After(10 * time.Second); ; {
			r.s.tellTouched()
			select {
			case e := <-events:
				if e.Port.Name == "x" && e.Port.State.Link == want {
					return
				}
			case <-end:
				t.Fatalf("nobody is told that x is %v", want)
			case <-time.After(time.Millisecond):
			}
		}
	}
	told(LinkWaiting)
	add("y", "x", "br1")
	told(LinkUp)
	r.s.DelPorts([]string{"y"})
	told(LinkWaiting)
}

// TestWireEndIsTold: a port whose wire ends with the other port says so.
func TestWireEndIsTold(t *testing.T) {
	r := newRig(t)
	r.port("a", PortSpec{})
	r.port("b", PortSpec{})
	if err := r.s.Wire("a", "b"); err != nil {
		t.Fatal(err)
	}
	events := r.s.Watch(t.Context())
	r.s.DelPorts([]string{"b"})
	for end := time.After(10 * time.Second); ; {
		r.s.tellTouched()
		select {
		case e := <-events:
			if e.Kind == EventChanged && e.Port.Name == "a" && e.Port.Wire == "" {
				return
			}
		case <-end:
			t.Fatal("nobody is told that a is wired no more")
		case <-time.After(time.Millisecond):
		}
	}
}

// TestAddPorts: each is for itself, in order, and all that workers have is as if
// they had come one by one.
func TestAddPorts(t *testing.T) {
	r := newRig(t)
	r.s.opts.Openers["bad"] = func(PortSpec, Env) (Device, error) { return nil, errors.New("in use") }
	events := r.s.Watch(t.Context())
	base := PortSpec{Bridge: "br0", Type: TypeVhostServer}
	spec := func(name string, change func(*PortSpec)) PortSpec {
		s := base
		s.Name = name
		change(&s)
		return s
	}
	same := func(*PortSpec) {}
	added := r.s.AddPorts([]PortSpec{
		spec("x", func(s *PortSpec) { s.Type, s.Peer = TypePatch, "y" }),
		spec("a", same),
		spec("b", func(s *PortSpec) { s.Type = "bad" }),
		spec("a", same),
		spec("a", func(s *PortSpec) { s.Tag = 7 }),
		spec("y", func(s *PortSpec) { s.Type, s.Peer, s.Bridge = TypePatch, "x", "br1" }),
		spec("c", func(s *PortSpec) { s.Bridge = "br1" }),
	})
	var got []string
	for _, a := range added {
		got = append(got, fmt.Sprintf("%s%d %v %v", a.Port.Name, a.Port.Number, errors.Is(a.Err, ErrExists), a.Err != nil))
	}
	if want := "x1 false false, a2 false false, 0 false true, a2 false false, 0 true true, y3 false false, c4 false false"; strings.Join(got, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), want)
	}
	if added[0].Port.State.Link != LinkUp {
		t.Errorf("patch port: %+v", added[0].Port.State)
	}
	for _, want := range []string{"x", "a", "y", "c"} {
		if e := <-events; e.Kind != EventAdded || e.Port.Name != want {
			t.Errorf("event %+v, want %s", e, want)
		}
	}
	r.devs["a"].in = [][]byte{eth(255, 1, 0, 60)}
	r.turn()
	if n := len(r.devs["c"].out); n != 1 {
		t.Errorf("c has %d frames", n)
	}
	for i, err := range r.s.DelPorts([]string{"x", "a", "none", "a"}) {
		if (err != nil) != (i > 1) {
			t.Errorf("delete %d: %v", i, err)
		}
	}
	r.devs["c"].in = [][]byte{eth(255, 3, 0, 60)}
	r.turn()
	st := r.stats()
	if st["y"].Offered != 1 || st["(removed)"].RxFrames != 1 || st["y"].TxFrames != 0 {
		t.Errorf("y has no peer now: %+v", st)
	}
	w := r.s.workers[0]
	if len(w.order) != 2 || len(w.rx) != 1 || len(r.s.Bridges()) != 1 {
		t.Errorf("the worker has %d ports and %d queues", len(w.order), len(w.rx))
	}
}
