package l3

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/tun"
)

// MTUs of tunnels. The default fits through links of 1500 bytes, whatever the
// version of IP outside.
const (
	DefaultMTU = 1420
	MinMTU     = 1280 // IPv6 needs it
	MaxMTU     = 9000
)

// A Config is what a Tunnel is made of.
type Config struct {
	Load     func() (Setup, error) // asked twice a second: keys and peers as of now
	Use      func([]Peer) error    // called when Load has other peers, before they are known; may be nil
	Port     uint16                // UDP port to listen at; 0: any
	Own      []netip.Addr          // addresses of this end
	MTU      int                   // of packets inside
	Inner    tun.Device            // what packets are delivered to; nil: nothing. The Tunnel closes it
	Filter   Filter                //
	Resolver *net.Resolver         // for names of endpoints; nil: the host's
	Log      *zap.Logger
}

// A Setup is what may change while a Tunnel runs.
type Setup struct {
	PrivateKey Key
	Peers      []Peer
}

// A Peer is another end.
type Peer struct {
	Name     string
	Keys     []Key          // public; more than one while they change
	Endpoint string         // HOST:PORT to dial; empty: it dials
	Prefixes []netip.Prefix // its addresses
	Probe    netip.Addr     // that of its end, if it is to be asked for signs of life
	Patience time.Duration  // after how long without a word it counts as gone
}

// same reports whether two peers are set up alike.
func (p Peer) same(q Peer) bool {
	return p.Name == q.Name && slices.Equal(p.Keys, q.Keys) && p.Endpoint == q.Endpoint && slices.Equal(p.Prefixes, q.Prefixes) &&
		p.Probe == q.Probe && p.Patience == q.Patience
}

// CheckOwn says what is wrong with the addresses of an end. Packets to others would
// not pass.
func CheckOwn(own []netip.Addr) error {
	for i, a := range own {
		switch {
		case !a.IsValid(), a.Zone() != "", a.Is4In6(), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return fmt.Errorf("%s is no address that an end of a tunnel can have", a)
		case slices.Contains(own[:i], a):
			return fmt.Errorf("%s is there twice", a)
		}
	}
	return nil
}

// Check says what is wrong with a setup: what one peer has, no other may have.
func (s Setup) Check() error {
	keys, prefixes, names := map[Key]string{s.PrivateKey.Public(): "this end"}, map[netip.Prefix]string{}, map[string]bool{}
	for _, p := range s.Peers {
		if p.Name == "" || names[p.Name] {
			return fmt.Errorf("name %q: each peer needs one of its own", p.Name)
		}
		names[p.Name] = true
		if len(p.Keys) == 0 || len(p.Prefixes) == 0 {
			return fmt.Errorf("peer %s: it needs a key and a prefix", p.Name)
		}
		if p.Endpoint != "" {
			if _, _, err := net.SplitHostPort(p.Endpoint); err != nil {
				return fmt.Errorf("peer %s: endpoint: %w", p.Name, err)
			}
		}
		for _, k := range p.Keys {
			if other, taken := keys[k]; taken {
				return fmt.Errorf("peer %s: key %s is that of %s", p.Name, k, other)
			}
			keys[k] = p.Name
		}
		for _, prefix := range p.Prefixes {
			if !prefix.IsValid() {
				return fmt.Errorf("peer %s: a prefix is empty", p.Name)
			}
			if prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				return fmt.Errorf("peer %s: prefix %s has bits behind its length; did you mean %s?", p.Name, prefix, prefix.Masked())
			}
			if other, taken := prefixes[prefix]; taken {
				return fmt.Errorf("peer %s: prefix %s is that of %s", p.Name, prefix, other)
			}
			prefixes[prefix] = p.Name
		}
	}
	return nil
}
