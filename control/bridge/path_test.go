package bridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/control/ovsdb/model"
)

// TestPolicy confines sockets to directories, through symbolic links too.
func TestPolicy(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	run, pods, out := filepath.Join(base, "run"), filepath.Join(base, "pods"), filepath.Join(base, "out")
	for _, dir := range []string{run, filepath.Join(run, "sub"), pods, out} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{filepath.Join(run, "away"), filepath.Join(pods, "away")} {
		if err := os.Symlink(out, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(pods, filepath.Join(base, "p")); err != nil {
		t.Fatal(err)
	}
	open := Policy{RunDir: run, Follow: filepath.EvalSymlinks}
	closed := Policy{RunDir: run, Dirs: []string{filepath.Join(base, "p"), run}, Follow: filepath.EvalSymlinks}
	for _, tt := range []struct {
		name   string
		policy Policy
		path   string
		want   string // part of the error; empty: none
	}{
		{"anywhere", open, "/etc/x", ""},
		{"relative", open, "x", ""},
		{"relative below", open, "sub/x", ""},
		{"relative to a directory that is not there", open, "none/x", ""},
		{"relative through a link", open, "away/x", "symbolic link"},
		{"relative up", open, "sub/../../x", "has a .. in it"},
		{"absolute through a link, not confined", open, filepath.Join(run, "away/x"), ""},
		{"in a directory of the policy", closed, filepath.Join(base, "p/x"), ""},
		{"in the run directory", closed, filepath.Join(run, "x"), ""},
		{"elsewhere", closed, "/etc/x", "is not below"},
		{"beside", closed, filepath.Join(base, "pods2/x"), "is not below"},
		{"out of it through a link", closed, filepath.Join(base, "p/away/x"), "symbolic link"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			row := &model.Interface{Name: "p", Type: TypeVhostClient, Options: map[string]string{"vhost-server-path": tt.path}}
			path, err := tt.policy.socket(row, "")
			if tt.want == "" && (err != nil || !filepath.IsAbs(path)) {
				t.Errorf("%q, %v", path, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%q, %v, want %q", path, err, tt.want)
			}
		})
	}
}

// TestShort cuts between characters.
func TestShort(t *testing.T) {
	if got := short(strings.Repeat("é", 100)); !strings.HasPrefix(got, strings.Repeat("é", 30)+"...") {
		t.Errorf("got %q", got)
	}
}
