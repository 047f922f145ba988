package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// checks runs what looks at the source without running it.
func (r *runner) checks(ctx context.Context) {
	r.say("\n== checks")
	r.check("gofmt", checkFormat(ctx))
	r.check("go vet", quiet(ctx, nil, "go", "vet", "./..."))
	r.check("go vet for arm64", quiet(ctx, []string{"GOARCH=arm64", "CGO_ENABLED=0"}, "go", "vet", "./..."))
	if has("clang") {
		r.check("XDP program", compareGenerated(ctx, "dataplane/afxdp/bpf/generate"))
	} else {
		r.leaveOut("comparing the XDP program with its source: needs clang: apt-get install clang llvm libbpf-dev")
	}
	if !has("protoc") {
		r.leaveOut("comparing generated code with its source: needs protoc: apt-get install protobuf-compiler")
		return
	}
	r.check("generated code", compareGenerated(ctx, "hack/generate"))
}

// check counts one check that ended with err.
func (r *runner) check(name string, err error) {
	if err != nil {
		r.fail("%s: %v", name, err)
		return
	}
	r.pass("%s", name)
}

// checkFormat returns an error that lists the files gofmt would change.
func checkFormat(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "gofmt", "-l", ".").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if len(out) > 0 {
		return fmt.Errorf("run gofmt -w on\n%s", out)
	}
	return nil
}

// quiet runs a command with env added, and returns its output only in an error.
func quiet(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(out, 60))
	}
	return nil
}

// compareGenerated has a script generate into an empty directory, and compares.
func compareGenerated(ctx context.Context, script string) error {
	dir, err := os.MkdirTemp("", "millrace-generate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := quiet(ctx, nil, script, dir); err != nil {
		return err
	}
	var stale []string
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if !sameFile(path, name) {
			stale = append(stale, name)
		}
		return nil
	})
	if err == nil && len(stale) > 0 {
		err = fmt.Errorf("run make generate; stale: %s", strings.Join(stale, " "))
	}
	return err
}

// sameFile reports whether generated file a and our file b hold the same, but
// for the line that names protoc's version.
func sameFile(a, b string) bool {
	x, errX := os.ReadFile(a)
	y, errY := os.ReadFile(b)
	return errX == nil && errY == nil && bytes.Equal(withoutVersion(x), withoutVersion(y))
}

// withoutVersion drops the comment lines that name the version of protoc.
func withoutVersion(src []byte) []byte {
	var kept [][]byte
	for line := range bytes.Lines(src) {
		if bytes.HasPrefix(line, []byte("//")) && bytes.Contains(line, []byte("protoc ")) {
			continue
		}
		kept = append(kept, line)
	}
	return bytes.Join(kept, nil)
}
