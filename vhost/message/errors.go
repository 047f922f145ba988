package message

import (
	"errors"
	"fmt"
)

// The errors of this package, for callers that branch or count. When Read has
// returned one of them the connection is of no more use; ErrSize and ErrValue of
// an Unmarshal function leave it usable.
var (
	// ErrPeerClosed is the peer's orderly end: it closed, or died, between two
	// messages.
	ErrPeerClosed = errors.New("peer closed the vhost-user socket")

	// ErrTruncated is an end in the middle of a message.
	ErrTruncated = errors.New("message cut short")

	// ErrVersion is a header whose version is not 1.
	ErrVersion = errors.New("unknown protocol version")

	// ErrDirection is a reply where a request is due, or a request where a reply
	// is due.
	ErrDirection = errors.New("message in the wrong direction")

	// ErrOversize is a payload longer than MaxPayload.
	ErrOversize = errors.New("payload too long")

	// ErrFDCount is a message with more or fewer descriptors than its request
	// may carry, or with descriptors elsewhere than at its first byte.
	ErrFDCount = errors.New("wrong number of descriptors")

	// ErrSize is a payload that is not as long as its request's is.
	ErrSize = errors.New("wrong payload size")

	// ErrValue is a payload with a value that the specification rules out.
	ErrValue = errors.New("value out of range")
)

// exactly checks that b, which holds a what, has size bytes.
func exactly(what string, b []byte, size int) error {
	if len(b) != size {
		return fmt.Errorf("%s: %w: %d bytes, want %d", what, ErrSize, len(b), size)
	}
	return nil
}
