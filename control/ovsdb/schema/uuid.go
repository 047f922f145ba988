package schema

import (
	"crypto/rand"
	"encoding/hex"
)

// A UUID is 16 bytes in network order. As a string it costs no copy as the key
// of a map or the value of an atom.
type UUID string

// ZeroUUID is the default value of a column that must hold a UUID.
const ZeroUUID UUID = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// NewUUID returns a random UUID (RFC 4122, version 4).
func NewUUID() UUID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return UUID(b[:])
}

// ParseUUID reads the 36 character form.
func ParseUUID(s string) (UUID, bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return "", false
	}
	var text [32]byte
	n := copy(text[:], s[:8])
	n += copy(text[n:], s[9:13])
	n += copy(text[n:], s[14:18])
	n += copy(text[n:], s[19:23])
	copy(text[n:], s[24:])
	var b [16]byte
	if _, err := hex.Decode(b[:], text[:]); err != nil {
		return "", false
	}
	return UUID(b[:]), true
}

// Append adds the 36 character form to b.
func (u UUID) Append(b []byte) []byte {
	const digits = "0123456789abcdef"
	for i := range len(u) {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, digits[u[i]>>4], digits[u[i]&15])
	}
	return b
}

func (u UUID) String() string { return string(u.Append(nil)) }
