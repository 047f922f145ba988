package logical

import (
	"net/netip"
	"slices"
	"strings"
)

// maxName is the longest name of a log line or event.
const maxName = 63

// maxQueue is the highest queue number (OVN include/ovn/actions.h).
const maxQueue = 0xf000

// controllerVerb parses the verbs that OVN hands to its controller, and what
// else takes arguments by name.
func (p *parser) controllerVerb(v Verb) (Action, bool) {
	switch v {
	case "set_queue":
		p.force(tokLParen)
		a := &SetQueue{ID: uint16(p.integer(maxQueue, "a queue number"))}
		p.force(tokRParen)
		return a, true
	case "set_meter":
		return p.setMeter(), true
	case "log":
		return p.logLine(), true
	case "sample":
		return p.sample(), true
	case "trigger_event":
		return p.triggerEvent(), true
	case "bind_vport":
		p.force(tokLParen)
		a := &BindVPort{VPort: p.str()}
		p.force(tokComma)
		a.Parent = p.field(0, false)
		p.force(tokRParen)
		return a, true
	case "fwd_group":
		return p.fwdGroup(), true
	case "commit_ecmp_nh":
		return p.commitECMP(), true
	case "commit_lb_aff":
		return p.commitAffinity(), true
	case "mirror":
		p.force(tokLParen)
		a := &Mirror{Port: p.str()}
		p.force(tokRParen)
		return a, true
	case "meter":
		return &UseMeter{Name: p.name()}, true
	case "group":
		return &UseGroup{Name: p.name()}, true
	}
	return nil, false
}

// name parses ("name").
func (p *parser) name() string {
	p.force(tokLParen)
	start := p.tok.start
	s := p.str()
	if p.err == nil && s == "" {
		p.fail(start, "expected a name that is not empty")
	}
	p.force(tokRParen)
	return s
}

// setMeter parses (rate[, burst]).
func (p *parser) setMeter() Action {
	const most = 1<<63 - 1
	p.force(tokLParen)
	start := p.tok.start
	a := &SetMeter{Rate: uint64(p.integer(most, "a rate in kbit/s"))}
	if p.match(tokComma) {
		a.Burst = uint64(p.integer(most, "a burst in kbit"))
	}
	p.force(tokRParen)
	if p.err == nil && a.Rate == 0 {
		p.fail(start, "expected a rate above 0")
	}
	return a
}

// key parses "name =" for one of names, and returns which.
func (p *parser) key(names ...string) string {
	if p.tok.kind != tokID || !slices.Contains(names, p.tok.text) {
		p.want(strings.Join(names, " or "))
		return ""
	}
	name := p.tok.text
	p.next()
	p.force(tokAssign)
	return name
}

// word parses one of names.
func (p *parser) word(names ...string) string {
	if p.tok.kind != tokID || !slices.Contains(names, p.tok.text) {
		p.want(strings.Join(names, " or "))
		return ""
	}
	name := p.tok.text
	p.next()
	return name
}

// boolean parses true or false, also in quotes.
func (p *parser) boolean() bool {
	if k := p.tok.kind; (k == tokID || k == tokString) && (p.tok.text == "true" || p.tok.text == "false") {
		yes := p.tok.text == "true"
		p.next()
		return yes
	}
	p.want("true or false")
	return false
}

// logLine parses the arguments of log.
func (p *parser) logLine() Action {
	a := &Log{Severity: "info"}
	p.force(tokLParen)
	for p.err == nil && !p.match(tokRParen) {
		start := p.tok.start
		switch p.key("name", "severity", "verdict", "meter") {
		case "name":
			if a.Name = p.str(); p.err == nil && len(a.Name) > maxName {
				p.fail(start, "expected a name of at most %d bytes", maxName)
			}
		case "severity":
			a.Severity = p.word("alert", "warning", "notice", "info", "debug")
		case "verdict":
			a.Verdict = p.word("allow", "drop", "reject", "pass")
		case "meter":
			a.Meter = p.str()
		}
		p.match(tokComma)
	}
	if p.err == nil && a.Verdict == "" {
		p.fail(p.prev-1, "expected verdict among the arguments")
	}
	return a
}

// sample parses the arguments of sample.
func (p *parser) sample() Action {
	a := &Sample{}
	p.force(tokLParen)
	for p.err == nil && !p.match(tokRParen) {
		switch p.key("probability", "collector_set", "obs_domain", "obs_point") {
		case "probability":
			a.Probability = uint16(p.integer(65535, "a probability"))
		case "collector_set":
			a.CollectorSet = uint32(p.integer(1<<32-1, "the number of a collector set"))
		case "obs_domain":
			a.ObsDomain = uint8(p.integer(255, "a domain"))
		case "obs_point":
			p.obsPoint(a)
		}
		p.match(tokComma)
	}
	if p.err == nil && a.Probability == 0 {
		p.fail(p.prev-1, "expected a probability above 0 among the arguments")
	}
	return a
}

// obsPoint parses an observation point: a number, $cookie or a field.
func (p *parser) obsPoint(a *Sample) {
	a.ObsPoint, a.Cookie, a.ObsPointFrom = 0, false, Ref{}
	switch {
	case p.tok.kind == tokSet && p.tok.text == "cookie":
		a.Cookie = true
		p.next()
	case p.tok.kind == tokInt:
		a.ObsPoint = uint32(p.integer(1<<32-1, "an observation point"))
	default:
		a.ObsPointFrom = p.field(32, false)
	}
}

// triggerEvent parses the arguments of trigger_event.
func (p *parser) triggerEvent() Action {
	p.force(tokLParen)
	p.key("event")
	start := p.tok.start
	a := &TriggerEvent{Event: p.str()}
	if p.err == nil && a.Event != "empty_lb_backends" {
		p.fail(start, `expected "empty_lb_backends", the only event`)
	}
	p.match(tokComma)
	start = p.tok.start
	a.Options = p.options("trigger_event")
	for i := range a.Options {
		if o := &a.Options[i]; len(o.Values) != 1 || !o.validEvent() {
			p.fail(start, "expected a valid value for %s", o.Name)
		}
	}
	return a
}

// validEvent reports whether o's value is one that the event takes.
func (o *Option) validEvent() bool {
	s := o.Values[0].Text
	switch o.Name {
	case "vip":
		_, _, ok := addressPort(s)
		return ok
	case "protocol":
		return s == "tcp" || s == "udp" || s == "sctp"
	}
	return isUUID(s)
}

// isUUID reports whether s is a UUID (RFC 9562 4).
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (s[i] == '-') || !dash && !isHex(s[i]) {
			return false
		}
	}
	return true
}

// fwdGroup parses the arguments of fwd_group.
func (p *parser) fwdGroup() Action {
	a := &FwdGroup{}
	p.force(tokLParen)
	if p.key("liveness", "childports") == "liveness" {
		a.Liveness = p.boolean()
		p.force(tokComma)
		p.key("childports")
	}
	for {
		a.Ports = append(a.Ports, p.str())
		p.match(tokComma)
		if p.err != nil || p.match(tokRParen) {
			return a
		}
	}
}

// commitECMP parses the arguments of commit_ecmp_nh.
func (p *parser) commitECMP() Action {
	a := &CommitECMP{}
	p.force(tokLParen)
	p.key("ipv6")
	a.IPv6 = p.boolean()
	p.force(tokComma)
	p.key("proto")
	a.Proto = p.word("tcp", "udp", "sctp")
	p.force(tokRParen)
	return a
}

// commitAffinity parses the arguments of commit_lb_aff.
func (p *parser) commitAffinity() Action {
	a := &CommitAffinity{}
	p.force(tokLParen)
	p.key("vip")
	a.VIP, a.VIPPort = p.endPoint()
	p.force(tokComma)
	p.key("backend")
	start := p.tok.start
	a.Backend, a.BackendPort = p.endPoint()
	if p.err == nil && a.VIP.Is4() != a.Backend.Is4() {
		p.fail(start, "expected a backend of the VIP's IP version")
	}
	p.force(tokComma)
	if a.VIPPort != 0 {
		p.key("proto")
		a.Proto = p.word("tcp", "udp", "sctp")
		p.force(tokComma)
	}
	p.key("timeout")
	a.Timeout = uint16(p.integer(65535, "a time in seconds"))
	p.force(tokRParen)
	return a
}

// endPoint parses a string that holds an IP address and perhaps a port.
func (p *parser) endPoint() (netip.Addr, uint16) {
	start := p.tok.start
	addr, port, ok := addressPort(p.str())
	if p.err == nil && !ok {
		p.fail(start, "expected an IP address, or one with a port, in the string")
	}
	return addr, port
}

// addressPort reads "10.0.0.1", "10.0.0.1:80", "fd00::1", "[fd00::1]" or
// "[fd00::1]:80".
func addressPort(s string) (netip.Addr, uint16, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr(), ap.Port(), ap.Addr().Zone() == ""
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(s)
	return a, 0, err == nil && a.Zone() == ""
}
