package flows

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	"millrace/control/logical"
	"millrace/flowtable"
)

// A bridge has three zones of its own: that of plain connection tracking, and those
// in which destinations and sources are translated. They follow from the number of its
// forwarding database, of which the dataplane knows when it goes: then it flushes
// them.
type zones uint32

// zonesOf are the zones of a bridge with a forwarding database. It reports false if
// there are none left for it.
func zonesOf(fdb uint32) (zones, bool) {
	return zones(fdb * flowtable.ZonesOfBridge), fdb < (1<<16)/flowtable.ZonesOfBridge
}

// number is the number of one of them.
func (z zones) number(of logical.CTZone) uint32 {
	switch of {
	case logical.ZoneDNAT:
		return uint32(z) + flowtable.ZoneDNAT
	case logical.ZoneSNAT:
		return uint32(z) + flowtable.ZoneSNAT
	}
	return uint32(z) + flowtable.ZonePlain
}

// connect adds an ActCT, which goes on in the next table if flags say so.
func (l *lowering) connect(v logical.Verb, of logical.CTZone, flags uint32, terms ...flowtable.Action) error {
	a, err := l.connection(v, of, flags, terms...)
	if err == nil {
		l.add(a)
	}
	return err
}

// connection makes an ActCT.
func (l *lowering) connection(v logical.Verb, of logical.CTZone, flags uint32, terms ...flowtable.Action) (flowtable.Action, error) {
	a := flowtable.Action{Code: flowtable.ActCT, Arg: l.zones.number(of)<<16 | flags, Nested: terms}
	if flags&flowtable.CTResume == 0 {
		return a, nil
	}
	if int(l.table)+1 == flowtable.TablesMax {
		return a, fail(v, "there is no table after %d to go on in", flowtable.TablesMax-1)
	}
	a.Table = l.table + 1
	return a, nil
}

// zone lowers ct_next, ct_commit_nat and ct_commit_to_zone.
func (l *lowering) zone(a *logical.Zone) error {
	flags := uint32(flowtable.CTResume)
	switch a.Verb {
	case "ct_commit_nat":
		flags |= flowtable.CTCommit | flowtable.CTTranslate
	case "ct_commit_to_zone":
		flags |= flowtable.CTCommit
	}
	return l.connect(a.Verb, a.Zone, flags)
}

// commit lowers ct_commit. The connection gets another source port if its reply would
// look like another one's.
func (l *lowering) commit(a *logical.Block) error {
	inner := *l
	inner.out = nil
	for _, x := range a.List {
		switch x.(type) {
		case *logical.Load, *logical.Move:
		default:
			return fail(a.Verb, "ct_commit takes assignments to ct_mark and ct_label only")
		}
		if err := inner.action(x); err != nil {
			return err
		}
	}
	terms := append(inner.out, flowtable.Action{Code: flowtable.ActNAT, Table: flowtable.NATSource})
	return l.connect(a.Verb, logical.ZoneDefault, flowtable.CTCommit|flowtable.CTTranslate, terms...)
}

// nat lowers ct_dnat, ct_snat and their kin. The zone that both share is that of
// destinations.
func (l *lowering) nat(a *logical.NAT) error {
	of, end := logical.ZoneDNAT, uint8(flowtable.NATDestination)
	switch a.Verb {
	case "ct_snat":
		of, end = logical.ZoneSNAT, flowtable.NATSource
	case "ct_snat_in_czone":
		end = flowtable.NATSource
	}
	if !a.Addr.IsValid() {
		return l.connect(a.Verb, of, flowtable.CTResume|flowtable.CTTranslate)
	}
	high := a.PortHigh
	if high == 0 {
		high = a.PortLow
	}
	return l.connect(a.Verb, of, flowtable.CTResume|flowtable.CTCommit|flowtable.CTTranslate, natTerm(end, a.Addr, a.PortLow, high))
}

// natTerm is a translation to an address, and to ports if they are not 0.
func natTerm(end uint8, to netip.Addr, low, high uint16) flowtable.Action {
	a := flowtable.Action{Code: flowtable.ActNAT, Table: end, Arg: uint32(high)<<16 | uint32(low)}
	if to.Is6() {
		a.Table |= flowtable.NATSix
	}
	v := logical.AddrValue(to)
	a.Value, a.ValueLow = v.Hi, v.Lo
	return a
}

// Bits of the mark, or, with ct_lb, of the label, that connections of load balancers
// get.
const (
	bitNatted = 1 << (1 + iota)
	bitSkipSNAT
	bitForceSNAT
)

// loadBalance lowers ct_lb and ct_lb_mark: a new connection goes to one of the backends.
func (l *lowering) loadBalance(a *logical.LoadBalance) error {
	if len(a.Backends) == 0 {
		return l.connect(a.Verb, logical.ZoneDefault, flowtable.CTResume|flowtable.CTTranslate)
	}
	names := strings.FieldsFunc(a.HashFields, func(c rune) bool { return c == ',' || c == ' ' })
	fields, err := l.hashFields(names)
	if err != nil {
		return fail(a.Verb, "hash_fields: %w", err)
	}
	buckets := make([]flowtable.Bucket, 0, len(a.Backends))
	used := map[uint32]bool{}
	for _, b := range l.local(a) {
		id := backendID(b)
		for used[id] {
			id++
		}
		used[id] = true
		to, err := l.backend(a, b)
		if err != nil {
			return err
		}
		buckets = append(buckets, flowtable.Bucket{ID: id, Weight: 1, Actions: []flowtable.Action{to}})
	}
	l.add(flowtable.Action{Code: flowtable.ActSelect, Arg: uint32(l.objects.choice(fields, buckets))})
	return nil
}

// backend is what sends a connection to a backend.
func (l *lowering) backend(a *logical.LoadBalance, b logical.Backend) (flowtable.Action, error) {
	bits := uint64(bitNatted)
	if a.SkipSNAT {
		bits |= bitSkipSNAT
	}
	if a.ForceSNAT {
		bits |= bitForceSNAT
	}
	inner := *l
	inner.out = nil
	if a.Verb == "ct_lb" {
		inner.setWord(flowtable.Field{Word: flowtable.WordLabelLow, Width: 64}, bits, bits)
	} else {
		inner.setWord(l.at[logical.FieldCTMark], bits, bits)
	}
	terms := append(inner.out, natTerm(flowtable.NATDestination, b.Addr, b.Port, b.Port))
	return l.connection(a.Verb, logical.ZoneDefault, flowtable.CTResume|flowtable.CTCommit|flowtable.CTTranslate, terms...)
}

// backendID is the id of a backend's bucket: it follows from the backend alone, so that
// clients stay where they are when others come and go.
func backendID(b logical.Backend) uint32 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %d", b.Addr, b.Port)
	return h.Sum32()
}

// result lowers verbs that look at the connection of the packet.
func (l *lowering) result(a *logical.Result) error {
	if act, ok := l.balanced(a); ok {
		return l.into(a.To, act)
	}
	switch a.Verb {
	case "ct_state_save":
		return l.into(a.To, flowtable.Action{Code: flowtable.ActMove, Src: bitsOf(l.at[logical.FieldCTState], 0, 8)})
	case "ct_nw_dst", "ct_ip6_dst", "ct_tp_dst", "ct_proto": // as fields of the flow table are called
		for _, f := range flowtable.Fields() {
			if f.Name == string(a.Verb) {
				return l.into(a.To, flowtable.Action{Code: flowtable.ActCTOriginal, Src: f})
			}
		}
	}
	return later(a)
}
