package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// WriteOpenFlow writes the rules as lines for ovs-ofctl add-flows. ports are the
// OpenFlow numbers of ports by name.
func (s Set) WriteOpenFlow(w io.Writer, ports map[string]int) error {
	b := bufio.NewWriter(w)
	group := 1
	for i := range s {
		fmt.Fprintln(b, s[i].OpenFlow(ports, group))
		if c := s[i].Connect; c != nil && c.Backends != nil {
			group++
		}
	}
	return b.Flush()
}

// OpenFlow is the rule as ovs-ofctl(8) reads it. group is the number of its group, if
// it has one: see Groups.
func (r *Rule) OpenFlow(ports map[string]int, group int) string {
	parts := append([]string{fmt.Sprintf("table=%d,priority=%d", r.Table, r.Priority)}, r.Match.openFlow(ports)...)
	var actions []string
	for _, a := range r.Set {
		actions = append(actions, fmt.Sprintf("load:%#x->NXM_NX_REG%d[]", a.Value, a.Reg))
	}
	if r.Connect != nil {
		actions = append(actions, r.Connect.openFlow(r.Next, group))
	}
	switch {
	case r.Connect != nil && r.Next != 0:
	case r.Next != 0:
		actions = append(actions, fmt.Sprintf("resubmit(,%d)", r.Next))
	case r.Output != "":
		actions = append(actions, fmt.Sprintf("output:%d", ports[r.Output]))
	default:
		actions = []string{"drop"}
	}
	return strings.Join(parts, ",") + ",actions=" + strings.Join(actions, ",")
}

func (m *Match) openFlow(ports map[string]int) []string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if m.InPort != "" {
		add("in_port=%d", ports[m.InPort])
	}
	if m.IPv4 {
		add("%s", map[uint8]string{0: "ip", TCP: "tcp", UDP: "udp"}[m.Proto])
	}
	if m.SrcMask != 0 {
		add("nw_src=%s", maskedIP(m.Src, m.SrcMask))
	}
	if m.DstMask != 0 {
		add("nw_dst=%s", maskedIP(m.Dst, m.DstMask))
	}
	if m.SrcBits != 0 {
		add("tp_src=%s", maskedHex(m.SrcPort, m.SrcBits))
	}
	if m.DstBits != 0 {
		add("tp_dst=%s", maskedHex(m.DstPort, m.DstBits))
	}
	if m.RegMask != 0 {
		add("reg%d=%s", m.Reg, maskedHex(m.RegValue, m.RegMask))
	}
	if m.StateBits != 0 {
		add("ct_state=%s", m.openFlowState())
	}
	return parts
}

// maskedIP is an IPv4 address with its mask, if that leaves anything open.
func maskedIP(v, mask uint32) string {
	if mask == ^uint32(0) {
		return dotted(v)
	}
	return dotted(v) + "/" + dotted(mask)
}

func dotted(v uint32) string {
	return fmt.Sprintf("%d.%d.%d.%d", v>>24, v>>16&255, v>>8&255, v&255)
}

func maskedHex[T uint16 | uint32](v, mask T) string {
	if mask == ^T(0) {
		return fmt.Sprintf("%#x", v)
	}
	return fmt.Sprintf("%#x/%#x", v, mask)
}
