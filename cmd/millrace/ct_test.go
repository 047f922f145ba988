package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
	"millrace/dataplane/service/switchtest"
)

// tupleOf is the tuple of two ends.
func tupleOf(proto uint8, src, dst string) conntrack.Tuple {
	a, b := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return conntrack.Tuple{
		Src: conntrack.AddrOf(a.Addr()), Dst: conntrack.AddrOf(b.Addr()), SrcPort: a.Port(), DstPort: b.Port(), Proto: proto, Six: a.Addr().Is6(),
	}
}

// someConnections are in zones of br0 (5 to 7), and one in a zone of no bridge.
func someConnections() []conntrack.Connection {
	web, dns := tupleOf(conntrack.ProtoTCP, "10.0.0.1:40000", "10.96.0.1:80"), tupleOf(conntrack.ProtoUDP, "[fd00::1]:5353", "[fd00::2]:53")
	ping, gre := tupleOf(conntrack.ProtoICMP, "10.0.0.1:7", "10.0.0.2:2048"), tupleOf(47, "10.0.0.1:0", "10.0.0.2:0")
	pinged := ping.Inverse()
	pinged.SrcPort = 9 // translated
	return []conntrack.Connection{
		{
			Ref: 1<<32 | 1, Zone: 6, Original: web, Answer: tupleOf(conntrack.ProtoTCP, "10.0.0.9:8080", "10.0.0.1:40000"), State: "ESTABLISHED",
			SeenReply: true, Assured: true, DstNAT: true, Mark: 0x12, Label: [2]uint64{1, 1 << 63}, Age: 65, Timeout: 432000, Packets: [2]uint64{1000, 2000000}, Bytes: [2]uint64{64000, 3000000000},
		},
		{Ref: 1<<32 | 2, Zone: 5, Original: dns, Answer: dns.Inverse(), State: "UNREPLIED", Timeout: 30, Packets: [2]uint64{1, 0}, Bytes: [2]uint64{90, 0}},
		{Ref: 7<<32 | 3, Zone: 7, Original: ping, Answer: pinged, State: "REPLIED", SeenReply: true, SrcNAT: true, Age: 1, Timeout: 29, Packets: [2]uint64{2, 2}, Bytes: [2]uint64{168, 168}},
		{Ref: 7<<32 | 4, Zone: 300, Original: gre, Answer: gre.Inverse(), State: "UNREPLIED", Label: [2]uint64{0, 255}, Age: 4000, Timeout: 599, Packets: [2]uint64{3, 0}, Bytes: [2]uint64{300, 0}},
	}
}

// serveConnections serves a switch that tracks connections.
func serveConnections(t *testing.T) (*switchtest.Switch, string) {
	t.Helper()
	sw, dir := serveFake(t)
	for _, p := range []dataplane.PortSpec{{Bridge: "br0", Name: "vm1", Type: "dpdkvhostuser"}, {Bridge: "br1", Name: "vm2", Type: "dpdkvhostuser"}} {
		if _, err := sw.AddPort(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	sw.SetConnections(someConnections()...)
	sw.SetConnectionStats(conntrack.Stats{Capacity: 4 << 20, Bytes: 1 << 30, Created: 1234, Expired: 1000, Evicted: 200, Flushed: 30, Limited: 7, FragmentsHeld: 9, FragmentsReleased: 5, FragmentsLost: 3})
	sw.SetConnectionDefault(100000)
	sw.SetConnectionLimit(6, 5000)
	sw.SetConnectionLimit(7, conntrack.NoLimit)
	return sw, dir
}

// TestGoldenConnections compares what ct commands print with testdata/ct_*.txt.
func TestGoldenConnections(t *testing.T) {
	_, dir := serveConnections(t)
	for _, args := range []string{
		"ct dump", "ct dump --json", "ct dump --zone br0/dnat", "ct dump --zone 9 --json", "ct dump --max 1 --proto udp", "ct stats", "ct stats --json", "ct stats --zone br0", "ct limit show", "ct limit show br1", "ct limit show --json",
	} {
		t.Run(args, func(t *testing.T) {
			golden(t, args, must(t, dir, strings.Fields(args)...))
		})
	}
	for _, args := range []string{"ct", "ct dump", "ct top", "ct flush", "ct stats", "ct limit", "ct limit show", "ct limit set", "ct limit del"} {
		t.Run(args+" help", func(t *testing.T) {
			out := must(t, dir, append(strings.Fields(args), "--help")...)
			golden(t, args+" --help", regexp.MustCompile(`\(default "/[^"]*"\)`).ReplaceAllString(out, `(default "RUN-DIR")`))
		})
	}
}

// TestManyConnections: more than one part, aligned, and as one JSON document.
func TestManyConnections(t *testing.T) {
	sw, dir := serveConnections(t)
	var list []conntrack.Connection
	for i := range 3 * dumpPart {
		tuple := tupleOf(conntrack.ProtoUDP, fmt.Sprintf("10.0.%d.%d:1000", i/250, i%250), "10.1.0.1:53")
		list = append(list, conntrack.Connection{Ref: conntrack.Ref(i + 1), Zone: uint16(i), Original: tuple, Answer: tuple.Inverse(), State: "UNREPLIED"})
	}
	sw.SetConnections(list...)
	lines := strings.Split(strings.TrimSpace(must(t, dir, "ct", "dump")), "\n")
	if len(lines) != len(list)+1 || strings.Count(strings.Join(lines, "\n"), "ORIGINAL") != 1 {
		t.Errorf("%d lines for %d connections", len(lines), len(list))
	}
	var rows []map[string]any
	if err := json.Unmarshal([]byte(must(t, dir, "ct", "dump", "--json")), &rows); err != nil || len(rows) != len(list) {
		t.Errorf("%d elements, %v", len(rows), err)
	}
}

// TestFlushCommand removes what it is told to, and says how many that were.
func TestFlushCommand(t *testing.T) {
	sw, dir := serveConnections(t)
	for _, tt := range []struct{ args, says string }{
		{"ct flush --zone br0/dnat --dst 10.96.0.0/16 --dport 80", "flushed 1 connection\n"},
		{"ct flush --zone br1", "flushed 0 connections\n"},
		{"ct flush --addr fd00::2 --port 53 --json", "{\n  \"flushed\": 1\n}\n"},
		{"ct flush --all", "flushed 2 connections\n"},
	} {
		if got := must(t, dir, strings.Fields(tt.args)...); got != tt.says {
			t.Errorf("%s: %q, want %q", tt.args, got, tt.says)
		}
	}
	if n := sw.ConnectionStats().Connections; n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// TestLimitCommand sets limits and takes them away.
func TestLimitCommand(t *testing.T) {
	sw, dir := serveConnections(t)
	for _, args := range []string{"set br1 70", "set br1/snat none", "set 300 8", "set default 99", "del br0/dnat"} {
		must(t, dir, append([]string{"ct", "limit"}, strings.Fields(args)...)...)
	}
	for zone, want := range map[uint16]uint32{6: 0, 9: 70, 10: 70, 11: conntrack.NoLimit, 300: 8} {
		if got := sw.ConnectionZone(zone).Limit; got != want {
			t.Errorf("zone %d: limit %d, want %d", zone, got, want)
		}
	}
	if n := sw.ConnectionDefault(); n != 99 {
		t.Errorf("default %d", n)
	}
	out := must(t, dir, "ct", "limit", "set", "300", "8", "--json")
	checkJSON(t, out)
	if !strings.Contains(out, `"number": 300`) || !strings.Contains(out, `"limit": 8`) {
		t.Errorf("limit of a zone in JSON: %s", out)
	}
	must(t, dir, "ct", "limit", "del", "default")
	if n := sw.ConnectionDefault(); n != 0 {
		t.Errorf("default %d after it was taken away", n)
	}
}

// TestConnectionTop: what has counted most in the period comes first.
func TestConnectionTop(t *testing.T) {
	_, dir := serveConnections(t)
	out := must(t, dir, "ct", "top", "--interval", "10ms", "--count", "2")
	if strings.Count(out, "no packets\n") != 2 || !strings.Contains(out, "4 of 4,194,304 connections, by packets") {
		t.Errorf("it printed\n%s", out)
	}
	checkJSON(t, must(t, dir, "ct", "top", "--interval", "10ms", "--count", "1", "--json"))

	before := &ctSample{at: time.Unix(0, 0), counts: []ctCount{{1<<32 | 1, 100, 1000}, {1<<32 | 2, 5, 50}, {1<<32 | 4, 5, 50}}, stats: &api.GetConnectionStatsResponse{Created: 10}}
	now := &ctSample{at: time.Unix(2, 0), stats: &api.GetConnectionStatsResponse{Created: 30, Connections: 4}, counts: []ctCount{
		{1<<32 | 1, 300, 1200}, {2<<32 | 2, 30, 9000}, {1<<32 | 3, 1, 60}, {1<<32 | 4, 5, 50}, // 2 is another connection in the same place, 3 is new, 4 is idle
	}}
	if got, want := now.since(before), []ctCount{{1<<32 | 1, 200, 200}, {2<<32 | 2, 30, 9000}, {1<<32 | 3, 1, 60}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for by, first := range map[string]uint64{"packets": 1<<32 | 1, "bytes": 2<<32 | 2} {
		q := &ctTopQuery{topQuery: topQuery{by: by, rows: 2}}
		p := q.period(before, now)
		if len(p.top) != 2 || p.top[0].id != first || p.packets != 231 || p.bytes != 9260 {
			t.Errorf("by %s: %+v", by, p)
		}
		p.rows = map[uint64]*api.Connection{}
		for _, n := range p.top {
			p.rows[n.id] = &api.Connection{Id: n.id, Protocol: 6, State: "ESTABLISHED"}
		}
		if text := p.screen(by); !strings.Contains(text, "116 packets/s, 37.04k bit/s; in all zones 10 created/s") || strings.Count(text, "ESTABLISHED") != 2 {
			t.Errorf("screen:\n%s", text)
		}
	}
}

// TestConnectionErrors: what people get wrong, they are told.
func TestConnectionErrors(t *testing.T) {
	_, dir := serveConnections(t)
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"ct dump --zone br9", 1, "no such bridge"},
		{"ct dump --zone 65536", 2, "--zone: 65536 is no zone: they are 0..65535"},
		{"ct dump --zone br0/x", 2, `--zone: "x" is no kind of zone`},
		{"ct dump --proto foo", 2, `--proto: "foo" is neither a number, 0 to 255, nor one of tcp`},
		{"ct dump --src 10.0.0.0/33", 2, `--src: "10.0.0.0/33" is neither an address nor a prefix`},
		{"ct dump --reply-dst nobody", 2, `--reply-dst: "nobody" is neither`},
		{"ct dump --sport 80-70", 2, `--sport: "80-70" is neither a port`},
		{"ct dump --state open", 2, `--state: "open" is no state: they are UNREPLIED`},
		{"ct dump --mark 3/1", 2, "--mark: 0x3 has bits that its mask 0x1 has not"},
		{"ct dump extra", 2, `"extra" is one argument too many`},
		{"ct flush", 2, "say which connections: --zone, --addr and their like, or --all"},
		{"ct flush --all --zone 1", 2, "--all: leave it out"},
		{"ct top --by age", 2, `--by: "age" is neither packets nor bytes`},
		{"ct top --rows 0", 2, "--rows: 0 is not in 1..1000"},
		{"ct top --interval 1ms", 2, "--interval: at least 10ms"},
		{"ct limit set br0", 2, "NUMBER is missing"},
		{"ct limit set br0 0", 2, `NUMBER: "0" is neither a number of connections, from 1, nor none`},
		{"ct limit set br9 5", 1, "no such bridge"},
		{"ct limit del /", 2, "ZONE: "},
		{"ct dmp", 2, "did you mean dump"},
	} {
		r := run(t, append([]string{"--run-dir", dir}, strings.Fields(tt.args)...)...)
		if r.code != tt.code || !strings.Contains(r.err, tt.says) {
			t.Errorf("%s: exit code %d, want %d; it said\n%swant\n%s", tt.args, r.code, tt.code, r.err, tt.says)
		}
	}
	for _, args := range []string{"ct dump", "ct top", "ct flush --all", "ct stats", "ct limit show", "ct limit set 1 1", "ct limit del 1"} {
		if r := run(t, append([]string{"--run-dir", t.TempDir()}, strings.Fields(args)...)...); r.code != exitNotRunning {
			t.Errorf("millrace %s: exit code %d: %s", args, r.code, r.err)
		}
	}
}

// TestConnectionCompletion offers zones, protocols and states.
func TestConnectionCompletion(t *testing.T) {
	_, dir := serveConnections(t)
	const zones = "br0 br0/plain br0/dnat br0/snat br1 br1/plain br1/dnat br1/snat"
	for _, tt := range []struct{ args, want string }{
		{"ct dump --zone", zones}, {"ct limit set", "default " + zones}, {"ct limit show", zones}, {"ct stats --zone", zones}, {"ct limit set br0", ""},
		{"ct top --by", "packets bytes"}, {"ct flush --proto", strings.Join(protoWords(), " ")}, {"ct dump --state", strings.Join(stateWords(), " ")},
	} {
		out := run(t, append(append([]string{"__complete", "--run-dir", dir}, strings.Fields(tt.args)...), "")...).out
		words := strings.Fields(out)
		if got := strings.Join(words[:len(words)-1], " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.args, got, tt.want)
		}
	}
}

// FuzzFilterFlags: of any words comes a usage error, or a message that says what they
// say: written again, they make the same one.
func FuzzFilterFlags(f *testing.F) {
	f.Add("br0/dnat", "tcp", "80-90", "0x10/0xf0")
	f.Add("7", "255", "0", "1")
	f.Add("br/0/plain", "ICMP6", "1-", "0x/1")
	f.Add("5/all", "-1", "90-80", "1/0")
	f.Add("", "", "", "0/0")
	f.Fuzz(func(t *testing.T, zone, protocol, ports, mark string) {
		flags := ctFilter{zone: zone, proto: protocol, dport: ports, mark: mark}
		cmd := (&app{}).ctDumpCmd()
		m, err := flags.message(cmd)
		if err != nil {
			if u := (*usageError)(nil); !errors.As(err, &u) || m != nil {
				t.Fatalf("%v is no usage error", err)
			}
			return
		}
		if m == nil {
			if zone+protocol+ports+mark != "" {
				t.Fatalf("%q is taken for nothing", []string{zone, protocol, ports, mark})
			}
			return
		}
		again, err := flagsOf(m).message(cmd)
		if err != nil || !proto.Equal(m, again) {
			t.Fatalf("%v became %v, %v", m, again, err)
		}
	})
}

// flagsOf are flags that mean m.
func flagsOf(m *api.ConnectionFilter) *ctFilter {
	f := &ctFilter{}
	switch z := m.GetZone(); {
	case z == nil:
	case z.Number != nil:
		f.zone = fmt.Sprint(z.GetNumber())
	case z.GetKind() == 0:
		f.zone = z.GetBridge() + "/all"
	default:
		f.zone = z.GetBridge() + "/" + word(z.GetKind())
	}
	if m.Protocol != nil {
		f.proto = fmt.Sprint(m.GetProtocol())
	}
	if p := m.GetDport(); p != nil {
		f.dport = fmt.Sprintf("%d-%d", p.GetFirst(), p.GetLast())
	}
	if m.GetMarkMask() != 0 || m.GetMark() != 0 {
		f.mark = fmt.Sprintf("%#x/%#x", m.GetMark(), m.GetMarkMask())
	}
	return f
}
