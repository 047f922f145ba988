package flows

import (
	"millrace/control/logical"
	"millrace/flowtable"
)

// replyRate is how many packets a second the rows of a bridge make in answer to others,
// all together, and in one go, unless their list begins with a meter: as many ICMP errors
// as Linux makes (net.ipv4.icmp_msgs_per_sec).
const replyRate = 1000

// replyKind returns which packet a verb makes in answer to another.
func replyKind(v logical.Verb) (kind uint8, ok bool) {
	switch v {
	case "reject":
		return flowtable.ReplyReject, true
	case "icmp4":
		return flowtable.ReplyICMP4, true
	case "icmp4_error":
		return flowtable.ReplyICMP4Error, true
	case "icmp6":
		return flowtable.ReplyICMP6, true
	case "icmp6_error":
		return flowtable.ReplyICMP6Error, true
	case "tcp_reset":
		return flowtable.ReplyTCP, true
	case "sctp_abort":
		return flowtable.ReplySCTP, true
	}
	return 0, false
}

// reply lowers the verbs that make a packet. A meter that its list begins with is in the
// place of the bridge's.
func (l *lowering) reply(a *logical.Block, kind uint8) error {
	list, made := a.List, flowtable.Action{Code: flowtable.ActReply, Table: kind}
	made.Arg, list = l.replyMeter(list)
	inner := *l
	inner.out = nil
	var rest []logical.Action
	for _, x := range list {
		load, ok := x.(*logical.Load)
		switch {
		case !ok || l.at[load.To.Symbol.Field].Width != 0:
			rest = append(rest, x)
		case load.To.Symbol.Field == logical.FieldICMP4InnerSrc || bitsIn(load.To) != load.To.Symbol.Field.Width() || load.Value.Kind == logical.ConstMasked:
			return fail(logical.Verb(load.To.Symbol.Name), "of %s, which an ICMP error has besides type and code, only frag_mtu can be set, and only as a whole", load.To.Symbol.Name)
		default:
			made.Value = load.Value.Value.Lo
		}
	}
	if err := inner.list(rest); err != nil {
		return err
	}
	made.Nested = inner.out
	l.add(made)
	return nil
}

// replyMeter returns the meter that bounds replies, and the list without it.
func (l *lowering) replyMeter(list []logical.Action) (uint32, []logical.Action) {
	if len(list) > 0 {
		switch m := list[0].(type) {
		case *logical.UseMeter:
			return uint32(l.objects.meter(m.Name)), list[1:]
		case *logical.SetMeter:
			return uint32(l.objects.ownMeter(m.Rate, m.Burst)), list[1:]
		}
	}
	return uint32(l.objects.replyMeter()), list
}

// replyMeter implements objectMaker.
func (v *view) replyMeter() flowtable.MeterID {
	v.made = true
	o := v.book.objectOf(v.flow, replyMeterKey(v.flow.row.Bridge), func(o *object) {
		o.meter = flowtable.Meter{ID: flowtable.MeterID(o.id), Packets: true, Rate: replyRate, Burst: replyRate}
	})
	return o.meter.ID
}

// replyMeter begins the keys of meters for the replies of a bridge.
const replyMeter = "replies:"
