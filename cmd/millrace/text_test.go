package main

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"millrace/control/egress/l3"
	"millrace/dataplane/api"
)

// at is a moment after the beginning of time.
func at(d time.Duration) *timestamppb.Timestamp {
	return timestamppb.New(time.Unix(0, 0).Add(d))
}

// commands are all commands of ours, without those that cobra adds.
func commands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

// TestHelp: every command says what it is for, at length, with examples that
// name it, and refuses flags that it does not know.
func TestHelp(t *testing.T) {
	a := &app{types: portTypes()}
	for _, c := range commands(a.root()) {
		t.Run(c.CommandPath(), func(t *testing.T) {
			if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 70 {
				t.Errorf("Short: %q", c.Short)
			}
			if len(c.Long) < len(c.Short) || !strings.Contains(c.Example, c.CommandPath()+" ") && !strings.HasSuffix(c.Example, c.CommandPath()) && !strings.Contains(c.Example, c.CommandPath()+"\n") {
				t.Errorf("Long: %q, Example: %q", c.Long, c.Example)
			}
			for line := range strings.SplitSeq(c.Long, "\n") {
				if len(line) > 90 {
					t.Errorf("line of %d characters: %s", len(line), line)
				}
			}
			args := append(strings.Fields(c.CommandPath())[1:], "--no-such-flag")
			if r := run(t, args...); r.code != exitUsage {
				t.Errorf("unknown flag: exit code %d", r.code)
			}
		})
	}
}

// TestFlagsComplete: what a flag offers on the completion key is offered.
func TestFlagsComplete(t *testing.T) {
	_, dir := serveRows(t)
	must(t, dir, "port", "add", "br0", "vm1", "--type", "dpdkvhostuser")
	for _, tt := range []struct{ args, want string }{
		{"run --poll", "adaptive busy"}, {"dataplane --poll", "adaptive busy"},
		{"port add br0 x --type", "dpdkvhostuser dpdkvhostuserclient afxdp tap internal patch geneve vxlan egress"},
		{"port add br0 x --vlan-mode", "access trunk native-tagged native-untagged"},
		{"port add br0 x --peer", "vm1"}, {"port list --bridge", "br0"}, {"mac flush --port", "vm1"},
		{"port add", "br0"}, {"port add br0", ""}, {"port del", "vm1"}, {"port show", "vm1"}, {"port wire vm1", "vm1"}, {"port unwire", "vm1"}, {"port set", "vm1"},
		{"port set vm1 --clear", strings.Join(clearable(), " ")}, {"bridge del", "br0"}, {"bridge set", "br0"}, {"bridge add", ""},
		{"mac table", "br0"}, {"mac add", "br0"}, {"mac add br0 x", "vm1"}, {"mac del", "br0"}, {"mac flush", "br0"}, {"flow dump", "br0"}, {"flow dump --bridge", "br0"}, {"flow dump --port", "vm1"}, {"flow trace", "vm1"}, {"stats", "vm1"},
	} {
		args := append([]string{"__complete", "--run-dir", dir}, strings.Fields(tt.args)...)
		out := run(t, append(args, "")...).out
		words := strings.Fields(out)
		if got := strings.Join(words[:len(words)-1], " "); got != tt.want { // the last word is the directive
			t.Errorf("%s: got %q, want %q", tt.args, got, tt.want)
		}
	}
	if out := run(t, "__complete", "--run-dir", t.TempDir(), "port", "del", "").out; out != ":4\n" {
		t.Errorf("without a switch: %q", out)
	}
}

// TestCompletionScripts are made for the usual shells.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := run(t, "completion", shell); r.code != 0 || !strings.Contains(r.out, "millrace") {
			t.Errorf("%s: exit code %d, %d bytes", shell, r.code, len(r.out))
		}
	}
}

func TestVersionCommand(t *testing.T) {
	if r := run(t, "version"); !strings.HasPrefix(r.out, "millrace 9.9.9 (API 1.7, ") {
		t.Errorf("got %q", r.out)
	}
	checkJSON(t, run(t, "version", "--json").out)
}

func TestDefaultRunDir(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		euid int
		want string
	}{
		{"root", map[string]string{"XDG_RUNTIME_DIR": "/x"}, 0, "/run/millrace"},
		{"user", map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/millrace"},
		{"user of nothing", nil, 7, "/tmp/millrace-7/millrace"},
		{"told", map[string]string{"XDG_RUNTIME_DIR": "/x", "MILLRACE_RUN_DIR": "/y"}, 7, "/y"},
	} {
		if got := defaultRunDir(func(k string) string { return tt.env[k] }, tt.euid); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestWorkerCPUs(t *testing.T) {
	for _, tt := range []struct {
		name, list string
		allowed    []int
		want       []int
		bad        bool
	}{
		{name: "one", allowed: []int{3}, want: []int{3}},
		{name: "two", allowed: []int{0, 1}, want: []int{1}},
		{name: "four", allowed: []int{0, 2, 4, 6}, want: []int{2, 4, 6}},
		{name: "chosen", list: "4,2", allowed: []int{0, 2, 4, 6}, want: []int{2, 4}},
		{name: "not allowed", list: "1", allowed: []int{0, 2}, bad: true},
		{name: "nonsense", list: "x", allowed: []int{0, 2}, bad: true},
	} {
		got, err := workerCPUs(tt.list, tt.allowed)
		if (err != nil) != tt.bad || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{count(uint64(0)), "0"}, {count(uint64(999)), "999"}, {count(uint64(1000)), "1,000"}, {count(^uint64(0)), "18,446,744,073,709,551,615"},
		{short(0), "0"}, {short(999), "999"}, {short(14.88e6), "14.88M"}, {short(1.5e3), "1.50k"},
		{percent(0.1234), "12.3%"}, {plural(1, "port"), "1 port"}, {plural(2, "port"), "2 ports"},
		{span(0), "0s"}, {span(394), "394ns"}, {span(1580), "1.58us"}, {span(25900 * time.Microsecond), "25.9ms"}, {span(12345 * time.Millisecond), "12.3s"},
		{span(61 * time.Second), "1m1s"}, {span(25 * time.Hour), "1d1h"}, {span(3*time.Hour + 5*time.Minute), "3h5m"},
		{ranges(nil), ""}, {ranges([]uint32{1, 4, 5, 6, 9}), "1,4-6,9"},
		{size(0), "0 B"}, {size(999), "999 B"}, {size(1000), "0.98 KiB"}, {size(1 << 20), "1.00 MiB"}, {size(10 << 20), "10.0 MiB"}, {size(512 << 20), "512 MiB"}, {size(1 << 63), "8.00 EiB"},
		{bar(0), ""}, {bar(1), "#"}, {bar(255), "########"},
		{strings.Join(strings.Fields(redraw("a\nb\nc\nd\n", 3)), " "), "\x1b[H\x1b[1ma\x1b[0m\x1b[K b\x1b[K \x1b[J"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

// TestEnumWords: every value of the enums that users see has a word.
func TestEnumWords(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{word(api.VlanMode_VLAN_MODE_NATIVE_UNTAGGED), "native-untagged"}, {word(api.VlanMode_VLAN_MODE_UNSPECIFIED), ""},
		{word(api.Link_LINK_UP), "up"}, {word(api.PollMode_POLL_MODE_ADAPTIVE), "adaptive"}, {word(api.Link(77)), "77"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

// FuzzSizes: a mix that is understood is understood the same way when it is written out again.
func FuzzSizes(f *testing.F) {
	for _, s := range []string{"60", "imix", "60:7,590:4", "60:0", "-1", "60:", ":1", "", "1:2:3", "+60:01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		shares, err := parseSizes(s)
		if err != nil {
			return
		}
		var words []string
		for _, x := range shares {
			if x.Weight < 1 {
				t.Fatalf("%q: weight %d", s, x.Weight)
			}
			words = append(words, fmt.Sprintf("%d:%d", x.Size, x.Weight))
		}
		again, err := parseSizes(strings.Join(words, ","))
		if err != nil || len(shares) == 0 || !slices.Equal(again, shares) {
			t.Fatalf("%q: %v became %v, %v", s, shares, again, err)
		}
	})
}

// FuzzServer: a server that is understood and passes the check has keys, prefixes without bits
// behind their length, and an address of its own in the first of them; it is the same when it is written out again.
func FuzzServer(f *testing.F) {
	key := l3.NewKey().String()
	for _, s := range []string{"K h:1 10.99.0.1/24", "K,K h:1 10.99.0.1/24,10.0.0.0/8", "K [::1]:1 fd99::1/64", "K h:1 10.99.0.0/24", "K h:1 10.99.0.1/32", "K h 10.99.0.1/24", "K h:1", "K h:1 ::ffff:10.0.0.1/120", "K h:1 0.0.0.0/0"} {
		f.Add(strings.ReplaceAll(s, "K", key))
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseServer(s)
		if err != nil || (l3.Setup{PrivateKey: l3.NewKey(), Peers: []l3.Peer{p}}).Check() != nil {
			return
		}
		var keys []string
		for _, k := range p.Keys {
			keys = append(keys, k.String())
		}
		words := []string{netip.PrefixFrom(p.Probe, p.Prefixes[0].Bits()).String()}
		for i, prefix := range p.Prefixes {
			if prefix != prefix.Masked() || i == 0 && !prefix.Contains(p.Probe) {
				t.Fatalf("%q: %+v", s, p)
			}
			if i > 0 {
				words = append(words, prefix.String())
			}
		}
		again, err := parseServer(strings.Join(keys, ",") + " " + p.Endpoint + " " + strings.Join(words, ","))
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%q: %+v became %+v, %v", s, p, again, err)
		}
	})
}

// FuzzParseVLANs: a list that is understood is understood the same way when
// it is written out again.
func FuzzParseVLANs(f *testing.F) {
	for _, s := range []string{"", "1", "1,2-5", "4095", "5-4", "4096", "-", "1,,2", " 7 , 8-9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		vlans, err := parseVLANs(s)
		if err != nil {
			return
		}
		slices.Sort(vlans)
		vlans = slices.Compact(vlans)
		again, err := parseVLANs(ranges(vlans))
		if err != nil || !slices.Equal(again, vlans) {
			t.Fatalf("%q: %v became %v, %v", s, vlans, again, err)
		}
	})
}
