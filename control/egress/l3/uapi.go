package l3

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// WireGuard is set up and asked by text: https://www.wireguard.com/xplatform/.

// A session is what WireGuard knows of a key of a peer.
type session struct {
	endpoint       string
	handshake      time.Time // zero: never
	sent, received uint64    // bytes
}

// sessions asks for all.
func sessions(d *device.Device) (map[Key]session, error) {
	text, err := d.IpcGet()
	if err != nil {
		return nil, fmt.Errorf("ask WireGuard for its peers: %w", err)
	}
	all := map[Key]session{}
	var key Key
	var s session
	known := false
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if name == "public_key" {
			if known {
				all[key] = s
			}
			_, _ = hex.Decode(key[:], []byte(value))
			s, known = session{}, true
			continue
		}
		s.read(name, value)
	}
	if known {
		all[key] = s
	}
	return all, nil
}

func (s *session) read(name, value string) {
	n, _ := strconv.ParseInt(value, 10, 64)
	switch name {
	case "endpoint":
		s.endpoint = value
	case "last_handshake_time_sec":
		if n != 0 {
			s.handshake = time.Unix(n, 0)
		}
	case "last_handshake_time_nsec":
		if !s.handshake.IsZero() {
			s.handshake = s.handshake.Add(time.Duration(n))
		}
	case "tx_bytes":
		s.sent = uint64(n)
	case "rx_bytes":
		s.received = uint64(n)
	}
}

// A request is a change.
type request struct{ strings.Builder }

func (r *request) set(name string, value any) { fmt.Fprintf(r, "%s=%v\n", name, value) }

func (r *request) key(name string, k Key) { r.set(name, hex.EncodeToString(k[:])) }

// peer sets up a peer, all of whose addresses are those of its owner-th key.
func (r *request) peer(p Peer, owner int) {
	for i, k := range p.Keys {
		r.key("public_key", k)
		r.set("replace_allowed_ips", true)
		if i != owner {
			continue
		}
		for _, prefix := range p.Prefixes {
			r.set("allowed_ip", prefix)
		}
	}
}

func (r *request) remove(k Key) {
	r.key("public_key", k)
	r.set("remove", true)
}
