package l3

import (
	"fmt"
	"sync/atomic"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/device"
)

// Reasons why WireGuard refused what came, and what it says of no refusal.
const (
	badHandshake = iota // a stranger's, for another end, or one of before
	badSource           // the packet's source is no address of the peer
	badVersion
	keepalive
	refusals
)

// said are what the library says when it refuses something. It counts nothing
// itself. A test looks whether it still says them.
var said = map[string]int{
	"Received packet with invalid mac1":                  badHandshake,
	"Received invalid initiation message from %s":        badHandshake,
	"Received invalid response message from %s":          badHandshake,
	"IPv4 packet with disallowed source address from %v": badSource,
	"IPv6 packet with disallowed source address from %v": badSource,
	"Packet with invalid IP version from %v":             badVersion,
	"%v - Receiving keepalive packet":                    keepalive,
}

// A refused counts what WireGuard refuses.
type refused [refusals]atomic.Uint64

// logger is what the library logs by. What it says is for debugging: what matters
// to people a Tunnel says itself.
func (r *refused) logger(log *zap.Logger) *device.Logger {
	say := func(format string, args ...any) {
		if why, ok := said[format]; ok {
			r[why].Add(1)
		}
		if log.Core().Enabled(zap.DebugLevel) {
			log.Debug("wireguard: " + fmt.Sprintf(format, args...))
		}
	}
	return &device.Logger{Verbosef: say, Errorf: say}
}
