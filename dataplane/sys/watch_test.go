package sys

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWatch: each change of a directory's files is told, the end of the directory
// and of the watching end the channel.
func TestWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "watched")
	if _, err := Watch(t.Context(), dir); err == nil {
		t.Error("a directory that is not there is watched")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first, err := Watch(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	told := func(c <-chan struct{}) bool {
		t.Helper()
		select {
		case _, open := <-c:
			return open
		case <-time.After(time.Minute):
			t.Fatal("nothing is told")
		}
		return false
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, change := range []func() error{
		func() error { return os.WriteFile(a, []byte("x"), 0o600) },
		func() error { return os.Rename(a, b) },
		func() error { return os.Remove(b) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if !told(first) || !told(second) {
			t.Fatal("the watch has ended")
		}
		for drained := false; !drained; {
			select {
			case <-first:
			case <-second:
			case <-time.After(20 * time.Millisecond):
				drained = true
			}
		}
	}
	cancel()
	for told(first) { // of the last change a part may be told late
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for told(second) {
	}
}
