package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// identifiers are the kinds of targets that servers can be told of, with what is
// wrong with one.
var identifiers = map[string]func(string) error{
	"ipv4": func(s string) error {
		if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
			return fmt.Errorf("%.60q is no IPv4 address", s)
		}
		return nil
	},
	"ipv6": func(s string) error {
		if a, err := netip.ParseAddr(s); err != nil || !a.Is6() {
			return fmt.Errorf("%.60q is no IPv6 address", s)
		}
		return nil
	},
	"cidr":          func(s string) error { _, err := netip.ParsePrefix(s); return err },
	"default-route": func(s string) error { _, err := strconv.ParseBool(s); return err },
	"host":          plain,
	"uid":           plain,
}

// CheckIdentifiers says what is wrong with what servers are to be told of the targets
// behind an agent. They would take no notice of what they do not know.
func CheckIdentifiers(text string) error {
	all, err := url.ParseQuery(text)
	if err != nil {
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		check, known := identifiers[kind]
		if !known {
			return fmt.Errorf("%.60q is none of %s", kind, strings.Join(slices.Sorted(maps.Keys(identifiers)), ", "))
		}
		for _, value := range all[kind] {
			if err := check(value); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
		}
	}
	return plain(text)
}

// CheckName says what is wrong with the name that an agent's ids begin with.
func CheckName(name string) error { return plain(name) }

// plain reports what gRPC would not carry: it takes printable ASCII only, and refuses
// the stream that has anything else.
func plain(text string) error {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("%.60q is empty, or not printable ASCII", text)
	}
	return nil
}
