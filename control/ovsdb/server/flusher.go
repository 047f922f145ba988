package server

import (
	"bufio"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/storage"
)

// maxPending is how many bytes of log may wait for the disk before the hub does.
const maxPending = 64 << 20

// A delivery is a message on its way to a client.
type delivery struct {
	to   *session
	item item
}

// A compactJob asks for a compaction, from a snapshot that was taken when at
// bytes of the batch's log were there.
type compactJob struct {
	db       *database
	schema   *schema.Database // of the snapshot
	snapshot engine.Snapshot
	at       int
	convert  bool       // schema is a new one: what follows can only be written to the new file
	done     chan error // buffered; gets the outcome
}

// A finished compaction waits to be put in place.
type finished struct {
	job *compactJob
	c   *storage.Compaction
	err error
}

// A batch is what the hub has done since the flusher last looked.
type batch struct {
	logs map[*database][]byte
	size int
	jobs []*compactJob
	out  []delivery
}

// A flusher makes transactions durable and sends messages after that.
type flusher struct {
	log      *zap.Logger
	mu       sync.Mutex
	changed  *sync.Cond // of all below
	pending  batch
	finished []finished
	running  int // compactions
	stopped  bool
	failed   error
}

func newFlusher(log *zap.Logger) *flusher {
	f := &flusher{log: log, pending: batch{logs: map[*database][]byte{}}}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// write queues a record of db. It waits while too much waits already.
func (f *flusher) write(db *database, json []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.pending.size > maxPending && f.failed == nil {
		f.changed.Wait()
	}
	before := len(f.pending.logs[db])
	log := storage.AppendRecord(f.pending.logs[db], json)
	f.pending.logs[db] = log
	f.pending.size += len(log) - before
	f.changed.Broadcast()
}

// send queues a message after all that was written before.
func (f *flusher) send(d delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending.out = append(f.pending.out, d)
	f.changed.Broadcast()
}

// compact queues a compaction.
func (f *flusher) compact(job *compactJob) {
	f.mu.Lock()
	defer f.mu.Unlock()
	job.at = len(f.pending.logs[job.db])
	f.pending.jobs = append(f.pending.jobs, job)
	f.changed.Broadcast()
}

// stop makes run return when all is written.
func (f *flusher) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	f.changed.Broadcast()
}

// run writes and sends until stop, or until the disk fails.
func (f *flusher) run() error {
	for {
		b, done, ok := f.next()
		if !ok {
			return f.failed
		}
		for _, d := range done { // first: a conversion waits for what runs
			f.place(d)
		}
		if err := f.flush(b); err != nil {
			f.mu.Lock()
			f.failed = err
			f.changed.Broadcast()
			f.mu.Unlock()
			return err
		}
	}
}

// next waits for something to do. It reports false when there is nothing left
// and stop was called.
func (f *flusher) next() (batch, []finished, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.pending.size == 0 && len(f.pending.out) == 0 && len(f.pending.jobs) == 0 && len(f.finished) == 0 {
		if f.stopped && f.running == 0 {
			return batch{}, nil, false
		}
		f.changed.Wait()
	}
	b, done := f.pending, f.finished
	f.pending, f.finished = batch{logs: map[*database][]byte{}}, nil
	f.changed.Broadcast()
	return b, done, true
}

// flush makes a batch durable, then sends its messages.
func (f *flusher) flush(b batch) error {
	written := map[*database]int{} // bytes of the batch's log
	for _, job := range b.jobs {
		log, at := b.logs[job.db], job.at-written[job.db]
		if err := f.append(job.db, log[:at]); err != nil {
			return err
		}
		b.logs[job.db] = log[at:]
		written[job.db] = job.at
		if !job.convert {
			f.begin(job)
		} else if err := f.convert(job); err != nil {
			return err
		}
	}
	for db, log := range b.logs {
		if err := f.append(db, log); err != nil {
			return err
		}
	}
	for _, d := range b.out {
		d.to.push(d.item)
	}
	return nil
}

// append writes records of db, and asks for a compaction when the file has
// doubled.
func (f *flusher) append(db *database, records []byte) error {
	if len(records) == 0 {
		return nil
	}
	if err := db.log.Append(records); err != nil {
		return err
	}
	now, base := db.log.Size()
	db.size.Store(now)
	if now > max(CompactFrom, 2*base, db.compactFrom) && !db.compacting {
		db.wantsCompact.Store(true)
	}
	return nil
}

// convert puts a file with another schema in the place of the old one, before
// anything that needs it is written. It fails like a write.
func (f *flusher) convert(job *compactJob) error {
	for job.db.compacting {
		for _, d := range f.takeFinished() {
			f.place(d)
		}
	}
	c, err := job.db.log.BeginCompact()
	if err != nil {
		return err
	}
	if err := writeSnapshot(c, job.schema, job.snapshot); err != nil {
		return errors.Join(err, job.db.log.Abort(c))
	}
	if err := job.db.log.Commit(c); err != nil {
		return err
	}
	now, _ := job.db.log.Size()
	job.db.size.Store(now)
	return nil
}

// takeFinished waits for compactions that have finished.
func (f *flusher) takeFinished() []finished {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.finished) == 0 {
		f.changed.Wait()
	}
	done := f.finished
	f.finished = nil
	return done
}

// begin starts a compaction in a goroutine of its own.
func (f *flusher) begin(job *compactJob) {
	if job.db.compacting {
		job.done <- nil // the one that runs will do
		return
	}
	c, err := job.db.log.BeginCompact()
	if err != nil {
		f.notCompacted(job.db, err)
		job.done <- err
		return
	}
	job.db.compacting = true
	f.mu.Lock()
	f.running++
	f.mu.Unlock()
	go func() {
		err := writeSnapshot(c, job.schema, job.snapshot)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.finished = append(f.finished, finished{job, c, err})
		f.changed.Broadcast()
	}()
}

// writeSnapshot writes the new file's contents.
func writeSnapshot(c *storage.Compaction, s *schema.Database, snapshot engine.Snapshot) error {
	date := time.Now().UnixMilli()
	return c.Write([]byte(s.Text), func(w *bufio.Writer) error { return snapshot.Write(w, date) })
}

// place ends a compaction.
func (f *flusher) place(d finished) {
	db := d.job.db
	err := d.err
	if err != nil {
		_ = db.log.Abort(d.c) // err says what went wrong first
	} else if err = db.log.Commit(d.c); err == nil {
		db.compactions.Add(1)
		db.compacted.Store(time.Now().UnixMilli())
	}
	now, _ := db.log.Size()
	db.size.Store(now)
	db.compacting = false
	if err != nil {
		f.notCompacted(db, err)
	}
	f.mu.Lock()
	f.running--
	f.mu.Unlock()
	d.job.done <- err
}

// notCompacted says that a compaction has failed. The next one is tried when
// the file has grown.
func (f *flusher) notCompacted(db *database, err error) {
	now, _ := db.log.Size()
	db.compactFrom = now + now/2
	f.log.Warn("database file could not be compacted; it is whole and grows on", zap.String("file", db.path), zap.Error(err))
}
