package storage

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Errors that a caller may want to tell apart.
var (
	ErrClustered = errors.New("file belongs to a clustered database; convert it with ovsdb-tool cluster-to-standalone")
	ErrFormat    = errors.New("file is no OVSDB log")
	ErrLocked    = errors.New("another process uses the database; stop it first")
)

const magic = "OVSDB JSON "

// A Log is an open log file.
type Log struct {
	path string
	file *os.File
	disk disk // how file is written
	lock *os.File
	size int64 // bytes of whole records
	base int64 // size after the last compaction, or when opened
	tail *[]byte

	Torn int64 // bytes cut off the end when the file was opened
}

// A disk is where records go; tests have one that fails.
type disk interface {
	io.Writer
	datasync() error
}

type osDisk struct{ *os.File }

func (d osDisk) datasync() error { return unix.Fdatasync(int(d.Fd())) }

// Open opens the log at path. Each record's JSON goes to replay, the schema
// first. A missing file is made, with schema as its first record.
func Open(path string, schema []byte, replay func(json []byte) error) (*Log, error) {
	path = followed(path)
	lock, err := lockFile(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	l := &Log{path: path, lock: lock}
	if err := l.open(schema, replay); err != nil {
		l.Close()
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return l, nil
}

// linksMax is how many symbolic links in a row lead to a file.
const linksMax = 10

// followed returns what a path leads to that is a symbolic link, as the stock programs
// do: the lock is beside the file itself, and a compacted one takes its place, not the link's.
func followed(path string) string {
	for range linksMax {
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Dir(path) + "/" + to
		}
		path = to
	}
	return path
}

// lockFile takes the lock that the stock programs take for path.
func lockFile(path string) (*os.File, error) {
	name := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".~lock~")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lk); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w (%w)", ErrLocked, err)
	}
	return f, nil
}

// open makes the file if there is none or an empty one, has replay look at its records, and cuts
// off what a crash has left behind the last whole one. The lock is held.
func (l *Log) open(schema []byte, replay func([]byte) error) error {
	if info, err := os.Stat(l.path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		if err := create(l.path, schema); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l.file, l.disk = f, osDisk{f}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := l.read(info.Size(), replay); err != nil {
		return err
	}
	l.base = l.size
	return l.cutTail(info.Size())
}

// create makes a new file in whole: it is either not there or has its schema.
func create(path string, schema []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(AppendRecord(nil, schema))
	return errors.Join(err, f.Sync(), f.Close(), os.Rename(tmp, path), syncDir(path))
}

// syncDir makes a rename of path last.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// AppendRecord adds the record that holds json.
func AppendRecord(b, json []byte) []byte {
	h := sha1.New()
	h.Write(json)
	h.Write([]byte{'\n'})
	b = append(b, header(int64(len(json)+1), h.Sum(nil))...)
	return append(append(b, json...), '\n')
}

func header(length int64, sum []byte) string { return fmt.Sprintf("%s%d %x\n", magic, length, sum) }

// read hands all whole records to replay and sets l.size to their end.
func (l *Log) read(size int64, replay func([]byte) error) error {
	r := bufio.NewReaderSize(l.file, 1<<16)
	for n := 0; ; n++ {
		json, used, err := readRecord(r, size-l.size)
		if n == 0 && err != nil {
			return err
		}
		if err != nil {
			return nil // the end, whole or torn
		}
		if err := replay(json); err != nil {
			return fmt.Errorf("record %d at byte %d: %w", n, l.size, err)
		}
		l.size += used
	}
}

// readRecord reads one record of at most left bytes.
func readRecord(r *bufio.Reader, left int64) (json []byte, used int64, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if bytes.HasPrefix(line, []byte("OVSDB CLUSTER ")) {
		return nil, 0, ErrClustered
	}
	fields := bytes.Fields(bytes.TrimPrefix(line, []byte(magic)))
	if !bytes.HasPrefix(line, []byte(magic)) || len(fields) != 2 {
		return nil, 0, ErrFormat
	}
	n, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil || n < 1 || n > left-int64(len(line)) {
		return nil, 0, ErrFormat
	}
	want, head := string(fields[1]), int64(len(line))
	json = make([]byte, n)
	if _, err := io.ReadFull(r, json); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if got := fmt.Sprintf("%x", sha1.Sum(json)); got != want {
		return nil, 0, fmt.Errorf("%w: SHA-1 is %s, want %s", ErrFormat, got, want)
	}
	return json, head + n, nil
}

// cutTail removes what follows the last whole record, and keeps a copy.
func (l *Log) cutTail(size int64) error {
	if l.Torn = size - l.size; l.Torn == 0 {
		_, err := l.file.Seek(l.size, io.SeekStart)
		return err
	}
	torn := make([]byte, l.Torn)
	if _, err := l.file.ReadAt(torn, l.size); err != nil {
		return err
	}
	if err := os.WriteFile(l.path+".torn", torn, 0o600); err != nil {
		return err
	}
	if err := l.file.Truncate(l.size); err != nil {
		return err
	}
	_, err := l.file.Seek(l.size, io.SeekStart)
	return errors.Join(err, l.file.Sync())
}

// Append writes records and returns when they are on the disk. After an error
// the file holds none of them; if that cannot be brought about, the error says so.
func (l *Log) Append(records []byte) error {
	_, err := l.disk.Write(records)
	if err == nil {
		err = l.disk.datasync()
	}
	if err != nil {
		_, seek := l.file.Seek(l.size, io.SeekStart)
		return errors.Join(fmt.Errorf("write database %s: %w", l.path, err), l.file.Truncate(l.size), seek)
	}
	l.size += int64(len(records))
	if l.tail != nil {
		*l.tail = append(*l.tail, records...)
	}
	return nil
}

// Size returns the bytes of the file, and what it had after the last
// compaction or when it was opened.
func (l *Log) Size() (now, base int64) { return l.size, l.base }

// Close closes the files; the lock goes with them.
func (l *Log) Close() error {
	var err error
	if l.file != nil {
		err = l.file.Close()
	}
	return errors.Join(err, l.lock.Close())
}
