package dataplane

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/dataplane/packet"
)

// TestOrder: a port gets a source's frames in the order in which they came, also
// where some are to all, and the switch has decided about the others before.
func TestOrder(t *testing.T) {
	r := newRig(t)
	a, b := r.port("a", PortSpec{}), r.port("b", PortSpec{})
	b.in = [][]byte{eth(1, 2, 0, 60)}
	r.turn()
	for round := range 3 {
		a.in, b.out = nil, nil
		for i := range 32 {
			f := eth(2, 1, 0, 60)
			if i%8 == 5 {
				f = eth(255, 1, 0, 60)
			}
			f[59] = byte(i)
			a.in = append(a.in, f)
		}
		r.turn()
		if len(b.out) != 32 {
			t.Fatalf("round %d: %d frames", round, len(b.out))
		}
		for i, f := range b.out {
			if int(f[59]) != i {
				t.Errorf("round %d: frame %d is number %d", round, f[59], i)
			}
		}
	}
}

// TestLearning floods to an unknown station, and sends to it alone once it has
// spoken.
func TestLearning(t *testing.T) {
	r := newRig(t)
	a, b, c := r.port("a", PortSpec{}), r.port("b", PortSpec{}), r.port("c", PortSpec{})
	a.in = [][]byte{eth(2, 1, 0, 60)}
	r.turn()
	if len(a.out) != 0 || len(b.out) != 1 || len(c.out) != 1 {
		t.Fatalf("unknown destination: %d, %d, %d frames", len(a.out), len(b.out), len(c.out))
	}
	b.in = [][]byte{eth(1, 2, 0, 60)}
	r.turn()
	a.in = [][]byte{eth(2, 1, 0, 60), eth(2, 1, 0, 1500), eth(2, 1, 0, 60)}
	r.turn()
	if len(a.out) != 1 || len(b.out) != 4 || len(c.out) != 1 {
		t.Fatalf("known destination: %d, %d, %d frames", len(a.out), len(b.out), len(c.out))
	}
	if got := b.out[2]; !bytes.Equal(got, eth(2, 1, 0, 1500)) {
		t.Errorf("long frame arrived changed: %d bytes", len(got))
	}
	st := r.stats()
	if a := st["a"]; a.Copies != 1 || a.Outputs != 5 || a.RxFrames != 4 {
		t.Errorf("account of a: %+v", a)
	}
	macs, err := r.s.MACs("br0")
	if err != nil || len(macs) != 2 {
		t.Fatalf("%d addresses, %v", len(macs), err)
	}
	if m := macs[1]; m.Port != "b" || m.MAC != [6]byte{2, 0, 0, 0, 0, 2} || m.Hits != 3 {
		t.Errorf("entry of station 2: %+v", m)
	}
}

// TestDrops sends one frame of each kind that is dropped and finds it under its
// reason.
func TestDrops(t *testing.T) {
	bpdu := eth(0, 1, 0, 60)
	copy(bpdu, []byte{1, 0x80, 0xc2, 0, 0, 0})
	group := eth(2, 1, 0, 60)
	group[6] = 3
	tests := []struct {
		name  string
		frame []byte
		spec  PortSpec // of port a, where the frame comes in
		alone bool     // a is the only port
		out   string   // the drop is on the way out of this port
		why   packet.Reason
	}{
		{name: "alone", frame: eth(2, 1, 0, 60), alone: true, why: packet.ReasonNoBridgePort},
		{name: "same port", frame: eth(1, 3, 0, 60), why: packet.ReasonSamePort},
		{name: "bpdu", frame: bpdu, why: packet.ReasonReservedMAC},
		{name: "group source", frame: group, why: packet.ReasonSourceMAC},
		{name: "short", frame: make([]byte, 13), why: packet.ReasonRxTooShort},
		{name: "short tag", frame: eth(2, 1, 5, 0)[:17], why: packet.ReasonRxTooShort},
		{name: "tag on access port", frame: eth(2, 1, 5, 60), spec: PortSpec{Tag: 7}, why: packet.ReasonVLANIngress},
		{name: "not in trunk", frame: eth(2, 1, 5, 60), spec: PortSpec{Trunks: []uint16{6}}, why: packet.ReasonVLANIngress},
		{name: "output full", frame: eth(200, 1, 0, 60), out: "full", why: packet.ReasonTxFull},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			a := r.port("a", tt.spec)
			if !tt.alone {
				f := r.port("full", PortSpec{})
				f.full = true
				f.in = [][]byte{eth(255, 200, 0, 60)}
				a.in = [][]byte{eth(255, 1, 0, 60)}
				if tt.spec.Tag+uint16(len(tt.spec.Trunks)) == 0 {
					r.turn()
				}
			}
			a.in, a.out = nil, nil
			before := r.stats()
			a.in = [][]byte{tt.frame}
			r.turn()
			st := r.stats()
			got := st["a"].RxDrops[tt.why] - before["a"].RxDrops[tt.why]
			if tt.out != "" {
				got = st[tt.out].TxDrops[tt.why] - before[tt.out].TxDrops[tt.why]
			}
			if got != 1 {
				t.Errorf("%d drops for %v; a: %v", got, tt.why, st["a"].RxDrops)
			}
		})
	}
}

// TestVLANs sends an untagged frame and frames of two VLANs from every mode of
// port to every other, and compares with the table of the Open_vSwitch schema.
func TestVLANs(t *testing.T) {
	modes := map[string]PortSpec{
		"access 10":         {Tag: 10},
		"trunk all":         {},
		"trunk 10,20":       {Trunks: []uint16{10, 20}},
		"trunk 0,20":        {Trunks: []uint16{0, 20}},
		"native-tagged 10":  {Mode: VLANNativeTagged, Tag: 10, Trunks: []uint16{20}},
		"native-untagged10": {Mode: VLANNativeUntagged, Tag: 10, Trunks: []uint16{20}},
	}
	// in: VLAN that a frame with this tag (0: none) belongs to; -1: not taken.
	in := func(m string, tag int) int {
		switch m {
		case "access 10":
			return map[int]int{0: 10, 10: -1, 20: -1}[tag]
		case "trunk 10,20":
			return map[int]int{0: -1, 10: 10, 20: 20}[tag]
		case "trunk 0,20":
			return map[int]int{0: 0, 10: -1, 20: 20}[tag]
		case "trunk all":
			return tag
		}
		return map[int]int{0: 10, 10: 10, 20: 20}[tag]
	}
	// out: tag with which VLAN leaves (0: none); -1: it does not.
	out := func(m string, vlan int) int {
		switch m {
		case "access 10":
			return map[int]int{0: -1, 10: 0, 20: -1}[vlan]
		case "trunk 10,20":
			return map[int]int{0: -1, 10: 10, 20: 20}[vlan]
		case "trunk 0,20":
			return map[int]int{0: 0, 10: -1, 20: 20}[vlan]
		case "trunk all":
			return vlan
		case "native-tagged 10":
			return map[int]int{0: -1, 10: 10, 20: 20}[vlan]
		}
		return map[int]int{0: -1, 10: 0, 20: 20}[vlan]
	}
	for from := range modes {
		for to := range modes {
			for _, tag := range []int{0, 10, 20} {
				t.Run(fmt.Sprintf("%s to %s tag %d", from, to, tag), func(t *testing.T) {
					r := newRig(t)
					a, b := r.port("a", modes[from]), r.port("b", modes[to])
					a.in = [][]byte{eth(255, 1, uint16(tag), 64)}
					r.turn()
					want := -1
					if v := in(from, tag); v >= 0 {
						want = out(to, v)
					}
					got := -1
					if len(b.out) == 1 {
						got = 0
						if f := b.out[0]; f[12] == 0x81 {
							got = int(f[14])<<8 | int(f[15])
						}
					}
					if got != want {
						t.Errorf("left with tag %d, want %d", got, want)
					}
					r.stats()
				})
			}
		}
	}
}

// TestPriorityTravels keeps the priority of a tag across an access VLAN... and
// drops it only where there is no tag to carry it.
func TestPriorityTravels(t *testing.T) {
	r := newRig(t)
	a, b, c := r.port("a", PortSpec{}), r.port("b", PortSpec{}), r.port("c", PortSpec{Tag: 5})
	a.in = [][]byte{eth(255, 1, 0xa005, 64)}
	r.turn()
	if want := eth(255, 1, 0xa005, 64); len(b.out) != 1 || !bytes.Equal(b.out[0], want) {
		t.Errorf("trunk got %x, want %x", b.out, want)
	}
	untagged := append(eth(255, 1, 0, 0)[:12:12], eth(255, 1, 0xa005, 64)[16:]...)
	if len(c.out) != 1 || !bytes.Equal(c.out[0], untagged) {
		t.Errorf("access port got %x, want %x", c.out, untagged)
	}
}

// TestPatch joins two bridges, and makes a loop of patch ports: frames end.
func TestPatch(t *testing.T) {
	r := newRig(t)
	a := r.port("a", PortSpec{})
	r.port("p0", PortSpec{Type: TypePatch, Peer: "p1"})
	a.in = [][]byte{eth(255, 1, 0, 60)}
	r.turn()
	if st := r.stats()["p0"]; st.TxDrops[packet.ReasonTxDown] != 1 {
		t.Errorf("patch port without its other end: %+v", st)
	}
	r.port("p1", PortSpec{Type: TypePatch, Peer: "p0", Bridge: "br1"})
	b := r.port("b", PortSpec{Bridge: "br1", Tag: 9})
	c := r.port("c", PortSpec{Bridge: "br1"})
	a.in = [][]byte{eth(255, 1, 9, 60), eth(255, 1, 0, 60)}
	r.turn()
	if len(b.out) != 1 || len(c.out) != 2 {
		t.Errorf("behind the patch: %d and %d frames, want 1 and 2", len(b.out), len(c.out))
	}
	r.stats()
	r.port("q0", PortSpec{Type: TypePatch, Peer: "q1"})
	r.port("q1", PortSpec{Type: TypePatch, Peer: "q0", Bridge: "br1"})
	a.in = [][]byte{eth(255, 1, 0, 60)}
	r.turn()
	r.stats()
	if err := r.s.DelPort(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if i, _ := r.s.Port("p0"); i.State.Link != LinkWaiting {
		t.Errorf("p0 is %s without its other end", i.State.Link)
	}
	a.in = [][]byte{eth(255, 1, 0, 60)}
	r.turn()
	r.stats()
}

// TestPatchAlone takes a patch port's other end away while stations are known
// behind it: frames for them are dropped, all of them under their reason.
func TestPatchAlone(t *testing.T) {
	r := newRig(t)
	a := r.port("a", PortSpec{})
	far := r.port("far", PortSpec{Bridge: "br1"})
	r.port("there", PortSpec{Type: TypePatch, Peer: "back"})
	r.port("back", PortSpec{Bridge: "br1", Type: TypePatch, Peer: "there"})
	far.in = [][]byte{eth(255, 2, 0, 60)}
	r.turn()
	if err := r.s.DelPort(t.Context(), "back"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a.in = [][]byte{eth(2, 1, 0, 60), eth(2, 1, 0, 60)}
		r.turn()
	}
	if got := r.stats()["there"].TxDrops[packet.ReasonTxDown]; got != 4 {
		t.Errorf("%d frames dropped for want of the other end, want 4", got)
	}
}

// TestPatchesInParallel joins two bridges by ten pairs of patch ports: one
// broadcast ends soon, and is accounted for.
func TestPatchesInParallel(t *testing.T) {
	r := newRig(t)
	a := r.port("a", PortSpec{})
	for i := range 10 {
		r.port(fmt.Sprint("p", i), PortSpec{Type: TypePatch, Peer: fmt.Sprint("q", i)})
		r.port(fmt.Sprint("q", i), PortSpec{Type: TypePatch, Peer: fmt.Sprint("p", i), Bridge: "br1"})
	}
	a.in = [][]byte{eth(255, 1, 0, 60)}
	r.turn()
	passed := uint64(0)
	for name, p := range r.stats() {
		if name[0] == 'q' || name[0] == 'p' {
			passed += p.RxFrames
		}
	}
	if passed > 10*passedMax {
		t.Errorf("one frame came in by patch ports %d times", passed)
	}
}

// TestWire carries everything past the bridge, in order, and nothing to others.
func TestWire(t *testing.T) {
	r := newRig(t)
	a, b, c := r.port("a", PortSpec{}), r.port("b", PortSpec{}), r.port("c", PortSpec{})
	if err := r.s.Wire("a", "b"); err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	for i := range 150 {
		want = append(want, eth(255, byte(i), 0, 60+i))
	}
	a.in = slices.Clone(want)
	for range 3 {
		r.turn()
	}
	if !slices.EqualFunc(b.out, want, bytes.Equal) || len(c.out) != 0 {
		t.Errorf("%d frames, want %d; %d beside the wire", len(b.out), len(want), len(c.out))
	}
	b.full = true
	a.in = want[:3]
	r.turn()
	b.full = false
	a.in = want[:3]
	r.turn()
	if st := r.stats(); st["b"].TxDrops[packet.ReasonTxFull] != 3 || st["b"].TxFrames != 153 {
		t.Errorf("account of b: %+v", st["b"])
	}
	if err := r.s.DelPort(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	a.in = want[:1]
	r.turn()
	if len(c.out) != 1 {
		t.Errorf("without its wire the port is not bridged")
	}
	r.stats()
}

// TestFaults has memory taken away in each step: the culprit is broken, the
// account stays exact, the others have their frames.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		at      fakeFault
		port    string // whose device panics
		culprit string
		b, c    int // frames that b and c get
		why     packet.Reason
		rx      bool // nothing was received
	}{
		{at: "rx", port: "a", culprit: "a", rx: true},
		{at: "tx", port: "b", culprit: "b", b: 0, c: 2, why: packet.ReasonTxFault},
		{at: "source", port: "b", culprit: "a", b: 0, c: 2, why: packet.ReasonRxFault},
		{at: "release", port: "a", culprit: "a", b: 2, c: 2},
		{at: "commit", port: "b", culprit: "b", b: 0, c: 2, why: packet.ReasonTxFault},
	} {
		t.Run(string(tt.at), func(t *testing.T) {
			r := newRig(t)
			a, b, c := r.port("a", PortSpec{}), r.port("b", PortSpec{Tag: 0}), r.port("c", PortSpec{})
			a.owned, b.owned = 0x5000, 0x6000
			r.devs[tt.port].fault = tt.at
			a.in = [][]byte{eth(255, 1, 3, 64), eth(255, 1, 0, 64)}
			r.turn()
			if got := r.devs[tt.culprit].broken; got == "" {
				t.Errorf("%s is not broken", tt.culprit)
			}
			if len(b.out) != tt.b || len(c.out) != tt.c {
				t.Errorf("b has %d frames, want %d; c has %d, want %d", len(b.out), tt.b, len(c.out), tt.c)
			}
			if tt.c == 2 && !bytes.Equal(c.out[0], eth(255, 1, 3, 64)) {
				t.Errorf("c got %x", c.out[0])
			}
			st := r.stats()
			if tt.why != 0 && st["b"].TxDrops[tt.why] != 2 {
				t.Errorf("drops of b: %v", st["b"].TxDrops)
			}
			if tt.rx && st["a"].RxFrames != 0 {
				t.Errorf("received %d frames by a queue that broke", st["a"].RxFrames)
			}
			r.devs["b"].fault = ""
			c.in = [][]byte{eth(255, 2, 0, 64)}
			n := len(b.out)
			r.turn()
			if tt.culprit != "b" && len(b.out) != n+1 {
				t.Errorf("b gets nothing any more")
			}
			r.stats()
		})
	}
}

// TestFaultSignals has memory go after frames were delivered: their peers, which
// may be asleep, are signalled in the same turn.
func TestFaultSignals(t *testing.T) {
	for _, tt := range []struct {
		name    string
		at      fakeFault
		culprit string
	}{
		{"in another's signal", "signal", "b"},
		{"in a later receive", "rx", "d"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			a := r.port("a", PortSpec{})
			r.port("b", PortSpec{})
			c, d := r.port("c", PortSpec{}), r.port("d", PortSpec{})
			r.devs[tt.culprit].fault = tt.at
			a.in, d.in = [][]byte{eth(255, 1, 0, 60)}, [][]byte{eth(255, 2, 0, 60)}
			if tt.culprit != "d" {
				d.in = nil
			}
			r.turn()
			if r.devs[tt.culprit].broken == "" {
				t.Fatalf("%s is not broken", tt.culprit)
			}
			if len(c.out) != 1 || c.signals != 1 || a.signals != 1 {
				t.Errorf("c got %d frames and %d signals, a %d; want 1 of each", len(c.out), c.signals, a.signals)
			}
		})
	}
}

// TestFaultWhenFull has memory go after frames of a wire were left for want of
// room: the list that all wires share must not remember them.
func TestFaultWhenFull(t *testing.T) {
	r := newRig(t)
	a, b := r.port("a", PortSpec{}), r.port("b", PortSpec{})
	if err := r.s.Wire("a", "b"); err != nil {
		t.Fatal(err)
	}
	b.full, b.fault = true, "late"
	a.in = [][]byte{eth(2, 1, 0, 60), eth(2, 1, 0, 60)}
	r.turn()
	if b.broken == "" {
		t.Fatal("b is not broken")
	}
	for i, ref := range r.s.workers[0].all {
		if ref.Why != packet.ReasonNone {
			t.Fatalf("frame %d of every wire counts as dropped: %v", i, ref.Why)
		}
	}
	r.stats()
}

// TestRandomAccount sends random frames between random ports of two bridges
// and finds the account exact after every turn.
func TestRandomAccount(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	names := []string{"a", "b", "c", "d", "e", "f"}
	specs := []PortSpec{{}, {Tag: 1}, {Trunks: []uint16{0, 1, 2}}, {Bridge: "br1"}, {Bridge: "br1", Mode: VLANNativeUntagged, Tag: 2}, {}}
	for i, n := range names {
		r.port(n, specs[i])
	}
	for i := range 2 {
		r.port(fmt.Sprint("p", i), PortSpec{Type: TypePatch, Peer: fmt.Sprint("q", i)})
		r.port(fmt.Sprint("q", i), PortSpec{Type: TypePatch, Peer: fmt.Sprint("p", i), Bridge: "br1"})
	}
	turns := 300
	if raceOn {
		turns = 60
	}
	for turn := range turns {
		for _, n := range names {
			d := r.devs[n]
			d.full = rnd.IntN(10) == 0
			for range rnd.IntN(70) {
				dst := byte(rnd.IntN(9))
				if dst == 8 {
					dst = 255
				}
				d.in = append(d.in, eth(dst, byte(rnd.IntN(8)), uint16(rnd.IntN(4)), 10+rnd.IntN(300)))
			}
			d.out = nil
		}
		r.turn()
		if r.stats(); t.Failed() {
			t.Fatalf("seed %d, turn %d", seed, turn)
		}
	}
}
