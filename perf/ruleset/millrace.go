package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteMillrace writes the rules as lines for millrace flow replace.
func (s Set) WriteMillrace(w io.Writer) error {
	b := bufio.NewWriter(w)
	for i := range s {
		fmt.Fprintln(b, s[i].Millrace())
	}
	return b.Flush()
}

// Millrace is the rule as millrace flow reads it.
func (r *Rule) Millrace() string {
	return fmt.Sprintf("table=%d priority=%d match=%s actions=%s", r.Table, r.Priority, strconv.Quote(r.Match.Millrace()), strconv.Quote(r.Actions()))
}

// Millrace is the match in OVN's language.
func (m *Match) Millrace() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if m.InPort != "" {
		add("inport == %q", m.InPort)
	}
	proto := ""
	switch {
	case m.Proto != 0:
		proto = map[uint8]string{TCP: "tcp", UDP: "udp"}[m.Proto]
		add("%s && ip4", proto)
	case m.IPv4:
		add("ip4")
	}
	if m.SrcMask != 0 {
		add("ip4.src == %s", maskedIP(m.Src, m.SrcMask))
	}
	if m.DstMask != 0 {
		add("ip4.dst == %s", maskedIP(m.Dst, m.DstMask))
	}
	if m.SrcBits != 0 {
		add("%s.src == %s", proto, maskedHex(m.SrcPort, m.SrcBits))
	}
	if m.DstBits != 0 {
		add("%s.dst == %s", proto, maskedHex(m.DstPort, m.DstBits))
	}
	if m.RegMask != 0 {
		add("reg%d == %s", m.Reg, maskedHex(m.RegValue, m.RegMask))
	}
	if parts = append(parts, m.millraceState()...); parts == nil {
		return "1"
	}
	return strings.Join(parts, " && ")
}

// Actions is what the rule does, in OVN's language.
func (r *Rule) Actions() string {
	var b strings.Builder
	for _, a := range r.Set {
		fmt.Fprintf(&b, "reg%d = %#x; ", a.Reg, a.Value)
	}
	switch {
	case r.Connect != nil && r.Next != 0:
		b.WriteString(r.Connect.millrace(false))
	case r.Connect != nil:
		fmt.Fprintf(&b, "%s outport = %q; output;", r.Connect.millrace(true), r.Output)
	case r.Next != 0:
		fmt.Fprintf(&b, "next(%d);", r.Next)
	case r.Output != "":
		fmt.Fprintf(&b, "outport = %q; output;", r.Output)
	default:
		return "drop;"
	}
	return b.String()
}
