package flows

import (
	"fmt"
	"strings"

	"millrace/flowtable"
)

// addressSetKey is the key of the members of an address set that have a width.
func addressSetKey(name string, width uint8) objectKey {
	return objectKey{kindSet, fmt.Sprintf("address set:%d %s", width, name)}
}

func portGroupKey(name string) objectKey { return objectKey{kindSet, "port group:" + name} }

func meterKey(name string) objectKey { return objectKey{kindMeter, "meter:" + name} }

// replyMeterKey is the key of the meter for the replies of a bridge.
func replyMeterKey(bridge string) objectKey { return objectKey{kindMeter, replyMeter + bridge} }

// groupKey is the key of a group as it is for rules of a table, for packets of a kind.
func groupKey(bridge string, table uint8, f family, t tag, name string) objectKey {
	return objectKey{kindSelect, fmt.Sprintf("group:%s,%d,%d,%d %s", strings.ReplaceAll(bridge, " ", "  "), table, f, t, name)}
}

// Named are names of rows, and of bridges.
type Named struct {
	AddressSets, PortGroups, Meters, Groups, Bridges []string
}

// Numbers says what numbers of sets, meters and groups stand for: what they are called
// in the language. Numbers that two names may have are not in it, nor are those of
// objects that have given way to others of their number.
type Numbers struct {
	Sets   map[flowtable.SetID]string // "$web", "@tenants"
	Meters map[flowtable.MeterID]string
	named  *Named
	groups map[flowtable.SelectID]string // nil: not made yet
}

// Numbers returns the numbers that a Book gives to what has these names.
func (n *Named) Numbers() *Numbers {
	out := &Numbers{Sets: map[flowtable.SetID]string{}, Meters: map[flowtable.MeterID]string{}, named: n}
	var d digester
	for _, name := range n.AddressSets {
		for width := uint8(1); width <= 64; width++ {
			note(&d, out.Sets, addressSetKey(name, width), "$"+name)
		}
		note(&d, out.Sets, addressSetKey(name, 128), "$"+name)
	}
	for _, name := range n.PortGroups {
		note(&d, out.Sets, portGroupKey(name), "@"+name)
	}
	for _, name := range n.Meters {
		note(&d, out.Meters, meterKey(name), name)
	}
	for _, bridge := range n.Bridges {
		note(&d, out.Meters, replyMeterKey(bridge), fmt.Sprintf("%d replies per second", replyRate))
	}
	return out
}

// Group returns the name of a group; empty if it is not known. The first call takes a
// while if there are many: a group has a number for each bridge, table and kind of packets.
func (n *Numbers) Group(id flowtable.SelectID) string {
	if n.groups == nil {
		n.groups = map[flowtable.SelectID]string{}
		var d digester
		for _, name := range n.named.Groups {
			for _, bridge := range n.named.Bridges {
				for i := range flowtable.TablesMax * families * tags {
					table, f, t := i/(families*tags), i/tags%families, i%tags
					note(&d, n.groups, groupKey(bridge, uint8(table), family(f), tag(t), name), name)
				}
			}
		}
	}
	return n.groups[id]
}

// note notes what the number of a key stands for: nothing, if it may be something else.
func note[ID ~uint32](d *digester, to map[ID]string, key objectKey, text string) {
	id := ID(d.key(key) & idMax)
	if old, there := to[id]; there && old != text {
		text = ""
	}
	to[id] = text
}

// SetText is a set that has no name as a text might have it: its first members, if they
// are many. Of n members, the first ones are given.
func SetText(width uint8, first []flowtable.Member, n int) string {
	const some = 8
	var list []string
	for _, m := range first[:min(len(first), some)] {
		list = append(list, memberText(width, m))
	}
	if n > len(list) {
		list = append(list, fmt.Sprintf("and %d more", n-len(list)))
	}
	return "{" + strings.Join(list, ", ") + "}"
}

// MeterText is a meter that has no name: its rate.
func MeterText(m *flowtable.Meter) string {
	if m.Packets {
		return fmt.Sprintf("%d packets per second", m.Rate)
	}
	return fmt.Sprintf("%d kbps", m.Rate)
}
