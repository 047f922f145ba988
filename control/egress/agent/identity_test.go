package agent

import (
	"strings"
	"testing"
)

func TestCheckIdentifiers(t *testing.T) {
	for _, good := range []string{"ipv4=10.0.0.1", "ipv4=10.0.0.1&ipv4=10.0.0.2&ipv6=fd00::1&host=node-1&cidr=10.0.0.0/8&uid=7&default-route=true", "host=a%20b"} {
		if err := CheckIdentifiers(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, part := range map[string]string{
		"ip=10.0.0.1":         `"ip" is none of cidr, default-route, host, ipv4, ipv6, uid`,
		"10.0.0.1":            "is none of",
		"ipv4=fd00::1":        "is no IPv4 address",
		"ipv4=":               "is no IPv4 address",
		"ipv6=10.0.0.1":       "is no IPv6 address",
		"cidr=10.0.0.1":       "no '/'",
		"default-route=maybe": "invalid syntax",
		"host=":               "is empty",
		"host=nöde":           "printable ASCII",
		"host=a%0ab":          "printable ASCII",
		"ipv4=1.2.3.4;x=y":    "semicolon",
		"ipv4=%zz":            "invalid URL escape",
	} {
		if err := CheckIdentifiers(bad); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v; want %q", bad, err, part)
		}
	}
	if CheckName("node-1.example") != nil || CheckName("nöde") == nil || CheckName("") == nil {
		t.Error("names of nodes")
	}
}
