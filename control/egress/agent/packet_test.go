package agent

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

	"millrace/control/egress/policy"
)

// A deadEnd is a stream whose peer takes everything and says nothing.
type deadEnd struct {
	grpc.ClientStream
	ctx  context.Context
	sent chan *konn.Packet
}

func (d *deadEnd) Context() context.Context { return d.ctx }
func (d *deadEnd) CloseSend() error         { return nil }
func (d *deadEnd) SendMsg(m any) error {
	p := proto.CloneOf(m.(*konn.Packet))
	select {
	case d.sent <- p:
	case <-d.ctx.Done():
	}
	return nil
}

// FuzzHeader: of whatever a server says of itself comes an error, or an ID and a number of servers that say the same again.
func FuzzHeader(f *testing.F) {
	for _, s := range []string{"1", "0", "-1", "", "x", "99999999999999999999", "+3", "007"} {
		f.Add("id", s, false)
	}
	f.Add("", "1", false)
	f.Add("id", "1", true)
	f.Fuzz(func(t *testing.T, server, number string, twice bool) {
		h := metadata.Pairs("serverID", server, "serverCount", number)
		if twice {
			h.Append("serverCount", number)
		}
		id, count, err := readHeader(h)
		if err != nil {
			if id != "" || count != 0 {
				t.Fatalf("%q, %d with %v", id, count, err)
			}
			return
		}
		if id != server || id == "" || count < 0 || twice {
			t.Fatalf("%q and %q are %q, %d", server, number, id, count)
		}
		again, n, err := readHeader(metadata.Pairs("serverid", id, "servercount", strconv.Itoa(count)))
		if err != nil || again != id || n != count {
			t.Fatalf("%q, %d became %q, %d, %v", id, count, again, n, err)
		}
	})
}

// FuzzPackets: whatever packets come, nothing breaks, each dial has at most one
// answer and each connection one end, and nothing is left.
func FuzzPackets(f *testing.F) {
	for _, p := range []*konn.Packet{
		{}, dialResponse(1, 2, "x"), closeResponse(1, ""), dataPacket(1, []byte("hello")),
		{Payload: &konn.Packet_DialRequest{DialRequest: &konn.DialRequest{Protocol: "tcp", Address: "127.0.0.1:1", Random: 1}}},
		{Type: konn.PacketType_CLOSE_REQ, Payload: &konn.Packet_CloseRequest{CloseRequest: &konn.CloseRequest{ConnectID: 1}}},
		{Type: konn.PacketType_DIAL_CLS, Payload: &konn.Packet_CloseDial{CloseDial: &konn.CloseDial{Random: 1}}},
		{Type: konn.PacketType_DATA}, {Type: konn.PacketType_CLOSE_REQ}, {Type: 99},
	} {
		b, _ := proto.Marshal(p)
		f.Add(append([]byte{byte(len(b))}, b...))
	}
	rules, _ := policy.Parse("node=127.0.0.1", true)
	f.Fuzz(func(t *testing.T, script []byte) {
		a := New(Config{Policy: func() *policy.Policy { return rules }, Host: dialFunc(dialNobody), CloseTimeout: time.Millisecond})
		ctx, cancel := context.WithCancel(context.Background())
		end := &deadEnd{ctx: ctx, sent: make(chan *konn.Packet, 1024)}
		l := &link{agent: a, addr: &address{}, streams: map[*stream]struct{}{}, want: make(chan struct{}, 1), failed: make(chan error, 1)}
		s := &stream{link: l, cs: end, cancel: cancel, dials: map[int64]*request{}, requests: map[int64]*request{}}
		feed(s, script, end)
		s.breakOff()
		a.cutAll()
		a.work.Wait()
		checkAnswers(t, end)
		if left := a.budget.left.Load(); left != budgetAll || len(a.live) > 0 {
			t.Errorf("%d bytes and %d requests are left", budgetAll-left, len(a.live))
		}
	})
}

// feed has a stream take packets: each a byte of length, and its bytes. A packet
// that has a connect id gets one that was given out, if there is one, in half of
// the cases.
func feed(s *stream, script []byte, end *deadEnd) {
	for len(script) > 0 && len(end.sent) < 512 {
		n := min(int(script[0]), len(script)-1)
		p := new(konn.Packet)
		if proto.Unmarshal(script[1:1+n], p) == nil {
			if c := p.GetCloseRequest(); c != nil && c.ConnectID%2 == 1 {
				c.ConnectID = s.link.agent.lastID.Load()
			}
			if d := p.GetData(); d != nil && d.ConnectID%2 == 1 {
				d.ConnectID = s.link.agent.lastID.Load()
			}
			s.take(p)
		}
		script = script[1+n:]
	}
}

func checkAnswers(t *testing.T, end *deadEnd) {
	opened, closed := map[int64]int{}, map[int64]int{}
	for len(end.sent) > 0 {
		p := <-end.sent
		if r := p.GetDialResponse(); r != nil && r.Error == "" {
			opened[r.ConnectID]++
		}
		if r := p.GetCloseResponse(); r != nil && r.Error != "unrecognized connectID" && r.Error != "Unknown connectID" {
			closed[r.ConnectID]++
		}
	}
	for id, n := range opened {
		if n != 1 || closed[id] > 1 {
			t.Errorf("connection %d was opened %d times and closed %d times", id, n, closed[id])
		}
	}
}

// dialNobody connects to a peer that hears and does not speak.
func dialNobody(_ context.Context, _, address string) (net.Conn, error) {
	if netip.MustParseAddrPort(address).Port()%4 == 3 {
		return nil, net.ErrClosed
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		b := make([]byte, 4096)
		for {
			if _, err := far.Read(b); err != nil {
				return
			}
		}
	}()
	return near, nil
}
