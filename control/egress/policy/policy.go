package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Policy decides. It is not changed after Parse, so any number of goroutines
// may ask it. The zero Policy denies everything.
type Policy struct {
	rules []rule     // longest prefix first
	names []nameRule // in the order of the text
	udp   bool
}

// Parse reads the rules of text (see the package comment). udp turns on the
// protocol. An error names the word that is wrong.
func Parse(text string, udp bool) (*Policy, error) {
	p := &Policy{udp: udp}
	for _, word := range strings.Fields(text) {
		if err := p.add(word); err != nil {
			return nil, fmt.Errorf("rule %q: %w", word, err)
		}
	}
	slices.SortStableFunc(p.rules, func(a, b rule) int { return b.prefix.Bits() - a.prefix.Bits() })
	return p, nil
}

// add reads one word: CLASS=WHAT[,WHAT...][@PORTS].
func (p *Policy) add(word string) error {
	class, rest, ok := strings.Cut(word, "=")
	if !ok {
		return fmt.Errorf("want CLASS=PREFIX,...@PORTS, such as services=10.96.0.0/12@443")
	}
	list, portText, limited := strings.Cut(rest, "@")
	var allowed ports
	if limited {
		var err error
		if allowed, err = parsePorts(portText); err != nil {
			return err
		}
	}
	for _, what := range strings.Split(list, ",") {
		if err := p.addOne(class, what, allowed); err != nil {
			return err
		}
	}
	return nil
}

func (p *Policy) addOne(class, what string, allowed ports) error {
	switch class {
	case string(Pods), string(Services), string(Node), string(Deny):
		prefix, err := parsePrefix(what)
		if err != nil {
			return err
		}
		p.rules = append(p.rules, rule{Class(class), prefix, allowed})
	case string(PortResolver), string(HostResolver):
		pattern, err := parsePattern(what)
		if err != nil {
			return err
		}
		p.names = append(p.names, nameRule{Resolver(class), pattern, allowed})
	default:
		return fmt.Errorf("unknown class %q: want pods, services, node, deny, port-names or host-names", class)
	}
	return nil
}

// A Reason says in one word why a target is denied. It is a label of metrics.
type Reason string

// Reasons.
const (
	BadProtocol Reason = "protocol" // none that is allowed
	BadTarget   Reason = "target"   // not HOST:PORT, or port 0
	BadAddress  Reason = "address"  // one that no rule can allow
	NoRule      Reason = "no-rule"
	Denied      Reason = "denied" // by a rule
	BadPort     Reason = "port"   // the rule is for other ports
	BadName     Reason = "name"   // no rule has the name looked up
)

// A DeniedError says what was denied, and why.
type DeniedError struct {
	Reason Reason
	Target string
	Detail string
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("policy denies %s: %s", e.Target, e.Detail)
}

// A Target is what a request names, read but not yet judged.
type Target struct {
	Network string     // tcp, tcp4, tcp6, udp, udp4, udp6
	Addr    netip.Addr // not valid if Name is one
	Name    string     // lower case, without a final dot
	Port    uint16
}

// String is HOST:PORT.
func (t Target) String() string {
	if t.Addr.IsValid() {
		return netip.AddrPortFrom(t.Addr, t.Port).String()
	}
	return fmt.Sprintf("%s:%d", t.Name, t.Port)
}

// Fits reports whether an address is of the IP version that the network asks for.
func (t Target) Fits(a netip.Addr) bool {
	switch {
	case strings.HasSuffix(t.Network, "4"):
		return a.Is4()
	case strings.HasSuffix(t.Network, "6"):
		return a.Is6()
	}
	return true
}

// Judge says by which class of rule an address may be dialled at a port. The
// error is a *DeniedError.
func (p *Policy) Judge(a netip.Addr, port uint16) (Class, error) {
	a = a.Unmap()
	if why := impossible(a, port); why != "" {
		return denied(BadAddress, a, port, "%s", why)
	}
	return p.judge(a, port, func(r ports) bool { return r.has(port) })
}

// JudgeAll says by which class of rule an address may be reached whatever the
// port and protocol: only rules without ports allow that, while any deny that is
// for some ports forbids it. The error is a *DeniedError, whose target has port 0.
func (p *Policy) JudgeAll(a netip.Addr) (Class, error) {
	a = a.Unmap()
	if why := impossible(a, 1); why != "" {
		return denied(BadAddress, a, 0, "%s", why)
	}
	return p.judge(a, 0, func(r ports) bool { return len(r) == 0 })
}

func denied(r Reason, a netip.Addr, port uint16, format string, args ...any) (Class, error) {
	return Deny, &DeniedError{r, netip.AddrPortFrom(a, port).String(), fmt.Sprintf(format, args...)}
}

// judge goes by the rules whose prefix is the longest that holds a.
func (p *Policy) judge(a netip.Addr, port uint16, has func(ports) bool) (Class, error) {
	longest := -1
	var class Class
	for _, r := range p.rules {
		if longest > r.prefix.Bits() {
			break
		}
		if !r.prefix.Contains(a) || !means(r.prefix, a) {
			continue
		}
		longest = r.prefix.Bits()
		switch {
		case r.class == Deny && (port == 0 || has(r.ports)):
			return denied(Denied, a, port, "rule deny=%s", r.prefix)
		case class == "" && r.class != Deny && has(r.ports):
			class = r.class
		}
	}
	switch {
	case class != "":
		return class, nil
	case longest >= 0:
		return denied(BadPort, a, port, "its rules are for other ports than %d", port)
	}
	return denied(NoRule, a, port, "no rule is for it; all is denied that no rule allows")
}

// impossible says why no rule can allow an address, or is empty.
func impossible(a netip.Addr, port uint16) string {
	switch {
	case !a.IsValid():
		return "it has no address"
	case port == 0:
		return "nobody listens at port 0"
	case a.Zone() != "":
		return "an address with a zone is of one link only"
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "it is nobody's address"
	}
	return ""
}

// special are the addresses that only a prefix within them stands for.
var special = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("0.0.0.0/8"),
}

// means reports whether a rule's prefix, which holds a, means it.
func means(prefix netip.Prefix, a netip.Addr) bool {
	for _, s := range special {
		if s.Contains(a) {
			return prefix.Bits() >= s.Bits()
		}
	}
	return true
}

// Lookup says who is to be asked for the addresses of a target's name. The
// error is a *DeniedError.
func (p *Policy) Lookup(t Target) (Resolver, error) {
	named := false
	for _, r := range p.names {
		if !matches(r.pattern, t.Name) {
			continue
		}
		if named = true; r.ports.has(t.Port) {
			return r.by, nil
		}
	}
	if named {
		return "", &DeniedError{BadPort, t.String(), fmt.Sprintf("the rules for this name are for other ports than %d", t.Port)}
	}
	return "", &DeniedError{BadName, t.String(), "no rule has the name looked up"}
}
