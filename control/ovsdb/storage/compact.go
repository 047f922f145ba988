package storage

import (
	"bufio"
	"crypto/sha1"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// A Compaction is a new file in the making. Write may run in a goroutine of
// its own, while the Log's owner goes on appending.
type Compaction struct {
	path string
	file *os.File
	size int64
	tail []byte // what was appended to the old file since
}

// BeginCompact starts a compaction. What is appended to the log from now on is
// kept in memory too, until Commit or Abort.
func (l *Log) BeginCompact() (*Compaction, error) {
	tmp := l.path + ".compact"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, fmt.Errorf("compact database %s: %w", l.path, err)
	}
	c := &Compaction{path: tmp, file: f, tail: []byte{}}
	l.tail = &c.tail
	return c, nil
}

// Write writes the schema and one record, whose JSON snapshot writes. It calls
// snapshot twice, first only to count: the header comes before the data.
func (c *Compaction) Write(schema []byte, snapshot func(*bufio.Writer) error) error {
	sum := sha1.New()
	count := &counter{hash: sum}
	if err := snapshot(bufio.NewWriterSize(count, 1<<16)); err != nil {
		return err
	}
	_, _ = count.Write([]byte{'\n'})
	first := append(AppendRecord(nil, schema), header(count.n, sum.Sum(nil))...)
	c.size = int64(len(first)) + count.n
	if _, err := c.file.Write(first); err != nil {
		return err
	}
	w := bufio.NewWriterSize(c.file, 1<<16)
	if err := snapshot(w); err != nil {
		return err
	}
	return errors.Join(w.WriteByte('\n'), w.Flush(), c.file.Sync())
}

// counter hashes and counts what is written.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return c.hash.Write(b)
}

// Commit adds what was appended meanwhile and puts the new file in the place
// of the old one.
func (l *Log) Commit(c *Compaction) error {
	l.tail = nil
	if _, err := c.file.WriteAt(c.tail, c.size); err != nil {
		return c.fail(err)
	}
	size := c.size + int64(len(c.tail))
	if _, err := c.file.Seek(size, io.SeekStart); err != nil {
		return c.fail(err)
	}
	if err := c.file.Sync(); err != nil {
		return c.fail(err)
	}
	if err := os.Rename(c.path, l.path); err != nil {
		return c.fail(err)
	}
	old := l.file
	l.file, l.disk, l.size, l.base = c.file, osDisk{c.file}, size, size
	return errors.Join(syncDir(l.path), old.Close())
}

// Abort gives up a compaction whose Write failed.
func (l *Log) Abort(c *Compaction) error {
	l.tail = nil
	return c.fail(nil)
}

func (c *Compaction) fail(err error) error {
	err = errors.Join(err, c.file.Close(), os.Remove(c.path))
	if err != nil {
		return fmt.Errorf("compact database: %w", err)
	}
	return nil
}
