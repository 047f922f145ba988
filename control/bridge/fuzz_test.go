package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"millrace/control/ovsdb/model"
)

// A dice gives values that the fuzzer chooses, from few, so that they collide.
type dice struct{ data []byte }

func (d *dice) n(most int) int {
	if len(d.data) == 0 {
		return 0
	}
	v := int(d.data[0]) % most
	d.data = d.data[1:]
	return v
}

func pick[T any](d *dice, values ...T) T { return values[d.n(len(values))] }

// text takes a string from the fuzzer.
func (d *dice) text() string {
	n := min(d.n(40), len(d.data))
	s := string(d.data[:n])
	d.data = d.data[n:]
	return s
}

func (d *dice) name() string {
	return pick(d, "a", "b", "c", "br0", "p1", "p2", "", "..", "x/y", d.text())
}

func (d *dice) int() *int {
	v := pick(d, -1, 0, 1, 2, 7, 68, 1500, 4094, 4095, 65279, 65534, 1<<40)
	return pick(d, nil, &v, &v)
}

func (d *dice) ids(prefix string) []string {
	var ids []string
	for range d.n(5) {
		ids = append(ids, fmt.Sprint(prefix, d.n(5)))
	}
	return ids
}

// roll makes rows.
func (d *dice) roll() Rows {
	r := Rows{
		Root:    &model.OpenvSwitch{Bridges: d.ids("b"), OtherConfig: map[string]string{}},
		Bridges: map[string]*model.Bridge{}, Ports: map[string]*model.Port{}, Interfaces: map[string]*model.Interface{}, QoS: map[string]*model.QoS{},
	}
	r.Root.OtherConfig[pick(d, "pmd-cpu-mask", "pmd-auto-lb", "pmd-auto-lb-rebal-interval", "pmd-auto-lb-load-threshold", "pmd-auto-lb-improvement-threshold", "vhost-sock-dir", "stats-update-interval")] = d.text()
	for range d.n(4) {
		id := fmt.Sprint("b", d.n(5))
		r.Bridges[id] = &model.Bridge{
			UUID: id, Name: d.name(), Ports: d.ids("p"), FloodVLANs: []int{d.n(4096)}, FailMode: pick(d, nil, ptr("secure"), ptr("standalone")),
			OtherConfig: map[string]string{pick(d, "mac-aging-time", "mac-table-size", "hwaddr", "datapath-id"): d.text()},
		}
	}
	for range d.n(8) {
		id := fmt.Sprint("p", d.n(5))
		r.Ports[id] = &model.Port{
			UUID: id, Name: d.name(), Interfaces: d.ids("i"), Tag: d.int(), FakeBridge: d.n(8) == 1, QOS: pick(d, nil, ptr("q0"), ptr("q1")),
			VLANMode: pick(d, nil, ptr("access"), ptr("trunk"), ptr("native-tagged"), ptr("native-untagged"), ptr("dot1q-tunnel"), ptr("?")),
		}
		if v := d.int(); v != nil {
			r.Ports[id].Trunks = []int{*v, d.n(4096), *v}
		}
	}
	for range d.n(8) {
		id := fmt.Sprint("i", d.n(5))
		r.Interfaces[id] = &model.Interface{
			UUID: id, Name: d.name(), Type: pick(d, "", "internal", "patch", "patch", "patch", "dpdkvhostuser", "dpdkvhostuserclient", "tap", "geneve", "egress", "egress", d.text()),
			MTURequest: d.int(), Ofport: d.int(), OfportRequest: d.int(),
			Options: map[string]string{
				"peer": d.name(), pick(d, "vhost-server-path", "n_rxq", "netns", "ip", "up", "persist", "x", "stack", "gateway", "server"): pick(d, d.text(), "/run/x", "../x", "x", "true", "10.0.0.1/8", "kernel", "10.0.0.2"),
			},
		}
		if d.n(4) == 1 {
			r.Interfaces[id].MAC = ptr(d.text())
		}
		if d.n(4) == 1 {
			r.Interfaces[id].IngressPolicingRate, r.Interfaces[id].IngressPolicingKpktsBurst = d.n(9)-1, d.n(1<<62)
			r.Interfaces[id].OtherConfig = map[string]string{KeySecurity: pick(d, "02:00:00:00:00:01 10.0.0.1/8 fd00::1, 02:00:00:00:00:02", d.text())}
		}
	}
	for range d.n(3) {
		id := fmt.Sprint("q", d.n(2))
		r.QoS[id] = &model.QoS{Type: pick(d, QoSPolicer, "linux-htb", ""), OtherConfig: map[string]string{"cir": pick(d, "1000", d.text()), "cbs": "5"}}
	}
	return r
}

func ptr[T any](v T) *T { return &v }

// FuzzFrom makes states of any rows: what is wanted is what a dataplane can
// have, numbers are unique in a bridge, and the same rows want the same again.
func FuzzFrom(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("1234567890123456789012345678901234567890123456789012345678901234567890"))
	seed := make([]byte, 4096)
	for i := range seed {
		seed[i] = byte(i * 7 >> (i % 5))
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, again := (&dice{data}).roll(), (&dice{data}).roll()
		policy := Policy{RunDir: "/run/m", Local: len(data)%2 == 1, Agent: agentOptions}
		st := From(rows, policy)
		if !reflect.DeepEqual(rows, again) {
			t.Fatal("rows were changed")
		}
		if a, b := text(st), text(From(again, policy)); a != b {
			t.Fatalf("equal rows:\n%s\n%s", a, b)
		}
		checkState(t, st, policy)
		have := Have{Ports: st.Ports, Bridges: st.Bridges, CPUs: st.CPUs}
		if again := Diff(have, st); len(again) > 0 {
			t.Errorf("second pass: %v", again)
		}
	})
}

// TestOneText: the same rows have the same text each time: another text would be written back for ever.
func TestOneText(t *testing.T) {
	rows := Rows{
		Root:    &model.OpenvSwitch{Bridges: []string{"b"}},
		Bridges: map[string]*model.Bridge{"b": {UUID: "b", Name: "br0", Ports: []string{"p", "q"}}},
		Ports: map[string]*model.Port{
			"p": {UUID: "p", Name: "p1", Interfaces: []string{"i"}, QOS: ptr("x")},
			"q": {UUID: "q", Name: "p2", Interfaces: []string{"j"}, QOS: ptr("x")},
		},
		Interfaces: map[string]*model.Interface{
			"i": {UUID: "i", Name: "p1", Type: TypePatch, IngressPolicingRate: 1, OtherConfig: map[string]string{KeySecurity: "x"}, Options: map[string]string{"peer": "p3"}},
			"j": {UUID: "j", Name: "p2", Type: TypeTAP},
		},
		QoS: map[string]*model.QoS{"x": {Type: QoSPolicer, OtherConfig: map[string]string{"cir": "a", "cbs": "b"}}},
	}
	want := text(From(rows, Policy{RunDir: "/run/m"}))
	for _, part := range []string{"ingress_policing_rate: not supported", "other_config: not supported", "qos: not supported", `cir="a"`} {
		if !strings.Contains(want, part) {
			t.Errorf("there is no %q in %s", part, want)
		}
	}
	for range 64 {
		if got := text(From(rows, Policy{RunDir: "/run/m"})); got != want {
			t.Fatalf("equal rows:\n%s\n%s", got, want)
		}
	}
}

// FuzzSources: a list of stations that is understood is understood the same when it is written again,
// has no more than it may, and names stations and prefixes only.
func FuzzSources(f *testing.F) {
	for _, s := range []string{"", "02:00:00:00:00:01", "02-00-00-00-00-01 10.0.0.1/8 fd00::1, 0200.0000.0002", "01:00:00:00:00:01", "02:00:00:00:00:01 fe80::1%x", "02:00:00:00:00:01 ::ffff:10.0.0.1", ",", "02:00:00:00:00:01 10.0.0.1/33"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseSources(s)
		if err != nil {
			if !errors.Is(err, ErrValue) {
				t.Fatal(err)
			}
			return
		}
		words := make([]string, len(list))
		for i, src := range list {
			words[i] = src.String()
			mac, err := net.ParseMAC(src.MAC)
			if err != nil || len(mac) != 6 || mac[0]&1 != 0 || len(src.Addresses) > sourcesMax {
				t.Fatalf("%+v, %v", src, err)
			}
			for _, a := range src.Addresses {
				if p, err := netip.ParsePrefix(a); err != nil || p.String() != a {
					t.Fatalf("address %q: %v", a, err)
				}
			}
		}
		again, err := ParseSources(strings.Join(words, ","))
		if err != nil || len(list) == 0 || len(list) > sourcesMax || !slices.EqualFunc(again, list, Source.equal) {
			t.Fatalf("%q: %v became %v, %v", s, list, again, err)
		}
	})
}

// FuzzOwner: numbers of a user and a group are those that were written, and not the one that means none.
func FuzzOwner(f *testing.F) {
	for _, s := range []string{"0:0", "1000:2000", "4294967295:0", "4294967294:4294967294", "1", "1:2:3", "-1:1", "+1:1", " 1:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		uid, gid, err := ParseOwner(s)
		var u, g uint32
		n, _ := fmt.Sscanf(s, "%d:%d", &u, &g)
		if err == nil && (n != 2 || u != uid || g != gid || u+1 == 0 || g+1 == 0) {
			t.Fatalf("%q is %d:%d", s, uid, gid)
		}
		if plain := fmt.Sprintf("%d:%d", u, g); err != nil && s == plain && u+1 != 0 && g+1 != 0 {
			t.Fatal(err)
		}
	})
}

// text is all of a state.
func text(st *State) string {
	return fmt.Sprintf("%v %v %+v %v %+v %v %v %v", st.Ports, st.Bridges, st.Interfaces, st.PortErrors, st.BridgeRows, st.Stats, st.CPUs, st.Errors) + fmt.Sprint(st.Egress)
}

func checkState(t *testing.T, st *State, policy Policy) {
	numbers := map[string]bool{}
	for _, v := range st.Interfaces {
		if v.Wanted && v.Ofport < 1 || v.Wanted && v.Local && !policy.Local || !v.Wanted && !v.Local && v.Error == "" {
			t.Errorf("interface %+v", v)
		}
		if !v.Wanted {
			continue
		}
		key := fmt.Sprint(st.Ports[v.Name].Bridge, v.Ofport)
		if numbers[key] {
			t.Errorf("port number twice: %+v", v)
		}
		numbers[key] = true
	}
	if len(numbers) != len(st.Ports) {
		t.Errorf("%d ports have %d numbers", len(st.Ports), len(numbers))
	}
	for name, p := range st.Ports {
		if badName(name) != nil || badName(p.Bridge) != nil || p.Name != name || !utf8.ValidString(name) {
			t.Errorf("port %+v", p)
		}
		isSocket := p.Type == TypeVhostClient || p.Type == TypeVhostServer
		switch isDevice := p.Type == TypeTAP || p.Type == TypeInternal; {
		case isDevice && (badDevice(name) != nil || p.Host.Persist && p.Host.Netns != ""), p.Type == TypeAFXDP && len(name) > deviceMax:
			t.Errorf("device %+v", p)
		case isSocket && (!filepath.IsAbs(p.Path) || len(p.Path) > socketPathMax || filepath.Clean(p.Path) != p.Path), !isSocket && p.Path != "":
			t.Errorf("path %q of %v", p.Path, p)
		}
		if p.Mode == Trunk && p.Tag != 0 || p.Mode != Trunk && (p.Tag == 0 || p.Tag > VLANMax) || p.Mode == Access && p.Trunks != nil {
			t.Errorf("VLANs of %v", p)
		}
	}
}
