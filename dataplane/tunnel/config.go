package tunnel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// A Kind is a protocol, named as in Interface.type of the Open_vSwitch schema.
type Kind string

// The kinds.
const (
	Geneve Kind = "geneve"
	VXLAN  Kind = "vxlan"
)

// port is the kind's UDP port, as registered.
func (k Kind) port() uint16 {
	if k == Geneve {
		return 6081
	}
	return 4789
}

// IsKind reports whether a port type is a kind of tunnel.
func IsKind(portType string) bool { return portType == string(Geneve) || portType == string(VXLAN) }

// ErrOption is wrapped by all errors of Parse.
var ErrOption = errors.New("bad tunnel option")

// A Key is a network identifier, or says that each frame has its own.
type Key struct {
	ID   uint32 // 24 bits
	Flow bool
}

// String is the key as an option has it.
func (k Key) String() string {
	if k.Flow {
		return flowValue
	}
	return strconv.FormatUint(uint64(k.ID), 10)
}

// A Config says what a tunnel port shall be. It is comparable.
type Config struct {
	Kind   Kind
	Remote netip.Addr // of the other end; invalid: each frame says
	Local  netip.Addr // invalid: any of the host's on the way there, or each frame says
	Port   uint16     // UDP port of both ends

	In, Out Key

	RemoteFlow, LocalFlow bool // each frame has its own

	Checksum   bool  // UDP checksum over IPv4; over IPv6 there always is one
	TOS        uint8 // DSCP of the outer header, in the upper six bits
	InheritTOS bool  // it is the inner one instead
	TTL        uint8 // of the outer header
	InheritTTL bool  // it is the inner one instead
	DF         bool  // set don't fragment in the outer IPv4 header
}

// Named reports whether each frame names an end.
func (c *Config) Named() bool { return c.RemoteFlow || c.LocalFlow }

// Keys of Interface.options, as in the Open_vSwitch schema, and values of them
// that are no number.
const (
	keyRemote = "remote_ip"
	keyLocal  = "local_ip"
	keyKey    = "key"
	keyIn     = "in_key"
	keyOut    = "out_key"
	keyPort   = "dst_port"
	keySum    = "csum"
	keyTOS    = "tos"
	keyTTL    = "ttl"
	keyDF     = "df_default"

	flowValue    = "flow"
	inheritValue = "inherit"
)

// ttlDefault is that of the Open_vSwitch schema.
const ttlDefault = 64

// Parse reads the options of a tunnel port.
func Parse(kind Kind, options map[string]string) (Config, error) {
	c := Config{Kind: kind, Port: kind.port(), TTL: ttlDefault, DF: true}
	p := parser{options: options, c: &c}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		p.option(key, options[key])
	}
	p.keys()
	p.ends()
	if p.err != nil {
		return Config{}, p.err
	}
	return c, nil
}

// A parser keeps the first error.
type parser struct {
	options map[string]string
	c       *Config
	err     error
}

// fail notes what is wrong.
func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s", ErrOption, fmt.Sprintf(format, args...))
	}
}

// option reads one option but for keys, which depend on each other.
func (p *parser) option(key, value string) {
	c := p.c
	switch key {
	case keyKey, keyIn, keyOut:
	case keyRemote:
		if c.RemoteFlow = value == flowValue; !c.RemoteFlow {
			c.Remote = p.address(key, value)
		}
	case keyLocal:
		if c.LocalFlow = value == flowValue; !c.LocalFlow {
			c.Local = p.address(key, value)
		}
	case keyPort:
		c.Port = uint16(p.number(key, value, 1, 65535))
	case keySum:
		c.Checksum = p.boolean(key, value)
	case keyDF:
		c.DF = p.boolean(key, value)
	case keyTOS:
		if c.InheritTOS = value == inheritValue; !c.InheritTOS {
			c.TOS = uint8(p.number(key, value, 0, 255)) &^ ecnMask
		}
	case keyTTL:
		if c.InheritTTL = value == inheritValue; !c.InheritTTL {
			c.TTL = uint8(p.number(key, value, 1, 255))
		}
	default:
		p.fail("%.40q is not known for type %s", key, c.Kind)
	}
}

// keys reads the network identifiers.
func (p *parser) keys() {
	p.c.In, p.c.Out = p.key(keyKey, Key{}), p.key(keyKey, Key{})
	p.c.In, p.c.Out = p.key(keyIn, p.c.In), p.key(keyOut, p.c.Out)
}

// key reads one network identifier.
func (p *parser) key(key string, otherwise Key) Key {
	value, ok := p.options[key]
	switch {
	case !ok:
		return otherwise
	case value == flowValue:
		return Key{Flow: true}
	}
	return Key{ID: uint32(p.number(key, value, 0, 1<<24-1))}
}

// ends checks the addresses of both ends.
func (p *parser) ends() {
	c := p.c
	switch {
	case p.options[keyRemote] == "":
		p.fail("%s is missing: it is the address of the tunnel's other end", keyRemote)
	case c.Local.IsValid() && c.Remote.IsValid() && c.Local.Is4() != c.Remote.Is4():
		p.fail("%s %s and %s %s are not of one family", keyLocal, c.Local, keyRemote, c.Remote)
	case c.Local.IsValid() && c.Local == c.Remote:
		p.fail("%s and %s are the same address", keyLocal, keyRemote)
	}
}

// address reads an address of one end.
func (p *parser) address(key, value string) netip.Addr {
	a, err := netip.ParseAddr(value)
	switch {
	case err != nil:
		p.fail("%s=%.60q is not an IP address", key, value)
	case !isEnd(a):
		p.fail("%s=%s is not the address of one end: give a global unicast address", key, a)
	}
	return a
}

// isEnd reports whether an address can be that of one end.
func isEnd(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast()
}

// number reads a number, decimal or with 0x.
func (p *parser) number(key, value string, least, most uint64) uint64 {
	n, err := strconv.ParseUint(value, 0, 64)
	if err != nil || n < least || n > most {
		p.fail("%s=%.40q is not a number in %d..%d", key, value, least, most)
		return 0
	}
	return n
}

// boolean reads true or false.
func (p *parser) boolean(key, value string) bool {
	if value != "true" && value != "false" {
		p.fail("%s=%.40q is neither true nor false", key, value)
	}
	return value == "true"
}
