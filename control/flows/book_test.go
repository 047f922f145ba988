package flows

import (
	"testing"

	"millrace/control/ovsdb/flowmodel"
)

// TestBook: rows become rules, follow what they refer to, and cost only what has
// changed.
func TestBook(t *testing.T) {
	l := newLab(t)
	dst := func(last uint64) uint64 { return 10<<24 | last }
	low := l.row(0, 1, "1", `outport = "_flood"; output;`)
	set := l.row(0, 10, "ip4.dst == $web", `outport = "p2"; output;`)
	port := l.row(0, 20, `ip4.dst == 10.0.0.9`, `outport = "p9"; output;`)
	bad := l.row(0, 30, `ip4.dst == 10.0.0.9 &&`, `drop;`)
	ct := l.row(0, 30, `ip4`, `reg0[0] = chk_ecmp_nh();`)
	l.put()
	for uuid, want := range map[string]string{
		low: "active", set: `inactive match: column 12: there is no address set "web"`,
		port: `inactive actions: column 11: port "p9" is not on the bridge`,
		bad:  `refused match: column 23: expected a symbol, a constant or '(' after "&&", found the end`,
		ct:   `refused actions: column 11: chk_ecmp_nh belongs to the OVN chassis, which this release does not have`,
	} {
		if got := l.status(uuid); got != want {
			t.Errorf("%s: %s\nwant %s", uuid, got, want)
		}
	}
	if got := l.out(key(dst(5))); got != "flood" {
		t.Errorf("goes to %s", got)
	}

	l.book.SetAddressSet(&flowmodel.AddressSet{UUID: "s", Name: "web", Addresses: strs("10.0.0.4", "fd00::1", "10.0.1.0/24", "x")}, true)
	l.put()
	if got, want := l.kinds(), "set +rule"; got != want {
		t.Errorf("a set that comes: %s, want %s", got, want)
	}
	if got := l.status(set); got != "active" {
		t.Errorf("row with the set: %s", got)
	}
	if got := l.book.News(100)[0]; got.Table != "Address_Set" || got.Error != `"x": column 1: expected a number, an IP address or an Ethernet address, found "x"` {
		t.Errorf("news %+v", got)
	}
	for last, want := range map[uint64]string{4: "2", 5: "flood", 256: "2"} {
		if got := l.out(key(dst(last))); got != want {
			t.Errorf("10.0.0.%d goes to %s, want %s", last, got, want)
		}
	}

	l.book.SetAddressSet(&flowmodel.AddressSet{UUID: "s", Name: "web", Addresses: strs("10.0.0.5", "fd00::1", "10.0.1.0/24")}, false)
	l.put()
	if got, want := l.kinds(), "-members +members"; got != want {
		t.Errorf("members that change: %s, want %s", got, want)
	}
	if got := l.out(key(dst(5))); got != "2" {
		t.Errorf("the new member goes to %s", got)
	}

	bridges := labBridges()
	bridges["br0"].Ports["p9"] = 9
	l.book.SetBridges(bridges)
	l.put()
	if got, want := l.kinds(), "+rule"; got != want || l.status(port) != "active" || l.out(key(dst(9))) != "9" {
		t.Errorf("a port that comes: %s, want %s; %s; packets go to %s", got, want, l.status(port), l.out(key(dst(9))))
	}
	l.book.SetBridges(labBridges())
	l.put()
	if got, want := l.kinds(), "-rule"; got != want || l.status(port) != `inactive actions: column 11: port "p9" is not on the bridge` {
		t.Errorf("a port that goes: %s, want %s; %s", got, want, l.status(port))
	}

	l.book.DropFlow(set)
	l.put()
	if got, want := l.kinds(), "-rule -set"; got != want {
		t.Errorf("a row that goes: %s, want %s", got, want)
	}
	l.put()
	if l.kinds() != "" {
		t.Errorf("nothing has changed: %s", l.kinds())
	}
}

// TestRestart: a new control finds what the dataplane has and changes nothing; a
// new dataplane is told all.
func TestRestart(t *testing.T) {
	fill := func(l *lab) {
		l.book.SetAddressSet(&flowmodel.AddressSet{UUID: "s", Name: "web", Addresses: strs("10.0.0.4", "10.0.1.0/24")}, true)
		l.book.SetPortGroup(&flowmodel.PortGroup{UUID: "g", Name: "pg", Ports: strs("p1", "p2", "nosuch")})
		l.book.SetMeter(&flowmodel.Meter{UUID: "m", Name: "slow", Unit: "kbps", Rate: 5}, true)
		l.book.SetBucket(&flowmodel.Bucket{UUID: "b1", Weight: 1, Actions: `outport = "p3"; output;`})
		l.book.SetBucket(&flowmodel.Bucket{UUID: "b2", Weight: 1, Actions: `outport = "p9"; output;`})
		l.book.SetGroup(&flowmodel.Group{UUID: "gr", Name: "out", Buckets: strs("b1", "b2")}, true)
		l.row(0, 10, "ip4.dst == $web && inport == @pg", `meter("slow"); outport = "p2"; output;`)
		l.row(0, 9, "ip4.dst == {1.1.1.1, 1.1.1.2, 1.1.1.3}", `set_meter(100); group("out");`)
		l.row(0, 8, "ip4", `reg0 = select(1=10, 2=20);`)
		l.row(0, 7, "ip4", `fwd_group(childports="p1","p2");`)
	}
	l := newLab(t)
	fill(l)
	l.put()
	if got, want := l.kinds(), "set set set meter meter select select select +rule +rule +rule +rule"; got != want {
		t.Fatalf("at first: %s, want %s", got, want)
	}
	for uuid := range l.book.flows {
		if got := l.status(uuid); got != "active" {
			t.Errorf("%s: %s", uuid, got)
		}
	}
	old := l.tables
	again := newLab(t)
	again.tables = old
	fill(again)
	again.book.Begin(again.have())
	again.put()
	if again.kinds() != "" {
		t.Errorf("after a restart of control: %s", again.kinds())
	}
	again.book.DropMeter("m")
	again.book.SetPortGroup(&flowmodel.PortGroup{UUID: "g", Name: "pg", Ports: strs("p1")})
	again.put()
	if got, want := again.kinds(), "-rule -meter -set -set"; got != want {
		t.Errorf("without the meter: %s, want %s", got, want)
	}

	l.row(0, 6, "ip4.dst == {1.1.1.1, 1.1.1.2, 1.1.1.3}", `outport = "p2"; meter("slow"); group("out");`)
	l.put()
	l.book.SetBucket(&flowmodel.Bucket{UUID: "b2", Weight: 1, Actions: `outport = "p9"; output;`}) // all rows that use it are made anew
	l.put()
	if l.kinds() != "" {
		t.Errorf("a bucket that says what it said: %s", l.kinds())
	}

	l.restart()
	l.book.Begin(l.have())
	l.put()
	if got, want := l.kinds(), "set set set meter meter select select select +rule +rule +rule +rule +rule"; got != want {
		t.Errorf("after a restart of the dataplane: %s, want %s", got, want)
	}
}
