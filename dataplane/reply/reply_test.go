package reply

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/parse"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// kinds are all that can be made.
var kinds = []uint8{flowtable.ReplyICMP4, flowtable.ReplyICMP4Error, flowtable.ReplyICMP6, flowtable.ReplyICMP6Error, flowtable.ReplyTCP, flowtable.ReplySCTP}

// about makes the reply to a whole frame.
func about(frame []byte, o Order) []byte {
	var made [Max]byte
	n := Make(made[:], frame[:min(len(frame), Quoted)], uint32(len(frame)), o)
	return bytes.Clone(made[:n])
}

// check finds fault with a reply to a frame, as gopacket reads both.
func check(frame, got []byte, o Order) error {
	l := parse.Locate(got, uint32(len(got)))
	if l.Flaw != 0 || l.L4 == 0 || int(l.End) != len(got) {
		return fmt.Errorf("layout %+v", l)
	}
	if err := parsetest.Sound(got, int(l.L3), int(l.L4), int(l.End), l.Proto); err != nil {
		return err
	}
	was := parse.Locate(frame, uint32(len(frame)))
	if want := o.Length(&was); uint32(len(got)) != want {
		return fmt.Errorf("%d bytes, foreseen were %d", len(got), want)
	}
	a, b := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default), gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.Default)
	if e := b.ErrorLayer(); e != nil && l.Proto != protoICMP && l.Proto != protoICMPv6 {
		return e.Error()
	}
	if err := sameEnds(a.LinkLayer().LinkFlow(), b.LinkLayer().LinkFlow(), o.Turned); err != nil {
		return err
	}
	if a.NetworkLayer() == nil {
		return nil // behind what gopacket does not read
	}
	if err := sameEnds(a.NetworkLayer().NetworkFlow(), b.NetworkLayer().NetworkFlow(), o.Turned); err != nil {
		return err
	}
	switch o.Kind {
	case flowtable.ReplyTCP:
		return checkReset(a, b)
	case flowtable.ReplySCTP:
		return nil
	}
	return checkError(frame[was.L3:was.End], got, l, o)
}

// sameEnds compares who two packets are from and to.
func sameEnds(a, b gopacket.Flow, turned bool) error {
	if turned {
		b = b.Reverse()
	}
	if a != b {
		return fmt.Errorf("goes %v, the packet %v", b, a)
	}
	return nil
}

// checkReset is RFC 9293 3.10.7.1 once more.
func checkReset(a, b gopacket.Packet) error {
	in, ok := a.Layer(layers.LayerTypeTCP).(*layers.TCP)
	out, ok2 := b.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		return nil // behind headers that gopacket does not pass
	}
	if !ok2 {
		return fmt.Errorf("no TCP: %v", b)
	}
	want := layers.TCP{SrcPort: in.DstPort, DstPort: in.SrcPort, RST: true}
	if in.ACK {
		want.Seq = in.Ack
	} else {
		want.ACK = true
		want.Ack = in.Seq + uint32(len(in.Payload))
		for _, one := range []bool{in.SYN, in.FIN} {
			if one {
				want.Ack++
			}
		}
	}
	got := layers.TCP{SrcPort: out.SrcPort, DstPort: out.DstPort, Seq: out.Seq, Ack: out.Ack, RST: out.RST, ACK: out.ACK, SYN: out.SYN, FIN: out.FIN, PSH: out.PSH, URG: out.URG}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(out.Payload) != 0 || len(out.Options) != 0 {
		return fmt.Errorf("%+v, want %+v", got, want)
	}
	return nil
}

// checkError compares what an ICMP error quotes, and the room that it takes.
func checkError(ip, got []byte, l parse.Layout, o Order) error {
	most, hops := icmp4Max, got[l.L3+8]
	if l.Type == typeIPv6 {
		most, hops = icmp6Max, got[l.L3+7]
	}
	quote := got[l.L4+8:]
	room := most - int(l.L4-l.L3) - 8
	switch mtu := binary.BigEndian.Uint32(got[l.L4+4:]); {
	case !bytes.Equal(quote, ip[:min(len(ip), room)]):
		return fmt.Errorf("quotes %x of %x", quote, ip)
	case mtu != o.MTU:
		return fmt.Errorf("MTU %d, want %d", mtu, o.MTU)
	case hops != 255:
		return fmt.Errorf("TTL %d", hops)
	}
	return nil
}

// TestMake answers random frames in all ways, and finds right checksums, lengths, addresses, ports,
// numbers and quotes in what is made.
func TestMake(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 3))
	done := map[uint8]int{}
	for range 8000 {
		frame := parsetest.Frame(r)
		o := Order{Kind: kinds[r.IntN(len(kinds))], Turned: r.IntN(2) == 0}
		if o.Kind < flowtable.ReplyTCP {
			o.MTU = uint32(r.IntN(2) * r.IntN(1<<16))
		}
		got := about(frame, o)
		if len(got) == 0 {
			continue
		}
		done[o.Kind]++
		if err := check(frame, got, o); err != nil {
			t.Fatalf("seed %d: %+v of\n%x\nis %x\n%v", seed, o, frame, got, err)
		}
	}
	for _, k := range kinds {
		if done[k] < 50 {
			t.Errorf("%d replies of kind %d, want more", done[k], k)
		}
	}
}

// TestCodes makes ICMP errors about UDP and about others.
func TestCodes(t *testing.T) {
	four := func(proto byte) []byte {
		f := append(make([]byte, 12), 8, 0, 0x45, 3, 0, 28, 0, 1, 0, 0, 9, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
		return append(f, 0, 7, 0, 9, 0, 8, 0, 0)
	}
	six := func(proto byte) []byte {
		f := append(make([]byte, 12), 0x86, 0xdd, 0x6f, 0xf1, 2, 3, 0, 8, proto, 9)
		return append(append(f, make([]byte, 32)...), 0, 7, 0, 9, 0, 8, 0, 0)
	}
	for _, tt := range []struct {
		frame []byte
		kind  uint8
		want  [2]byte
	}{
		{four(17), flowtable.ReplyICMP4, [2]byte{3, 3}}, {four(2), flowtable.ReplyICMP4, [2]byte{3, 1}}, {four(17), flowtable.ReplyICMP4Error, [2]byte{3, 1}},
		{six(17), flowtable.ReplyICMP6, [2]byte{1, 4}}, {six(59), flowtable.ReplyICMP6, [2]byte{1, 1}}, {six(17), flowtable.ReplyICMP6Error, [2]byte{1, 1}},
	} {
		got := about(tt.frame, Order{Kind: tt.kind})
		l := parse.Locate(got, uint32(len(got)))
		if l.L4 == 0 || [2]byte(got[l.L4:]) != tt.want {
			t.Errorf("kind %d about %x: %x", tt.kind, tt.frame, got)
			continue
		}
		if l.Type == typeIPv4 && got[15] != 0 || l.Type == typeIPv6 && binary.BigEndian.Uint32(got[14:]) != 0x6fc00000 {
			t.Errorf("differentiated services of %x in %x", tt.frame, got)
		}
	}
}

// sctpFrame is a frame of SCTP chunks.
func sctpFrame(tag uint32, chunks ...byte) []byte {
	f := append(make([]byte, 12), 8, 0, 0x45, 0, 0, byte(32+len(chunks)), 0, 1, 0, 0, 9, 132, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 9)
	f = append(binary.BigEndian.AppendUint32(f, tag), 0, 0, 0, 0)
	return append(f, chunks...)
}

// TestAbort: an INIT is answered with the tag that it names, all else with its own, and what ends an association
// with nothing.
func TestAbort(t *testing.T) {
	o := Order{Kind: flowtable.ReplySCTP}
	for _, tt := range []struct {
		frame []byte
		want  []byte
	}{
		{sctpFrame(0, 1, 0, 0, 20, 0xa, 0xb, 0xc, 0xd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), []byte{0xa, 0xb, 0xc, 0xd, 6, 0, 0, 4}},
		{sctpFrame(0x01020304, 3, 0, 0, 4), []byte{1, 2, 3, 4, 6, 1, 0, 4}},
		{sctpFrame(0x01020304, 3, 0, 0, 4, 6, 0, 0, 4), nil},
		{sctpFrame(0x01020304, 14, 0, 0, 4), nil},
		{sctpFrame(0x01020304, 3, 0, 0, 0), []byte{1, 2, 3, 4, 6, 1, 0, 4}},
	} {
		got := about(tt.frame, o)
		if tt.want == nil {
			if len(got) != 0 {
				t.Errorf("%x is answered by %x", tt.frame, got)
			}
			continue
		}
		if len(got) != 50 || !bytes.Equal(got[38:42], tt.want[:4]) || !bytes.Equal(got[46:], tt.want[4:]) || binary.BigEndian.Uint32(got[34:]) != 9<<16|7 {
			t.Errorf("%x is answered by %x", tt.frame, got)
		}
	}
}

// TestNoAlloc: a reply costs no allocation.
func TestNoAlloc(t *testing.T) {
	frame, made := sctpFrame(1, 3, 0, 0, 4), make([]byte, Max)
	if n := testing.AllocsPerRun(100, func() {
		for _, k := range kinds {
			Make(made, frame, uint32(len(frame)), Order{Kind: k})
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzMake finds no frame whose reply panics, is longer than it may be, or is not sound.
func FuzzMake(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 100 {
		f.Add(parsetest.Frame(r), uint8(i), i%2 == 0, uint32(i))
		f.Add(parsetest.Damage(r, parsetest.Frame(r)), uint8(i), i%3 == 0, uint32(0))
	}
	f.Fuzz(func(t *testing.T, frame []byte, kind uint8, turned bool, mtu uint32) {
		o := Order{kind, turned, mtu}
		got := about(frame, o)
		if len(got) == 0 {
			return
		}
		l := parse.Locate(got, uint32(len(got)))
		if l.Flaw != 0 || l.L4 == 0 || int(l.End) != len(got) {
			t.Fatalf("%+v of %x is %x: %+v", o, frame, got, l)
		}
		if err := parsetest.Sound(got, int(l.L3), int(l.L4), int(l.End), l.Proto); err != nil {
			t.Fatalf("%+v of %x is %x: %v", o, frame, got, err)
		}
	})
}
