package storage

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestLink opens a file by a symbolic link: the lock is beside the file, and a
// compaction replaces the file and leaves the link.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file, link := filepath.Join(dir, "b", "db"), filepath.Join(dir, "a", "link")
	if err := os.Symlink("../b/db", link); err != nil {
		t.Fatal(err)
	}
	l, _, err := reopen(t, link) // the file is not there yet
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.BeginCompact()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write([]byte("{}"), func(w *bufio.Writer) error { _, err := w.WriteString(`"all"`); return errors.Join(err, w.Flush()) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(c); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if to, err := os.Readlink(link); err != nil || to != "../b/db" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "b", ".db.~lock~")); err != nil {
		t.Error(err)
	}
	if _, got, err := reopen(t, file); err != nil || !slices.Equal(got, []string{"{}", `"all"`}) {
		t.Errorf("the file holds %q, %v", got, err)
	}
}
