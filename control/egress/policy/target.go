package policy

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// maxName is how long a name may be (RFC 1035 2.3.4, without the final dot).
const maxName = 253

// Read reads what a request names. Nothing is looked up. The error is a
// *DeniedError, whose text holds no more of the request than is fit for a log.
func (p *Policy) Read(protocol, address string) (Target, error) {
	shown := shorten(address)
	deny := func(r Reason, detail string) (Target, error) {
		return Target{}, &DeniedError{r, shown, detail}
	}
	if !p.speaks(protocol) {
		return deny(BadProtocol, "protocol "+shorten(protocol)+" is not allowed")
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return deny(BadTarget, "want HOST:PORT, with brackets around an IPv6 address")
	}
	port, err := parsePort(portText)
	if err != nil {
		return deny(BadTarget, "its port must be a number from 1 to 65535")
	}
	t := Target{Network: protocol, Port: port}
	if a, err := netip.ParseAddr(host); err == nil {
		if t.Addr = a.Unmap(); !t.Fits(t.Addr) {
			return deny(BadAddress, "it is no address of "+protocol)
		}
		return t, nil
	}
	if t.Name = strings.TrimSuffix(strings.ToLower(host), "."); !isName(t.Name) {
		return deny(BadTarget, "its host is neither an address nor a name")
	}
	return t, nil
}

// speaks reports whether a protocol is allowed.
func (p *Policy) speaks(protocol string) bool {
	return slices.Contains([]string{"tcp", "tcp4", "tcp6"}, protocol) ||
		p.udp && slices.Contains([]string{"udp", "udp4", "udp6"}, protocol)
}

// isName reports whether a name has the letters of a host name (RFC 1123 2.1,
// with the underscore of service names), and one at least that is no digit in
// its last label: "1.2.3" and "0x7f.1" are addresses to some resolvers.
func isName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || !allNameBytes(l) {
			return false
		}
	}
	last := labels[len(labels)-1]
	return last[0] < '0' || last[0] > '9'
}

func allNameBytes(label string) bool {
	for _, c := range []byte(label) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// shorten makes what a peer sent fit for one line of a log.
func shorten(s string) string {
	const most = 80
	tail := ""
	if len(s) > most {
		s, tail = s[:most], "..."
	}
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return `"` + clean + tail + `"`
}
