package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
)

// ctFilter are the flags that choose connections.
type ctFilter struct {
	zone, proto                          string
	src, dst, replySrc, replyDst, addr   string
	sport, dport, replySport, replyDport string
	port, mark                           string
	states                               []string
}

// filterHelp explains the flags.
const filterHelp = `Flags choose connections, and must hold together. The original direction is that of the
first packet, the reply direction is what answers look like: of a translated source, the
destination of replies is the address that it was given. --addr and --port mean one of the
four ends. An address may be a prefix, 10.0.0.0/8, and a port a range, 8000-8099; only
TCP, UDP and SCTP have ports.`

// register makes the flags of cmd, and completes what can be.
func (f *ctFilter) register(a *app, cmd *cobra.Command) {
	p := cmd.Flags()
	for _, v := range []struct {
		at         *string
		name, help string
	}{
		{&f.zone, "zone", "zone: its number, BRIDGE, or BRIDGE/KIND with KIND plain, dnat or snat"},
		{&f.proto, "proto", "protocol: tcp, udp, icmp, icmp6, sctp, or a number"},
		{&f.src, "src", "address or prefix of the source"},
		{&f.sport, "sport", "port or ports of the source"},
		{&f.dst, "dst", "address or prefix of the destination"},
		{&f.dport, "dport", "port or ports of the destination"},
		{&f.replySrc, "reply-src", "address or prefix of the source of replies"},
		{&f.replySport, "reply-sport", "port or ports of the source of replies"},
		{&f.replyDst, "reply-dst", "address or prefix of the destination of replies"},
		{&f.replyDport, "reply-dport", "port or ports of the destination of replies"},
		{&f.addr, "addr", "address or prefix of any end"},
		{&f.port, "port", "port or ports of any end; with --addr, of the same one"},
		{&f.mark, "mark", "ct_mark: VALUE or VALUE/MASK, such as 0x10/0xf0"},
	} {
		p.StringVar(v.at, v.name, "", v.help)
	}
	p.StringSliceVar(&f.states, "state", nil, "states, separated by commas: established, syn_sent, replied, ...")
	completeWith(cmd, "zone", a.zoneWords())
	completeWith(cmd, "proto", cobra.FixedCompletions(protoWords(), cobra.ShellCompDirectiveNoFileComp))
	completeWith(cmd, "state", cobra.FixedCompletions(stateWords(), cobra.ShellCompDirectiveNoFileComp))
}

// stateWords are the names of states, as people type them.
func stateWords() []string {
	var words []string
	for _, s := range conntrack.StateNames() {
		words = append(words, strings.ToLower(s))
	}
	return words
}

// message turns the flags into what the dataplane is asked, or nil if there are
// none. What only it can judge, it does.
func (f *ctFilter) message(cmd *cobra.Command) (*api.ConnectionFilter, error) {
	m := &api.ConnectionFilter{Src: f.src, Dst: f.dst, ReplySrc: f.replySrc, ReplyDst: f.replyDst, Addr: f.addr, State: f.states}
	var err error
	set := func(flag, text string, parse func(string) error) {
		if text == "" || err != nil {
			return
		}
		if e := parse(text); e != nil {
			err = usage(cmd, "--%s: %w", flag, e)
		}
	}
	set("zone", f.zone, func(s string) (e error) { m.Zone, e = parseZone(s); return e })
	set("proto", f.proto, func(s string) (e error) { m.Protocol, e = parseProto(s); return e })
	set("mark", f.mark, func(s string) (e error) { m.Mark, m.MarkMask, e = parseMark(s); return e })
	for _, p := range []struct {
		flag, text string
		at         **api.PortRange
	}{
		{"sport", f.sport, &m.Sport}, {"dport", f.dport, &m.Dport}, {"reply-sport", f.replySport, &m.ReplySport},
		{"reply-dport", f.replyDport, &m.ReplyDport}, {"port", f.port, &m.Port},
	} {
		set(p.flag, p.text, func(s string) (e error) { *p.at, e = parsePorts(s); return e })
	}
	if err != nil || proto.Size(m) == 0 {
		return nil, err
	}
	return m, nil
}

// kindAll stands for all zones of a bridge, where its name alone would be a number.
const kindAll = "all"

// parseZone reads NUMBER, BRIDGE or BRIDGE/KIND.
func parseZone(s string) (*api.ZoneSelector, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		if n >= conntrack.Zones {
			return nil, fmt.Errorf("%d is no zone: they are 0..%d", n, conntrack.Zones-1)
		}
		number := uint32(n)
		return &api.ZoneSelector{Number: &number}, nil
	}
	bridge, kind, has := strings.Cut(s, "/")
	if bridge == "" || has && kind == "" {
		return nil, fmt.Errorf("%q is no zone: it is a number, BRIDGE or BRIDGE/KIND", s)
	}
	z := &api.ZoneSelector{Bridge: bridge}
	if !has || kind == kindAll {
		return z, nil
	}
	for _, k := range []api.ZoneKind{api.ZoneKind_ZONE_KIND_PLAIN, api.ZoneKind_ZONE_KIND_DNAT, api.ZoneKind_ZONE_KIND_SNAT} {
		if word(k) == kind {
			z.Kind = k
			return z, nil
		}
	}
	return nil, fmt.Errorf("%q is no kind of zone: they are plain, dnat and snat, or all of them", kind)
}

// A protocol has a name and a number (IANA, Protocol Numbers).
type protocol struct {
	name   string
	number uint32
}

// protocols are those that have a name here.
func protocols() []protocol {
	return []protocol{
		{"tcp", conntrack.ProtoTCP}, {"udp", conntrack.ProtoUDP}, {"icmp", conntrack.ProtoICMP}, {"icmp6", conntrack.ProtoICMPv6}, {"sctp", conntrack.ProtoSCTP},
		{"gre", 47}, {"esp", 50}, {"ah", 51}, {"igmp", 2},
	}
}

func protoWords() (words []string) {
	for _, p := range protocols() {
		words = append(words, p.name)
	}
	return words
}

// protoName is the name of a protocol, or its number.
func protoName(n uint32) string {
	for _, p := range protocols() {
		if p.number == n {
			return p.name
		}
	}
	return strconv.FormatUint(uint64(n), 10)
}

// parseProto reads a protocol.
func parseProto(s string) (*uint32, error) {
	for _, p := range protocols() {
		if p.name == strings.ToLower(s) {
			return &p.number, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return nil, fmt.Errorf("%q is neither a number, 0 to 255, nor one of %s", s, strings.Join(protoWords(), ", "))
	}
	number := uint32(n)
	return &number, nil
}

// parsePorts reads a port or a range of them.
func parsePorts(s string) (*api.PortRange, error) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	first, err := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	if err != nil || err2 != nil || last < first {
		return nil, fmt.Errorf("%q is neither a port, 0 to 65535, nor a range like 8000-8099", s)
	}
	return &api.PortRange{First: uint32(first), Last: uint32(last)}, nil
}

// parseMark reads VALUE or VALUE/MASK, in decimal or, with 0x, hexadecimal.
func parseMark(s string) (mark, mask uint32, err error) {
	value, bits, masked := strings.Cut(s, "/")
	m, err := strconv.ParseUint(value, 0, 32)
	n := uint64(math.MaxUint32)
	if err == nil && masked {
		n, err = strconv.ParseUint(bits, 0, 32)
	}
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("%q is no mark: it is VALUE or VALUE/MASK, of 32 bits", s)
	case n == 0:
		return 0, 0, fmt.Errorf("%q asks for no bit: its mask is 0", s)
	case m&^n != 0:
		return 0, 0, fmt.Errorf("%#x has bits that its mask %#x has not", m, n)
	}
	return uint32(m), uint32(n), nil
}
