package dataplane

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"millrace/dataplane/parse"
	"millrace/dataplane/reply"
	"millrace/flowtable"
)

// reply is ActReply from the bytes: what may be answered is told by the frame, and what rules see of
// the reply is read from it.
func (w *plainWalk) reply(a *flowtable.Action) {
	o := reply.Order{Kind: a.Table, MTU: uint32(a.Value)}
	k := w.frame.key(0)
	if o.Kind == flowtable.ReplyReject {
		o.Kind, o.Turned = rejection(&k), true
	}
	seen := 0
	if w.ctx[flowtable.WordIn]>>16&flowtable.TagPresent != 0 {
		seen = 1
	}
	if w.made || len(w.frame.tags) > seen || !plainAnswerable(&k, &w.came, o) {
		w.last = flowtable.DropNoReply
		return
	}
	w.copied(func() {
		var made [reply.Max]byte
		frame := w.frame.bytes()
		n := reply.Make(made[:], frame[:min(len(frame), reply.Quoted)], uint32(len(frame)), o)
		if n == 0 {
			w.last = flowtable.DropNoReply
			return
		}
		w.frame, w.made = frameOf(made[:n]), true
		key := w.frame.key(uint32(w.ctx[flowtable.WordIn] >> 32))
		copy(w.ctx[:], key[:])
		w.ctx[flowtable.WordFlags] &^= 0xffffffff
		clear(w.ctx[flowtable.WordCT:])
		w.list(a.Nested)
	})
}

// rejection is how a packet is rejected.
func rejection(k *flowtable.Key) uint8 {
	switch k[flowtable.WordSrc] >> 8 & 0xff {
	case 6:
		return flowtable.ReplyTCP
	case 132:
		return flowtable.ReplySCTP
	}
	if k[flowtable.WordIn]&0xffff == 0x86dd {
		return flowtable.ReplyICMP6
	}
	return flowtable.ReplyICMP4
}

// plainAnswerable says which packets may be answered.
func plainAnswerable(k, came *flowtable.Key, o reply.Order) bool {
	kind, proto := k[flowtable.WordIn]&0xffff, k[flowtable.WordSrc]>>8&0xff
	isFragment, isLater := k[flowtable.WordL4]>>16&1 != 0, k[flowtable.WordL4]>>17&1 != 0
	icmp := k[flowtable.WordL4] >> 48
	switch o.Kind {
	case flowtable.ReplyICMP4, flowtable.ReplyICMP4Error:
		if kind != 0x0800 {
			return false
		}
	case flowtable.ReplyICMP6, flowtable.ReplyICMP6Error:
		if kind != 0x86dd {
			return false
		}
	case flowtable.ReplyTCP:
		if proto != 6 || isFragment || k[flowtable.WordDst]&4 != 0 {
			return false
		}
	default:
		if proto != 132 || isFragment {
			return false
		}
	}
	src, dst := byte(k[flowtable.WordIP4]>>56), byte(k[flowtable.WordIP4]>>24)
	if kind == 0x86dd {
		src, dst = byte(k[flowtable.WordIP6Src]>>56), byte(k[flowtable.WordIP6Dst]>>56)
		if src == 0xff || dst == 0xff || k[flowtable.WordIP6Src]|k[flowtable.WordIP6SrcLow] == 0 {
			return false
		}
	} else if kind != 0x0800 || src == 0 || src == 127 || src >= 224 || dst >= 224 {
		return false
	}
	if isLater || (k[flowtable.WordDst]|came[flowtable.WordDst])>>56&1 != 0 || o.Turned && k[flowtable.WordSrc]>>56&1 != 0 {
		return false
	}
	switch proto {
	case 1:
		return icmp != 3 && icmp != 4 && icmp != 5 && icmp != 11 && icmp != 12
	case 58:
		return icmp >= 128 && icmp != 137
	}
	return true
}

// mayBeReply reports whether a frame without tags is as simple as replies are: IP without options, and a
// header that is known.
func mayBeReply(frame []byte) bool {
	l := parse.Locate(frame, uint32(len(frame)))
	return l.L3 == 14 && l.Frag == 0 && (l.Type == 0x0800 && l.L4 == 34 || l.Type == 0x86dd && l.L4 == 54)
}

// rewritten is a frame with bits of a word written into it, and all checksums made anew.
func rewritten(frame []byte, word uint8, mask, value uint64) []byte {
	f := bytes.Clone(frame)
	six := f[12] == 0x86
	l4 := 34
	if six {
		l4 = 54
	}
	proto := f[23]
	if six {
		proto = f[20]
	}
	// put writes n bits of the word, from bit low on, to the bytes at off, as their lowest ones.
	put := func(off, bytes, low, n int) {
		m := mask >> low & (1<<n - 1)
		for i := range bytes {
			shift := 8 * (bytes - 1 - i)
			b := byte(m >> shift)
			f[off+i] = f[off+i]&^b | byte(value>>low>>shift)&b
		}
	}
	switch {
	case word == flowtable.WordDst:
		put(0, 6, 16, 48)
	case word == flowtable.WordSrc && six:
		put(6, 6, 16, 48)
		put(21, 1, 0, 8)
	case word == flowtable.WordSrc:
		put(6, 6, 16, 48)
		put(22, 1, 0, 8)
	case word == flowtable.WordIP4 && six:
		put(14, 4, 0, 20)
	case word == flowtable.WordIP4:
		put(26, 4, 32, 32)
		put(30, 4, 0, 32)
	case word == flowtable.WordL4:
		if proto == 1 || proto == 58 {
			put(l4, 1, 48, 8)
			put(l4+1, 1, 32, 8)
		} else {
			put(l4, 2, 48, 16)
			put(l4+2, 2, 32, 16)
		}
		if six {
			class := value >> 24 & 0xff
			was := binary.BigEndian.Uint32(f[14:])
			m := uint32(mask>>24&0xff) << 20
			binary.BigEndian.PutUint32(f[14:], was&^m|uint32(class)<<20&m)
		} else {
			put(15, 1, 24, 8)
		}
	case word >= flowtable.WordIP6Src && word <= flowtable.WordIP6DstLow && six:
		for i := range 8 {
			b := byte(mask >> (56 - 8*i))
			at := 22 + 8*int(word-flowtable.WordIP6Src) + i
			f[at] = f[at]&^b | byte(value>>(56-8*i))&b
		}
	}
	resum(f, proto, l4, six)
	return f
}

// resum makes all checksums of a frame anew.
func resum(f []byte, proto byte, l4 int, six bool) {
	end, addresses := 14+int(binary.BigEndian.Uint16(f[16:])), f[26:34]
	if six {
		end, addresses = 54+int(binary.BigEndian.Uint16(f[18:])), f[22:54]
	} else {
		copy(f[24:], []byte{0, 0})
		binary.BigEndian.PutUint16(f[24:], folded(sum(0, f[14:34])))
	}
	body, at, s := f[l4:end], 2, uint32(0)
	switch proto {
	case 132:
		copy(body[8:], []byte{0, 0, 0, 0})
		binary.LittleEndian.PutUint32(body[8:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
		return
	case 6:
		at = 16
	case 17:
		at = 6
	}
	if proto != 1 {
		s = sum(uint32(proto)+uint32(len(body)), addresses)
	}
	copy(body[at:], []byte{0, 0})
	binary.BigEndian.PutUint16(body[at:], folded(sum(s, body)))
}
