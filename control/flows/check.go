package flows

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// A Checker compiles flows without a database: whatever they refer to is taken to
// be there.
type Checker struct {
	book  *Book
	ports []string // by number, from 1
}

// Checked is what a flow is compiled to.
type Checked struct {
	Rules   []flowtable.Rule
	Sets    map[flowtable.SetID]string                // as they are written in matches
	Meters  map[flowtable.MeterID]string              // their names, or rates
	Groups  map[flowtable.SelectID]string             // names of those that have one
	Buckets map[flowtable.SelectID][]flowtable.Bucket // of the others
}

// checkBridge is the bridge that flows are checked for.
const checkBridge = "bridge"

// NewChecker returns a checker.
func NewChecker() *Checker {
	c := &Checker{book: NewBook()}
	c.book.SetBridges(map[string]*Bridge{checkBridge: {FDB: 1, Flood: flowtable.FloodPort | 1, Ports: map[string]uint32{}}})
	c.book.assume = c
	return c
}

// Check returns what a flow is compiled to, or what is wrong with it. Its bridge
// is not looked at.
func (c *Checker) Check(row *flowmodel.Flow) (*Checked, *Problem) {
	r := *row
	r.Bridge = checkBridge
	f := &flow{row: &r}
	c.book.pass++
	p := c.book.lower(f)
	out := &Checked{Sets: map[flowtable.SetID]string{}, Meters: map[flowtable.MeterID]string{}, Groups: map[flowtable.SelectID]string{}, Buckets: map[flowtable.SelectID][]flowtable.Bucket{}}
	for _, x := range f.rules {
		out.Rules = append(out.Rules, x.Rule)
	}
	for _, o := range f.objects {
		out.name(o)
	}
	rules, objects := f.rules, f.objects
	f.rules, f.objects = nil, nil
	c.book.clear(f)
	c.book.letGo(f, rules, objects)
	if p != nil {
		return nil, p
	}
	return out, nil
}

// name notes what an object is called.
func (c *Checked) name(o *object) {
	kind, rest, _ := strings.Cut(o.key.text, ":")
	switch o.key.kind {
	case kindSet:
		switch kind {
		case "address set":
			_, name, _ := strings.Cut(rest, " ")
			c.Sets[o.set.ID] = "$" + name
		case "port group":
			c.Sets[o.set.ID] = "@" + rest
		default:
			c.Sets[o.set.ID] = SetText(o.set.Width, inOrder(o.members), len(o.members))
		}
	case kindMeter:
		c.Meters[o.meter.ID] = rest
		switch kind {
		case "meter":
		case "replies":
			c.Meters[o.meter.ID] = fmt.Sprintf("%d replies per second", o.meter.Rate)
		default:
			c.Meters[o.meter.ID] = MeterText(&o.meter)
		}
	case kindSelect:
		if kind == "group" {
			_, c.Groups[o.choice.ID], _ = strings.Cut(rest, " ")
			return
		}
		c.Buckets[o.choice.ID] = o.choice.Buckets
	}
}

// memberText is a member as it might be written.
func memberText(width uint8, m flowtable.Member) string {
	address := func(high, low uint64) string {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], high)
		binary.BigEndian.PutUint64(b[8:], low)
		switch width {
		case 32:
			return netip.AddrFrom4([4]byte(b[12:])).String()
		case 128:
			return netip.AddrFrom16(b).String()
		}
		return fmt.Sprintf("0x%x", low)
	}
	full := width == 128 && m.MaskHigh == ^uint64(0) && m.MaskLow == ^uint64(0) || width < 128 && m.MaskLow == ^uint64(0)>>(64-min(width, 64))
	if full {
		return address(m.High, m.Low)
	}
	if n := prefixLen(width, m); n >= 0 {
		return fmt.Sprintf("%s/%d", address(m.High, m.Low), n)
	}
	return address(m.High, m.Low) + "/" + address(m.MaskHigh, m.MaskLow)
}

// prefixLen is the length of the prefix that the mask of an IP address is, or -1.
func prefixLen(width uint8, m flowtable.Member) int {
	n := bits.OnesCount64(m.MaskHigh) + bits.OnesCount64(m.MaskLow)
	switch {
	case width == 32 && m.MaskLow == uint64(^uint32(0)<<(32-n)),
		width == 128 && n <= 64 && m.MaskHigh == ^uint64(0)<<(64-n),
		width == 128 && n > 64 && m.MaskLow == ^uint64(0)<<(128-n):
		return n
	}
	return -1
}

// port is the number that a port has for a checker.
func (c *Checker) port(name string) uint32 {
	for i, known := range c.ports {
		if known == name {
			return uint32(i + 1)
		}
	}
	c.ports = append(c.ports, name)
	return uint32(len(c.ports))
}

// Port is the name of the port that has a number in rules that were checked; empty
// if none has.
func (c *Checker) Port(number uint32) string {
	if number == 0 || int(number) > len(c.ports) {
		return ""
	}
	return c.ports[number-1]
}
