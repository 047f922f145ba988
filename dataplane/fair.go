package dataplane

import (
	"time"

	"millrace/dataplane/packet"
)

// Fairness. A frame that misses the cache costs as much as some thirty that do not.
// A port that sends only such frames must not take from others what they need.
// What the slow path spends on a receive queue is the queue's debt. It is forgiven
// at a rate of a sixteenth of the time, parted among all debtors, and at once when
// nobody has sent anything.
//
//   - A queue whose debt is beyond debtMax is polled only if the others leave time:
//     if the fullest batch of the turn was less than half full, no ring of theirs is
//     filling up. Then one debtor has its turn, for as few frames as are worked off
//     while the others' rings fill a little.
//   - What a debtor sends meanwhile waits in its own ring, and is lost there, at
//     the expense of who sent it.
//   - If nobody but debtors sends, all are polled as usual.
//
// So new flows cost others no more than a sixteenth of their time under full load,
// and use all of it that is free. For one batch, walks go through visitedMax tables, one or
// two milliseconds; frames beyond are dropped (packet.ReasonSlowPath).
const (
	debtMax      = 30 * time.Microsecond
	debtForgiven = 16 // part of the time
	debtMost     = 2 * time.Millisecond
	debtorFrames = 8                     // polled at once from a debtor
	missCost     = 200 * time.Nanosecond // of a frame that misses, beside its walk
	slowCost     = 20 * time.Microsecond // at most, of a walk: what is beyond, the kernel has taken
	visitedMax   = 16384
	slack        = packet.BatchMax / 2
)

// fairness is a worker's account of what the slow path takes.
type fairness struct {
	debtors int    // queues with a debt beyond debtMax
	next    int    // place in live of the debtor whose turn is next
	last    uint64 // time of the last forgiveness
}

// pollAll polls the queues, and reports whether any had frames.
func (w *worker) pollAll() bool {
	most := 0
	w.mark = w.clock.last
	if w.fair.debtors == 0 {
		for _, q := range w.live {
			most = max(most, w.poll(q, packet.BatchMax))
		}
		return most > 0
	}
	top := w.clock.ticks(debtMax)
	for _, q := range w.live {
		if q.debt <= top {
			most = max(most, w.poll(q, packet.BatchMax))
		}
	}
	return w.pollDebtors(most, top)
}

// pollDebtors polls queues with a debt beyond top as far as the others, whose
// fullest batch had most frames, leave time.
func (w *worker) pollDebtors(most int, top uint64) bool {
	switch {
	case most == 0:
		for _, q := range w.live {
			if q.debt > top {
				most = max(most, w.poll(q, packet.BatchMax))
			}
		}
		if most == 0 {
			w.forgive(^uint64(0), top)
			return false
		}
	case most < slack:
		for range w.live {
			w.fair.next++
			if w.fair.next >= len(w.live) {
				w.fair.next = 0
			}
			if q := w.live[w.fair.next]; q.debt > top {
				w.poll(q, debtorFrames)
				break
			}
		}
	}
	now := w.clock.last
	w.forgive((now-w.fair.last)/debtForgiven/uint64(w.fair.debtors), top)
	w.fair.last = now
	return true
}

// forgive takes ticks off all debts beyond top. Others are forgiven when they
// grow.
func (w *worker) forgive(ticks, top uint64) {
	w.fair.debtors = 0
	for _, q := range w.live {
		if q.debt > top {
			if q.debt -= min(q.debt, ticks); q.debt > top {
				w.fair.debtors++
			}
		}
	}
}

// charge adds to q's debt what its batch has cost in the slow path: also behind patch ports and in
// tunnels, where frames go that the cache knew at their port. What the next batch begins with is reset.
func (w *worker) charge(q *rxQueue) {
	top, now := w.clock.ticks(debtMax), w.clock.last
	was := q.debt
	if was <= top {
		was -= min(was, (now-q.since)/debtForgiven)
	}
	q.since = now
	missed := uint64(w.missed)
	spent := min(w.spent, missed*w.clock.ticks(slowCost)) + missed*w.clock.ticks(missCost)
	q.debt = min(was+spent, w.clock.ticks(debtMost))
	w.spent, w.missed, w.visited = 0, 0, 0
	w.slowTo, w.sighted = -1, [8]uint64{}
	if was <= top && q.debt > top {
		if w.fair.debtors++; w.fair.debtors == 1 {
			w.fair.last = now
		}
	}
}
