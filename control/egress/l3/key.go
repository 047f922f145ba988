package l3

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

// A Key is a public or private key of Curve25519.
type Key [32]byte

// ErrInline says that a private key stands where the name of its file should be. Its text
// has no part of the key, for it ends up in logs.
var ErrInline = errors.New("it is given itself, and not its file (make another: this one may have been seen)")

// NewKey returns a private key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // it never fails
	k[0] &= 248            // RFC 7748 5
	k[31] = k[31]&127 | 64
	return k
}

// ParseKey reads a key as `wg` writes it.
func ParseKey(text string) (Key, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != len(Key{}) {
		return Key{}, fmt.Errorf("%q is no key: want 44 characters, as `millrace egress genkey` and pubkey print them", shortened(text))
	}
	return Key(b), nil
}

// shortened is the beginning of text: if that is a key after all, it is not told.
func shortened(text string) string {
	if len(text) > 8 {
		return text[:8] + "..."
	}
	return text
}

// ReadKey reads a private key's file.
func ReadKey(file string) (Key, error) {
	if _, err := ParseKey(file); err == nil {
		return Key{}, fmt.Errorf("read private key: %w", ErrInline)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return Key{}, fmt.Errorf("read private key: %w", err)
	}
	k, err := ParseKey(strings.TrimSpace(string(b)))
	if err != nil {
		return Key{}, fmt.Errorf("read private key %s: %w", file, err)
	}
	return k, nil
}

// Public is the public key of a private one.
func (k Key) Public() Key {
	private, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic(err) // any 32 bytes are one
	}
	return Key(private.PublicKey().Bytes())
}

// String is the key as `wg` writes it.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }
