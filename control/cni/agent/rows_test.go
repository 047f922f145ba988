package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"millrace/control/cni/attach"
	"millrace/control/ovsdb/model"
)

// rowOf is a Port row of ours with this attachment.
func rowOf(at *attach.Attachment, spec string) *model.Port {
	return &model.Port{Name: at.Port(), ExternalIDs: map[string]string{keyOwner: owner, keySpec: spec, keySeen: "7", keyBoot: "b"}}
}

func specText(t *testing.T, at *attach.Attachment) string {
	t.Helper()
	text, err := json.Marshal(at)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestRowNames: a row whose names lead elsewhere is no attachment: its directory would be removed with it.
func TestRowNames(t *testing.T) {
	good := attach.Attachment{Key: attach.Key{Network: "n", ContainerID: "c", IfName: "etc"}, Pod: attach.Pod{UID: "u"}, Kind: attach.VhostUser, Volume: "v", DeviceID: "d"}
	for name, tt := range map[string]struct {
		change func(*attach.Attachment)
		good   bool
	}{
		"as it was":     {func(*attach.Attachment) {}, true},
		"volume":        {func(at *attach.Attachment) { at.Volume = "../../../../../../.." }, false},
		"UID":           {func(at *attach.Attachment) { at.Pod.UID = ".." }, false},
		"device":        {func(at *attach.Attachment) { at.DeviceID = "../.." }, false},
		"interface":     {func(at *attach.Attachment) { at.IfName = "a/../.." }, false},
		"no interface":  {func(at *attach.Attachment) { at.IfName = "" }, false},
		"container":     {func(at *attach.Attachment) { at.ContainerID = "/" }, false},
		"other network": {func(at *attach.Attachment) { at.Network = "m" }, true},
	} {
		at := good
		tt.change(&at)
		if r, err := parse("x", rowOf(&at, specText(t, &at))); (err == nil && r != nil) != tt.good {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// FuzzRow: what a row says is an error, or an attachment whose place is below the run directory or a pod's,
// and which is the same when it is written again.
func FuzzRow(f *testing.F) {
	f.Add("n", "c", "i", `{"network":"n","container_id":"c","ifname":"i","pod":{"uid":"u"},"kind":"vhost-user","bridge":"b","mtu":1500,"mac":"","device_id":"d"}`)
	f.Add("n", "c", "i", `{"network":"n","container_id":"c","ifname":"i","pod":{"uid":".."},"volume":"../..","kind":"tap","netns":"/x","trunk":[1,2],"userspace":true}`)
	f.Add("n", "c", "i", `{"network":"n","container_id":"c","ifname":"i","pod":{"uid":"u"},"volume":"../.."}`)
	f.Add("n", "c", "i", `{"network":"n","container_id":"c","ifname":"i","pod":{"uid":"u"},"volume":"v","mount":"/m"}`)
	f.Add("n", "c", "..", `{"network":"n","container_id":"c","ifname":".."}`)
	f.Add("", "", "", `{}`)
	dir := f.TempDir()
	a := &agent{Config: Config{RunDir: filepath.Join(dir, "run"), Kubelet: dir}}
	if err := os.MkdirAll(filepath.Join(dir, "pods/u/volumes/kubernetes.io~empty-dir/v"), 0o700); err != nil {
		f.Fatal(err)
	}
	ours := []string{filepath.Join(a.RunDir, SlotsDir), filepath.Join(a.RunDir, podsDir), filepath.Join(dir, "pods/u/volumes/kubernetes.io~empty-dir"), filepath.Join(dir, "pods/u/volumes/kubernetes.io~empty-dir/v")}
	f.Fuzz(func(t *testing.T, network, container, ifname, spec string) {
		key := attach.Key{Network: network, ContainerID: container, IfName: ifname}
		r, err := parse("x", rowOf(&attach.Attachment{Key: key}, spec))
		if err != nil {
			return
		}
		if r.Key != key || r.netns != 7 || r.boot != "b" {
			t.Fatalf("%+v, not %+v", r, key)
		}
		if p := a.placeOf(&r.Attachment); !slices.Contains(ours, filepath.Dir(p.dir)) {
			t.Fatalf("place %s", p.dir)
		}
		text := specText(t, &r.Attachment)
		again, err := parse("x", rowOf(&r.Attachment, text))
		if err != nil || specText(t, &again.Attachment) != text {
			t.Fatalf("%s became %+v, %v", text, again, err)
		}
	})
}
