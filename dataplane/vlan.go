package dataplane

const (
	etherVLAN = 0x8100
	vidMask   = 0x0fff
	pcpMask   = 0xf000 // priority and drop eligibility, which travel with the frame
	tagLen    = 4
	macsLen   = 12
)

// A vlanPolicy says which VLANs a port takes and carries, after Port.vlan_mode,
// tag and trunks of the Open_vSwitch schema.
type vlanPolicy struct {
	mode  VLANMode
	tag   uint16
	all   bool // carries every VLAN
	trunk [4096 / 64]uint64
}

// newVLANPolicy is the policy of a port whose settings were checked (PortSpec.checkVLANs).
func newVLANPolicy(s PortSpec) vlanPolicy {
	v := vlanPolicy{mode: s.Mode, tag: s.Tag, all: len(s.Trunks) == 0}
	if v.mode == "" {
		v.mode = VLANTrunk
		if s.Tag != 0 {
			v.mode = VLANAccess
		}
	}
	for _, t := range s.Trunks {
		v.trunk[t/64] |= 1 << (t % 64)
	}
	if v.mode == VLANNativeTagged || v.mode == VLANNativeUntagged {
		v.trunk[v.tag/64] |= 1 << (v.tag % 64)
	}
	return v
}

// carries reports whether vid is one of the trunk's VLANs.
func (v *vlanPolicy) carries(vid uint16) bool {
	return v.all || v.trunk[vid/64&63]&(1<<(vid%64)) != 0
}

// vlans are the VLANs of the trunk.
func (v *vlanPolicy) vlans() (out []uint16) {
	for i := range uint16(4096) {
		if v.trunk[i/64]&(1<<(i%64)) != 0 {
			out = append(out, i)
		}
	}
	return out
}

// emit says whether a frame of VLAN vid leaves by the port, and whether with a
// tag.
func (v *vlanPolicy) emit(vid uint16) (tag, ok bool) {
	switch v.mode {
	case VLANAccess:
		return false, vid == v.tag
	case VLANNativeUntagged:
		return vid != v.tag && vid != 0, v.carries(vid)
	}
	return vid != 0, v.carries(vid)
}
