package policy

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const example = `
	pods=10.16.0.0/16,fd00:16::/64
	services=10.96.0.0/12@443,6443,8000-8100
	node=192.0.2.10@10250
	deny=10.16.3.0/24
	pods=10.16.3.7@80
	deny=10.16.9.9@22
	pods=10.16.9.9
	port-names=*.svc.cluster.local@443
	host-names=node-*@10250
	port-names=API.example.
	pods=0.0.0.0/0@9999`

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse(text, false)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func reason(err error) Reason {
	if d, ok := errors.AsType[*DeniedError](err); ok {
		return d.Reason
	}
	return ""
}

func TestJudge(t *testing.T) {
	p := parse(t, example)
	for _, tt := range []struct {
		addr  string
		port  uint16
		class Class
		why   Reason
	}{
		{"10.16.1.1", 1, Pods, ""},
		{"fd00:16::5", 65535, Pods, ""},
		{"fd00:17::5", 80, Deny, NoRule},
		{"10.96.0.1", 443, Services, ""},
		{"10.96.0.1", 8050, Services, ""},
		{"10.96.0.1", 444, Deny, BadPort},
		{"192.0.2.10", 10250, Node, ""},
		{"192.0.2.10", 22, Deny, BadPort},
		{"192.0.2.11", 10250, Deny, BadPort}, // 0.0.0.0/0 has other ports
		{"192.0.2.11", 9999, Pods, ""},
		{"10.16.3.1", 80, Deny, Denied},
		{"10.16.3.7", 80, Pods, ""}, // longer than the deny
		{"10.16.3.7", 81, Deny, BadPort},
		{"10.16.9.9", 22, Deny, Denied},
		{"10.16.9.9", 23, Pods, ""},
		{"::ffff:10.16.3.1", 80, Deny, Denied},
		{"::ffff:10.16.1.1", 80, Pods, ""},
		{"127.0.0.1", 9999, Deny, NoRule}, // not by 0.0.0.0/0
		{"169.254.169.254", 9999, Deny, NoRule},
		{"0.0.0.0", 9999, Deny, BadAddress},
		{"::ffff:0.0.0.0", 9999, Deny, BadAddress},
		{"224.0.0.1", 9999, Deny, BadAddress},
		{"255.255.255.255", 9999, Deny, BadAddress},
		{"fe80::1%eth0", 80, Deny, BadAddress},
		{"10.16.1.1", 0, Deny, BadAddress},
	} {
		class, err := p.Judge(netip.MustParseAddr(tt.addr), tt.port)
		if class != tt.class || reason(err) != tt.why {
			t.Errorf("Judge(%s, %d) = %s, %v; want %s, %q", tt.addr, tt.port, class, err, tt.class, tt.why)
		}
	}
}

func TestLoopbackByARuleOfItsOwn(t *testing.T) {
	p := parse(t, "node=127.0.0.1@10250")
	if class, err := p.Judge(netip.MustParseAddr("127.0.0.1"), 10250); class != Node {
		t.Errorf("127.0.0.1 by its own rule: %s, %v", class, err)
	}
}

func TestNothingIsAllowedWithoutRules(t *testing.T) {
	var p Policy
	if class, err := p.Judge(netip.MustParseAddr("10.0.0.1"), 80); class != Deny || reason(err) != NoRule {
		t.Errorf("the zero policy says %s, %v", class, err)
	}
}

func TestRead(t *testing.T) {
	p := parse(t, example)
	udp, _ := Parse(example, true)
	for _, tt := range []struct {
		p                 *Policy
		protocol, address string
		want              string
		why               Reason
	}{
		{p, "tcp", "10.0.0.1:80", "10.0.0.1:80", ""},
		{p, "tcp6", "[fd00::1]:80", "[fd00::1]:80", ""},
		{p, "tcp4", "[fd00::1]:80", "", BadAddress},
		{p, "tcp6", "10.0.0.1:80", "", BadAddress},
		{p, "tcp", "[::ffff:10.0.0.1]:80", "10.0.0.1:80", ""},
		{p, "tcp", "API.svc.cluster.LOCAL.:443", "api.svc.cluster.local:443", ""},
		{p, "unix", "/run/containerd.sock", "", BadProtocol},
		{p, "unix", "10.0.0.1:80", "", BadProtocol},
		{p, "", "10.0.0.1:80", "", BadProtocol},
		{p, "udp", "10.0.0.1:53", "", BadProtocol},
		{udp, "udp", "10.0.0.1:53", "10.0.0.1:53", ""},
		{p, "tcp", "10.0.0.1:0", "", BadTarget},
		{p, "tcp", "10.0.0.1:65536", "", BadTarget},
		{p, "tcp", "10.0.0.1:http", "", BadTarget},
		{p, "tcp", "10.0.0.1", "", BadTarget},
		{p, "tcp", "", "", BadTarget},
		{p, "tcp", ":80", "", BadTarget},
		{p, "tcp", "fd00::1:80", "", BadTarget},
		{p, "tcp", "010.0.0.1:80", "", BadTarget},
		{p, "tcp", "2130706433:80", "", BadTarget},
		{p, "tcp", "0x7f.1:80", "", BadTarget},
		{p, "tcp", "a..b:80", "", BadTarget},
		{p, "tcp", "a b:80", "", BadTarget},
		{p, "tcp", "a/b:80", "", BadTarget},
		{p, "tcp", strings.Repeat("a", 64) + ":80", "", BadTarget},
		{p, "tcp", strings.Repeat("a.", 127) + "a:80", "", BadTarget},
	} {
		got, err := tt.p.Read(tt.protocol, tt.address)
		if reason(err) != tt.why || err == nil && got.String() != tt.want {
			t.Errorf("Read(%q, %q) = %v, %v; want %s, %q", tt.protocol, tt.address, got, err, tt.want, tt.why)
		}
	}
}

func TestLookup(t *testing.T) {
	p := parse(t, example)
	for _, tt := range []struct {
		name string
		port uint16
		by   Resolver
		why  Reason
	}{
		{"api.svc.cluster.local", 443, PortResolver, ""},
		{"svc.cluster.local", 443, "", BadName},
		{"api.svc.cluster.local", 80, "", BadPort},
		{"node-7", 10250, HostResolver, ""},
		{"my-node-7", 10250, "", BadName},
		{"api.example", 80, PortResolver, ""},
		{"a.b.svc.cluster.local", 443, PortResolver, ""}, // a * is dots, too
		{"localhost", 10250, "", BadName},
	} {
		by, err := p.Lookup(Target{Name: tt.name, Port: tt.port})
		if by != tt.by || reason(err) != tt.why {
			t.Errorf("Lookup(%s, %d) = %q, %v; want %q, %q", tt.name, tt.port, by, err, tt.by, tt.why)
		}
	}
}

func TestBadRules(t *testing.T) {
	for text, part := range map[string]string{
		"pods":               "want CLASS=",
		"pod=10.0.0.0/8":     "unknown class",
		"pods=10.0.0.1/8":    "did you mean 10.0.0.0/8",
		"pods=10.0.0.0/33":   "neither",
		"pods=":              "neither",
		"pods=10.0.0.0/8@":   "port",
		"pods=10.0.0.0/8@0":  "from 1",
		"pods=10.0.0.0/8@9-": "port",
		"pods=10.0.0.1@9-8":  "above",
		"pods=fe80::1%eth0":  "zone",
		"pods=::ffff:0:0/96": "IPv4 prefix",
		"host-names=":        "empty",
		"host-names=.":       "empty",
		"host-names=a/b":     "letters",
		"port-names=nöde":    "letters",
	} {
		if _, err := Parse(text, false); err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), text) {
			t.Errorf("Parse(%q): %v; want an error with the word and %q", text, err, part)
		}
	}
}

// TestLongestPrefix holds Judge to a plain rule: of the prefixes that hold the
// address, those of the greatest length.
func TestLongestPrefix(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var p Policy
		for range 1 + r.IntN(12) {
			bits := r.IntN(9) + 8
			a := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)) << 6, 0, 0})
			class := []Class{Pods, Services, Node, Deny}[r.IntN(4)]
			if err := p.addOne(string(class), netip.PrefixFrom(a, bits).Masked().String(), nil); err != nil {
				t.Fatal(err)
			}
		}
		plain := p.rules
		sorted, err := Parse(p.text(), false)
		if err != nil {
			t.Fatal(err)
		}
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), 1, 1})
		got, _ := sorted.Judge(a, 80)
		if want := judgePlainly(plain, a); got != want {
			t.Fatalf("%s by %s: %s, want %s", a, p.text(), got, want)
		}
	}
}

func (p *Policy) text() string {
	var words []string
	for _, r := range p.rules {
		words = append(words, string(r.class)+"="+r.prefix.String())
	}
	return strings.Join(words, " ")
}

func judgePlainly(rules []rule, a netip.Addr) Class {
	longest := -1
	for _, r := range rules {
		if r.prefix.Contains(a) {
			longest = max(longest, r.prefix.Bits())
		}
	}
	var first Class
	for _, r := range rules {
		if r.prefix.Contains(a) && r.prefix.Bits() == longest {
			if r.class == Deny {
				return Deny
			}
			if first == "" {
				first = r.class
			}
		}
	}
	if first == "" {
		return Deny
	}
	return first
}

// FuzzRead: whatever a peer names, the answer is a target that can be judged or
// a denial whose text is one printable line.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "[::1]:443", "a.b:1", "unix", "[fe80::1%25eth0]:80", "\x00:1"} {
		f.Add("tcp", s)
		f.Add(s, s)
	}
	p := parse(f, example)
	f.Fuzz(func(t *testing.T, protocol, address string) {
		target, err := p.Read(protocol, address)
		if err != nil {
			if s := err.Error(); strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) || len(s) > 400 {
				t.Errorf("not fit for a log: %q", s)
			}
			return
		}
		if target.Port == 0 || target.Addr.IsValid() == (target.Name != "") {
			t.Errorf("%q %q: %+v", protocol, address, target)
		}
		if again, err := p.Read(protocol, target.String()); err != nil || again != target {
			t.Errorf("%v read again: %v, %v", target, again, err)
		}
	})
}

// TestJudgeAll: what has no port passes by rules without ports only.
func TestJudgeAll(t *testing.T) {
	p := parse(t, example)
	for _, tt := range []struct {
		addr  string
		class Class
		why   Reason
	}{
		{"10.16.1.1", Pods, ""},
		{"fd00:16::5", Pods, ""},
		{"10.96.0.1", Deny, BadPort},
		{"192.0.2.10", Deny, BadPort},
		{"10.16.3.1", Deny, Denied},
		{"10.16.3.7", Deny, BadPort},
		{"10.16.9.9", Deny, Denied}, // at some port
		{"192.0.3.1", Deny, BadPort},
		{"8.8.8.8", Deny, BadPort}, // 0.0.0.0/0 has a port
		{"127.0.0.1", Deny, NoRule},
		{"224.0.0.1", Deny, BadAddress},
	} {
		class, err := p.JudgeAll(netip.MustParseAddr(tt.addr))
		if class != tt.class || reason(err) != tt.why {
			t.Errorf("JudgeAll(%s) = %s, %v; want %s, %q", tt.addr, class, err, tt.class, tt.why)
		}
	}
}

// FuzzParse: whatever rules somebody writes, they are read or refused in one printable
// line, and what is allowed is allowed by one of them.
func FuzzParse(f *testing.F) {
	f.Add(example)
	for _, s := range []string{"pods=::/0 deny=::1", "node=::ffff:1.2.3.4@1-2,5", "pods=10.0.0.0/8@", "deny==@@,", "host-names=*a*.b.@7", "pods=fe80::/10"} {
		f.Add(s)
	}
	addrs := []netip.Addr{netip.MustParseAddr("10.16.1.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::1"), netip.MustParseAddr("169.254.169.254")}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text, false)
		if err != nil {
			if s := err.Error(); strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
				t.Errorf("not fit for a log: %q", s)
			}
			return
		}
		for _, a := range addrs {
			class, err := p.Judge(a, 443)
			holds := slices.ContainsFunc(p.rules, func(r rule) bool { return r.class == class && r.prefix.Contains(a) && r.ports.has(443) })
			if err == nil && (class == Deny || !holds) {
				t.Errorf("%q lets %s through by %s", text, a, class)
			}
		}
		if by, err := p.Lookup(Target{Name: "api.svc.cluster.local", Port: 443}); err == nil && by != PortResolver && by != HostResolver {
			t.Errorf("%q has a name looked up by %q", text, by)
		}
	})
}
