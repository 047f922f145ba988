package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Class is what a rule is for. It is a label of metrics and logs, too.
type Class string

// Classes of targets.
const (
	Pods     Class = "pods"     // through the port of the switch
	Services Class = "services" // through the port of the switch
	Node     Class = "node"     // by the host's own sockets
	Deny     Class = "deny"
	Unknown  Class = "unknown" // a name that nobody has found: no rule has this
)

// ByPort reports whether targets of the class are reached through the port of
// the switch. Others are reached by the host's own sockets.
func (c Class) ByPort() bool { return c == Pods || c == Services }

// A Resolver says who is asked for the addresses of a name.
type Resolver string

// Resolvers.
const (
	PortResolver Resolver = "port-names" // a DNS server behind the port
	HostResolver Resolver = "host-names" // the host's
)

// A rule lets a class of addresses through, or does not.
type rule struct {
	class  Class
	prefix netip.Prefix
	ports  ports
}

// A nameRule says which names are looked up, and by whom.
type nameRule struct {
	by      Resolver
	pattern string // lower case; a * stands for any bytes
	ports   ports
}

// ports are ranges, ends included. None: any port but 0.
type ports [][2]uint16

func (p ports) has(port uint16) bool {
	return len(p) == 0 || slices.ContainsFunc(p, func(r [2]uint16) bool { return r[0] <= port && port <= r[1] })
}

// parsePorts reads "443,8000-8100".
func parsePorts(text string) (ports, error) {
	var p ports
	for _, word := range strings.Split(text, ",") {
		low, high, isRange := strings.Cut(word, "-")
		if !isRange {
			high = low
		}
		first, err := parsePort(low)
		if err != nil {
			return nil, err
		}
		last, err := parsePort(high)
		if err != nil {
			return nil, err
		}
		if first > last {
			return nil, fmt.Errorf("ports %q: the first is above the last", word)
		}
		p = append(p, [2]uint16{first, last})
	}
	return p, nil
}

// parsePort reads a port that is not 0.
func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: want a number from 1 to 65535", text)
	}
	return uint16(n), nil
}

// parsePrefix reads an address or a prefix, whose bits behind its length must be 0.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap()
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("address %q: a rule has no zone", text)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix such as 10.0.0.0/8", text)
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("prefix %q: write it as an IPv4 prefix", text)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("prefix %q has bits behind its length; did you mean %s?", text, p.Masked())
	}
	return p, nil
}

// parsePattern reads the pattern of a name: lower case, and without a final dot, as
// names of targets are. One that no name could be of is refused.
func parsePattern(text string) (string, error) {
	pattern := strings.TrimSuffix(strings.ToLower(text), ".")
	if pattern == "" {
		return "", fmt.Errorf("the pattern of a name is empty")
	}
	for label := range strings.SplitSeq(pattern, ".") {
		if !allNameBytes(strings.ReplaceAll(label, "*", "")) {
			return "", fmt.Errorf("pattern %q: a name has letters, digits, hyphens, underscores and dots, and a * stands for any of them", text)
		}
	}
	return pattern, nil
}

// matches reports whether name is of pattern, in which each * stands for any
// bytes. Both are lower case.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	rest, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
