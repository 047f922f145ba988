package flows

import (
	"cmp"
	"fmt"

	"millrace/control/logical"
	"millrace/flowtable"
)

// memberOf is a masked value as a member of a set.
func memberOf(value, mask logical.Value) flowtable.Member {
	return flowtable.Member{High: value.Hi, Low: value.Lo, MaskHigh: mask.Hi, MaskLow: mask.Lo}
}

func compareMembers(a, b flowtable.Member) int {
	return cmp.Or(cmp.Compare(a.High, b.High), cmp.Compare(a.Low, b.Low), cmp.Compare(a.MaskHigh, b.MaskHigh), cmp.Compare(a.MaskLow, b.MaskLow))
}

// An address is an element of an address set.
type address struct {
	value logical.Constant
	width int // of the fields that it goes with; 0: of all that it fits
}

// widthOf is the width of fields whose values are written in a format; 0: any.
func widthOf(f logical.Format) int {
	switch f {
	case logical.FormatIPv4:
		return 32
	case logical.FormatIPv6:
		return 128
	case logical.FormatEthernet:
		return 48
	}
	return 0
}

// parseAddress reads an element of an address set: an IP or Ethernet address or a
// number, perhaps with a mask.
func parseAddress(s string) (address, error) {
	c, err := logical.ParseConstant(s)
	if err != nil {
		return address{}, fmt.Errorf("%.60q: %w", s, err)
	}
	return address{c, widthOf(c.Format)}, nil
}

// member is the address as a member of a set for fields of a width. It reports
// false if it does not go with them.
func (a *address) member(width int) (flowtable.Member, bool) {
	mask := logical.Ones(width)
	if a.value.Kind == logical.ConstMasked {
		mask = a.value.Mask
	}
	if a.width != 0 && a.width != width || a.value.Value.Len() > width || mask.Len() > width {
		return flowtable.Member{}, false
	}
	return memberOf(a.value.Value, mask), true
}
