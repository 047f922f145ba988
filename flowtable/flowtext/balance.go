package flowtext

import (
	"fmt"

	"millrace/flowtable"
)

// balance writes the actions of load balancers, and replies.
func (w *writer) balance(a *flowtable.Action) string {
	switch a.Code {
	case flowtable.ActReply:
		mtu := ""
		if a.Value != 0 {
			mtu = fmt.Sprintf("frag_mtu = %d; ", a.Value)
		}
		return fmt.Sprintf("%s { %s; %s%s };", replyVerb(a.Table), w.names.meter(a.Arg), mtu, w.about(a.Table).actions(a.Nested))
	case flowtable.ActAffinity:
		return w.ref(a.Dst) + " = chk_lb_aff();"
	case flowtable.ActStick:
		if len(a.Nested) != 2 {
			break
		}
		vip, proto := endpoint(&a.Nested[0])
		backend, _ := endpoint(&a.Nested[1])
		return fmt.Sprintf("commit_lb_aff(vip = %q, backend = %q, %stimeout = %d);", vip, backend, proto, a.Value)
	case flowtable.ActHairpin:
		return w.ref(a.Dst) + " = chk_lb_hairpin();"
	case flowtable.ActHairpinReply:
		return w.ref(a.Dst) + " = chk_lb_hairpin_reply();"
	}
	return fmt.Sprintf("action(%d);", a.Code)
}

// about returns a writer for a reply of a kind.
func (w *writer) about(kind uint8) *writer {
	var packet []flowtable.Masked
	is := func(word uint8, value, mask uint64) {
		packet = append(packet, flowtable.Masked{Word: word, Value: value, Mask: mask})
	}
	switch kind {
	case flowtable.ReplyICMP4, flowtable.ReplyICMP4Error:
		is(flowtable.WordIn, 0x0800, 0xffff)
		is(flowtable.WordSrc, 1<<8, 0xff00)
	case flowtable.ReplyICMP6, flowtable.ReplyICMP6Error:
		is(flowtable.WordIn, 0x86dd, 0xffff)
		is(flowtable.WordSrc, 58<<8, 0xff00)
	default:
		return w
	}
	return newWriter(kindOf(packet), w.names)
}

// endpoint writes an ActEndpoint, and its protocol as the language has it.
func endpoint(a *flowtable.Action) (text, proto string) {
	six := a.Table&flowtable.NATSix != 0
	form := formIP4
	if six {
		form = formIP6
	}
	text = value{a.Value, a.ValueLow}.text(form, nil)
	port := uint16(a.Arg)
	switch {
	case port != 0 && six:
		text = fmt.Sprintf("[%s]:%d", text, port)
	case port != 0:
		text = fmt.Sprintf("%s:%d", text, port)
	}
	switch uint8(a.Arg >> 16) {
	case 6:
		proto = "proto = tcp, "
	case 17:
		proto = "proto = udp, "
	case 132:
		proto = "proto = sctp, "
	}
	return text, proto
}

// replyVerb is what the language calls a kind of reply.
func replyVerb(kind uint8) string {
	names := [...]string{"reject", "icmp4", "icmp4_error", "icmp6", "icmp6_error", "tcp_reset", "sctp_abort"}
	if int(kind) < len(names) {
		return names[kind]
	}
	return fmt.Sprintf("reply(%d)", kind)
}

// replyOp writes an OpReply.
func (w *writer) replyOp(o *flowtable.Op) string {
	text := replyVerb(o.Word)
	if o.Arg != 0 {
		text += " " + w.names.meter(o.Arg)
	}
	if o.Value != 0 {
		text += fmt.Sprintf(" frag_mtu = %d", o.Value)
	}
	if o.Mask != 0 {
		text += " turned round"
	}
	return text + ";"
}
