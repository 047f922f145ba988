package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/dataplane/sys"
)

// Bounds of a transaction.
const (
	transactBytes   = 256 << 20 // as it comes over the wire: some two million rules
	transactChanges = 4 << 20
	transactMax     = 8 // that are under way at a time
)

// A spool keeps messages, as they come or go over the wire, outside of the Go
// heap, whose collector would disturb the workers. Those of a transaction until
// there are no more: only then is the flow table locked, so a client that is slow,
// or dies, holds up nobody. Those of a listing for the same reason, if the switch
// must not be kept waiting.
type spool struct {
	mapping *sys.Mapping
	mem     []byte // length (4 bytes) and bytes of each message
	limit   int    // of changes; 0 for listings
	used    int
	changes int
	partial bool
	full    bool // a message found no room
}

// newSpool returns a spool that has room for so many bytes and changes.
func newSpool(bytes, changes int) (*spool, error) {
	m, err := sys.MapAnonymous(bytes)
	if err != nil {
		return nil, err
	}
	return &spool{mapping: m, mem: m.Bytes(), limit: changes}, nil
}

// close frees the memory.
func (s *spool) close() error {
	s.mem = nil
	return s.mapping.Close()
}

// spareSpools are spools of transactions that wait for the next ones. Each unmapping stops all
// threads of the process for a moment, workers among them, and most transactions are small.
type spareSpools chan *spool

// Bounds of spare spools: how many, and how much memory one may have touched.
const (
	sparesMax  = 2
	spareBytes = 64 << 10
)

// take returns an empty spool.
func (c spareSpools) take() (*spool, error) {
	select {
	case s := <-c:
		return s, nil
	default:
		return newSpool(transactBytes, transactChanges)
	}
}

// give takes a spool back.
func (c spareSpools) give(s *spool) error {
	if s.used > spareBytes {
		return s.close()
	}
	*s = spool{mapping: s.mapping, mem: s.mem, limit: s.limit}
	select {
	case c <- s:
		return nil
	default:
		return s.close()
	}
}

// close frees the spare spools. None is taken or given any more.
func (c spareSpools) close() error {
	var errs []error
	for {
		select {
		case s := <-c:
			errs = append(errs, s.close())
		default:
			return errors.Join(errs...)
		}
	}
}

// take keeps a message.
func (s *spool) take(data mem.BufferSlice) {
	if at := s.room(data.Len()); at != nil {
		data.CopyTo(at)
	}
}

// room makes room for a message of n bytes, or returns nil.
func (s *spool) room(n int) []byte {
	if n > len(s.mem)-s.used-4 {
		s.full = true
		return nil
	}
	at := s.mem[s.used:]
	binary.LittleEndian.PutUint32(at, uint32(n))
	s.used += 4 + n
	return at[4 : 4+n]
}

// fill takes messages until the client has sent the last one.
func (s *spool) fill(stream grpc.ServerStream) error {
	for first := true; ; first = false {
		start := s.used
		err := stream.RecvMsg(s)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.full {
			return api.Invalid("changes", fmt.Sprintf("changes: more than %d bytes in one transaction: make several", len(s.mem)))
		}
		n, partial, err := flowapi.Count(s.mem[start+4 : s.used])
		if err != nil {
			return api.Invalid("changes", "changes: "+err.Error())
		}
		if s.changes += n; s.changes > s.limit {
			return api.Invalid("changes", fmt.Sprintf("changes: more than %d in one transaction: make several", s.limit))
		}
		if first {
			s.partial = partial
		}
	}
}

// messages calls f with each message until it returns an error.
func (s *spool) messages(f func([]byte) error) error {
	for b := s.mem[:s.used]; len(b) > 0; {
		n := int(binary.LittleEndian.Uint32(b))
		if err := f(b[4 : 4+n]); err != nil {
			return err
		}
		b = b[4+n:]
	}
	return nil
}

// send sends all messages.
func (s *spool) send(stream grpc.ServerStream) error {
	return s.messages(func(b []byte) error { return stream.SendMsg(encoded(slices.Clone(b))) })
}
