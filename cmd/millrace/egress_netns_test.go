package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestSweptByItself: the process of a port that is no more leaves nothing, whoever started it.
func TestSweptByItself(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, control.EgressDir), 0o755); err != nil {
		t.Fatal(err)
	}
	e := bridge.Egress{Name: "eg0", Stack: bridge.StackKernel, Netns: fmt.Sprintf("mrt-swept-%d", os.Getpid()), Own: true}
	t.Cleanup(func() { _ = removeNetns(e.Netns) })
	file := filepath.Join(dir, control.EgressDir, "eg0.json")
	text, err := json.Marshal(e)
	if err = errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, "egress", "port", "eg0", "--run-dir", dir)
	if line := p.line(t); line != "ready\n" || !isNetns(netnsPath(e.Netns)) {
		t.Fatalf("the port's first line is %q; its network namespace is there: %v", line, isNetns(netnsPath(e.Netns)))
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(testTimeout):
		t.Fatal("it does not end")
	}
	if code := p.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, left := range []string{netnsPath(e.Netns), ownNetns(dir, e.Name)} {
		if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}
