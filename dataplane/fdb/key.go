package fdb

import (
	"encoding/binary"
	"fmt"
)

const (
	macBits   = 48
	macMask   = 1<<macBits - 1
	vlanMask  = 1<<12 - 1
	keyInUse  = 1 << 63
	groupBit  = 1 // IEEE 802-2014 8.2.2, I/G: lowest bit of the first byte
	macLength = 6
)

// A Key names a station: MAC and VLAN, packed as the package comment shows.
type Key uint64

// MakeKey makes a key of the low 48 bits of mac, first byte of the wire
// lowest, and the low 12 bits of vlan. That is the order of a little-endian
// load from a frame, whose upper bits are ignored, so no byte is shuffled:
//
//	dst := MakeKey(binary.LittleEndian.Uint64(frame[0:]), vlan)
//	src := MakeKey(binary.LittleEndian.Uint64(frame[6:]), vlan)
func MakeKey(mac uint64, vlan uint16) Key {
	return Key(mac&macMask | uint64(vlan&vlanMask)<<macBits | keyInUse)
}

// KeyOf makes a key of a MAC as bytes. It is for control; frames have MakeKey.
func KeyOf(mac [6]byte, vlan uint16) Key {
	var b [8]byte
	copy(b[:], mac[:])
	return MakeKey(binary.LittleEndian.Uint64(b[:]), vlan)
}

// MAC returns the address in the order of the wire.
func (k Key) MAC() [6]byte {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(k))
	return [6]byte(b[:macLength])
}

// VLAN returns the VLAN, 0 to 4095.
func (k Key) VLAN() uint16 { return uint16(k >> macBits & vlanMask) }

// Group tells a broadcast or multicast address.
func (k Key) Group() bool { return k&groupBit != 0 }

// String shows a key as 02:00:00:00:00:01@100.
func (k Key) String() string {
	m := k.MAC()
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x@%d", m[0], m[1], m[2], m[3], m[4], m[5], k.VLAN())
}

// A value is the second word of an entry, packed as the package comment shows.
type value uint64

const (
	seenShift   = 32
	seenMask    = 1<<31 - 1
	valueStatic = 1 << 63
)

// makeValue makes the value of a learned entry.
func makeValue(port, now uint32) value {
	return value(port) | value(now&seenMask)<<seenShift
}

// port returns where the station is.
func (v value) port() uint32 { return uint32(v) }

// seen returns the second when the station was last heard; 0 if static.
func (v value) seen() uint32 { return uint32(v >> seenShift & seenMask) }

// static tells an entry that only control changes.
func (v value) static() bool { return v&valueStatic != 0 }

// age returns the seconds since the station was heard. Workers' clocks may be
// a second apart: what was heard after now is new.
func (v value) age(now uint32) uint32 {
	if v.static() || v.seen() >= now {
		return 0
	}
	return now - v.seen()
}
