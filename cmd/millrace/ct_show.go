package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
)

// zoneOf says which bridge's a zone is, and what for.
func zoneOf(bridge string, kind api.ZoneKind) string {
	if bridge == "" {
		return ""
	}
	return bridge + "/" + word(kind)
}

// ipOf shows an address.
func ipOf(b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return "?"
	}
	return a.String()
}

// endOf shows an address and, if the protocol has ports, its port.
func endOf(b []byte, port, proto uint32) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok || !hasPorts(proto) {
		return ipOf(b)
	}
	return netip.AddrPortFrom(a, uint16(port)).String()
}

func hasPorts(proto uint32) bool {
	t := conntrack.Tuple{Proto: uint8(proto)}
	return t.HasPorts()
}

func isICMP(proto uint32) bool {
	return proto == conntrack.ProtoICMP || proto == conntrack.ProtoICMPv6
}

// tupleText shows a direction: source > destination.
func tupleText(t *api.ConnectionTuple, proto uint32) string {
	s := endOf(t.GetSrc(), t.GetSport(), proto) + " > " + endOf(t.GetDst(), t.GetDport(), proto)
	if isICMP(proto) {
		s += fmt.Sprintf(" id %d type %d", t.GetSport(), t.GetDport()>>8)
	}
	return s
}

// replyText shows the reply direction if it is not what the original one turned
// around is: one is translated.
func replyText(c *api.Connection) string {
	o, r := c.GetOriginal(), c.GetReply()
	turned := bytes.Equal(o.GetSrc(), r.GetDst()) && bytes.Equal(o.GetDst(), r.GetSrc())
	switch p := c.GetProtocol(); {
	case hasPorts(p):
		turned = turned && o.GetSport() == r.GetDport() && o.GetDport() == r.GetSport()
	case isICMP(p):
		turned = turned && o.GetSport() == r.GetSport()
	}
	if turned {
		return ""
	}
	return tupleText(r, c.GetProtocol())
}

// flagsText shows what else there is to a connection.
func flagsText(c *api.Connection) string {
	var words []string
	for _, f := range []struct {
		is   bool
		word string
	}{{c.GetAssured(), "assured"}, {c.GetSnat(), "snat"}, {c.GetDnat(), "dnat"}} {
		if f.is {
			words = append(words, f.word)
		}
	}
	if c.GetLabelHigh()|c.GetLabelLow() != 0 {
		words = append(words, "label="+labelText(c))
	}
	return strings.Join(words, " ")
}

// labelText is the label as one number.
func labelText(c *api.Connection) string {
	if c.GetLabelHigh() == 0 {
		return fmt.Sprintf("%#x", c.GetLabelLow())
	}
	return fmt.Sprintf("%#x%016x", c.GetLabelHigh(), c.GetLabelLow())
}

// markText shows a mark, if there is one.
func markText(mark uint32) string {
	if mark == 0 {
		return ""
	}
	return fmt.Sprintf("%#x", mark)
}

// wholeSeconds shows seconds as people read them.
func wholeSeconds(n uint32) string { return span(time.Duration(n) * time.Second) }

// connectionTable is a table of connections without rows.
func connectionTable() *table {
	return newTable(">ZONE", "OF", "PROTO", "STATE", "ORIGINAL", "REPLY", ">PACKETS", ">BYTES", ">REPLY PACKETS", ">REPLY BYTES", ">AGE", ">EXPIRES", "MARK", "FLAGS")
}

func addConnection(t *table, c *api.Connection) {
	t.add(fmt.Sprint(c.GetZone()), zoneOf(c.GetBridge(), c.GetKind()), protoName(c.GetProtocol()), c.GetState(),
		tupleText(c.GetOriginal(), c.GetProtocol()), replyText(c),
		count(c.GetPackets()), count(c.GetBytes()), count(c.GetReplyPackets()), count(c.GetReplyBytes()),
		wholeSeconds(c.GetAgeSeconds()), wholeSeconds(c.GetExpiresSeconds()), markText(c.GetMark()), flagsText(c))
}

// tupleJSON is a direction for programs: with what its protocol has beside addresses.
func tupleJSON(t *api.ConnectionTuple, proto uint32) object {
	o := object{{"src", ipOf(t.GetSrc())}, {"dst", ipOf(t.GetDst())}}
	switch {
	case hasPorts(proto):
		o = append(o, field{"sport", t.GetSport()}, field{"dport", t.GetDport()})
	case isICMP(proto):
		o = append(o, field{"icmp_id", t.GetSport()}, field{"icmp_type", t.GetDport() >> 8}, field{"icmp_code", t.GetDport() & 0xff})
	}
	return o
}

// connectionJSON is a connection for programs. Numbers of 64 bits that are names are words.
func connectionJSON(c *api.Connection) object {
	proto := c.GetProtocol()
	return object{
		{"id", hex64(c.GetId())}, {"zone", c.GetZone()}, {"bridge", c.GetBridge()}, {"kind", word(c.GetKind())},
		{"protocol", proto}, {"protocol_name", protoName(proto)}, {"state", c.GetState()},
		{"original", tupleJSON(c.GetOriginal(), proto)}, {"reply", tupleJSON(c.GetReply(), proto)},
		{"seen_reply", c.GetSeenReply()}, {"assured", c.GetAssured()}, {"snat", c.GetSnat()}, {"dnat", c.GetDnat()},
		{"mark", c.GetMark()}, {"label", labelText(c)}, {"age_seconds", c.GetAgeSeconds()}, {"expires_seconds", c.GetExpiresSeconds()},
		{"packets", c.GetPackets()}, {"bytes", c.GetBytes()}, {"reply_packets", c.GetReplyPackets()}, {"reply_bytes", c.GetReplyBytes()},
	}
}
