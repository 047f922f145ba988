package main

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/service/switchtest"
	"millrace/flowtable"
)

// byName returns a field.
func byName(name string) flowtable.Field {
	i := slices.IndexFunc(flowtable.Fields(), func(f flowtable.Field) bool { return f.Name == name })
	return flowtable.Fields()[i]
}

// serveFlows serves a switch whose bridge br0 runs rules: of the ports vm1 and
// vm2, and the bridge br1, which learns, of vm3.
func serveFlows(t *testing.T) (*switchtest.Switch, string) {
	t.Helper()
	sw, dir := serveFake(t)
	for _, p := range []dataplane.PortSpec{{Bridge: "br0", Name: "vm1"}, {Bridge: "br0", Name: "vm2"}, {Bridge: "br1", Name: "vm3"}} {
		p.Type = "dpdkvhostuser"
		if _, err := sw.AddPort(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := sw.SetBridge("br0", dataplane.BridgeSettings{Pipeline: dataplane.PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	c, err := api.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Transact(t.Context(), false, slices.Values(someChanges())); err != nil {
		t.Fatal(err)
	}
	sw.Count(0x11, 1234567, 74074020)
	sw.Count(0x12, 3, 180)
	return sw, dir
}

// someChanges are a pipeline of two tables, a set, a group and a rule that is
// nobody's.
func someChanges() []*api.FlowChange {
	reg0, outport := byName("reg0"), byName("outport")
	web := []flowtable.Masked{
		{Word: flowtable.WordIn, Value: 0x800, Mask: 0xffff}, {Word: flowtable.WordSrc, Value: 6 << 8, Mask: 0xff << 8},
		{Word: flowtable.WordIP4, Value: 10 << 24, Mask: 0xffffff00}, {Word: flowtable.WordL4, Value: 80 << 32, Mask: 0xffff << 32},
	}
	br0 := flowtable.DatapathOf("br0")
	rules := []flowtable.Rule{
		{ID: 0x11, Priority: 100, Datapath: br0, Match: web, Cookie: 0xc0, Actions: []flowtable.Action{
			{Code: flowtable.ActSet, Dst: reg0, Value: 5},
			{Code: flowtable.ActClone, Nested: []flowtable.Action{{Code: flowtable.ActMove, Dst: reg0, Src: byName("ip4.src")}, {Code: flowtable.ActOutput, Arg: 3}}},
			{Code: flowtable.ActDecTTL}, {Code: flowtable.ActNext, Table: 3},
		}},
		{ID: 0x12, Datapath: br0, Actions: []flowtable.Action{{Code: flowtable.ActFlood, Arg: 1<<31 | 1}}},
		{ID: 0x13, Priority: 7, Table: 3, Datapath: br0, Match: []flowtable.Masked{{Word: flowtable.WordReg0, Value: 5 << 32, Mask: 0xffffffff << 32}}, Actions: []flowtable.Action{
			{Code: flowtable.ActSet, Dst: outport, Value: 2}, {Code: flowtable.ActOutput, Dst: outport},
		}},
		{ID: 0x14, Priority: 9, Datapath: br0, Match: web[:1], Preds: []flowtable.Pred{{Kind: flowtable.InSet, Field: byName("ip4.src"), Set: 1}}, Actions: []flowtable.Action{{Code: flowtable.ActDrop}}},
		{ID: 0x15, Priority: 1, Group: 4, Table: 9, Actions: []flowtable.Action{{Code: flowtable.ActOutput, Arg: 1}}},
		{ID: 0x16, Datapath: 77, Actions: []flowtable.Action{{Code: flowtable.ActOutput, Arg: 9}}},
	}
	changes := flowapi.SetChanges(flowtable.Set{ID: 1, Width: 32}, []flowtable.Member{{Low: 66 << 24, MaskLow: 0xff << 24}})
	changes = append(changes, &api.FlowChange{Change: &api.FlowChange_Group{Group: flowapi.ToGroup(4, []uint64{br0, 5})}})
	for i := range rules {
		changes = append(changes, &api.FlowChange{Change: &api.FlowChange_Add{Add: flowapi.ToRule(&rules[i])}})
	}
	return changes
}

// cachePrograms gives workers programs to show.
func cachePrograms(sw *switchtest.Switch) {
	rule, _ := sw.Tables().Rule(0x11)
	key := flowtable.Key{flowtable.WordIn: 1<<32 | 0x800, flowtable.WordSrc: 6 << 8, flowtable.WordIP4: 0x0a000002, flowtable.WordL4: 80 << 32}
	mask := flowtable.Key{flowtable.WordIn: 0xffffffff<<32 | 0xffff, flowtable.WordSrc: 0xff << 8, flowtable.WordIP4: 0xffffff00, flowtable.WordL4: 0xffff << 32}
	other := key
	other[flowtable.WordIn] = 3<<32 | 0x806
	sw.SetCached(
		dataplane.CachedProgram{CPU: 2, Packets: 1000, Bytes: 60000, NEntries: 3, Rules: []uint32{rule.Handle}, Ops: []flowtable.Op{
			{Code: flowtable.OpSet, Word: flowtable.WordSrc, Value: 63, Mask: 0xff}, {Code: flowtable.OpOutput, Arg: 2},
		}, Entries: []dataplane.CachedEntry{{Mask: mask, Key: key, Idle: 3 * time.Second}, {Mask: mask, Key: key, Exact: true}}},
		dataplane.CachedProgram{CPU: 1, Packets: 7, Bytes: 420, NEntries: 1, Drop: flowtable.DropNoRule, Stale: true, Entries: []dataplane.CachedEntry{{Mask: flowtable.Key{mask[0]}, Key: flowtable.Key{other[0]}, Idle: time.Minute}}},
	)
}

// traced is the packet of the golden traces.
const traced = "flow trace vm1 tcp ip4.src=10.0.0.1 ip4.dst=10.0.0.2 tcp.dst=80"

// TestGoldenFlows is TestGolden for what bridges with rules show.
func TestGoldenFlows(t *testing.T) {
	sw, dir := serveFlows(t)
	cachePrograms(sw)
	sw.SetMemory(
		dataplane.MemoryUse{Part: "rules", Bytes: 5 << 20, Used: 1234, Capacity: 1 << 20}, dataplane.MemoryUse{Part: "exact cache of CPU 1", Bytes: 300 << 20, Used: 0, Capacity: 4194304},
		dataplane.MemoryUse{Part: "guard cells", Bytes: 40960})
	for file, args := range map[string]string{
		"flow dump rules": "flow dump", "flow dump rules br0": "flow dump br0", "flow dump rules br1": "flow dump br1", "flow dump rules table": "flow dump --bridge br0 --table 3",
		"flow dump rules own": "flow dump --own", "flow dump rules own br1": "flow dump br1 --own", "flow dump rules --json": "flow dump --json",
		"flow dump cache": "flow dump --cache", "flow dump cache br1": "flow dump br1 --cache", "flow dump cache --json": "flow dump --cache --json",
		"flow trace": traced, "flow trace flood": "flow trace br0 vm1", "flow trace drop": "flow trace vm1 ip4.src=66.0.0.1", "flow trace learning": "flow trace vm3 arp",
		"flow trace --json": traced + " --json",
		"mem":               "mem", "mem --json": "mem --json", "show rules": "show",
	} {
		t.Run(file, func(t *testing.T) { golden(t, file, steady(steadyMemory(must(t, dir, strings.Fields(args)...)), dir)) })
	}
}

// steadyMemory replaces what is different each time.
func steadyMemory(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		name, _, _ := strings.Cut(strings.TrimSpace(l), " ")
		switch name {
		case "resident":
			lines[i] = "resident N, Go heap N (collected at N), machine N"
		case `"resident_bytes":`, `"heap_bytes":`, `"heap_goal_bytes":`, `"machine_bytes":`:
			lines[i] = "  " + name + " 1" + l[len(strings.TrimRight(l, ",")):]
		}
	}
	return strings.Join(lines, "\n")
}

// TestFlowErrors: what makes no sense, and what is not there, is said in words.
func TestFlowErrors(t *testing.T) {
	_, dir := serveFlows(t)
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"flow dump br0 --bridge br1", exitUsage, "BRIDGE is br0, and --bridge br1: leave one out"},
		{"flow dump x", exitError, "no such bridge"},
		{"flow dump --table 256", exitUsage, "--table: 256 is not a table: they are 0..255"},
		{"flow dump --table -1", exitUsage, "--table: -1 is not a table"},
		{"flow dump --cache --table 1", exitUsage, "leave out --table and --own"},
		{"flow dump --cache x", exitError, "no such bridge: x"},
		{"flow dump --cache --port x", exitError, "no such port: x"},
		{"flow dump br0 --cache --port vm3", exitError, "port vm3 is of bridge br1, not of br0"},
		{"flow dump --cache --keys 0", exitUsage, "--keys: 0 is not in 1..1024"},
		{"flow dump --port vm1", exitUsage, "--port and --keys are for --cache"},
		{"flow trace", exitUsage, "PORT is missing"},
		{"flow trace tcp.dst=80", exitUsage, "PORT is missing"},
		{"flow trace x", exitError, "no such port: x"},
		{"flow trace br1 vm1", exitError, "port vm1 is of bridge br0, not of br1"},
		{"flow trace x vm1", exitError, "no such bridge: x"},
		{"flow trace vm1 tcp --hex 00", exitUsage, "the packet is told twice"},
		{"flow trace vm1 --frame 2", exitUsage, "--frame is for --pcap"},
		{"flow trace vm1 --pcap x --frame 0", exitUsage, "--frame: frames are counted from 1"},
		{"flow trace vm1 --pcap /nowhere", exitError, "/nowhere: no such file"},
		{"flow trace vm1 --hex 0x", exitUsage, "--hex: encoding/hex"},
		{"flow trace vm1 --hex 0011", exitUsage, "--hex: 2 bytes are not in 14..9728"},
		{"flow trace vm1 tcp.dport=80", exitUsage, `"tcp.dport" is no field: there are `},
		{"flow trace vm1 tcp tpc", exitUsage, `"tpc" is no kind of packet: there are arp icmp4`},
	} {
		r := run(t, append([]string{"--run-dir", dir}, strings.Fields(tt.args)...)...)
		if r.code != tt.code || !strings.Contains(r.err, tt.want) || r.out != "" {
			t.Errorf("%s: exit code %d, %q, want %d, %q", tt.args, r.code, r.err, tt.code, tt.want)
		}
	}
}

// TestPacketText: packets that are told by their fields are what was told, and
// what cannot be is refused.
func TestPacketText(t *testing.T) {
	for _, tt := range []struct {
		text, want string // described, without addresses of Ethernet
		length     int
	}{
		{"", "type 0x0800; IPv4 10.0.0.1 > 10.0.0.2, UDP, TTL 64, TOS 0x0, 28 bytes; UDP 49152 > 80, 8 bytes", 60},
		{"tcp.dst=443", "type 0x0800; IPv4 10.0.0.1 > 10.0.0.2, TCP, TTL 64, TOS 0x0, 40 bytes; TCP 49152 > 443, SYN", 60},
		{"tcp, ip6.dst=2001:db8::9, tcp.flags==0x12", "type 0x86dd; IPv6 2001:db8::1 > 2001:db8::9, TCP, hop limit 64, class 0x0, label 0x0, 20 bytes behind; TCP 49152 > 80, SYN ACK", 74},
		{"ip4 && ip.proto=47 && ip.ttl=1", "type 0x0800; IPv4 10.0.0.1 > 10.0.0.2, GRE, TTL 1, TOS 0x0, 20 bytes", 60},
		{"icmp4", "type 0x0800; IPv4 10.0.0.1 > 10.0.0.2, ICMPv4, TTL 64, TOS 0x0, 28 bytes; ICMP EchoRequest", 60},
		{"icmp6.type=129", "type 0x86dd; IPv6 2001:db8::1 > 2001:db8::2, ICMPv6, hop limit 64, class 0x0, label 0x0, 8 bytes behind; ICMPv6 EchoReply", 62},
		{"nd.target=2001:db8::7", "type 0x86dd; IPv6 2001:db8::1 > 2001:db8::2, ICMPv6, hop limit 255, class 0x0, label 0x0, 24 bytes behind; ICMPv6 NeighborSolicitation; solicitation of 2001:db8::7", 78},
		{"arp.tpa=10.0.0.9", "type 0x0806; ARP operation 1, 10.0.0.1 at 02:00:00:00:00:01, 10.0.0.9 at 00:00:00:00:00:00", 60},
		{"vlan.vid=10 vlan.pcp=3 udp length=1514", "type 0x8100; VLAN 10, priority 3, type 0x0800; IPv4 10.0.0.1 > 10.0.0.2, UDP, TTL 64, TOS 0x0, 28 bytes; UDP 49152 > 80, 8 bytes", 1514},
		{"sctp.dst=9", "type 0x0800; IPv4 10.0.0.1 > 10.0.0.2, SCTP, TTL 64, TOS 0x0, 32 bytes; SCTP 49152 > 9", 60},
		{"eth.type=0x88cc length=20", "type 0x88cc; ", 20},
		{"ip.frag=3", "type 0x0800; IPv4 10.0.0.1 > 10.0.0.2, UDP, TTL 64, TOS 0x0, 20 bytes, fragment from byte 1480", 60},
	} {
		frame, err := parsePacket(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		got := strings.Join(describe(frame), "; ")
		_, got, _ = strings.Cut(got, "02:00:00:00:00:02, ")
		if !strings.HasPrefix(got, tt.want) || len(frame) != tt.length {
			t.Errorf("%s: %d bytes\n got %s\nwant %s", tt.text, len(frame), got, tt.want)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"tcp udp", "tcp and udp are of different packets"},
		{"tcp.dst=1 udp.src=2", "tcp and udp are of different packets"},
		{"ip4.src=1.1.1.1 ip6.src=::1", "ip4 and ip6 are of different packets"},
		{"arp tcp", "tcp is not for packets of Ethernet type 0x806"},
		{"arp ip", "ip is not for packets of Ethernet type 0x806"},
		{"eth.type=0x800 arp", "eth.type and arp are of different packets"},
		{"ip.proto=6 udp", "ip.proto and udp are of different packets"},
		{"tcp.dst", "tcp.dst: write tcp.dst=VALUE"},
		{"tcp.dst=", "tcp.dst: write tcp.dst=VALUE"},
		{"tcp.dst=65536", `tcp.dst: "65536" is not a number of 16 bits`},
		{"ip4.dst=10.0.0", `ip4.dst: "10.0.0" is not a number of 32 bits, and no IPv4 address`},
		{"ip6.dst=10.0.0.1", `ip6.dst: "10.0.0.1" is not an IPv6 address`},
		{"eth.dst=1:2", `eth.dst: "1:2" is not a number of 48 bits, and no Ethernet address`},
		{"tcp.dst=1 tcp.dst=2", "tcp.dst: told twice, or by another name"},
		{"length=13", `length: "13" is not in 14..9728`},
		{"length=x", `length: "x" is not in 14..9728`},
		{"length=20", "length: the headers alone take more than 20 bytes"},
		{"vlan.tci=5", "no packet has these fields: vlan.tci"},
		{"ip.proto=47 tcp.flags=2", "ip.proto and tcp are of different packets"},
		{"inport=1", `"inport" is no field`},
	} {
		if _, err := parsePacket(tt.text); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.text, err, tt.want)
		}
	}
}

// FuzzPacketText: whatever is told makes a frame that can be traced, or an error.
func FuzzPacketText(f *testing.F) {
	for _, s := range []string{"", "tcp.dst=80", "nd.tll=02:00:00:00:00:01", "vlan.vid=1 length=100", "arp eth.type=0x806", "ip.frag=1 tcp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		frame, err := parsePacket(s)
		if err == nil && (len(frame) < packet.FrameMin || len(frame) > packet.FrameMax) {
			t.Errorf("%q: %d bytes", s, len(frame))
		}
		if err == nil {
			describe(frame)
		}
	})
}

// FuzzDescribe: no bytes keep a frame from being shown.
func FuzzDescribe(f *testing.F) {
	for _, s := range []string{"", "tcp", "arp", "nd", "vlan.vid=5 icmp6", "ip.frag=1"} {
		frame, err := parsePacket(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, l := range describe(frame) {
			if strings.Contains(l, "\n") {
				t.Errorf("line %q", l)
			}
		}
	})
}

// TestDamagedPcap: a capture file of any length and with any byte changed is an error, or has a frame.
func TestDamagedPcap(t *testing.T) {
	frame, err := parsePacket("tcp")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.pcap", "a.pcapng"} {
		path := writePcap(t, name, layers.LinkTypeEthernet, 9999, frame, frame)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		read := func(b []byte) ([]byte, error) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return readPcap(path, 2)
		}
		for n := range whole {
			if f, err := read(whole[:n]); err == nil && !bytes.Equal(f, frame) {
				t.Errorf("%s: of %d bytes frame 2 is %x", name, n, f)
			}
			changed := slices.Clone(whole)
			changed[n] ^= 9
			if f, err := read(changed); (f == nil) == (err == nil) {
				t.Errorf("%s: with another byte %d frame 2 is %x, %v", name, n, f, err)
			}
		}
		if f, err := read(whole); err != nil || !bytes.Equal(f, frame) {
			t.Errorf("%s: %x, %v", name, f, err)
		}
	}
	fast := []byte{10, 13, 13, 10, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 28, 0, 0, 0, // a section
		1, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 100, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0} // an interface whose clock has 10^100 ticks a second
	path := filepath.Join(t.TempDir(), "b.pcapng")
	if err := os.WriteFile(path, fast, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := readPcap(path, 1); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a clock that there is not: %x, %v", f, err)
	}
}

// writePcap writes a capture file of frames.
func writePcap(t *testing.T, name string, link layers.LinkType, snap int, frames ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	var b bytes.Buffer
	var write func(gopacket.CaptureInfo, []byte) error
	if strings.HasSuffix(name, "ng") {
		w, err := pcapgo.NewNgWriter(&b, link)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Flush()
		write = func(g gopacket.CaptureInfo, frame []byte) error {
			if err := w.WritePacket(g, frame); err != nil {
				return err
			}
			return w.Flush()
		}
	} else {
		w := pcapgo.NewWriter(&b)
		if err := w.WriteFileHeader(65536, link); err != nil {
			t.Fatal(err)
		}
		write = w.WritePacket
	}
	for _, f := range frames {
		if err := write(gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: min(snap, len(f)), Length: len(f)}, f[:min(snap, len(f))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTraceFrames: a frame is the same, whether it comes as text, as bytes, from
// standard input, or from a capture file of either format.
func TestTraceFrames(t *testing.T) {
	_, dir := serveFlows(t)
	frame, err := parsePacket("tcp ip4.src=10.0.0.1 ip4.dst=10.0.0.2 tcp.dst=80")
	if err != nil {
		t.Fatal(err)
	}
	other := parse.Build(flowtable.Key{flowtable.WordIn: 0x88cc})
	want := must(t, dir, strings.Fields(traced)...)
	text := hex.EncodeToString(frame)
	for _, args := range [][]string{
		{"--hex", text}, {"--hex", text[:20] + " " + text[20:24] + ":" + text[24:]},
		{"--pcap", writePcap(t, "a.pcap", layers.LinkTypeEthernet, 9999, other, frame), "--frame", "2"},
		{"--pcap", writePcap(t, "a.pcapng", layers.LinkTypeEthernet, 9999, frame)},
	} {
		if got := must(t, dir, append([]string{"flow", "trace", "vm1"}, args...)...); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", args[0], got, want)
		}
	}
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(text[:30] + "\n" + text[30:] + "\n"), out: &out, err: &errs, newSwitch: newSwitch, types: portTypes()}
	if code := a.main(t.Context(), []string{"--run-dir", dir, "flow", "trace", "vm1", "--hex", "-"}); code != 0 || out.String() != want {
		t.Errorf("from standard input: exit code %d, %s\n%s", code, errs.String(), out.String())
	}
	for _, tt := range []struct {
		path string
		want string
	}{
		{writePcap(t, "b.pcap", layers.LinkTypeEthernet, 20, frame), "frame 1 is cut off: 20 of its 60 bytes were captured"},
		{writePcap(t, "c.pcap", layers.LinkTypeEthernet, 20), "no frame 1: it has 0"},
		{writePcap(t, "d.pcapng", layers.LinkTypePPP, 99, frame), "its frames are of type PPP, not Ethernet"},
		{"flow_test.go", "no capture file"},
	} {
		r := run(t, "--run-dir", dir, "flow", "trace", "vm1", "--pcap", tt.path)
		if r.code != exitError || !strings.Contains(r.err, tt.want) {
			t.Errorf("exit code %d, %q, want %q", r.code, r.err, tt.want)
		}
	}
}
