package flowtable

import "fmt"

// checkMembers checks that all members can be in a set, so that a change of a
// set that is refused leaves it as it is. Ref is the set's block, or 0 if it is
// yet to be made.
func (t *Tables) checkMembers(s Set, ref uint32, members []Member) error {
	if s.Width == 0 || s.Width > 64 && s.Width != 128 {
		return fmt.Errorf("width %d", s.Width)
	}
	own, all := maskCount{t: t}, maskCount{t: t, list: uint32(t.mem.words[t.domains+uint32(domainOf(s))])}
	if ref != 0 {
		own.list = uint32(t.mem.words[ref+setMasks])
	}
	for i, m := range members {
		if err := checkMember(s, m); err != nil {
			return err
		}
		if i > 0 && m.MaskHigh == members[i-1].MaskHigh && m.MaskLow == members[i-1].MaskLow {
			continue
		}
		if !own.add(m) || !all.add(m) {
			return fmt.Errorf("more than %d different masks", SetMasksMax)
		}
	}
	return nil
}

// maskCount counts the masks that a list has, and those that it is about to get.
type maskCount struct {
	t    *Tables
	list uint32 // block, or 0
	more []Member
}

// add counts the mask of m, and reports whether there is room for it.
func (c *maskCount) add(m Member) bool {
	if c.t.maskAt(c.list, m) != 0 {
		return true
	}
	for _, o := range c.more {
		if o.MaskHigh == m.MaskHigh && o.MaskLow == m.MaskLow {
			return true
		}
	}
	c.more = append(c.more, m)
	return int(c.t.masksIn(c.list))+len(c.more) <= SetMasksMax
}
