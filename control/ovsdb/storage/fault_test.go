package storage

import (
	"bufio"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// A badDisk writes some bytes and then fails, or fails to make them last.
type badDisk struct {
	disk
	left        int // bytes that fit
	write, sync error
}

func (d *badDisk) Write(b []byte) (int, error) {
	if d.write == nil {
		return d.disk.Write(b)
	}
	n := min(d.left, len(b))
	if n, err := d.disk.Write(b[:n]); err != nil {
		return n, err
	}
	return n, d.write
}

func (d *badDisk) datasync() error {
	if d.sync != nil {
		return d.sync
	}
	return d.disk.datasync()
}

// TestDiskFails has a write or its fsync fail: the error says so, the file
// holds what was written before and nothing else, and can be written again.
func TestDiskFails(t *testing.T) {
	tests := []struct {
		name string
		bad  badDisk
		want error
	}{
		{"full at once", badDisk{write: syscall.ENOSPC}, syscall.ENOSPC},
		{"full in the header", badDisk{write: syscall.ENOSPC, left: 20}, syscall.ENOSPC},
		{"full in a record", badDisk{write: syscall.ENOSPC, left: 70}, syscall.ENOSPC},
		{"full after the first of two records", badDisk{write: syscall.ENOSPC, left: 63}, syscall.ENOSPC},
		{"write error", badDisk{write: syscall.EIO, left: 10}, syscall.EIO},
		{"short write", badDisk{write: io.ErrShortWrite, left: 30}, io.ErrShortWrite},
		{"fsync error", badDisk{sync: syscall.EIO}, syscall.EIO},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			l, _, err := reopen(t, path)
			if err != nil {
				t.Fatal(err)
			}
			add := func(s ...string) error {
				var b []byte
				for _, r := range s {
					b = AppendRecord(b, []byte(r))
				}
				return l.Append(b)
			}
			if err := add(`"before"`); err != nil {
				t.Fatal(err)
			}
			good := l.disk
			bad := tt.bad
			bad.disk, l.disk = good, &bad
			if err := add(`"lost"`, `"lost too"`); !errors.Is(err, tt.want) {
				t.Errorf("Append: %v, want %v", err, tt.want)
			}
			l.disk = good
			if err := add(`"after"`); err != nil {
				t.Fatal(err)
			}
			l.Close()
			l, got, err := reopen(t, path)
			if want := []string{"{}", `"before"`, `"after"`}; err != nil || !slices.Equal(got, want) || l.Torn != 0 {
				t.Errorf("the file holds %q, %v, want %q", got, err, want)
			}
		})
	}
}

// TestCompactionFails has the new file fail: the old one stays and is written on.
func TestCompactionFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	l, _, err := reopen(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(AppendRecord(nil, []byte(`"before"`))); err != nil {
		t.Fatal(err)
	}
	c, err := l.BeginCompact()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write([]byte("{}"), func(*bufio.Writer) error { return syscall.ENOSPC }); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Write: %v", err)
	}
	if err := l.Abort(c); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(AppendRecord(nil, []byte(`"after"`))); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, got, err := reopen(t, path); err != nil || !slices.Equal(got, []string{"{}", `"before"`, `"after"`}) {
		t.Errorf("the file holds %q, %v", got, err)
	}
}
