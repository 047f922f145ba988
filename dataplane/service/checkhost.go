package service

import (
	"net/netip"
	"path/filepath"
	"strings"
	"unicode"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

const (
	netnsMax     = 4095 // bytes of a path, as the kernel takes it
	addressesMax = 64   // of one device
)

// host checks what the device of a tap or internal port shall be. What a device
// can be called is looked at when it is made.
func (c *checker) host(spec *dataplane.PortSpec, h *api.HostSpec) dataplane.HostSpec {
	if h == nil {
		return dataplane.HostSpec{}
	}
	if !dataplane.IsHost(spec.Type) {
		c.fail("spec.host", "%s ports are no device of the host", spec.Type)
	}
	host := dataplane.HostSpec{Netns: c.netns(h.GetNetns()), Up: h.GetUp(), Persist: h.GetPersist()}
	if h.GetMac() != "" {
		host.MAC = c.mac("spec.host.mac", h.GetMac())
	}
	if n := len(h.GetAddresses()); n > addressesMax {
		c.fail("spec.host.addresses", "%d addresses are more than %d", n, addressesMax)
	}
	for _, s := range h.GetAddresses() {
		a, err := netip.ParsePrefix(s)
		if err != nil {
			c.fail("spec.host.addresses", "%q is not an address with the length of its prefix, like 10.0.0.1/24", s)
		}
		host.Addresses = append(host.Addresses, a)
	}
	return host
}

// netns checks the name or path of a network namespace.
func (c *checker) netns(s string) string {
	switch {
	case len(s) > netnsMax:
		c.fail("spec.host.netns", "path of %d bytes is longer than %d", len(s), netnsMax)
	case strings.ContainsFunc(s, unicode.IsControl):
		c.fail("spec.host.netns", "%q has a control character", s)
	case strings.Contains(s, "/") && !filepath.IsAbs(s):
		c.fail("spec.host.netns", "%q is neither a name nor an absolute path", s)
	case s == "." || s == "..":
		c.fail("spec.host.netns", "%q is a directory, not a name", s)
	}
	return s
}
