package logical

import (
	"net/netip"
	"strconv"
)

// PrintActions returns the canonical text of list. It parses back to the same
// list.
func PrintActions(list []Action) string { return string(appendActions(nil, list)) }

// appendActions appends list's text.
func appendActions(b []byte, list []Action) []byte {
	if len(list) == 0 {
		return append(b, "drop;"...)
	}
	for i, a := range list {
		if i > 0 {
			b = append(b, ' ')
		}
		b = a.appendAction(b)
	}
	return b
}

// text appends the parts of an action: strings as they are, references,
// constants and numbers as they are printed.
func text(b []byte, parts ...any) []byte {
	for _, part := range parts {
		switch v := part.(type) {
		case string:
			b = append(b, v...)
		case Verb:
			b = append(b, v...)
		case Ref:
			b = v.appendTo(b)
		case uint16:
			b = strconv.AppendUint(b, uint64(v), 10)
		case uint64:
			b = strconv.AppendUint(b, v, 10)
		case netip.Addr:
			b = v.AppendTo(b)
		}
	}
	return b
}

func (a *Load) appendAction(b []byte) []byte {
	b = text(b, a.To, " = ")
	return append(a.Value.appendTo(b), ';')
}

func (a *Move) appendAction(b []byte) []byte     { return text(b, a.To, " = ", a.From, ";") }
func (a *Exchange) appendAction(b []byte) []byte { return text(b, a.A, " <-> ", a.B, ";") }
func (a *Stack) appendAction(b []byte) []byte    { return text(b, a.Verb, "(", a.Ref, ");") }

func (a *Next) appendAction(b []byte) []byte {
	b = append(b, "next"...)
	table := func() { b = strconv.AppendInt(b, int64(a.Table), 10) }
	if a.Pipeline == PipelineSame {
		if a.Table != NextTable {
			b = append(b, '(')
			table()
			b = append(b, ')')
		}
		return append(b, ';')
	}
	b = text(b, "(pipeline=", [...]string{"", "ingress", "egress"}[a.Pipeline])
	if a.Table != NextTable {
		b = append(b, ", table="...)
		table()
	}
	return append(b, ");"...)
}

func (a *Simple) appendAction(b []byte) []byte {
	if a.Verb == "handle_bfd_msg" {
		return append(b, "handle_bfd_msg();"...)
	}
	return text(b, a.Verb, ";")
}

func (a *Block) appendAction(b []byte) []byte {
	b = text(b, a.Verb)
	if a.Verb == "ct_commit" && len(a.List) == 0 {
		return append(b, ';')
	}
	b = append(b, " { "...)
	return append(appendActions(b, a.List), " };"...)
}

func (a *Zone) appendAction(b []byte) []byte {
	b = text(b, a.Verb)
	if a.Zone != ZoneDefault {
		b = text(b, "(", [...]string{"", "dnat", "snat"}[a.Zone], ")")
	}
	return append(b, ';')
}

func (a *NAT) appendAction(b []byte) []byte {
	b = text(b, a.Verb)
	if !a.Addr.IsValid() {
		return append(b, ';')
	}
	b = text(b, "(", a.Addr)
	if a.PortLow != 0 {
		b = text(b, ", ", a.PortLow)
	}
	if a.PortHigh != 0 {
		b = text(b, "-", a.PortHigh)
	}
	return append(b, ");"...)
}

func (a *LoadBalance) appendAction(b []byte) []byte {
	b = text(b, a.Verb)
	if len(a.Backends) == 0 {
		return append(b, ';')
	}
	b = append(b, "(backends="...)
	for i := range a.Backends {
		if i > 0 {
			b = append(b, ',')
		}
		b = a.Backends[i].appendTo(b, a.Verb)
	}
	if a.HashFields != "" {
		b = appendString(append(b, "; hash_fields="...), a.HashFields)
	}
	switch {
	case a.SkipSNAT:
		b = append(b, "; skip_snat"...)
	case a.ForceSNAT:
		b = append(b, "; force_snat"...)
	}
	return append(b, ");"...)
}

// appendTo appends the backend as verb v writes it.
func (e *Backend) appendTo(b []byte, v Verb) []byte {
	if v == "ct_lb_mark_local" {
		b = append(appendString(b, e.LogicalPort), ':')
	}
	switch {
	case e.Port == 0 && v == "ct_lb_mark_local" && e.Addr.Is6():
		return text(b, "[", e.Addr, "]") // a colon stands before it
	case e.Port == 0:
		return text(b, e.Addr)
	case e.Addr.Is6():
		return text(b, "[", e.Addr, "]:", e.Port)
	}
	return text(b, e.Addr, ":", e.Port)
}

func (a *Select) appendAction(b []byte) []byte {
	b = text(b, a.To, " = select(")
	if a.HashFields != "" {
		b = append(b, "values=("...)
	}
	for i, m := range a.Members {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = text(b, m.ID, "=", m.Weight)
	}
	b = append(b, ')')
	if a.HashFields != "" {
		b = append(appendString(append(b, "; hash_fields="...), a.HashFields), ')')
	}
	return append(b, ';')
}

func (a *Result) appendAction(b []byte) []byte {
	b = text(b, a.To, " = ", a.Verb, "(")
	if a.Arg.Symbol != nil {
		b = text(b, a.Arg)
	}
	return append(b, ");"...)
}

func (a *GetNeighbour) appendAction(b []byte) []byte {
	return text(b, a.Verb, "(", a.Port, ", ", a.IP, ");")
}

func (a *PutNeighbour) appendAction(b []byte) []byte {
	return text(b, a.Verb, "(", a.Port, ", ", a.IP, ", ", a.MAC, ");")
}

func (a *LookupNeighbour) appendAction(b []byte) []byte {
	b = text(b, a.To, " = ", a.Verb, "(", a.Port, ", ", a.IP)
	if a.MAC.Symbol != nil {
		b = text(b, ", ", a.MAC)
	}
	return append(b, ");"...)
}

func (a *GetFDB) appendAction(b []byte) []byte {
	return text(b, a.To, " = ", a.Verb, "(", a.MAC, ");")
}

func (a *PutFDB) appendAction(b []byte) []byte {
	return text(b, "put_fdb(", a.Port, ", ", a.MAC, ");")
}

func (a *LookupFDB) appendAction(b []byte) []byte {
	return text(b, a.To, " = lookup_fdb(", a.Port, ", ", a.MAC, ");")
}

func (a *PutOptions) appendAction(b []byte) []byte {
	return append(appendOptions(text(b, a.To, " = ", a.Verb, "("), a.Options), ");"...)
}

// appendOptions appends options with commas between them.
func appendOptions(b []byte, options []Option) []byte {
	for i := range options {
		o := &options[i]
		if i > 0 {
			b = append(b, ", "...)
		}
		b = text(b, o.Name, " = ")
		if o.Braces {
			b = append(b, '{')
		}
		for j := range o.Values {
			if j > 0 {
				b = append(b, ", "...)
			}
			b = o.Values[j].appendTo(b)
		}
		if o.Braces {
			b = append(b, '}')
		}
	}
	return b
}

func (a *DHCPRelay) appendAction(b []byte) []byte {
	return text(b, a.To, " = ", a.Verb, "(", a.Relay, ", ", a.Server, ");")
}

func (a *CheckPacketLarger) appendAction(b []byte) []byte {
	return text(b, a.To, " = check_pkt_larger(", a.Bytes, ");")
}

func (a *SetQueue) appendAction(b []byte) []byte { return text(b, "set_queue(", a.ID, ");") }

func (a *SetMeter) appendAction(b []byte) []byte {
	b = text(b, "set_meter(", a.Rate)
	if a.Burst != 0 {
		b = text(b, ", ", a.Burst)
	}
	return append(b, ");"...)
}

func (a *Log) appendAction(b []byte) []byte {
	b = append(b, "log("...)
	if a.Name != "" {
		b = append(appendString(append(b, "name="...), a.Name), ", "...)
	}
	b = text(b, "verdict=", a.Verdict, ", severity=", a.Severity)
	if a.Meter != "" {
		b = appendString(append(b, ", meter="...), a.Meter)
	}
	return append(b, ");"...)
}

func (a *Sample) appendAction(b []byte) []byte {
	b = text(b, "sample(probability=", a.Probability, ", collector_set=", uint64(a.CollectorSet),
		", obs_domain=", uint64(a.ObsDomain), ", obs_point=")
	switch {
	case a.Cookie:
		b = append(b, "$cookie"...)
	case a.ObsPointFrom.Symbol != nil:
		b = text(b, a.ObsPointFrom)
	default:
		b = text(b, uint64(a.ObsPoint))
	}
	return append(b, ");"...)
}

func (a *TriggerEvent) appendAction(b []byte) []byte {
	b = appendString(append(b, "trigger_event(event = "...), a.Event)
	if len(a.Options) > 0 {
		b = appendOptions(append(b, ", "...), a.Options)
	}
	return append(b, ");"...)
}

func (a *BindVPort) appendAction(b []byte) []byte {
	b = appendString(append(b, "bind_vport("...), a.VPort)
	return text(b, ", ", a.Parent, ");")
}

func (a *HandleSvcCheck) appendAction(b []byte) []byte {
	return text(b, "handle_svc_check(", a.Port, ");")
}

func (a *FwdGroup) appendAction(b []byte) []byte {
	b = append(b, "fwd_group("...)
	if a.Liveness {
		b = append(b, `liveness="true", `...)
	}
	b = append(b, "childports="...)
	for i, port := range a.Ports {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendString(b, port)
	}
	return append(b, ");"...)
}

func (a *CommitECMP) appendAction(b []byte) []byte {
	return text(b, "commit_ecmp_nh(ipv6 = ", strconv.FormatBool(a.IPv6), ", proto = ", a.Proto, ");")
}

func (a *CommitAffinity) appendAction(b []byte) []byte {
	b = appendEndPoint(append(b, "commit_lb_aff(vip = "...), a.VIP, a.VIPPort)
	b = appendEndPoint(append(b, ", backend = "...), a.Backend, a.BackendPort)
	if a.Proto != "" {
		b = text(b, ", proto = ", a.Proto)
	}
	return text(b, ", timeout = ", a.Timeout, ");")
}

// appendEndPoint appends an address, with its port unless that is 0, as a
// string.
func appendEndPoint(b []byte, a netip.Addr, port uint16) []byte {
	b = append(b, '"')
	if a.Is6() {
		b = text(b, "[", a, "]")
	} else {
		b = text(b, a)
	}
	if port != 0 {
		b = text(b, ":", port)
	}
	return append(b, '"')
}

func (a *Mirror) appendAction(b []byte) []byte {
	return append(appendString(append(b, "mirror("...), a.Port), ");"...)
}

func (a *UseMeter) appendAction(b []byte) []byte {
	return append(appendString(append(b, "meter("...), a.Name), ");"...)
}

func (a *UseGroup) appendAction(b []byte) []byte {
	return append(appendString(append(b, "group("...), a.Name), ");"...)
}
