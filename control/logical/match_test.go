package logical

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// matchCase is an expression of the language, and the text it is printed as.
type matchCase struct{ in, want string }

// validMatches holds to all rules of the language.
func validMatches() []matchCase {
	return []matchCase{
		{"1", "1"},
		{"0 || 1", "0 || 1"},
		{"ip4", "ip4"},
		{"ip4==1", "ip4"},
		{"ip4 != 0", "ip4"},
		{"!(ip4 == 0)", "ip4"},
		{"!eth.mcast", "!eth.mcast"},
		{"eth.mcast == 0", "!eth.mcast"},
		{"vlan.tci[12] == 0", "!vlan.tci[12]"},
		{"!vlan.tci", "vlan.tci == 0"},
		{"!ip.proto", "ip.proto == 0"},
		{"!ct.trk && !ip.later_frag", "!ct.trk && !ip.later_frag"},
		{"!(ct.trk && ct.new)", "!ct.trk || !ct.new"},
		{"!(reg0 < 1 || reg0 <= 1 || reg0 >= 1 || reg0 != {1, 2})", "reg0 >= 1 && reg0 > 1 && reg0 < 1 && reg0 == {1, 2}"},
		{"!(reg0 == 1 || reg1 > 2)", "reg0 != 1 && reg1 <= 2"},
		{"!(ip.proto != 6)", "ip.proto == 6"},
		{"!(ip.proto != {6, 17})", "ip.proto == {6, 17}"},
		{"ip.proto == {6 17 132}", "ip.proto == {6, 17, 132}"},
		{"ip4.src == 10.0.0.5/8", "ip4.src == 10.0.0.0/8"},
		{"ip4.src == 10.0.0.5/255.0.0.255", "ip4.src == 10.0.0.5/255.0.0.255"},
		{"ip4.src==0/0x1", "ip4.src == 0x0/0x1"},
		{"reg0 == 0/0", "reg0 == 0/0"},
		{"ip6.src == FE80::1/64", "ip6.src == fe80::/64"},
		{"ip6.dst == ::ffff:192.0.2.128", "ip6.dst == ::ffff:192.0.2.128"},
		{"ip6.dst == ff00:0:0:0:0:0:0:0/8", "ip6.dst == ff00::/8"},
		{"eth.dst == 01:00:5e:00:00:00/ff:ff:ff:80:00:00", "eth.dst == 01:00:5e:00:00:00/ff:ff:ff:80:00:00"},
		{"xxreg0 == 0x00FFffffffffffffffffffffffffffffff", "xxreg0 == 0xffffffffffffffffffffffffffffffff"},
		{"ct_label[32..79] == 0a:00:00:00:03:01", "ct_label[32..79] == 0a:00:00:00:03:01"},
		{"reg0[0..31] == 1", "reg0 == 1"},
		{"xxreg0[0..7] == 0.0.0.5 && ip4.src == 0.0.0.0", "xxreg0[0..7] == 0.0.0.5 && ip4.src == 0.0.0.0"},
		{"ip.proto[0..7] == 6", "ip.proto == 6"},
		{"80 <= tcp.dst <= 90", "tcp.dst >= 80 && tcp.dst <= 90"},
		{"0 < tcp.dst && 9 >= tcp.src > 1 && udp", "tcp.dst > 0 && tcp.src <= 9 && tcp.src > 1 && udp"},
		{"{6, 17} == ip.proto", "ip.proto == {6, 17}"},
		{"{80} == tcp.dst", "tcp.dst == 80"},
		{"inport == {\"a\", \"b\\\"\\u00e9\\n\"}", "inport == {\"a\", \"b\\\"é\\u000a\"}"},
		{"inport == @pg && ip4.src == {$as1, 10.0.0.1, $as_2.x}", "inport == @pg && ip4.src == {$as1, 10.0.0.1, $as_2.x}"},
		{"ip4.src != $as", "ip4.src != $as"},
		{"!is_chassis_resident(\"cr-x\")", "!is_chassis_resident(\"cr-x\")"},
		{"!(is_chassis_resident(\"p\") && ip)", ""}, // ip may not be negated
		{"((ip4) && (tcp || udp))", "ip4 && (tcp || udp)"},
		{"(a.b)", ""},
		{"ip4 && (ip.ttl == 1 && tcp)", "ip4 && ip.ttl == 1 && tcp"},
		{"ip4 /* c */ && // d\n tcp", "ip4 && tcp"},
		{"flags.network_id == 3", "flags.network_id == 3"},
		{strings.Repeat("(", 100) + "ip" + strings.Repeat(")", 100), "ip"},
	}
}

func TestMatchPrints(t *testing.T) {
	s := NewSymbols()
	for _, tt := range validMatches() {
		e, err := s.ParseMatch(tt.in)
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%s: accepted as %s", tt.in, Print(e))
		case tt.want != "" && err != nil:
			t.Errorf("%s: %v", tt.in, err)
		case tt.want != "" && Print(e) != tt.want:
			t.Errorf("%s: printed as %s, want %s", tt.in, Print(e), tt.want)
		case tt.want != "":
			checkMatchPrint(t, s, e)
		}
	}
}

// invalidMatches are texts that are not in the language, and the errors.
func invalidMatches() []matchCase {
	return []matchCase{
		{"", "column 1: expected a symbol, a constant or '(', found the end"},
		{"ip4 &&", `column 7: expected a symbol, a constant or '(' after "&&", found the end`},
		{"ip4 && tcp || udp", "column 12: expected parentheses: && and || may not be mixed without them"},
		{"ip4 udp", `column 5: expected '&&', '||' or the end after "ip4", found "udp"`},
		{"(ip4", `column 5: expected ')' after "(ip4", found the end`},
		{"!tcp", "column 2: expected a positive test: tcp is nominal and can't be negated"},
		{"!(ip4 || arp)", "column 3: expected a positive test: ip4 is nominal and can't be negated"},
		{"ip4 == 0", "column 1: expected a positive test: ip4 is nominal and can't be negated"},
		{"ip.proto != 6", "column 1: expected a test for equality: ip.proto is nominal and can't be tested negatively"},
		{"!(ip.proto == 6)", "column 3: expected a test for equality: ip.proto is nominal and can't be tested negatively"},
		{"!tcp.dst == 1", "column 2: expected '(' or a symbol alone after '!'"},
		{"!!ct.trk", `column 2: expected a symbol, a constant or '(' after "!", found "!"`},
		{"tcp.dst", `column 8: expected a relational operator after "tcp.dst", found the end`},
		{"ip4 = 1", `column 5: expected a relational operator after "ip4", found "="`},
		{"tcp.dst = 1", `column 9: expected a relational operator after "tcp.dst", found "="`},
		{"inport", `column 7: expected a relational operator after "inport", found the end`},
		{"inport == 1", "column 11: expected a string for inport"},
		{"tcp.dst == \"a\"", "column 12: expected a number for tcp.dst"},
		{"tcp.dst == {1, \"a\"}", "column 16: expected constants of one type, strings or numbers"},
		{"tcp.dst == {}", `column 13: expected a constant after "{", found "}"`},
		{"tcp.dst == 65536", "column 12: expected at most 16 bits for tcp.dst, found 17"},
		{"ip4.src == ::5", "column 12: expected at most 32 bits for ip4.src, found an address of 128"},
		{"ip4.src == {1.2.3.4 5.6.7.8/24, 00:00:00:00:00:01}", "column 33: expected at most 32 bits for ip4.src, found an address of 48"},
		{"tcp.dst == 0.0.0.80", "column 12: expected at most 16 bits for tcp.dst, found an address of 32"},
		{"ip4 == 0.0.0.1", "column 8: expected at most 1 bits for ip4, found an address of 32"},
		{"ip4.src == 010.0.0.1", `column 12: expected a number, an IP address or an Ethernet address, found "010.0.0.1"`},
		{"reg0[3..5] == 8", "column 15: expected at most 3 bits for reg0[3..5], found 4"},
		{"{1, 65536} == tcp.dst", "column 5: expected at most 16 bits for tcp.dst, found 17"},
		{"tcp.dst < {1, 2}", "column 11: expected one constant: sets go with == and != only"},
		{"tcp.dst < $as", "column 11: expected one constant: sets go with == and != only"},
		{"eth.mcastv6 > 0", "column 1: expected == or !=: eth.mcastv6 has no order"},
		{"ip.ttl > 1", "column 1: expected == or !=: ip.ttl has no order"},
		{"ip4.src < 10.0.0.0/8", "column 11: expected a constant without a mask: masks go with == and != only; bits of a symbol are written ip4.src[low..high]"},
		{"1 < tcp.dst > 2", "column 13: expected a range: both operators < or <=, or both > or >="},
		{"1 == tcp.dst == 2", "column 14: expected a range: both operators < or <=, or both > or >="},
		{"ip.proto[0] == 1", "column 1: expected all of ip.proto: single bits of nominal fields cannot be selected"},
		{"reg0[32] == 1", "column 1: expected bits below 32, the width of reg0"},
		{"reg0[5..3] == 1", "column 1: expected the lower bit first in reg0[5..3]"},
		{"inport[0] == 1", "column 7: expected no '[': inport is a string"},
		{"nosuch == 1", `column 1: expected a symbol, found "nosuch"`},
		{"ip4 && nosuch(\"x\")", `column 8: expected a symbol after "&&", found "nosuch"`},
		{"is_chassis_resident(1)", `column 21: expected a string after "is_chassis_resident(", found "1"`},
		{"ip4.src == ^vip", "column 12: expected no template variable, ^vip has not been expanded"},
		{"^vip", "column 1: expected no template variable, ^vip has not been expanded"},
		{"reg0 == 01", "column 9: expected a decimal number without leading zeros"},
		{"xxreg0 == 18446744073709551616", "column 11: expected a decimal number below 2^64; larger ones are written in hexadecimal"},
		{"reg0 == 0x", "column 9: expected hexadecimal digits after 0x"},
		{"reg0 == 0xg", `column 9: expected hexadecimal digits after 0x, found "g"`},
		{"xxreg0 == 0x100000000000000000000000000000000", "column 11: expected a number of at most 128 bits"},
		{"ip4.src == 10.0.0.256", `column 12: expected a number, an IP address or an Ethernet address, found "10.0.0.256"`},
		{"ip4.src == 10.0.0.0/33", "column 21: expected a mask of the value's format, or a prefix length after an IP address"},
		{"eth.src == \xeb\xbd", "column 12: expected a token, found \"\\xeb\""},
		{"ip4 & tcp", "column 5: expected '&&'"},
		{"ip4 /* tcp", "column 5: expected '*/' on the same line, the comment has no end"},
		{"ip4 / tcp", "column 5: expected a token, '/' stands only in comments and masks"},
		{"inport == \"a", "column 11: expected '\"', the string has no end"},
		{`inport == "a\q"`, "column 13: expected one of the escapes of JSON"},
		{"inport == $", "column 11: expected a name after '$'"},
		{"ip4.src == $5", "column 12: expected a name after '$'"},
		{"inport == @5", "column 11: expected a name after '@'"},
		{"icmp4.frag_mtu == 1", "column 1: expected a symbol that can be matched, icmp4.frag_mtu is only for actions"},
		{strings.Repeat("(", 101) + "ip" + strings.Repeat(")", 101), "column 101: expected at most 100 nested parentheses"},
	}
}

func TestMatchErrors(t *testing.T) {
	s := NewSymbols()
	for _, tt := range invalidMatches() {
		_, err := s.ParseMatch(tt.in)
		if fmt.Sprint(err) != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.in, err, tt.want)
		}
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%s: error is a %T, want *Error", tt.in, err)
		}
	}
}

func TestSymbolLevels(t *testing.T) {
	s := NewSymbols()
	tests := []struct {
		name  string
		level Level
		width int
	}{
		{"ip4", Nominal, 1}, {"nd_ns_mcast", Nominal, 1}, {"ip.later_frag", Boolean, 1}, {"eth.bcast", Boolean, 1},
		{"ip6.mcast", Boolean, 1}, {"vlan.present", Boolean, 1}, {"mldv1", Nominal, 1}, {"reg7", Ordinal, 32},
		{"ip.first_frag", Boolean, 1}, {"ip.proto", Nominal, 8}, {"outport", Nominal, 0}, {"ct.dnat", Ordinal, 1},
	}
	for _, tt := range tests {
		sym := s.Lookup(tt.name)
		if sym == nil || sym.Level != tt.level || sym.Width != tt.width {
			t.Errorf("%s: %+v, want level %d and width %d", tt.name, sym, tt.level, tt.width)
		}
	}
}

func TestRegistersOverlay(t *testing.T) {
	s := NewSymbols()
	tests := []struct {
		name  string
		field Field
		low   int
	}{
		{"reg0", FieldXXReg0, 96}, {"reg3", FieldXXReg0, 0}, {"xreg0", FieldXXReg0, 64}, {"xreg1", FieldXXReg0, 0},
		{"reg4", FieldXXReg1, 96}, {"xreg3", FieldXXReg1, 0}, {"reg8", FieldXReg4, 32}, {"reg9", FieldXReg4, 0}, {"xreg4", FieldXReg4, 0},
	}
	for _, tt := range tests {
		if sym := s.Lookup(tt.name); sym.Field != tt.field || sym.Low != tt.low {
			t.Errorf("%s is %v from bit %d, want %v from bit %d", tt.name, sym.Field, sym.Low, tt.field, tt.low)
		}
	}
}

func TestExpand(t *testing.T) {
	vars := map[string]string{"a": "10.0.0.1", "b": "1, 2", "a.b": "x"}
	tests := []struct{ in, want, used, err string }{
		{"ip4", "ip4", "[]", ""},
		{"ip4.src == ^a && tcp.dst == {^b}", "ip4.src == 10.0.0.1 && tcp.dst == {1, 2}", "[a b]", ""},
		{`inport == "^a" && ^a.b /* ^c */`, `inport == "^a" && x /* ^c */`, "[a.b]", ""},
		{"^a ^z ^a ^y", "", "[a y z]", "column 4: ^z: undefined template variable"},
		{"^", "", "[]", "column 1: expected a name after '^'"},
	}
	for _, tt := range tests {
		got, used, err := Expand(tt.in, vars)
		if got != tt.want || fmt.Sprint(used) != tt.used || err != nil != (tt.err != "") || err != nil && err.Error() != tt.err {
			t.Errorf("%s: %q, %v, %v; want %q, %s, %s", tt.in, got, used, err, tt.want, tt.used, tt.err)
		}
	}
}
