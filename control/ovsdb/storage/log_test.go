package storage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reopen opens a log and returns its records.
func reopen(t testing.TB, path string) (*Log, []string, error) {
	var got []string
	l, err := Open(path, []byte("{}"), func(b []byte) error {
		got = append(got, strings.TrimSpace(string(b)))
		return nil
	})
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return l, got, err
}

// TestTorn cuts a file at every byte: the records that are whole stay, and the
// next one can be added.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	l, _, err := reopen(t, path)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int64{l.size}
	for i := range 3 {
		if err := l.Append(AppendRecord(nil, fmt.Appendf(nil, `{"n":%d}`, i))); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, l.size)
	}
	l.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := ends[0]; cut < int64(len(whole)); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l, got, err := reopen(t, path)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n, _ := slices.BinarySearch(ends, cut+1)
		if len(got) != n || l.Torn != cut-ends[n-1] {
			t.Fatalf("cut at %d: %d records and %d bytes torn, want %d and %d", cut, len(got), l.Torn, n, cut-ends[n-1])
		}
		if err := l.Append(AppendRecord(nil, []byte(`"after"`))); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if l, got, err = reopen(t, path); err != nil || len(got) != n+1 || got[n] != `"after"` {
			t.Fatalf("cut at %d, then a record: %q, %v", cut, got, err)
		}
		l.Close()
	}
}

// TestRefused opens what is no file of ours.
func TestRefused(t *testing.T) {
	tests := []struct {
		name, text string
		want       error
	}{
		{"cluster", "OVSDB CLUSTER 3 0123\n{}\n", ErrClustered},
		{"text", "hello\n", ErrFormat},
		{"bad sum", "OVSDB JSON 3 0000000000000000000000000000000000000000\n{}\n", ErrFormat},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := reopen(t, path); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if got, _ := os.ReadFile(path); string(got) != tt.text {
				t.Errorf("the file was changed to %q", got)
			}
		})
	}
}

// TestCompact appends while a new file is written: nothing of it is lost.
func TestCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	l, _, err := reopen(t, path)
	if err != nil {
		t.Fatal(err)
	}
	add := func(s string) {
		t.Helper()
		if err := l.Append(AppendRecord(nil, []byte(s))); err != nil {
			t.Fatal(err)
		}
	}
	add(`"before"`)
	c, err := l.BeginCompact()
	if err != nil {
		t.Fatal(err)
	}
	add(`"during"`)
	if err := c.Write([]byte("{}"), func(w *bufio.Writer) error {
		_, err := w.WriteString(`"snapshot"`)
		return errors.Join(err, w.Flush())
	}); err != nil {
		t.Fatal(err)
	}
	add(`"during too"`)
	if err := l.Commit(c); err != nil {
		t.Fatal(err)
	}
	add(`"after"`)
	l.Close()
	_, got, err := reopen(t, path)
	if want := []string{"{}", `"snapshot"`, `"during"`, `"during too"`, `"after"`}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// FuzzRecord reads any bytes as records: each that is read is what its
// writer's bytes are read as.
func FuzzRecord(f *testing.F) {
	f.Add([]byte("OVSDB JSON 3 5f36b2ea290645ee34d943220a14b54ee5ea5be5\n{}\nOVSDB JSON 9"))
	f.Add(AppendRecord(AppendRecord(nil, []byte("{}")), []byte(`{"a":1}`)))
	f.Add([]byte("OVSDB JSON 99999999999999999999 x\n"))
	f.Add([]byte("OVSDB JSON 1 \n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		for left := int64(len(in)); ; {
			json, used, err := readRecord(r, left)
			if err != nil {
				return
			}
			if left -= used; left < 0 || used < int64(len(json)) {
				t.Fatalf("record of %d bytes took %d, %d are left", len(json), used, left)
			}
			again := AppendRecord(nil, bytes.TrimSuffix(json, []byte("\n")))
			got, _, err := readRecord(bufio.NewReader(bytes.NewReader(again)), int64(len(again)))
			if json[len(json)-1] == '\n' && (err != nil || !bytes.Equal(got, json)) {
				t.Fatalf("%q reads back as %q, %v", json, got, err)
			}
		}
	})
}
