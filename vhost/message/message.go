// Package message is the vhost-user wire: the messages that a front end (a
// virtual machine monitor or a DPDK application, which owns memory and rings)
// and a back end (the switch) exchange on a Unix stream socket. Both ends use
// it; a Conn says which end it is.
//
// It covers the front-end requests and their replies. The second socket, on
// which a back end sends requests of its own (protocol feature BACKEND_REQ),
// numbers its requests differently and is not spoken here.
//
// The peer is not trusted. Whatever Read and the Unmarshal functions return has
// the size that the specification gives it, counts and flags in range, and
// ranges of memory that do not wrap; descriptors are as many as the request
// may carry and have one owner. What needs knowledge of the device (does the
// queue exist, is the feature negotiated, is the file large enough) is left to
// the caller.
//
// Source: the vhost-user protocol as QEMU publishes it, docs/interop/vhost-user.rst,
// whose sections the comments name. Numbers are in the machine's byte order by
// the specification, which is little endian on every machine that we run on.
package message

import (
	"encoding/binary"
	"fmt"
)

const (
	// HeaderSize is the length in bytes of what precedes every payload.
	HeaderSize = 12

	// MaxPayload bounds the payload in bytes. The longest that we decode is a
	// configuration space of 268 bytes; the longest of all requests, a crypto
	// session, has some 1,200.
	MaxPayload = 4096

	// MaxFDs bounds the descriptors of one message: one for each memory region.
	MaxFDs = 8
)

// Flags is the second word of the header ("Message Specification", Header).
type Flags uint32

const (
	// Version is the only version of the protocol, in the bits of VersionMask.
	Version Flags = 1

	// VersionMask selects the version.
	VersionMask Flags = 0x3

	// FlagReply marks a message from back end to front end.
	FlagReply Flags = 0x4

	// FlagNeedReply asks the back end to answer a request that has no answer of
	// its own. Legal once REPLY_ACK is negotiated.
	FlagNeedReply Flags = 0x8
)

// A Header precedes every payload on the wire.
//
//	0  request  uint32
//	4  flags    uint32
//	8  size     uint32  bytes of payload that follow
type Header struct {
	Request Request
	Flags   Flags
	Size    uint32
}

// MarshalHeader returns h as the wire has it, with no check: tests of hostile
// peers build wrong headers with it too.
func MarshalHeader(h Header) []byte {
	b := make([]byte, 0, HeaderSize)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Request))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Flags))
	return binary.LittleEndian.AppendUint32(b, h.Size)
}

// UnmarshalHeader reads a header of exactly HeaderSize bytes. Its errors are
// ErrSize, ErrVersion and ErrOversize.
func UnmarshalHeader(b []byte) (Header, error) {
	if err := exactly("header", b, HeaderSize); err != nil {
		return Header{}, err
	}
	h := Header{
		Request: Request(binary.LittleEndian.Uint32(b)),
		Flags:   Flags(binary.LittleEndian.Uint32(b[4:])),
		Size:    binary.LittleEndian.Uint32(b[8:]),
	}
	if v := h.Flags & VersionMask; v != Version {
		return Header{}, fmt.Errorf("%v: %w %d, want %d: is the peer a vhost-user socket?", h.Request, ErrVersion, v, Version)
	}
	if h.Size > MaxPayload {
		return Header{}, fmt.Errorf("%v: %w: %d bytes, at most %d", h.Request, ErrOversize, h.Size, MaxPayload)
	}
	return h, nil
}

// A Message is a request or a reply.
//
// A message that Read returned owns the descriptors that came with it, until
// they are taken or closed. Copies of a Message share them: what one copy takes
// is gone from all. One goroutine at a time uses a message and its copies.
type Message struct {
	Request Request
	Flags   Flags  // as read; Write sets version and direction itself
	Payload []byte // the message's own; no later Read writes to it

	files []FD // as received; NoFD where taken
}

// NeedReply reports whether the front end waits for an answer although the
// request has none of its own.
func (m Message) NeedReply() bool { return m.Flags&FlagNeedReply != 0 }

// Reply returns the answer to m with the given payload. Its flags are the
// version and FlagReply and nothing else, which DPDK insists on.
func (m Message) Reply(payload []byte) Message {
	return Message{Request: m.Request, Flags: Version | FlagReply, Payload: payload}
}

// Ack returns the answer to m that REPLY_ACK asks for: zero if the request
// succeeded, one if not.
func (m Message) Ack(ok bool) Message {
	if ok {
		return m.Reply(MarshalU64(0))
	}
	return m.Reply(MarshalU64(1))
}

// Files returns how many descriptors came with m, taken or not.
func (m Message) Files() int { return len(m.files) }

// TakeFile makes the caller the owner of descriptor i, counted from zero. It
// returns NoFD if i is out of range or taken before.
func (m Message) TakeFile(i int) FD {
	if i < 0 || i >= len(m.files) {
		return NoFD
	}
	fd := m.files[i]
	m.files[i] = NoFD
	return fd
}

// Close closes the descriptors that nobody took. A second Close does nothing.
func (m Message) Close() {
	for i := range m.files {
		m.TakeFile(i).Close()
	}
}
