package flows

import (
	"testing"

	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// TestSetText: members are written as people would.
func TestSetText(t *testing.T) {
	all := ^uint64(0)
	for _, tt := range []struct {
		width   uint8
		members []flowtable.Member
		n       int
		want    string
	}{
		{32, []flowtable.Member{{Low: 10<<24 | 1, MaskLow: 1<<32 - 1}, {Low: 10 << 24, MaskLow: 0xff << 24}, {MaskLow: 0xff}, {}}, 4, "{10.0.0.1, 10.0.0.0/8, 0.0.0.0/0.0.0.255, 0.0.0.0/0}"},
		{128, []flowtable.Member{{High: 0xfd << 56, MaskHigh: 0xff << 56}, {Low: 1, MaskHigh: all, MaskLow: all}, {MaskHigh: all, MaskLow: 1 << 63}, {MaskLow: all}}, 4, "{fd00::/8, ::1, ::/65, ::/::ffff:ffff:ffff:ffff}"},
		{16, []flowtable.Member{{Low: 80, MaskLow: 0xffff}, {Low: 0x50, MaskLow: 0xff}}, 2, "{0x50, 0x50/0xff}"},
		{16, make([]flowtable.Member, 9), 100, "{0x0/0x0, 0x0/0x0, 0x0/0x0, 0x0/0x0, 0x0/0x0, 0x0/0x0, 0x0/0x0, 0x0/0x0, and 92 more}"},
		{32, nil, 0, "{}"},
	} {
		if got := SetText(tt.width, tt.members, tt.n); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

// TestNumbers: the numbers in rules that a book makes are those of their names, whatever
// the width of the field, the table and the kind of packets.
func TestNumbers(t *testing.T) {
	l := newLab(t)
	l.book.SetAddressSet(&flowmodel.AddressSet{UUID: "web", Name: "web", Addresses: strs("10.0.0.1", "fd00::1")}, true)
	l.book.SetPortGroup(&flowmodel.PortGroup{UUID: "pg", Name: "pg", Ports: strs("p1")})
	l.book.SetMeter(&flowmodel.Meter{UUID: "slow", Name: "slow", Rate: 5, Unit: flowmodel.MeterUnitKbps}, true)
	l.book.SetBucket(&flowmodel.Bucket{UUID: "b", Weight: 1, Actions: "output;"})
	l.book.SetGroup(&flowmodel.Group{UUID: "g", Name: "g", Buckets: strs("b")}, true)
	l.row(0, 1, "ip4.src == $web && inport == @pg", `meter("slow"); group("g");`)
	l.row(7, 2, "ip6.src == $web && vlan.present", `group("g");`)
	l.row(7, 3, "ip4.src[8..31] == $web", `icmp4 { output; };`)
	l.put()
	names := &Named{AddressSets: strs("web", "other"), PortGroups: strs("pg", "web"), Meters: strs("slow"), Groups: strs("g", "h"), Bridges: strs("br0", "br1")}
	numbers := names.Numbers()
	count := map[string]int{}
	for id := range l.book.rules {
		r, _ := l.tables.Rule(id)
		for _, p := range r.Preds {
			count[numbers.Sets[p.Set]]++
		}
		for _, a := range r.Actions {
			switch a.Code {
			case flowtable.ActMeter, flowtable.ActReply:
				count[numbers.Meters[flowtable.MeterID(a.Arg)]]++
			case flowtable.ActSelect:
				count[numbers.Group(flowtable.SelectID(a.Arg))]++
			}
		}
	}
	for what, want := range map[string]int{"$web": 3, "@pg": 1, "slow": 1, "1000 replies per second": 1, "g": 2, "": 0} {
		if count[what] != want {
			t.Errorf("%q is there %d times, want %d: %v", what, count[what], want, count)
		}
	}
	if again := (&Named{Meters: strs("slow", "slow")}).Numbers(); len(again.Meters) != 1 || again.Meters[flowtable.MeterID((&digester{}).key(meterKey("slow"))&idMax)] != "slow" {
		t.Errorf("a name that is told twice: %v", again.Meters)
	}
	to := map[flowtable.MeterID]string{}
	for _, text := range strs("one", "another") {
		note(&digester{}, to, meterKey("same"), text)
	}
	if len(to) != 1 || to[flowtable.MeterID((&digester{}).key(meterKey("same"))&idMax)] != "" {
		t.Errorf("a number of two names stands for %v", to)
	}
}
