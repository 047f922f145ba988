package dataplane

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"millrace/dataplane/packet"
)

// MTUMax is the largest MTU of a port: FrameMax without the Ethernet header
// and one tag.
const MTUMax = packet.FrameMax - packet.FrameMin - 4

// mtuMin is the smallest that IPv4 allows (RFC 791).
const mtuMin = 68

// queuesMax is the most queue pairs of a port.
const queuesMax = 64

// check refuses what cannot be right whatever the type of port.
func (s *PortSpec) check() error {
	switch {
	case s.Name == "" || s.Bridge == "":
		return fmt.Errorf("%w: a port needs a name and a bridge", ErrBadSpec)
	case s.Type == TypePatch && (s.Peer == "" || s.Peer == s.Name):
		return fmt.Errorf("%w: a patch port needs the name of another patch port as its peer", ErrBadSpec)
	case s.MTU != 0 && (s.MTU < mtuMin || s.MTU > MTUMax):
		return fmt.Errorf("%w: MTU %d is not in %d..%d", ErrBadSpec, s.MTU, mtuMin, MTUMax)
	case !IsHost(s.Type) && !s.Host.equal(HostSpec{}):
		return fmt.Errorf("%w: only tap and internal ports are devices of the host", ErrBadSpec)
	case s.Queues < 0 || s.Queues > queuesMax:
		return fmt.Errorf("%w: %d queue pairs are not in 0..%d", ErrBadSpec, s.Queues, queuesMax)
	case !slices.Contains([]string{"", "true", "false"}, s.Options[OptionGRO]):
		return fmt.Errorf("%w: %s=%q is neither true nor false", ErrBadSpec, OptionGRO, s.Options[OptionGRO])
	case s.MACLimit < 0:
		return fmt.Errorf("%w: MAC limit %d is negative", ErrBadSpec, s.MACLimit)
	}
	if err := s.checkLimits(); err != nil {
		return err
	}
	if err := s.checkTunnel(); err != nil {
		return err
	}
	return s.checkVLANs()
}

// sourcesMax is the most stations of a port, and addresses of one.
const sourcesMax = 64

func (s *PortSpec) checkLimits() error {
	switch device := s.Type != TypePatch && !IsTunnel(s.Type); {
	case !device && (s.Ingress != Limit{} || s.Egress != Limit{} || len(s.Sources) > 0):
		return fmt.Errorf("%w: rates and sources are for ports with a peer of their own, not for type %s", ErrBadSpec, s.Type)
	case s.Ingress.bad() || s.Egress.bad():
		return fmt.Errorf("%w: a rate needs a burst", ErrBadSpec)
	case len(s.Sources) > sourcesMax:
		return fmt.Errorf("%w: %d sources are more than %d", ErrBadSpec, len(s.Sources), sourcesMax)
	}
	for _, o := range s.Sources {
		if len(o.Addresses) > sourcesMax || slices.ContainsFunc(o.Addresses, func(a netip.Prefix) bool { return !a.IsValid() || a.Addr().Is4In6() }) {
			return fmt.Errorf("%w: source %x has more than %d addresses, or one that is none", ErrBadSpec, o.MAC, sourcesMax)
		}
	}
	return nil
}

func (s *PortSpec) checkVLANs() error {
	if s.Tag > 4094 {
		return fmt.Errorf("%w: VLAN %d is not in 0..4094", ErrBadSpec, s.Tag)
	}
	if i := slices.IndexFunc(s.Trunks, func(t uint16) bool { return t > 4094 }); i >= 0 {
		return fmt.Errorf("%w: VLAN %d is not in 0..4094", ErrBadSpec, s.Trunks[i])
	}
	switch s.Mode {
	case "", VLANTrunk:
	case VLANAccess, VLANNativeTagged, VLANNativeUntagged:
		if s.Tag == 0 {
			return fmt.Errorf("%w: VLAN mode %s needs a tag", ErrBadSpec, s.Mode)
		}
	default:
		return fmt.Errorf("%w: VLAN mode %q is none of access, trunk, native-tagged, native-untagged", ErrBadSpec, s.Mode)
	}
	return nil
}

// equal reports whether two ports have the same settings.
func (s *PortSpec) equal(o PortSpec) bool {
	return s.sameVLANs(o) && s.Bridge == o.Bridge && s.Name == o.Name && s.Type == o.Type && s.Path == o.Path && s.Peer == o.Peer &&
		s.MTU == o.MTU && s.Queues == o.Queues && s.MACLimit == o.MACLimit && maps.Equal(s.Options, o.Options) && s.Host.equal(o.Host) &&
		s.Ingress == o.Ingress && s.Egress == o.Egress && s.sameSources(o)
}

// sameSources reports whether two ports take frames of the same stations.
func (s *PortSpec) sameSources(o PortSpec) bool {
	return slices.EqualFunc(s.Sources, o.Sources, Source.equal)
}
