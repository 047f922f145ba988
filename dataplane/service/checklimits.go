package service

import (
	"net/netip"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

const (
	rateMax    = 1 << 40
	sourcesMax = 64 // stations of a port, and addresses of one
)

// limit checks how much a client wants to go through a port.
func (c *checker) limit(field string, l *api.Limit) dataplane.Limit {
	out := dataplane.Limit{Bytes: l.GetBytes(), Burst: l.GetBurst(), Frames: l.GetFrames(), FrameBurst: l.GetFrameBurst()}
	for _, n := range []struct {
		name string
		n    uint64
	}{{"bytes", out.Bytes}, {"burst", out.Burst}, {"frames", out.Frames}, {"frame_burst", out.FrameBurst}} {
		if n.n > rateMax {
			c.fail(field+"."+n.name, "%d is more than 2^40", n.n)
		}
	}
	if out.Bytes != 0 && out.Burst == 0 {
		c.fail(field+".burst", "a rate needs a burst")
	}
	if out.Frames != 0 && out.FrameBurst == 0 {
		c.fail(field+".frame_burst", "a rate needs a burst")
	}
	return out
}

// sources checks from whom frames may come in.
func (c *checker) sources(list []*api.Source) (out []dataplane.Source) {
	if len(list) > sourcesMax {
		c.fail("spec.sources", "%d sources are more than %d", len(list), sourcesMax)
		return nil
	}
	for _, s := range list {
		o := dataplane.Source{MAC: c.mac("spec.sources.mac", s.GetMac())}
		if n := len(s.GetAddresses()); n > sourcesMax {
			c.fail("spec.sources.addresses", "%d addresses are more than %d", n, sourcesMax)
			return nil
		}
		for _, text := range s.GetAddresses() {
			a, err := netip.ParsePrefix(text)
			if err != nil || a.Addr().Is4In6() {
				c.fail("spec.sources.addresses", "%q is not an address with the length of its prefix, like 10.0.0.1/32", text)
			}
			o.Addresses = append(o.Addresses, a)
		}
		out = append(out, o)
	}
	return out
}
