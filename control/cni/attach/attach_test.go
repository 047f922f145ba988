package attach

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestKey: names and addresses follow from all parts of a key, and fit where they go.
func TestKey(t *testing.T) {
	keys := []Key{{"n", "c", "i"}, {"n", "ci", ""}, {"nc", "", "i"}, {"n", "c", "j"}, {"n", "d", "i"}, {"m", "c", "i"}}
	seen := map[string]Key{}
	for _, k := range keys {
		if again := k.Port(); len(k.Port()) != 15 || k.MAC()[0]&3 != 2 || k.Port() != again {
			t.Errorf("%+v: port %s, address %s", k, k.Port(), k.MAC())
		}
		for _, s := range []string{k.Port(), k.MAC().String()} {
			if other, is := seen[s]; is {
				t.Errorf("%+v and %+v have the same %s", k, other, s)
			}
			seen[s] = k
		}
	}
	for _, bad := range []Key{{}, {"n", "..", "i"}, {"n", "a/b", "i"}, {"n", "c", "a\x00"}, {strings.Repeat("x", 256), "c", "i"}} {
		if bad.Check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// TestNotes: a note is there once it was left, until it is forgotten; one that makes no
// sense is told of and removed.
func TestNotes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	k := Key{"n", "c", "i"}
	at := &Attachment{Key: k, Kind: VhostUser, DeviceID: "br0-1"}
	for range 2 {
		if err := Note(dir, at); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := Notes(dir); err != nil || len(list) != 1 || !reflect.DeepEqual(&list[0], at) || !Noted(dir, k) {
		t.Errorf("%v, %v", list, err)
	}
	if err := os.WriteFile(notePath(dir, k), []byte(`{"network":"n","container_id":"c","ifname":"i"}`), 0o600); err != nil { // as of older plugins
		t.Fatal(err)
	}
	if list, err := Notes(dir); err != nil || len(list) != 1 || list[0].Key != k {
		t.Errorf("%v, %v", list, err)
	}
	if err := os.WriteFile(notePath(dir, k)+hidden, nil, 0o600); err != nil { // of a plugin that was killed
		t.Fatal(err)
	}
	bad := filepath.Join(dir, notesDir, "cni000000000000.json")
	if err := os.WriteFile(bad, []byte(`{"network":"../x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := Notes(dir); err == nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
	if err := errors.Join(Forget(dir, k), Forget(dir, k)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, notesDir)); err != nil || len(left) != 0 || Noted(dir, k) {
		t.Errorf("%v, %v", left, err)
	}
}

// FuzzNote: what a note says is an error, or an attachment whose names can be parts of paths, and whose note says
// the same.
func FuzzNote(f *testing.F) {
	for _, s := range []string{`{"network":"n","container_id":"c","ifname":"i"}`, `{"network":"n","container_id":"c","ifname":"i","volume":"../x","trunk":[]}`, `{"network":"n","container_id":"c","ifname":"i","pod":{"uid":"u"},"owner":{"uid":1,"gid":2}}`, `{}`, `{"network":"n"`} {
		f.Add(s)
	}
	dir := f.TempDir()
	if err := Note(dir, &Attachment{Key: Key{"n", "c", "i"}}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := notePath(dir, Key{"n", "c", "i"})
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at, err := readNote(name)
		if err != nil {
			return
		}
		for _, s := range []string{at.Network, at.ContainerID, at.IfName, at.DeviceID, at.Volume, at.Pod.UID} {
			if s == "." || s == ".." || strings.ContainsAny(s, "/\x00\n") {
				t.Fatalf("name %q", s)
			}
		}
		if at.Key != (Key{"n", "c", "i"}) {
			t.Fatalf("key %+v", at.Key)
		}
		want, err := json.Marshal(&at)
		if err != nil {
			t.Fatal(err)
		}
		if err := Note(dir, &at); err != nil {
			t.Fatal(err)
		}
		again, err := readNote(name)
		if got, _ := json.Marshal(&again); err != nil || string(got) != string(want) {
			t.Fatalf("%s became %s, %v", want, got, err)
		}
	})
}

// FuzzRequest: what a caller sends is a request or an error.
func FuzzRequest(f *testing.F) {
	f.Add(`{"version":1,"method":"attach","attachment":{"network":"n","container_id":"c","ifname":"i","kind":"tap"}}`)
	f.Add(`{"version":1,"method":"gc","key":{"network":"n"},"valid":[{"container_id":"c","ifname":"i"}]}`)
	f.Add(`{"method":"x","unknown":1}{`)
	f.Fuzz(func(t *testing.T, text string) {
		var r Request
		if err := Receive(strings.NewReader(text), &r); err != nil {
			return
		}
		if r.Attachment != nil && r.Attachment.Check() == nil && len(r.Attachment.Port()) != 15 {
			t.Fatalf("%+v", r.Attachment)
		}
	})
}
