package service

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/service/switchtest"
)

// configure gives a switch one of everything.
func configure(t *testing.T, c *api.Client) {
	t.Helper()
	ctx := testContext(t)
	addPort(t, c, "br0", "p1")
	addPort(t, c, "br0", "gone")
	full := &api.PortSpec{
		Bridge: "br1", Name: "p2", Type: "dpdkvhostuserclient", Path: "/var/run/x", Tag: 5, Trunks: []uint32{9, 7, 9},
		VlanMode: api.VlanMode_VLAN_MODE_NATIVE_UNTAGGED, Mtu: 1500, Queues: 2, MacLimit: 100,
	}
	_, err := c.AddPort(ctx, &api.AddPortRequest{Spec: full})
	_, err2 := c.SetWire(ctx, &api.SetWireRequest{In: "p1", Out: "p2"})
	_, err3 := c.SetWire(ctx, &api.SetWireRequest{In: "p2", Out: "gone"})
	_, err4 := c.AddEntry(ctx, &api.AddEntryRequest{Entry: &api.Entry{Bridge: "br1", Vlan: 7, Mac: "02:00:00:00:00:0A", Port: "p2"}})
	_, err5 := c.AddEntry(ctx, &api.AddEntryRequest{Entry: &api.Entry{Bridge: "br0", Mac: "02:00:00:00:00:0b", Port: "gone"}})
	_, err6 := c.DelPort(ctx, &api.DelPortRequest{Name: "gone"})
	full.Tag = 6
	_, err7 := c.SetPort(ctx, &api.SetPortRequest{Spec: full})
	_, err8 := c.SetBridge(ctx, &api.SetBridgeRequest{Name: "br1", MacAgeSeconds: 20, MacsMax: 100, FloodVlans: []uint32{9}})
	if err := errors.Join(err, err2, err3, err4, err5, err6, err7, err8); err != nil {
		t.Fatal(err)
	}
}

// TestRestore: the next dataplane of a run directory has what the last one was
// given, and no more.
func TestRestore(t *testing.T) {
	dir := t.TempDir()
	first := &switchtest.Switch{}
	_, stop := serve(t, dir, first, false)
	configure(t, dial(t, dir))
	stop()

	second := &switchtest.Switch{}
	_, stop = serve(t, dir, second, false)
	got, want := second.Ports(), first.Ports()
	for i := range want {
		want[i].Number, got[i].Number = 0, 0
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ports:\n got %+v\nwant %+v", got, want)
	}
	if got, want := second.Bridges(), first.Bridges(); !reflect.DeepEqual(got, want) || got[1].MACsMax != 100 {
		t.Errorf("bridges:\n got %+v\nwant %+v", got, want)
	}
	gotMACs, _ := second.MACs("")
	wantMACs, _ := first.MACs("")
	if !reflect.DeepEqual(gotMACs, wantMACs) || len(gotMACs) != 1 {
		t.Errorf("entries:\n got %+v\nwant %+v", gotMACs, wantMACs)
	}
	c := dial(t, dir)
	if u := c.Info.GetUnrestored(); len(u) != 0 {
		t.Errorf("not restored: %v", u)
	}
	addPort(t, c, "br0", "p1") // with the same settings as before
	stop()

	third := &switchtest.Switch{}
	serve(t, dir, third, true)
	if n := len(third.Ports()); n != 0 {
		t.Errorf("%d ports in spite of fresh", n)
	}
}

// TestUnrestored: what cannot be had again is shown, tried again at the next
// start, and forgotten when it is deleted.
func TestUnrestored(t *testing.T) {
	dir := t.TempDir()
	_, stop := serve(t, dir, &switchtest.Switch{}, false)
	configure(t, dial(t, dir))
	stop()

	refuse := func(p dataplane.PortSpec) error {
		if p.Name == "p2" {
			return errors.New("path is in use")
		}
		return nil
	}
	_, stop = serve(t, dir, &switchtest.Switch{Refuse: refuse}, false)
	var what []string
	for _, u := range dial(t, dir).Info.GetUnrestored() {
		what = append(what, u.GetWhat())
	}
	if got := strings.Join(what, "; "); got != "port p2; settings of bridge br1; wire p1 to p2; entry 02:00:00:00:00:0a in VLAN 7 of bridge br1" {
		t.Fatalf("not restored: %s", got)
	}
	stop()

	sw := &switchtest.Switch{}
	_, stop = serve(t, dir, sw, false)
	if n := len(sw.Ports()); n != 2 {
		t.Fatalf("%d ports at the next try, want 2", n)
	}
	stop()

	_, stop = serve(t, dir, &switchtest.Switch{Refuse: refuse}, false)
	c, ctx := dial(t, dir), testContext(t)
	_, err := c.DelWire(ctx, &api.DelWireRequest{In: "p1"})
	_, err2 := c.DelEntry(ctx, &api.DelEntryRequest{Bridge: "br1", Vlan: 7, Mac: "02:00:00:00:00:0a"})
	info, err3 := c.GetInfo(ctx, &api.GetInfoRequest{})
	_, err4 := c.DelPort(ctx, &api.DelPortRequest{Name: "p2"})
	left, err5 := c.GetInfo(ctx, &api.GetInfoRequest{})
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	if u := info.GetUnrestored(); len(u) != 2 || u[0].GetWhat() != "port p2" || u[1].GetWhat() != "settings of bridge br1" {
		t.Errorf("without wire and entry, not restored: %v", u)
	}
	if u := left.GetUnrestored(); len(u) != 0 {
		t.Errorf("without the port, not restored: %v", u)
	}
	if _, err := c.DelWire(ctx, &api.DelWireRequest{In: "p1"}); !errors.Is(err, api.ErrNoEntry) {
		t.Errorf("wire deleted again: %v", err)
	}
	stop()
	sw = &switchtest.Switch{}
	serve(t, dir, sw, false)
	if n := len(sw.Ports()); n != 1 {
		t.Fatalf("%d ports after p2 was deleted, want 1", n)
	}
}

// TestDeletedIsForgotten: nothing of what was deleted comes back.
func TestDeletedIsForgotten(t *testing.T) {
	dir := t.TempDir()
	_, stop := serve(t, dir, &switchtest.Switch{}, false)
	c := dial(t, dir)
	configure(t, c)
	ctx := testContext(t)
	_, err := c.DelWire(ctx, &api.DelWireRequest{In: "p1"})
	_, err2 := c.DelEntry(ctx, &api.DelEntryRequest{Bridge: "br1", Vlan: 7, Mac: "02:00:00:00:00:0a"})
	_, err3 := c.DelPort(ctx, &api.DelPortRequest{Name: "p1"})
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	stop()
	st, err := (&Dir{path: dir}).readState()
	if err != nil || len(st.Ports) != 1 || len(st.Wires) != 0 || len(st.Entries) != 0 {
		t.Errorf("remembered: %+v, %v; want the one port p2", st, err)
	}
}

// TestBadState: a file that cannot be read stops the start, and says how to go
// on.
func TestBadState(t *testing.T) {
	for _, content := range []string{"", "{", "[]", `{"version": 2}`, `{"version": 1, "ports": 3}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (&Dir{path: dir}).readState(); err == nil || !strings.Contains(err.Error(), "--fresh") {
			t.Errorf("%q: got %v, want an error with the way out", content, err)
		}
	}
}

// FuzzSpec: what passes the check is a port that passes it again unchanged,
// and whose socket is none of the switch's own files.
func FuzzSpec(f *testing.F) {
	f.Add("br0", "p1", "dpdkvhostuser", "", "", uint32(0), uint32(0), int32(0))
	f.Add("br0", "p1", "dpdkvhostuserclient", "x/../y", "", uint32(5), uint32(7), int32(3))
	f.Add("br0", "p1", "patch", "", "p2", uint32(4095), uint32(4094), int32(9))
	f.Add("br0", "dataplane.sock", "dpdkvhostuser", "/run/d/./ports.json", "", uint32(0), uint32(0), int32(0))
	s := &Server{Config: Config{Dir: &Dir{path: "/run/d"}, Types: []string{dataplane.TypeVhostServer, dataplane.TypeVhostClient, dataplane.TypePatch}}}
	f.Fuzz(func(t *testing.T, bridge, name, typ, path, peer string, tag, trunk uint32, mode int32) {
		in := &api.PortSpec{Bridge: bridge, Name: name, Type: typ, Path: path, Peer: peer, Tag: tag, Trunks: []uint32{trunk}, VlanMode: api.VlanMode(mode)}
		spec, ok := checkedTwice(t, s, in)
		if ok && spec.Type != dataplane.TypePatch && (!filepath.IsAbs(spec.Path) || len(spec.Path) > socketPathMax || filepath.Dir(spec.Path) == "/run/d" && reserved(filepath.Base(spec.Path))) {
			t.Fatalf("path %q", spec.Path)
		}
	})
}
