package flows

import (
	"fmt"
	"strings"

	"millrace/control/logical"
	"millrace/flowtable"
)

// selectMember lowers select, which goes on in the next table.
func (l *lowering) selectMember(a *logical.Select) error {
	if int(l.table)+1 == flowtable.TablesMax {
		return fail("select", "there is no table after %d to go on in", flowtable.TablesMax-1)
	}
	names := strings.FieldsFunc(a.HashFields, func(c rune) bool { return c == ',' || c == ' ' })
	fields, err := l.hashFields(names)
	if err != nil {
		return fail("select", "hash_fields: %w", err)
	}
	buckets := make([]flowtable.Bucket, len(a.Members))
	for i, m := range a.Members {
		buckets[i] = flowtable.Bucket{ID: uint32(m.ID), Weight: m.Weight}
	}
	id := l.objects.choice(fields, buckets)
	err = l.into(a.To, flowtable.Action{Code: flowtable.ActSelect, Arg: uint32(id), Table: l.table + 1})
	l.tag = tagUnknown
	return err
}

// fwdGroup lowers fwd_group: one of the ports gets the packet.
func (l *lowering) fwdGroup(a *logical.FwdGroup) error {
	if a.Liveness {
		return fail("fwd_group", "liveness belongs to the OVN chassis, which this release does not have: leave it out")
	}
	fields, err := l.hashFields(nil)
	if err != nil {
		return err
	}
	buckets := make([]flowtable.Bucket, len(a.Ports))
	for i, name := range a.Ports {
		port := l.objects.port(name)
		buckets[i] = flowtable.Bucket{ID: uint32(i), Weight: 1, Actions: []flowtable.Action{
			{Code: flowtable.ActSet, Dst: l.at[logical.FieldOutport], Value: uint64(port)},
			{Code: flowtable.ActOutput, Arg: port},
		}}
	}
	l.add(flowtable.Action{Code: flowtable.ActSelect, Arg: uint32(l.objects.choice(fields, buckets))})
	return nil
}

// fieldNames are the names that Open vSwitch has for fields to hash, beside those
// of the language.
func fieldNames() map[string][]logical.Field {
	return map[string][]logical.Field{
		"eth_src": {logical.FieldEthSrc}, "eth_dst": {logical.FieldEthDst}, "eth_type": {logical.FieldEthType}, "ip_proto": {logical.FieldIPProto},
		"ip_src": {logical.FieldIP4Src}, "ip_dst": {logical.FieldIP4Dst}, "ipv6_src": {logical.FieldIP6Src}, "ipv6_dst": {logical.FieldIP6Dst},
		"tp_src": {logical.FieldTCPSrc}, "tp_dst": {logical.FieldTCPDst}, "nw_src": {logical.FieldIP4Src}, "nw_dst": {logical.FieldIP4Dst},
		"nw_proto": {logical.FieldIPProto}, "tcp_src": {logical.FieldTCPSrc}, "tcp_dst": {logical.FieldTCPDst}, "udp_src": {logical.FieldUDPSrc},
		"udp_dst": {logical.FieldUDPDst}, "sctp_src": {logical.FieldSCTPSrc}, "sctp_dst": {logical.FieldSCTPDst}, "dl_src": {logical.FieldEthSrc},
		"dl_dst": {logical.FieldEthDst}, "dl_type": {logical.FieldEthType},
	}
}

// hashFields returns the fields over which a hash is taken: those that are
// named, or addresses, protocol and ports. Where the rule is for one IP version,
// the addresses of the other are left out: they are zero, and to look at them makes
// longer keys.
func (l *lowering) hashFields(names []string) ([]flowtable.Field, error) {
	if len(names) == 0 {
		names = []string{"ip_src", "ip_dst", "ipv6_src", "ipv6_dst", "ip_proto", "tp_src", "tp_dst"}
	}
	known := fieldNames()
	var out []flowtable.Field
	for _, name := range names {
		fields, ok := known[name]
		if !ok {
			f, found := fieldNamed(name)
			if !found {
				return nil, fmt.Errorf("%q is no field: they are named as in matches, such as ip4.src", name)
			}
			fields = []logical.Field{f}
		}
		for _, f := range fields {
			v4, v6 := f == logical.FieldIP4Src || f == logical.FieldIP4Dst, f == logical.FieldIP6Src || f == logical.FieldIP6Dst
			if v4 && l.family == family6 || v6 && l.family == family4 {
				continue
			}
			out = append(out, l.at[f])
		}
	}
	return out, nil
}

// fieldNamed is the field of a name.
func fieldNamed(name string) (logical.Field, bool) {
	at := places()
	for f := range logical.NumFields {
		if f.String() == name && at[f].Width != 0 {
			return f, true
		}
	}
	return 0, false
}
