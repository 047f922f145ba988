package flows

import (
	"strings"
	"testing"

	"millrace/control/ovsdb/flowmodel"
)

// FuzzFlow: no texts make the book panic, what it compiles the flow table takes, and a
// row that goes leaves nothing behind.
func FuzzFlow(f *testing.F) {
	for _, tt := range lowerCases() {
		f.Add(tt.match, tt.actions)
	}
	l := newLab(f)
	l.book.SetAddressSet(&flowmodel.AddressSet{UUID: "s", Name: "web", Addresses: strs("10.0.0.1", "fd00::/8", "0x5", "02:00:00:00:00:01")}, true)
	l.book.SetPortGroup(&flowmodel.PortGroup{UUID: "p", Name: "pg", Ports: strs("p1", "a")})
	l.book.SetMeter(&flowmodel.Meter{UUID: "m", Name: "m", Unit: "kbps", Rate: 5}, true)
	l.book.SetBucket(&flowmodel.Bucket{UUID: "b", Weight: 1, Actions: "ip.ttl--; next;"})
	l.book.SetGroup(&flowmodel.Group{UUID: "g", Name: "g", Buckets: strs("b")}, true)
	f.Fuzz(func(t *testing.T, match, actions string) {
		l.t = t // F cannot be told while it fuzzes
		uuid := l.row(0, 1, match, actions)
		l.put()
		if got := l.status(uuid); strings.HasPrefix(got, "refused rule ") || got == "" {
			t.Fatalf("%s: %s: %s", match, actions, got)
		}
		l.book.DropFlow(uuid)
		l.put()
		if n := l.tables.Rules(); n != 0 || len(l.tables.Sets())+len(l.tables.Selects())+len(l.tables.Meters()) != 0 || len(l.book.objects)+len(l.book.rules) != 0 {
			t.Fatalf("%s: %s leaves %d rules, sets %v, groups %v, meters %v", match, actions, n, l.tables.Sets(), l.tables.Selects(), l.tables.Meters())
		}
	})
}
