package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// A plainBridge is the bridge that is too simple to be wrong: a map, frames as
// byte slices, and the rules of the Open_vSwitch schema written out.
type plainBridge struct {
	ports []plainPort
	macs  map[string]int // MAC and VLAN to port
}

type plainPort struct {
	spec PortSpec
	out  [][]byte
}

// trunks reports whether the port's trunk has the VLAN.
func (p *plainPort) trunks(vlan int) bool {
	return len(p.spec.Trunks) == 0 || slices.Contains(p.spec.Trunks, uint16(vlan))
}

// in returns the VLAN of a frame that arrives with a tag (-1: none).
func (p *plainPort) in(tag int) (int, bool) {
	if tag < 0 {
		tag = 0 // a priority tag counts as none
	}
	switch {
	case p.spec.Mode == VLANNativeTagged || p.spec.Mode == VLANNativeUntagged:
		if tag == 0 || tag == int(p.spec.Tag) {
			return int(p.spec.Tag), true
		}
		return tag, p.trunks(tag)
	case p.spec.Tag != 0:
		return int(p.spec.Tag), tag == 0
	}
	return tag, p.trunks(tag)
}

// sends returns whether a frame of the VLAN leaves, and with a tag.
func (p *plainPort) sends(vlan int) (tagged, ok bool) {
	switch p.spec.Mode {
	case VLANNativeTagged:
		return vlan != 0, vlan == int(p.spec.Tag) || p.trunks(vlan)
	case VLANNativeUntagged:
		return vlan != 0 && vlan != int(p.spec.Tag), vlan == int(p.spec.Tag) || p.trunks(vlan)
	}
	if p.spec.Tag != 0 {
		return false, vlan == int(p.spec.Tag)
	}
	return vlan != 0, p.trunks(vlan)
}

// forward is one frame's way.
func (b *plainBridge) forward(from int, f []byte) {
	if len(f) < 14 {
		return
	}
	tag, prio := -1, 0
	body := f[12:]
	if f[12] == 0x81 && f[13] == 0 {
		if len(f) < 18 {
			return
		}
		tci := int(binary.BigEndian.Uint16(f[14:]))
		tag, prio, body = tci&0xfff, tci&0xf000, f[16:]
	}
	vlan, ok := b.ports[from].in(tag)
	src, dst := string(f[6:12]), string(f[:6])
	if !ok || f[6]&1 == 1 || src == "\x00\x00\x00\x00\x00\x00" {
		return
	}
	if bytes.HasPrefix(f, []byte{1, 0x80, 0xc2, 0, 0}) && f[5] < 16 {
		return
	}
	b.macs[src+fmt.Sprint(vlan)] = from
	if to, known := b.macs[dst+fmt.Sprint(vlan)]; known && f[0]&1 == 0 {
		if to != from {
			b.send(to, f, body, vlan, prio)
		}
		return
	}
	for to := range b.ports {
		if to != from {
			b.send(to, f, body, vlan, prio)
		}
	}
}

// send lets the frame out by a port, if the port takes its VLAN.
func (b *plainBridge) send(to int, f, body []byte, vlan, prio int) {
	p := &b.ports[to]
	tagged, ok := p.sends(vlan)
	if !ok {
		return
	}
	out := bytes.Clone(f[:12])
	if tagged {
		out = binary.BigEndian.AppendUint16(append(out, 0x81, 0), uint16(prio|vlan))
	}
	p.out = append(p.out, append(out, body...))
}

// fuzzPorts are the ports that frames are thrown at: every mode.
func fuzzPorts() []PortSpec {
	return []PortSpec{
		{}, {Tag: 1}, {Trunks: []uint16{0, 1, 2}}, {Mode: VLANNativeTagged, Tag: 2, Trunks: []uint16{1}},
		{Mode: VLANNativeUntagged, Tag: 1}, {Mode: VLANNativeUntagged, Tag: 3, Trunks: []uint16{2}},
	}
}

// FuzzFrames throws frames at the ports of a bridge and compares what comes out
// with the plain bridge. Each frame in the input is a port, a length, and bytes;
// addresses are drawn from few, so that they meet.
func FuzzFrames(f *testing.F) {
	frame := func(port byte, b []byte) []byte { return append([]byte{port, byte(len(b))}, b...) }
	f.Add(slices.Concat(frame(0, eth(2, 1, 0, 60)), frame(1, eth(1, 2, 0, 60)), frame(0, eth(2, 1, 0, 64))))
	f.Add(slices.Concat(frame(0, eth(255, 1, 1, 60)), frame(2, eth(1, 2, 1, 17)), frame(3, eth(1, 3, 0xa002, 60))))
	f.Add(slices.Concat(frame(4, eth(2, 1, 0, 15)[:15]), frame(5, eth(2, 1, 4095, 19)), frame(5, make([]byte, 14))))
	f.Add(frame(0, append([]byte{1, 0x80, 0xc2, 0, 0, 14}, eth(2, 1, 0, 60)[6:]...)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newRig(t)
		plain := &plainBridge{macs: map[string]int{}}
		var devs []*fakeDevice
		for i, s := range fuzzPorts() {
			devs = append(devs, r.port(fmt.Sprint("p", i), s))
			plain.ports = append(plain.ports, plainPort{spec: s})
		}
		for n := 0; len(data) > 2 && n < 64; n++ {
			port, size := int(data[0])%len(devs), min(int(data[1]), len(data)-2)
			frame := bytes.Clone(data[2 : 2+size])
			data = data[2+size:]
			devs[port].in = [][]byte{bytes.Clone(frame)}
			plain.forward(port, frame)
			r.turn()
		}
		for i, d := range devs {
			if !slices.EqualFunc(d.out, plain.ports[i].out, bytes.Equal) {
				t.Errorf("port %d sent\n%x, want\n%x", i, d.out, plain.ports[i].out)
			}
		}
		r.stats()
	})
}

// TestBridgeDoesNotAllocate: not for a frame, not for a batch.
func TestBridgeDoesNotAllocate(t *testing.T) {
	r := newRig(t)
	a, b, c := &loopDevice{}, r.port("b", PortSpec{}), r.port("c", PortSpec{Tag: 7})
	b.full, c.full = true, true // the fakes would allocate
	r.s.opts.Openers["loop"] = func(PortSpec, Env) (Device, error) { return a, nil }
	r.port("a", PortSpec{Type: "loop"})
	for _, frame := range [][]byte{eth(2, 1, 0, 60), eth(255, 1, 0, 60), eth(255, 1, 7, 60), eth(2, 1, 9, 60)} {
		a.frame = frame
		r.turn()
		if n := testing.AllocsPerRun(100, r.s.workers[0].turn); n != 0 {
			t.Errorf("a turn with frames %x... allocates %v times", frame[:18], n)
		}
	}
	r.stats()
}
