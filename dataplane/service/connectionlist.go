package service

import (
	"encoding/binary"
	"iter"

	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
)

// A connectionLister gathers connections into messages. The messages are filled
// anew for each piece: a million connections are no garbage for the collector,
// which would be in the workers' way. gRPC has encoded a message when Send
// returns, as long as nobody traces calls.
type connectionLister struct {
	stream api.Connections_ListConnectionsServer
	zones  zoneNames
	brief  bool
	left   uint32 // connections that may come still, if bounded
	bound  bool
	m      *api.ListConnectionsResponse
	rows   []*connectionRow // that m is made of
}

// A connectionRow is what one connection in a message takes.
type connectionRow struct {
	connection      api.Connection
	original, reply api.ConnectionTuple
	addresses       [4][16]byte
}

func newConnectionLister(stream api.Connections_ListConnectionsServer, zones zoneNames, req *api.ListConnectionsRequest) *connectionLister {
	return &connectionLister{stream: stream, zones: zones, brief: req.GetBrief(), left: req.GetMax(), bound: req.GetMax() > 0, m: &api.ListConnectionsResponse{}}
}

// all sends connections, as many as are wanted.
func (l *connectionLister) all(list iter.Seq[conntrack.Connection]) error {
	for c := range list {
		if err := l.add(&c); err != nil {
			return err
		}
		if l.left--; l.bound && l.left == 0 {
			break
		}
	}
	return l.flush()
}

// add takes a connection, and sends what there is if it is enough for a message.
func (l *connectionLister) add(c *conntrack.Connection) error {
	if l.brief {
		l.m.Ids = append(l.m.GetIds(), uint64(c.Ref))
		l.m.Packets = append(l.m.GetPackets(), c.Packets[0]+c.Packets[1])
		l.m.Bytes = append(l.m.GetBytes(), c.Bytes[0]+c.Bytes[1])
		if len(l.m.GetIds()) < numbersPerMessage {
			return nil
		}
		return l.flush()
	}
	n := len(l.m.GetConnections())
	if n == len(l.rows) {
		l.rows = append(l.rows, &connectionRow{})
	}
	l.rows[n].fill(c)
	row := &l.rows[n].connection
	row.Bridge, row.Kind = l.zones.of(c.Zone)
	if l.m.Connections = append(l.m.GetConnections(), row); n+1 < connectionsPerMessage {
		return nil
	}
	return l.flush()
}

// flush sends what there is.
func (l *connectionLister) flush() error {
	if len(l.m.GetConnections())+len(l.m.GetIds()) == 0 {
		return nil
	}
	err := l.stream.Send(l.m)
	l.m.Connections, l.m.Ids, l.m.Packets, l.m.Bytes = l.m.GetConnections()[:0], l.m.GetIds()[:0], l.m.GetPackets()[:0], l.m.GetBytes()[:0]
	return err
}

// fill makes the row that of c, but for whose zone it is.
func (r *connectionRow) fill(c *conntrack.Connection) {
	m := &r.connection
	m.Id, m.Zone, m.Protocol, m.State = uint64(c.Ref), uint32(c.Zone), uint32(c.Original.Proto), c.State
	m.Original, m.Reply = &r.original, &r.reply
	toTuple(m.GetOriginal(), &c.Original, r.addresses[:2])
	toTuple(m.GetReply(), &c.Answer, r.addresses[2:])
	m.SeenReply, m.Assured, m.Snat, m.Dnat = c.SeenReply, c.Assured, c.SrcNAT, c.DstNAT
	m.Mark, m.LabelHigh, m.LabelLow = c.Mark, c.Label[0], c.Label[1]
	m.AgeSeconds, m.ExpiresSeconds = c.Age, c.Timeout
	m.Packets, m.Bytes, m.ReplyPackets, m.ReplyBytes = c.Packets[0], c.Bytes[0], c.Packets[1], c.Bytes[1]
}

// toTuple fills m, whose addresses lie in memory.
func toTuple(m *api.ConnectionTuple, t *conntrack.Tuple, memory [][16]byte) {
	m.Src, m.Dst = addressBytes(&memory[0], t.Src, t.Six), addressBytes(&memory[1], t.Dst, t.Six)
	m.Sport, m.Dport = uint32(t.SrcPort), uint32(t.DstPort)
}

// addressBytes writes an address into memory: 4 or 16 bytes.
func addressBytes(memory *[16]byte, a conntrack.Addr, six bool) []byte {
	binary.BigEndian.PutUint64(memory[:], a[0])
	binary.BigEndian.PutUint64(memory[8:], a[1])
	if six {
		return memory[:]
	}
	return memory[12:]
}
