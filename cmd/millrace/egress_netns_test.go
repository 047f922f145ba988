package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/control"
	"millrace/control/bridge"
	"millrace/dataplane/netnstest"
)

// TestOthersNetns: a network namespace that is there when the port's process wants one is used, and not noted as its own: who
// ends the port leaves it.
func TestOthersNetns(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, control.EgressDir), 0o755); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "netns")
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeNetns(dir, bridge.Egress{Name: "eg0", Netns: theirs}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ownNetns(dir, "eg0")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is noted as the port's own: %v", err)
	}
	if err := sweepEgress(dir, "eg0"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}

// TestHalfMadeNetns: the file that a network namespace is mounted at is there before that is.
// A process that was killed between the two hinders neither the next one nor who ends the port.
func TestHalfMadeNetns(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, control.EgressDir), 0o755); err != nil {
		t.Fatal(err)
	}
	e := bridge.Egress{Name: "eg0", Netns: fmt.Sprintf("mrt-half-%d", os.Getpid())}
	path := netnsPath(e.Netns)
	t.Cleanup(func() { _ = removeNetns(e.Netns) })
	half := func() {
		t.Helper()
		for file, text := range map[string]string{path: "", ownNetns(dir, e.Name): e.Netns} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func() {
		t.Helper()
		if err := sweepEgress(dir, e.Name); err != nil {
			t.Error(err)
		}
		for _, file := range []string{path, ownNetns(dir, e.Name)} {
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", file, err)
			}
		}
	}
	half()
	for _, when := range []string{"after a half-made one", "again"} {
		if err := makeNetns(dir, e); err != nil || !isNetns(path) {
			t.Fatalf("%s: %v; a network namespace: %v", when, err, isNetns(path))
		}
		if out, err := exec.Command("nsenter", "--net="+path, "ip", "link", "show", "up", "dev", "lo").CombinedOutput(); err != nil || !strings.Contains(string(out), "lo") {
			t.Errorf("%s: the loopback device: %v, %s", when, err, out)
		}
	}
	gone()
	half()
	gone()
}
