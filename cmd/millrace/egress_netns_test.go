package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"millrace/control"
	"millrace/control/bridge"
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
