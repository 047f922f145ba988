package flowapi

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"
)

// Wire types, as they stand in the low bits of a tag (protobuf's encoding guide).
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
)

// fields are the fields of an encoded message, read one after the other. What is
// unknown is skipped, as protobuf wants it.
type fields struct {
	rest []byte
	bad  bool // what is left is no message

	tag uint32 // number of the field << 3 | wire type
	u   uint64 // value of varint and fixed64
	b   []byte // value of bytes
}

// next reads a field, and reports whether there was one.
func (f *fields) next() bool {
	if len(f.rest) == 0 {
		return false
	}
	num, typ, n := protowire.ConsumeTag(f.rest)
	if n < 0 || num > protowire.MaxValidNumber { // a larger one would be another field's tag, in 32 bits
		f.bad = true
		return false
	}
	f.tag, f.rest = uint32(num)<<3|uint32(typ), f.rest[n:]
	switch typ {
	case protowire.VarintType:
		f.u, n = protowire.ConsumeVarint(f.rest)
	case protowire.Fixed64Type:
		f.u, n = protowire.ConsumeFixed64(f.rest)
	case protowire.BytesType:
		f.b, n = protowire.ConsumeBytes(f.rest)
	default:
		n = protowire.ConsumeFieldValue(num, typ, f.rest)
	}
	if n < 0 {
		f.bad = true
		return false
	}
	f.rest = f.rest[n:]
	return true
}

// appendFixed appends the numbers of a packed list of fixed64. It reports false if
// there is a part of one left.
func appendFixed(out []uint64, b []byte) ([]uint64, bool) {
	for ; len(b) >= 8; b = b[8:] {
		out = append(out, binary.LittleEndian.Uint64(b))
	}
	return out, len(b) == 0
}

// appendVarints appends the numbers of a packed list of varints.
func appendVarints(out []uint64, b []byte) ([]uint64, bool) {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return out, false
		}
		out, b = append(out, v), b[n:]
	}
	return out, true
}
