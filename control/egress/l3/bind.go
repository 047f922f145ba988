package l3

import (
	"encoding/binary"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// datagramNames are kinds of datagrams, as WireGuard numbers its messages; 0 is none.
var datagramNames = [...]string{"", "initiation", "response", "cookie", "data"}

// A bind counts what comes in by its sockets, and keeps from WireGuard what is none
// of its messages.
type bind struct {
	conn.Bind
	counts [len(datagramNames)]atomic.Uint64
	port   atomic.Uint32
}

// Open opens the sockets.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, actual, err := b.Bind.Open(port)
	b.port.Store(uint32(actual))
	for i, receive := range fns {
		fns[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := receive(packets, sizes, eps)
			for j := range n {
				if sizes[j] > 0 && b.count(packets[j][:sizes[j]]) == 0 {
					sizes[j] = 0 // which says that there is none
				}
			}
			return n, err
		}
	}
	return fns, actual, err
}

// count counts a datagram, and returns its kind: 0 is none.
func (b *bind) count(p []byte) uint32 {
	kind := uint32(0)
	if len(p) >= 4 {
		kind = binary.LittleEndian.Uint32(p)
	}
	ok := false
	switch kind {
	case device.MessageInitiationType:
		ok = len(p) == device.MessageInitiationSize
	case device.MessageResponseType:
		ok = len(p) == device.MessageResponseSize
	case device.MessageCookieReplyType:
		ok = len(p) == device.MessageCookieReplySize
	case device.MessageTransportType:
		ok = len(p) >= device.MessageTransportSize
	}
	if !ok {
		kind = 0
	}
	b.counts[kind].Add(1)
	return kind
}
