package service

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
	"millrace/dataplane/service/switchtest"
	"millrace/flowtable"
)

// tuple is the tuple of two ends.
func tuple(proto uint8, src, dst string) conntrack.Tuple {
	a, b := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return conntrack.Tuple{
		Src: conntrack.AddrOf(a.Addr()), Dst: conntrack.AddrOf(b.Addr()), SrcPort: a.Port(), DstPort: b.Port(), Proto: proto, Six: a.Addr().Is6(),
	}
}

// sample are connections in zones of br0 (5 to 7), and in one that is of no bridge.
func sample() []conntrack.Connection {
	web := tuple(conntrack.ProtoTCP, "10.0.0.1:40000", "10.96.0.1:80")
	dns := tuple(conntrack.ProtoUDP, "[fd00::1]:5353", "[fd00::2]:53")
	ping := tuple(conntrack.ProtoICMP, "10.0.0.1:7", "10.0.0.2:2048")
	return []conntrack.Connection{
		{
			Ref: 1<<32 | 1, Zone: 6, Original: web, Answer: tuple(conntrack.ProtoTCP, "10.0.0.9:8080", "10.0.0.1:40000"), State: "ESTABLISHED",
			SeenReply: true, Assured: true, DstNAT: true, Mark: 0x12, Label: [2]uint64{1, 1 << 63}, Age: 5, Timeout: 432000, Packets: [2]uint64{10, 20}, Bytes: [2]uint64{1000, 20000},
		},
		{Ref: 1<<32 | 2, Zone: 5, Original: dns, Answer: dns.Inverse(), State: "UNREPLIED", Timeout: 30, Packets: [2]uint64{1, 0}, Bytes: [2]uint64{90, 0}},
		{Ref: 7<<32 | 3, Zone: 300, Original: ping, Answer: ping.Inverse(), State: "REPLIED", SeenReply: true, Mark: 1, Packets: [2]uint64{2, 2}, Bytes: [2]uint64{168, 168}},
	}
}

// startConnections serves a fake switch with the sample.
func startConnections(t *testing.T) (*switchtest.Switch, *api.Client, string) {
	t.Helper()
	sw, c, dir := start(t)
	addPort(t, c, "br0", "p1")
	sw.SetConnections(sample()...)
	return sw, c, dir
}

// listConnections returns what is listed, all messages in one.
func listConnections(t *testing.T, c *api.Client, req *api.ListConnectionsRequest) *api.ListConnectionsResponse {
	t.Helper()
	s, err := c.Connections.ListConnections(testContext(t), req)
	all := &api.ListConnectionsResponse{}
	for _, m := range collect(t, s, err) {
		if n := proto.Size(m); n > 1<<17 {
			t.Errorf("a message has %d bytes", n)
		}
		proto.Merge(all, m)
	}
	return all
}

// TestListConnections: connections come with all that is known of them, in full, in brief
// and by id.
func TestListConnections(t *testing.T) {
	_, c, _ := startConnections(t)
	got := listConnections(t, c, &api.ListConnectionsRequest{}).GetConnections()
	want := &api.Connection{
		Id: 1<<32 | 1, Zone: 6, Bridge: "br0", Kind: api.ZoneKind_ZONE_KIND_DNAT, Protocol: 6, State: "ESTABLISHED", SeenReply: true, Assured: true, Dnat: true,
		Original: &api.ConnectionTuple{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 96, 0, 1}, Sport: 40000, Dport: 80},
		Reply:    &api.ConnectionTuple{Src: []byte{10, 0, 0, 9}, Dst: []byte{10, 0, 0, 1}, Sport: 8080, Dport: 40000},
		Mark:     0x12, LabelHigh: 1, LabelLow: 1 << 63, AgeSeconds: 5, ExpiresSeconds: 432000, Packets: 10, Bytes: 1000, ReplyPackets: 20, ReplyBytes: 20000,
	}
	if len(got) != 3 || !proto.Equal(got[0], want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if six := got[1].GetReply(); netip.AddrFrom16([16]byte(six.GetSrc())).String() != "fd00::2" || six.GetDport() != 5353 || got[1].GetKind() != api.ZoneKind_ZONE_KIND_PLAIN {
		t.Errorf("got %v", got[1])
	}
	if got[2].GetBridge() != "" || got[2].GetKind() != 0 || got[2].GetZone() != 300 {
		t.Errorf("a zone of no bridge: %v", got[2])
	}
	brief := listConnections(t, c, &api.ListConnectionsRequest{Brief: true, Max: 2})
	if !slices.Equal(brief.GetIds(), []uint64{1<<32 | 1, 1<<32 | 2}) || !slices.Equal(brief.GetPackets(), []uint64{30, 1}) || !slices.Equal(brief.GetBytes(), []uint64{21000, 90}) || len(brief.GetConnections()) != 0 {
		t.Errorf("in brief: %v", brief)
	}
	if byID := listConnections(t, c, &api.ListConnectionsRequest{Ids: []uint64{7<<32 | 3, 99}}).GetConnections(); len(byID) != 1 || byID[0].GetId() != 7<<32|3 {
		t.Errorf("by id: %v", byID)
	}
}

// TestListManyConnections: pieces that are made of the same memory are whole.
func TestListManyConnections(t *testing.T) {
	sw, c, _ := startConnections(t)
	var list []conntrack.Connection
	for i := range 3*connectionsPerMessage + 5 {
		tup := tuple(conntrack.ProtoUDP, fmt.Sprintf("10.0.%d.%d:%d", i/250, i%250, i), "10.1.0.1:53")
		if i%3 == 0 {
			tup = tuple(conntrack.ProtoUDP, fmt.Sprintf("[fd00::%x]:%d", i, i), "[fd00::]:53")
		}
		list = append(list, conntrack.Connection{Ref: conntrack.Ref(i + 1), Zone: uint16(i), Original: tup, Answer: tup.Inverse(), State: "UNREPLIED", Packets: [2]uint64{uint64(i), 1}})
	}
	sw.SetConnections(list...)
	for _, n := range []int{0, 1, connectionsPerMessage, connectionsPerMessage + 1, len(list) + 9} {
		got := listConnections(t, c, &api.ListConnectionsRequest{Max: uint32(n)}).GetConnections()
		if n == 0 || n > len(list) {
			n = len(list)
		}
		if len(got) != n {
			t.Fatalf("%d connections, want %d", len(got), n)
		}
		for i, m := range got {
			want := &connectionRow{}
			want.fill(&list[i])
			want.connection.Bridge, want.connection.Kind = m.GetBridge(), m.GetKind()
			if !proto.Equal(m, &want.connection) {
				t.Fatalf("connection %d: got %v, want %v", i, m, &want.connection)
			}
		}
	}
}

// TestConnectionFilters: each term of a filter chooses what it says, together with
// the others.
func TestConnectionFilters(t *testing.T) {
	_, c, _ := startConnections(t)
	number := func(n uint32) *uint32 { return &n }
	for _, tt := range []struct {
		name string
		f    *api.ConnectionFilter
		want string // of the last digits of ids
	}{
		{"none", nil, "1 2 3"},
		{"empty", &api.ConnectionFilter{}, "1 2 3"},
		{"zone", &api.ConnectionFilter{Zone: &api.ZoneSelector{Number: number(300)}}, "3"},
		{"zone 0", &api.ConnectionFilter{Zone: &api.ZoneSelector{Number: number(0)}}, ""},
		{"bridge", &api.ConnectionFilter{Zone: &api.ZoneSelector{Bridge: "br0"}}, "1 2"},
		{"kind", &api.ConnectionFilter{Zone: &api.ZoneSelector{Bridge: "br0", Kind: api.ZoneKind_ZONE_KIND_DNAT}}, "1"},
		{"protocol", &api.ConnectionFilter{Protocol: number(17)}, "2"},
		{"protocol 0", &api.ConnectionFilter{Protocol: number(0)}, ""},
		{"source", &api.ConnectionFilter{Src: "10.0.0.1"}, "1 3"},
		{"source's net", &api.ConnectionFilter{Src: "fd00::/64"}, "2"},
		{"all of IPv4", &api.ConnectionFilter{Src: "0.0.0.0/0"}, "1 3"},
		{"destination and port", &api.ConnectionFilter{Dst: "10.96.0.0/12", Dport: &api.PortRange{First: 80}}, "1"},
		{"source's ports", &api.ConnectionFilter{Sport: &api.PortRange{First: 5000, Last: 50000}}, "1 2"},
		{"ICMP has no ports", &api.ConnectionFilter{Sport: &api.PortRange{First: 7}}, ""},
		{"reply", &api.ConnectionFilter{ReplySrc: "10.0.0.9", ReplySport: &api.PortRange{First: 8080}, ReplyDst: "10.0.0.1/32", ReplyDport: &api.PortRange{First: 40000}}, "1"},
		{"other side", &api.ConnectionFilter{ReplyDst: "10.0.0.9"}, ""},
		{"any end", &api.ConnectionFilter{Addr: "10.0.0.9"}, "1"},
		{"any end's port", &api.ConnectionFilter{Port: &api.PortRange{First: 53, Last: 80}}, "1 2"},
		{"one end's address with another's port", &api.ConnectionFilter{Addr: "10.0.0.9", Port: &api.PortRange{First: 80}}, ""},
		{"states", &api.ConnectionFilter{State: []string{"established", "REPLIED", "established"}}, "1 3"},
		{"mark", &api.ConnectionFilter{Mark: 0x10, MarkMask: 0xf0}, "1"},
		{"no mark", &api.ConnectionFilter{MarkMask: ^uint32(0)}, "2"},
	} {
		var got []string
		for _, m := range listConnections(t, c, &api.ListConnectionsRequest{Filter: tt.f}).GetConnections() {
			got = append(got, fmt.Sprint(uint32(m.GetId())))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, got, tt.want)
		}
	}
}

// TestBadConnectionFilters: what a client gets wrong is refused, with the name of the field.
func TestBadConnectionFilters(t *testing.T) {
	_, c, _ := startConnections(t)
	number := func(n uint32) *uint32 { return &n }
	for _, tt := range []struct {
		field string
		f     *api.ConnectionFilter
	}{
		{"filter.zone", &api.ConnectionFilter{Zone: &api.ZoneSelector{}}},
		{"filter.zone", &api.ConnectionFilter{Zone: &api.ZoneSelector{Number: number(65536)}}},
		{"filter.zone", &api.ConnectionFilter{Zone: &api.ZoneSelector{Number: number(1), Bridge: "br0"}}},
		{"filter.zone", &api.ConnectionFilter{Zone: &api.ZoneSelector{Kind: 1}}},
		{"filter.zone", &api.ConnectionFilter{Zone: &api.ZoneSelector{Bridge: "br0", Kind: flowtable.ZonesOfBridge}}},
		{"filter.zone", &api.ConnectionFilter{Zone: &api.ZoneSelector{Bridge: "br0", Kind: -1}}},
		{"filter.protocol", &api.ConnectionFilter{Protocol: number(256)}},
		{"filter.src", &api.ConnectionFilter{Src: "10.0.0"}},
		{"filter.dst", &api.ConnectionFilter{Dst: "10.0.0.0/33"}},
		{"filter.reply_src", &api.ConnectionFilter{ReplySrc: "fe80::1%eth0"}},
		{"filter.reply_dst", &api.ConnectionFilter{ReplyDst: strings.Repeat("1", 1<<20)}},
		{"filter.addr", &api.ConnectionFilter{Addr: "localhost"}},
		{"filter.sport", &api.ConnectionFilter{Sport: &api.PortRange{First: 65536}}},
		{"filter.dport", &api.ConnectionFilter{Dport: &api.PortRange{First: 9, Last: 8}}},
		{"filter.port", &api.ConnectionFilter{Port: &api.PortRange{Last: 70000}}},
		{"filter.reply_sport", &api.ConnectionFilter{ReplySport: &api.PortRange{First: 2, Last: 1}}},
		{"filter.reply_dport", &api.ConnectionFilter{ReplyDport: &api.PortRange{First: 1 << 31}}},
		{"filter.state", &api.ConnectionFilter{State: []string{"ESTABLISHED", "open"}}},
		{"filter.mark", &api.ConnectionFilter{Mark: 3, MarkMask: 1}},
	} {
		for _, err := range []error{refusedListing(t, c, &api.ListConnectionsRequest{Filter: tt.f}), refusedFlush(t, c, &api.FlushConnectionsRequest{Filter: tt.f})} {
			if e := (*api.Error)(nil); !errors.As(err, &e) || !errors.Is(err, api.ErrInvalid) || e.Field != tt.field || len(e.Text) > 500 {
				t.Errorf("%v: got %v, want it refused for %s", tt.f, err, tt.field)
			}
		}
	}
	if err := refusedListing(t, c, &api.ListConnectionsRequest{Filter: &api.ConnectionFilter{Zone: &api.ZoneSelector{Bridge: "br9"}}}); !errors.Is(err, api.ErrNoBridge) {
		t.Errorf("a bridge that there is not: %v", err)
	}
	for _, req := range []*api.ListConnectionsRequest{{Ids: make([]uint64, numbersPerMessage+1)}, {Ids: []uint64{1}, Filter: &api.ConnectionFilter{}}} {
		if err := refusedListing(t, c, req); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%d ids: %v", len(req.GetIds()), err)
		}
	}
}

func refusedListing(t *testing.T, c *api.Client, req *api.ListConnectionsRequest) error {
	t.Helper()
	s, err := c.Connections.ListConnections(testContext(t), req)
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func refusedFlush(t *testing.T, c *api.Client, req *api.FlushConnectionsRequest) error {
	t.Helper()
	_, err := c.Connections.FlushConnections(testContext(t), req)
	return err
}

// TestFlushConnections removes what a filter has, and all only if that is said.
func TestFlushConnections(t *testing.T) {
	sw, c, _ := startConnections(t)
	for _, req := range []*api.FlushConnectionsRequest{{}, {Filter: &api.ConnectionFilter{}}, {All: true, Filter: &api.ConnectionFilter{Src: "10.0.0.1"}}} {
		if err := refusedFlush(t, c, req); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%v: %v", req, err)
		}
	}
	for _, tt := range []struct {
		req  *api.FlushConnectionsRequest
		want uint64
	}{
		{&api.FlushConnectionsRequest{Filter: &api.ConnectionFilter{Src: "10.0.0.1", Dport: &api.PortRange{First: 80}}}, 1},
		{&api.FlushConnectionsRequest{Filter: &api.ConnectionFilter{Src: "10.0.0.1", Dport: &api.PortRange{First: 80}}}, 0},
		{&api.FlushConnectionsRequest{Filter: &api.ConnectionFilter{Zone: &api.ZoneSelector{Bridge: "br0"}}}, 1},
		{&api.FlushConnectionsRequest{All: true}, 1},
	} {
		r, err := c.Connections.FlushConnections(testContext(t), tt.req)
		if err != nil || r.GetFlushed() != tt.want {
			t.Errorf("%v: flushed %d, %v; want %d", tt.req, r.GetFlushed(), err, tt.want)
		}
	}
	if n := sw.ConnectionStats().Connections; n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// TestConnectionStats: every counter comes under its name.
func TestConnectionStats(t *testing.T) {
	sw, c, _ := startConnections(t)
	var st conntrack.Stats
	fields := reflect.ValueOf(&st).Elem()
	for i := range fields.NumField() {
		switch f := fields.Field(i); f.Kind() {
		case reflect.Uint64:
			f.SetUint(uint64(100 + 1<<i))
		default:
			f.SetInt(int64(100 + 1<<i))
		}
	}
	st.FragmentsHeld = st.FragmentsReleased + st.FragmentsLost + 3
	sw.SetConnectionStats(st)
	sw.SetConnectionDefault(77)
	got, err := c.Connections.GetConnectionStats(testContext(t), &api.GetConnectionStatsRequest{})
	want := &api.GetConnectionStatsResponse{
		Connections: 3, Capacity: uint64(st.Capacity), Bytes: uint64(st.Bytes), DefaultLimit: 77,
		Created: st.Created, Expired: st.Expired, Evicted: st.Evicted, Flushed: st.Flushed, Ended: st.Ended, Reopened: st.Reopened,
		Full: st.Full + st.Bucket, Limited: st.Limited, Clashes: st.Clash, NoPort: st.NoPort, Raced: st.Raced, Invalid: st.Invalid, Related: st.Related, Late: st.Late,
		Fragments: st.Fragments, FragmentsHeld: st.FragmentsHeld, FragmentsWaiting: 3, FragmentsLost: st.FragmentsLost, FragmentsRefused: st.FragmentsRefused,
	}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
}

// TestZoneLimits: limits are listed by bridge and kind, remembered by the next
// dataplane, and forgotten with their bridge.
func TestZoneLimits(t *testing.T) {
	dir, first := t.TempDir(), &switchtest.Switch{}
	_, stop := serve(t, dir, first, false)
	c := dial(t, dir)
	addPort(t, c, "br0", "p1")
	addPort(t, c, "br1", "p2")
	number := func(n uint32) *uint32 { return &n }
	set := func(z *api.ZoneSelector, limit *uint32) {
		t.Helper()
		if _, err := c.Connections.SetZoneLimit(testContext(t), &api.SetZoneLimitRequest{Zone: z, Limit: limit}); err != nil {
			t.Fatal(err)
		}
	}
	set(nil, number(1000))
	set(&api.ZoneSelector{Bridge: "br1"}, number(5))
	set(&api.ZoneSelector{Bridge: "br1", Kind: api.ZoneKind_ZONE_KIND_SNAT}, nil)
	set(&api.ZoneSelector{Number: number(5)}, number(0)) // plain zone of br0
	set(&api.ZoneSelector{Number: number(700)}, number(7))
	show := func(c *api.Client, req *api.ListZonesRequest) string {
		t.Helper()
		s, err := c.Connections.ListZones(testContext(t), req)
		var out []string
		for _, m := range collect(t, s, err) {
			for _, z := range m.GetZones() {
				out = append(out, fmt.Sprintf("%d %s %d %d %v", z.GetNumber(), z.GetBridge(), z.GetKind(), z.GetLimit(), z.GetLimitOwn()))
			}
		}
		return strings.Join(out, ", ")
	}
	const br0 = "5 br0 1 0 true, 6 br0 2 1000 false, 7 br0 3 1000 false, "
	const all = br0 + "9 br1 1 5 true, 10 br1 2 5 true, 11 br1 3 1000 false, 700  0 7 true"
	if got := show(c, &api.ListZonesRequest{}); got != all {
		t.Errorf("zones: %s\nwant   %s", got, all)
	}
	if got := show(c, &api.ListZonesRequest{Zone: &api.ZoneSelector{Number: number(4)}}); got != "4  0 1000 false" {
		t.Errorf("zone 4: %s", got)
	}
	for _, req := range []*api.SetZoneLimitRequest{{Zone: &api.ZoneSelector{}}, {Zone: &api.ZoneSelector{Number: number(1 << 16)}}} {
		if _, err := c.Connections.SetZoneLimit(testContext(t), req); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%v: %v", req, err)
		}
	}
	stop()
	second := &switchtest.Switch{}
	serve(t, dir, second, false)
	c = dial(t, dir)
	// Ports come back side by side, so bridges and their zones may have other numbers.
	if got := unnumbered(show(c, &api.ListZonesRequest{})); got != unnumbered(all) {
		t.Errorf("after a restart: %s\nwant            %s", got, unnumbered(all))
	}
	if _, err := c.DelPort(testContext(t), &api.DelPortRequest{Name: "p2"}); err != nil {
		t.Fatal(err)
	}
	st, err := (&Dir{path: dir}).readState()
	if err != nil || len(st.Limits) != 2 || st.LimitDefault != 1000 {
		t.Errorf("remembered: %+v, %v", st.Limits, err)
	}
}

// unnumbered is what is said of zones, in the order of their bridges, without the numbers of
// those that belong to one.
func unnumbered(zones string) string {
	list := strings.Split(zones, ", ")
	for i, z := range list {
		if number, rest, _ := strings.Cut(z, " "); rest[0] != ' ' {
			list[i] = strings.TrimPrefix(z, number+" ")
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// TestUnrestoredLimit: a limit of a bridge that cannot be had again is shown, and
// remembered.
func TestUnrestoredLimit(t *testing.T) {
	dir := t.TempDir()
	if err := (&Dir{path: dir}).writeState(state{Limits: []zoneLimit{{Bridge: "br7", Zone: 1, Limit: 9}, {Bridge: "br7", Zone: 70, Limit: 9}}}); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, &switchtest.Switch{}, false)
	info := dial(t, dir).Info.GetUnrestored()
	if len(info) != 2 || info[0].GetWhat() != "limit of zone 1 of bridge br7" || !strings.Contains(info[0].GetError(), "no such bridge") {
		t.Errorf("got %v", info)
	}
}

// drawnMeaning is what a filter in words means, by netip.
func drawnMeaning(m *api.ConnectionFilter, c *conntrack.Connection) bool {
	in := func(text string, a conntrack.Addr) bool {
		if p, err := netip.ParsePrefix(text); err == nil {
			return p.Contains(a.IP(c.Original.Six))
		}
		return text == "" || netip.MustParseAddr(text) == a.IP(c.Original.Six)
	}
	at := func(p *api.PortRange, port uint16) bool {
		last := max(p.GetFirst(), p.GetLast())
		withPorts := slices.Contains([]uint8{6, 17, 132}, c.Original.Proto)
		return p == nil || withPorts && uint32(port) >= p.GetFirst() && uint32(port) <= last
	}
	o, r := &c.Original, &c.Answer
	end := func(a conntrack.Addr, port uint16) bool { return in(m.GetAddr(), a) && at(m.GetPort(), port) }
	state := len(m.GetState()) == 0
	for _, s := range m.GetState() {
		state = state || strings.EqualFold(s, c.State)
	}
	return state && (m.Protocol == nil || m.GetProtocol() == uint32(o.Proto)) && c.Mark&m.GetMarkMask() == m.GetMark() &&
		in(m.GetSrc(), o.Src) && in(m.GetDst(), o.Dst) && in(m.GetReplySrc(), r.Src) && in(m.GetReplyDst(), r.Dst) &&
		at(m.GetSport(), o.SrcPort) && at(m.GetDport(), o.DstPort) && at(m.GetReplySport(), r.SrcPort) && at(m.GetReplyDport(), r.DstPort) &&
		(end(o.Src, o.SrcPort) || end(o.Dst, o.DstPort) || end(r.Src, r.SrcPort) || end(r.Dst, r.DstPort))
}

// FuzzConnectionFilter: of any bytes comes a refusal that names a field, or a filter
// that chooses what the message says.
func FuzzConnectionFilter(f *testing.F) {
	r := rand.New(rand.NewPCG(4, 4))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	for range 30 {
		m := &api.ConnectionFilter{Src: pick("", "10.0.0.1", "10.0.0.0/8", "fd00::/16", "0.0.0.0/0", "::/0"), ReplySrc: pick("", "", "10.0.0.9", "::ffff:10.0.0.9"), Addr: pick("", "10.0.0.1"), MarkMask: r.Uint32N(4)}
		m.Mark = r.Uint32N(4) & m.GetMarkMask()
		if r.IntN(2) == 0 {
			m.Dport = &api.PortRange{First: r.Uint32N(100), Last: r.Uint32N(100)}
			m.State = []string{pick("established", "UNREPLIED", "x")}
			m.Zone = &api.ZoneSelector{Bridge: pick("br0", "br1")}
		}
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	sw := &switchtest.Switch{}
	if _, err := sw.AddPort(f.Context(), dataplane.PortSpec{Bridge: "br0", Name: "p1", Type: dataplane.TypeVhostServer}); err != nil {
		f.Fatal(err)
	}
	s := &Server{Config: Config{Switch: sw}}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &api.ConnectionFilter{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		filter, err := s.filter(m)
		if err != nil {
			if !errors.Is(err, api.ErrInvalid) && !errors.Is(toAPI(err), api.ErrNoBridge) {
				t.Fatalf("%v names no field", err)
			}
			return
		}
		for _, c := range sample() {
			zone := m.GetZone() == nil || c.Zone >= filter.Zones.Min && c.Zone <= filter.Zones.Max
			if got, want := filter.Has(&c), zone && drawnMeaning(m, &c); got != want {
				t.Fatalf("filter %v has %+v: %v, want %v", m, c, got, want)
			}
		}
	})
}
