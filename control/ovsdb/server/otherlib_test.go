package server_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLibovsdbOther drives the server with another version of libovsdb than
// the one that millrace uses: a program in a module of its own.
func TestLibovsdbOther(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "client")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	build.Dir = filepath.Join("testdata", "libovsdb080")
	if out, err := build.CombinedOutput(); err != nil {
		fetch := exec.CommandContext(ctx, "go", "mod", "download", "github.com/ovn-kubernetes/libovsdb")
		fetch.Dir = build.Dir
		if fetch.Run() != nil {
			t.Skip("needs libovsdb v0.8.0 from a module proxy")
		}
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	_, socket, _ := serve(t, t.TempDir(), nil)
	if got := run(t, bin, "unix:"+socket); strings.TrimSpace(got) != "ok" {
		t.Errorf("libovsdb v0.8.0: %s", got)
	}
}
